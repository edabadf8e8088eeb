//! Lines -> chunks with a cursor. Pure: no clock, no network, no database.
//!
//! A timestamp is no cursor, since two lines can share one. The cursor is (timestamp, lines stored with it, hash of the
//! last line). A resumed read begins some lines earlier and skips until it has met the last stored line again, the
//! anchor. When the anchor does not come, the node has rotated it away: that is a gap.

use chrono::{DateTime, Utc};
use octopus_shared::db::report::{Seam, StreamCursor};
use octopus_shared::log::{self, Gap, Packer};
use sha2::{Digest, Sha256};

use super::line::Stamped;

/// Lines later than all stored ones that are looked at in search of the anchor before a gap is declared: lines of two
/// streams of a container may change places, by little.
const SEARCH: usize = 1000;
/// Bytes that are held during the search.
const HELD: usize = 32 << 20;

/// Skips what is already stored when a stream is opened again.
#[derive(Debug, Default)]
pub(crate) struct Resume {
    anchor: Option<Anchor>,
    /// Lines that came before the anchor, if it comes; new ones, if it does not.
    held: Vec<Stamped>,
    held_bytes: usize,
    /// How many of them are later than all that is stored.
    later: usize,
    /// Lines that were passed over: earlier than the anchor, or too many to hold.
    passed: usize,
    /// What the next file begins with, if it follows the one that was read to its end.
    next: Option<NextFile>,
    /// It shows the newest lines alone, and so many of them may come yet.
    tail: Option<u32>,
}

#[derive(Debug)]
struct Anchor {
    time: i64,
    /// Lines with the anchor's timestamp still to come, the anchor itself being the last.
    left: i32,
    hash: Vec<u8>,
    /// Timestamp of the latest line that is stored: later than the anchor's when the node's clock was set back.
    latest: i64,
}

/// The file after the one that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NextFile {
    /// Its first timestamp. None: nothing was in it yet.
    pub(crate) head: Option<i64>,
    /// The beginning of the line that the rotation cut in two.
    pub(crate) rest: Option<Stamped>,
}

impl NextFile {
    /// What the old file ended with, once a whole read has shown nothing of this one: no end of that line comes any more. Of a
    /// file that begins with something it does, though an answer may have been empty.
    pub(crate) fn last_line(&mut self) -> Option<Stamped> {
        self.rest.take_if(|_| self.head.is_none())
    }
}

/// What became of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// Nothing to store, yet or at all.
    Nothing,
    /// Lines that are new.
    New(Vec<Stamped>),
    /// Lines that are new, after a hole.
    AfterGap(Vec<Stamped>, Gap),
    /// The last stored line is not among the newest ones.
    FartherBack {
        /// Though they begin with an earlier time: the node's clock was set back, or its file has changed.
        set_back: bool,
    },
}

impl Resume {
    pub(crate) fn at(cursor: &StreamCursor) -> Self {
        let anchor = cursor.time.zip(cursor.hash.clone()).map(|(time, hash)| Anchor {
            time,
            left: cursor.count,
            hash,
            latest: cursor.latest.unwrap_or(time).max(time),
        });
        Self {
            anchor,
            ..Self::default()
        }
    }

    /// The same, in the file after the one that was read to its end.
    pub(crate) fn in_next_file(cursor: &StreamCursor, next: NextFile) -> Self {
        Self {
            next: Some(next),
            ..Self::at(cursor)
        }
    }

    /// The same, in so many of the newest lines. That the anchor is not among them says nothing.
    pub(crate) fn in_tail(cursor: &StreamCursor, lines: u32) -> Self {
        Self {
            tail: Some(lines),
            ..Self::at(cursor)
        }
    }

    /// Lets a line through once everything before it is known to be stored.
    pub(crate) fn pass(&mut self, line: Stamped) -> Passed {
        let time = nanoseconds(line.at);
        if let Some(next) = self.next.take()
            && next.head.is_none_or(|head| head == time)
        {
            self.anchor = None;
            let line = match next.rest {
                Some(rest) => rest.joined(&line),
                None => line,
            };
            return Passed::New(vec![line]);
        }
        let Some(anchor) = &mut self.anchor else {
            return Passed::New(vec![line]);
        };
        if let Some(left) = &mut self.tail {
            // Of the lines with the anchor's timestamp all must be counted.
            if time >= anchor.time && self.passed == 0 && self.held.is_empty() {
                return Passed::FartherBack { set_back: false };
            }
            *left = left.saturating_sub(1);
        }
        if time == anchor.time {
            anchor.left -= 1;
            if anchor.left <= 0 && hash(&line.content) == anchor.hash {
                // What was held came before the anchor in the file, so it is stored already.
                *self = Self::default();
                return Passed::Nothing;
            }
            self.passed += 1;
            return self.not_yet();
        }
        if time < anchor.time {
            self.passed += 1;
            return self.not_yet();
        }
        self.later += usize::from(time > anchor.latest);
        self.held_bytes += line.content.len();
        self.held.push(line);
        if self.later > SEARCH {
            return self.abandon();
        }
        if self.held_bytes > HELD {
            self.passed += self.held.len();
            self.held.clear();
            self.held_bytes = 0;
        }
        self.not_yet()
    }

    fn not_yet(&self) -> Passed {
        match self.tail {
            Some(0) => Passed::FartherBack { set_back: true },
            _ => Passed::Nothing,
        }
    }

    /// Whether it is not known yet if the newest lines show the anchor.
    pub(crate) fn is_in_tail(&self) -> bool {
        self.tail.is_some() && self.is_searching()
    }

    /// Whether the anchor has not come yet.
    pub(crate) fn is_searching(&self) -> bool {
        self.anchor.is_some()
    }

    /// The next file, when nothing of it came.
    pub(crate) fn not_begun(&mut self) -> Option<NextFile> {
        self.next.take()
    }

    /// Lines came that are later than all stored ones, and the anchor did not.
    pub(crate) fn is_late(&self) -> bool {
        self.later > 0
    }

    /// Lines came, and none of them was the anchor.
    pub(crate) fn has_missed(&self) -> bool {
        self.anchor.is_some() && (self.passed > 0 || !self.held.is_empty())
    }

    /// The stream is over: if lines came that are new without the anchor, there is a hole before them.
    pub(crate) fn give_up(&mut self) -> Passed {
        if self.held.is_empty() {
            Passed::Nothing
        } else {
            self.abandon()
        }
    }

    /// The anchor will not come: what was held and what comes is new, and there is a hole before it.
    pub(crate) fn abandon(&mut self) -> Passed {
        let Some(anchor) = self.anchor.take_if(|_| self.passed > 0 || !self.held.is_empty()) else {
            return Passed::Nothing;
        };
        if self.tail.is_some() {
            return Passed::FartherBack { set_back: true };
        }
        let held = std::mem::take(self).held;
        let gap = Gap {
            from: Some(anchor.time),
            to: held.first().map(|line| nanoseconds(line.at)),
            reason: "rotated_away".into(),
            // The node cuts lines in two when it rotates.
            cut: true,
            ..Gap::default()
        };
        Passed::AfterGap(held, gap)
    }
}

/// Lines of one stream that are not stored yet.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) text: Packer,
    pub(crate) lines: i32,
    /// Bytes that were printed, with newlines.
    pub(crate) size: i32,
    pub(crate) first_at: Option<DateTime<Utc>>,
    pub(crate) last_at: Option<DateTime<Utc>>,
    pub(crate) gaps: Vec<Gap>,
    /// Lines that the node has in two pieces.
    pub(crate) seams: Vec<Seam>,
    /// The cursor before the first line.
    pub(crate) before: StreamCursor,
    /// What the last line will be known by.
    anchor: Vec<u8>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// Adds a line and moves the cursor behind it, but for its hash ([`Self::close`]).
    pub(crate) fn push(&mut self, cursor: &mut StreamCursor, line: &Stamped) {
        if self.is_empty() {
            self.before = cursor.clone();
        }
        if let Some((at, offset)) = line.seam {
            self.seams.push(Seam {
                line: usize::try_from(self.lines).unwrap_or_default(),
                at: nanoseconds(at),
                offset,
            });
        }
        self.text.push(line.at, &line.content);
        self.lines += 1;
        self.size = self
            .size
            .saturating_add(i32::try_from(line.content.len() + 1).unwrap_or(i32::MAX));
        self.first_at = Some(self.first_at.map_or(line.at, |first| first.min(line.at)));
        self.last_at = self.last_at.max(Some(line.at));
        if line.lost > 0 {
            let time = nanoseconds(line.at);
            self.gaps.push(Gap {
                from: Some(time),
                to: Some(time),
                reason: "line_too_long".into(),
                bytes: i64::try_from(line.lost).ok(),
                ..Gap::default()
            });
        }
        advance(cursor, line);
        self.anchor.clear();
        self.anchor.extend_from_slice(line.anchor().1);
    }

    /// Nothing more is added: the cursor is that of the last line.
    pub(crate) fn close(&self, cursor: &mut StreamCursor) {
        if !self.is_empty() {
            cursor.hash = Some(hash(&self.anchor));
        }
    }
}

fn advance(cursor: &mut StreamCursor, line: &Stamped) {
    let (at, _) = line.anchor();
    let time = nanoseconds(at);
    cursor.count = if cursor.time == Some(time) { cursor.count + 1 } else { 1 };
    cursor.time = Some(time);
    cursor.first = Some(cursor.first.map_or(time, |first| first.min(time)));
    cursor.latest = cursor.latest.max(Some(time));
    cursor.chain = cursor.chain.take().map(|chain| log::chained(&chain, &line.content));
    cursor.lines += 1;
    cursor.bytes += i64::try_from(line.content.len()).unwrap_or(i64::MAX) + 1;
}

fn hash(content: &[u8]) -> Vec<u8> {
    Sha256::digest(content).to_vec()
}

/// Nanoseconds since 1970; a node's clock before 1677 or after 2262 counts as 1970.
pub(crate) fn nanoseconds(at: DateTime<Utc>) -> i64 {
    at.timestamp_nanos_opt().unwrap_or_default()
}

#[cfg(test)]
mod tests;
