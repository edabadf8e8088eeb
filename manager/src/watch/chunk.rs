//! Bytes of a log stream -> lines -> chunks with a cursor. Pure: no clock, no network, no database.
//!
//! A timestamp is no cursor, since two lines can share one. The cursor is (timestamp, lines stored with it, hash of the
//! last line). A resumed read begins at the whole second of that timestamp and skips until it has met the last stored
//! line again, the anchor. When the anchor does not come, the node has rotated it away: that is a gap.

use chrono::{DateTime, Utc};
use octopus_shared::db::report::{Gap, StreamCursor};
use octopus_shared::log;
use sha2::{Digest, Sha256};

/// Lines that are looked at in search of the anchor, beyond its own timestamp, before a gap is declared.
const SEARCH: usize = 1000;
/// Longest line that is held; a longer one is not a line of the node's.
const MAX_LINE: usize = 16 << 20;

/// Cuts bytes into lines. Keeps an unfinished one until its end comes.
#[derive(Debug, Default)]
pub(crate) struct Splitter(Vec<u8>);

impl Splitter {
    /// Takes bytes in and hands out the lines that are finished by them, without newlines.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.0.extend_from_slice(bytes);
        let Some(end) = self.0.iter().rposition(|byte| *byte == b'\n') else {
            return if self.0.len() > MAX_LINE {
                vec![std::mem::take(&mut self.0)]
            } else {
                Vec::new()
            };
        };
        let rest = self.0.split_off(end + 1);
        let finished = std::mem::replace(&mut self.0, rest);
        finished[..end]
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    }

    /// What is left without a newline: a last line once the container has ended, a fragment before.
    pub(crate) fn rest(self) -> Option<Vec<u8>> {
        Some(self.0).filter(|rest| !rest.is_empty())
    }
}

/// A line with its timestamp, on its way into a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamped {
    pub(crate) at: DateTime<Utc>,
    pub(crate) content: Vec<u8>,
}

impl Stamped {
    /// None: the line has no timestamp, so it is not the function's but the kubelet's own.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        log::parse_line(line).map(|line| Self {
            at: line.at,
            content: line.content.to_vec(),
        })
    }
}

/// Skips what is already stored when a stream is opened again.
#[derive(Debug)]
pub(crate) struct Resume {
    anchor: Option<Anchor>,
    /// Lines later than the anchor that came while it was being looked for.
    held: Vec<Stamped>,
}

#[derive(Debug)]
struct Anchor {
    time: i64,
    /// Lines with the anchor's timestamp still to come, the anchor itself being the last.
    left: i32,
    hash: Vec<u8>,
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
}

impl Resume {
    pub(crate) fn at(cursor: &StreamCursor) -> Self {
        let anchor = cursor.time.zip(cursor.hash.clone()).map(|(time, hash)| Anchor {
            time,
            left: cursor.count,
            hash,
        });
        Self {
            anchor,
            held: Vec::new(),
        }
    }

    /// Lets a line through once everything before it is known to be stored.
    pub(crate) fn pass(&mut self, line: Stamped) -> Passed {
        let Some(anchor) = &mut self.anchor else {
            return Passed::New(vec![line]);
        };
        let time = nanoseconds(line.at);
        if time == anchor.time {
            anchor.left -= 1;
            if anchor.left <= 0 && hash(&line.content) == anchor.hash {
                self.anchor = None;
                // What was held came before the anchor in the file, so it is stored already.
                self.held.clear();
            }
            return Passed::Nothing;
        }
        if time > anchor.time {
            self.held.push(line);
        }
        if self.held.len() > SEARCH {
            self.give_up()
        } else {
            Passed::Nothing
        }
    }

    /// Whether the anchor has not come yet.
    pub(crate) fn is_searching(&self) -> bool {
        self.anchor.is_some()
    }

    /// The anchor will not come: what was held is new, and there is a hole before it.
    pub(crate) fn give_up(&mut self) -> Passed {
        match (self.anchor.take(), std::mem::take(&mut self.held)) {
            (Some(anchor), held) if !held.is_empty() => {
                let gap = Gap {
                    from: Some(anchor.time),
                    to: held.first().map(|line| nanoseconds(line.at)),
                    reason: "rotated_away".into(),
                };
                Passed::AfterGap(held, gap)
            }
            (anchor, _) => {
                self.anchor = anchor;
                Passed::Nothing
            }
        }
    }
}

/// Lines of one stream that are not stored yet.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) data: Vec<u8>,
    pub(crate) lines: i32,
    pub(crate) first_at: Option<DateTime<Utc>>,
    pub(crate) last_at: Option<DateTime<Utc>>,
    pub(crate) gaps: Vec<Gap>,
}

impl Batch {
    /// Adds a line and moves the cursor behind it.
    pub(crate) fn push(&mut self, cursor: &mut StreamCursor, line: &Stamped) {
        log::push_line(&mut self.data, line.at, &line.content);
        self.lines += 1;
        self.first_at.get_or_insert(line.at);
        self.last_at = Some(line.at);
        advance(cursor, line);
    }
}

fn advance(cursor: &mut StreamCursor, line: &Stamped) {
    let time = nanoseconds(line.at);
    cursor.count = if cursor.time == Some(time) { cursor.count + 1 } else { 1 };
    cursor.time = Some(time);
    cursor.hash = Some(hash(&line.content));
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
mod tests {
    use super::*;

    fn line(nanos: i64, content: &str) -> Stamped {
        Stamped {
            at: DateTime::from_timestamp_nanos(nanos),
            content: content.into(),
        }
    }

    /// Everything that is stored when `before` was stored and the stream is opened again and shows `shown`.
    fn resumed(before: &[Stamped], shown: &[Stamped]) -> (Vec<String>, usize) {
        let mut cursor = StreamCursor::default();
        for line in before {
            advance(&mut cursor, line);
        }
        let mut resume = Resume::at(&cursor);
        let (mut stored, mut gaps) = (Vec::new(), 0);
        let mut take = |passed| match passed {
            Passed::Nothing => {}
            Passed::New(lines) => stored.extend(lines),
            Passed::AfterGap(lines, _) => {
                gaps += 1;
                stored.extend(lines);
            }
        };
        for line in shown {
            take(resume.pass(line.clone()));
        }
        take(resume.give_up());
        (
            stored
                .into_iter()
                .map(|line| String::from_utf8(line.content).unwrap())
                .collect(),
            gaps,
        )
    }

    #[test]
    fn a_resumed_read_stores_each_line_once() {
        let all = [line(1, "a"), line(2, "b"), line(2, "b"), line(2, "c"), line(3, "d")];
        for stored in 0..=all.len() {
            let (rest, gaps) = resumed(&all[..stored], &all);
            let expected: Vec<_> = ["a", "b", "b", "c", "d"][stored..]
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!((rest, gaps), (expected, 0), "resumed after {stored}");
        }
    }

    #[test]
    fn identical_lines_with_one_timestamp_are_counted() {
        let all = [line(5, "x"), line(5, "x"), line(5, "x")];
        assert_eq!(resumed(&all[..2], &all), (vec!["x".to_owned()], 0));
    }

    #[test]
    fn a_line_with_an_earlier_time_after_the_anchor_is_new() {
        let all = [line(5, "a"), line(4, "out of order"), line(6, "b")];
        assert_eq!(
            resumed(&all[..1], &all),
            (vec!["out of order".to_owned(), "b".to_owned()], 0)
        );
        assert_eq!(
            resumed(&all[..2], &all),
            (vec!["b".to_owned()], 0),
            "the anchor comes after a later time"
        );
    }

    #[test]
    fn a_missing_anchor_is_a_gap() {
        let (rest, gaps) = resumed(&[line(1, "a"), line(2, "lost to the rotation")], &[line(9, "z")]);
        assert_eq!((rest, gaps), (vec!["z".to_owned()], 1));
        let (rest, gaps) = resumed(&[line(2, "a")], &[line(2, "another"), line(9, "z")]);
        assert_eq!((rest, gaps), (vec!["z".to_owned()], 1), "same time, other line");
    }

    #[test]
    fn lines_are_cut_at_newlines_only() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.push(b"one\ntw"), [b"one"]);
        assert!(splitter.push(b"").is_empty());
        assert_eq!(
            splitter.push(b"o\n\n\r\xff\n"),
            [b"two".to_vec(), b"".to_vec(), b"\r\xff".to_vec()]
        );
        assert_eq!(splitter.rest(), None);
    }

    #[test]
    fn a_rest_is_kept_for_the_end() {
        let mut splitter = Splitter::default();
        assert!(splitter.push(b"no newline").is_empty());
        assert_eq!(splitter.rest().as_deref(), Some(b"no newline".as_slice()));
    }
}
