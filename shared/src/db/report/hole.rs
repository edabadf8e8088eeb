//! Holes whose lines may come out of the spool of a manager that returns: the numbers that are kept free for them, and which
//! lines belong into them.

use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::chunk::{Chunk, Seam, last_seqs};
use super::place::{Place, place_lines};
use super::stream::{StreamCursor, StreamKey, stored_cursor};
use crate::log::{Gap, LOG_LIMIT, Line, Text};

/// Numbers that are kept free in a hole: a chunk every 150 ms for a day and a half.
const ROOM: i64 = 1 << 20;
/// Lines by which the end of a hole is known, at most.
const MARKS: usize = 4;
/// Lines of two files of a node may change places by so many nanoseconds.
const OVERLAP: i64 = 1_000_000_000;

/// Gives a chunk the number after `last`, and before it room for what may be filled in.
pub fn number(last: &mut i64, chunk: &mut Chunk) {
    if chunk.gaps.iter().any(Gap::is_spooled) {
        *last += ROOM;
    }
    *last += 1;
    chunk.seq = *last;
}

/// A hole as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hole {
    #[serde(flatten)]
    pub(super) gap: Gap,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) room: Option<Room>,
    /// Nanoseconds between its ends, where they are not those of one hole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) time: Option<i64>,
}

impl Hole {
    pub(super) fn of(gap: Gap) -> Self {
        Self {
            gap,
            room: None,
            time: None,
        }
    }

    /// Nanoseconds between its ends.
    fn time(&self) -> i64 {
        let between = || Some(self.gap.to?.saturating_sub(self.gap.from?).max(0));
        self.time.or_else(between).unwrap_or_default()
    }

    /// Whether the line after it is earlier than `before`, nanoseconds since 1970, and nothing fills it any more: chunks up to `seq` are
    /// dropped.
    fn is_behind(&self, before: i64, seq: i64) -> bool {
        let is_open = self.room.as_ref().is_some_and(|room| room.last > seq);
        self.gap.to.is_some_and(|to| to < before) && !is_open
    }
}

/// The first holes of a stream as one, where the lines around them are dropped: all before `before`, in nanoseconds since 1970, and all
/// chunks up to `seq`. None: there are not several.
pub(super) fn summed(gaps: &[Value], before: i64, seq: i64) -> Option<Vec<Value>> {
    let holes: Vec<Hole> = gaps
        .iter()
        .map_while(|gap| Hole::deserialize(gap).ok())
        .take_while(|hole| hole.is_behind(before, seq))
        .collect();
    let [first, _, ..] = &holes[..] else { return None };
    let sum = |bytes: fn(&Gap) -> Option<i64>| {
        holes
            .iter()
            .filter_map(|hole| bytes(&hole.gap))
            .reduce(i64::saturating_add)
    };
    let all = Hole {
        gap: Gap {
            from: first.gap.from,
            to: holes.iter().filter_map(|hole| hole.gap.to).max(),
            reason: LOG_LIMIT.into(),
            cut: false,
            bytes: sum(|gap| gap.bytes),
            estimated_bytes: sum(|gap| gap.estimated_bytes),
        },
        room: None,
        time: Some(holes.iter().map(Hole::time).fold(0, i64::saturating_add)),
    };
    let rest = gaps.iter().skip(holes.len()).cloned();
    Some(serde_json::to_value(all).into_iter().chain(rest).collect())
}

/// Where what fills a hole goes, and by what it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Room {
    /// The next free number.
    pub(super) next: i64,
    /// The last one.
    pub(super) last: i64,
    /// The stream's cursor before the hole, as far as it is filled.
    pub(super) after: StreamCursor,
    /// The first lines after it. None: it is at the end of the stream.
    pub(super) until: Vec<Mark>,
}

/// A line, as far as it is to be known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Nanoseconds since 1970.
    time: i64,
    /// SHA-256.
    hash: Vec<u8>,
}

impl Mark {
    fn of(line: &Line<'_>) -> Self {
        Self {
            time: nanoseconds(line.at),
            hash: hash(line.content),
        }
    }

    fn is(&self, line: &Line<'_>) -> bool {
        self.time == nanoseconds(line.at) && self.hash == hash(line.content)
    }

    /// Whether it is the end of a line that was cut there.
    fn is_end(&self, line: &Line<'_>, seam: &Seam) -> bool {
        self.time == seam.at && line.content.get(seam.offset..).map(hash).as_ref() == Some(&self.hash)
    }
}

fn hash(content: &[u8]) -> Vec<u8> {
    Sha256::digest(content).to_vec()
}

fn nanoseconds(at: DateTime<Utc>) -> i64 {
    at.timestamp_nanos_opt().unwrap_or_default()
}

/// Which lines of a chunk belong into a hole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filling {
    pub(super) lines: Range<usize>,
    pub(super) end: End,
}

/// What comes behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// More of the hole.
    Open,
    /// The line after the hole: it is filled.
    Closed,
    /// A line whose end is the line after the hole, and begins there.
    Joined(usize),
    /// A line that is after the hole, but not the first one. How the hole ends is not known.
    Unknown,
}

impl Room {
    /// The room that the number of a chunk has left before it. None: it has no hole that may be filled.
    pub(super) fn before(chunk: &Chunk) -> Option<Self> {
        let next = chunk.seq - ROOM;
        if next <= 0 || !chunk.gaps.iter().any(Gap::is_spooled) {
            return None;
        }
        let text = Text::decode(chunk.text.encoding, chunk.text.data.clone()).ok()?;
        Some(Self {
            next,
            last: chunk.seq - 1,
            after: chunk.before.clone(),
            until: text.lines().take(MARKS).map(|line| Mark::of(&line)).collect(),
        })
    }

    /// None: none of them does.
    pub(super) fn fits(&self, chunk: &Chunk) -> Option<Filling> {
        let start = match place_lines(&self.after, chunk) {
            // It is behind a hole of its own, perhaps this one.
            Place::Next if chunk.gaps.iter().any(Gap::is_spooled) => return None,
            Place::Next => 0,
            Place::Within(stored) => stored,
            Place::Passed | Place::Missing => return None,
        };
        let text = Text::decode(chunk.text.encoding, chunk.text.data.clone()).ok()?;
        let lines: Vec<Line<'_>> = text.lines().collect();
        let ends = (start..lines.len()).find_map(|line| self.end_at(chunk, &lines, line));
        let (stop, end) = ends.unwrap_or((lines.len(), End::Open));
        Some(Filling {
            lines: start..stop.max(start),
            end,
        })
    }

    /// Whether a line is not in the hole any more: which is the first one that is not, and what that is.
    fn end_at(&self, chunk: &Chunk, lines: &[Line<'_>], index: usize) -> Option<(usize, End)> {
        let (first, others) = self.until.split_first()?;
        let line = &lines[index];
        if first.is(line) {
            // Of lines that are the same, times and all, the last one is before what follows.
            let is_again = lines.get(index + 1).is_some_and(|next| first.is(next));
            let ends = !is_again || others.first().is_none_or(|next| next == first);
            return ends.then_some((index, End::Closed));
        }
        let seam = chunk.seams.iter().find(|seam| seam.line == index);
        if let Some(seam) = seam.filter(|seam| first.is_end(line, seam)) {
            return Some((index, End::Joined(seam.offset)));
        }
        if let Some(before) = others.iter().position(|mark| mark.is(line)) {
            // The lines before it are those before it there, however they look.
            return Some((index.saturating_sub(before + 1), End::Unknown));
        }
        let is_later = nanoseconds(line.at) > first.time.saturating_add(OVERLAP);
        is_later.then_some((index, End::Unknown))
    }
}

/// Holes as they are stored, the first one that may be filled with its room.
pub(super) fn stored(gaps: &[Gap], mut room: Option<Room>) -> Result<Value, sqlx::Error> {
    let holes = gaps.iter().map(|gap| Hole {
        room: if gap.is_spooled() { room.take() } else { None },
        ..Hole::of(gap.clone())
    });
    serde_json::to_value(holes.collect::<Vec<_>>()).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// Room behind all chunks of a process, for what comes to the end of a stream that is about to be sealed. None: it is sealed.
pub(super) async fn at_end(connection: &mut PgConnection, key: &StreamKey) -> Result<Option<Room>, sqlx::Error> {
    let row = sqlx::query!(
        "select process_id, cursor_time, cursor_count, cursor_hash, chain, lines, bytes, first_at, last_at
           from log_stream
          where pod_uid = $1 and container = $2 and restart = $3 and seal is null for update",
        key.pod_uid,
        key.container,
        key.restart
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let last = last_seqs(connection, &[row.process_id]).await?;
    let last = last.first().map_or(0, |(_, seq)| *seq);
    Ok(Some(Room {
        next: last + 1,
        last: last + ROOM,
        after: stored_cursor!(row),
        until: Vec::new(),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn holes_that_may_be_filled_or_are_not_behind_are_not_summed() {
        let hole = |from: i64, to: i64| json!({"from": from, "to": to, "reason": "rotation"});
        let room = |last| json!({"next": 1, "last": last, "after": StreamCursor::default(), "until": []});
        let filled = |last| json!({"from": 10, "to": 20, "reason": "spooled by x", "room": room(last)});
        let end = json!({"from": 30, "to": null, "reason": "pod_gone"});
        let all = [hole(1, 4), filled(7), hole(20, 21), end.clone()];
        let sum = json!({"from": 1, "to": 21, "reason": "log_limit", "time": 3 + 10 + 1});
        assert_eq!(summed(&all, 100, 7), Some(vec![sum.clone(), end]));
        assert_eq!(summed(&all, 100, 6), None, "the second one may be filled");
        assert_eq!(summed(&all, 20, 7), None, "the second one is shown");
        let again = [
            sum,
            json!({"from": 22, "to": 21, "reason": "rotation", "cut": true, "bytes": 5}),
        ];
        let sum = json!({"from": 1, "to": 21, "reason": "log_limit", "bytes": 5, "time": 14});
        assert_eq!(summed(&again, 22, 7), Some(vec![sum]));
        assert_eq!(summed(&[hole(1, 4), json!("later"), hole(4, 5)], 100, 7), None);
        assert_eq!(summed(&[], 100, 7), None);
    }
}
