//! What comes out of a spool -> the holes of a stream.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::chunk::{Chunk, insert};
use super::hole::{End, Filling, Hole, Room, stored};
use super::place::{gaps_of, part_of, same};
use super::stream::{Seal, StreamCursor, StreamKey};
use crate::log::{Gap, MOST_PARTS, Packer, REST, Text};

/// The holes of a stream, and what was filled into them and is not stored yet.
#[derive(Debug, Default)]
pub(super) struct Holes {
    gaps: Vec<Value>,
    /// Chunks of its process up to this number were dropped.
    dropped: i64,
    /// The newest chunk of its process.
    newest: i64,
    chunks: Vec<Chunk>,
    /// Bytes of beginnings of lines.
    begun: i64,
    end: Option<Cow<'static, str>>,
    is_changed: bool,
}

/// What a chunk has filled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filled {
    /// Lines.
    pub(super) lines: i64,
    /// The end of the hole, where that was cut.
    pub(super) join: Option<Join>,
}

/// The line after a hole is the end of another one, which is known as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Join {
    hole: usize,
    /// The number of its chunk.
    seq: i64,
    at: DateTime<Utc>,
    content: Vec<u8>,
    begun: usize,
}

impl Holes {
    /// As they are stored.
    pub(super) fn new(gaps: Value) -> Self {
        let gaps = match gaps {
            Value::Array(gaps) => gaps,
            _ => Vec::new(),
        };
        Self {
            gaps,
            ..Self::default()
        }
    }

    /// Whether one of them has room.
    pub(super) fn may_be_filled(&self) -> bool {
        self.gaps.iter().any(|gap| gap.get("room").is_some())
    }

    /// Says where the log of the process begins and ends: what belongs before that is not stored.
    pub(super) fn bounded(&mut self, dropped: i64, newest: i64) {
        (self.dropped, self.newest) = (dropped, newest);
    }

    /// Those that may be filled.
    fn open(&self) -> impl Iterator<Item = (usize, Gap, Room)> {
        self.gaps.iter().enumerate().filter_map(|(index, gap)| {
            let hole = Hole::deserialize(gap).ok()?;
            let room = hole.room.filter(|room| {
                let is_there = room.until.is_empty() || self.newest > room.last;
                room.next <= room.last && room.next > self.dropped && is_there
            })?;
            Some((index, hole.gap, room))
        })
    }

    /// Lines that are filled in with the next [`Holes::store`].
    pub(super) fn lines(&self) -> i64 {
        self.chunks.iter().map(|chunk| i64::from(chunk.lines)).sum()
    }

    /// Puts the lines of a chunk where they belong. None: that is in none of the holes.
    pub(super) fn fill(&mut self, chunk: &Chunk) -> Option<Filled> {
        let found = self
            .open()
            .find_map(|(index, gap, room)| Some((index, gap, room.fits(chunk)?, room)));
        let (index, gap, Filling { lines, end }, mut room) = found?;
        let text = Text::decode(chunk.text.encoding, chunk.text.data.clone()).ok()?;
        let line = |index| text.lines().nth(index);
        let met = matches!(end, End::Closed | End::Joined(_));
        let within = gaps_of(chunk, &text, lines.start..lines.end + usize::from(met));
        let mut holes: Vec<Hole> = within.into_iter().map(Hole::of).collect();
        let part = Chunk {
            seq: room.next,
            ..part_of(chunk, lines.clone(), &room.after)
        };
        let filled = i64::from(part.lines);
        let last = lines
            .end
            .checked_sub(1)
            .filter(|last| *last >= lines.start)
            .and_then(line)
            .and_then(|line| line.at.timestamp_nanos_opt());
        if end == End::Closed
            && let Some(gap) = unseen(chunk.head, last.or(room.after.time), gap.to)
            && holes.iter().all(|hole| hole.gap.to != gap.to)
        {
            holes.push(Hole::of(gap));
        }
        let join = match end {
            End::Joined(begun) => line(lines.end).map(|line| Join {
                hole: index + holes.len(),
                seq: room.last + 1,
                at: line.at,
                content: line.content.to_vec(),
                begun,
            }),
            _ => None,
        };
        if end != End::Closed {
            room.next += 1;
            room.after = chunk.cursor.clone();
            holes.push(Hole {
                room: (end == End::Open).then_some(room),
                ..Hole::of(last.map_or(gap.clone(), |from| shortened(gap, from)))
            });
        }
        let holes = holes
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<Vec<_>, _>>()
            .ok()?;
        if filled > 0 {
            self.chunks.push(part);
        }
        self.gaps.splice(index..=index, holes);
        self.is_changed = true;
        Some(Filled { lines: filled, join })
    }

    /// Holes that were noticed late, among lines that may have been filled in: those that are not on record yet.
    pub(super) fn note(&mut self, gaps: &[Gap]) {
        for gap in gaps {
            let known: Vec<Gap> = self.gaps.iter().filter_map(|gap| Gap::deserialize(gap).ok()).collect();
            let Ok(value) = serde_json::to_value(gap) else { continue };
            if known
                .iter()
                .any(|known| known.to == gap.to && known.reason == gap.reason || known.has_summed(gap))
            {
                continue;
            }
            let place = known.iter().position(|known| known.to.is_none() || known.to > gap.to);
            self.gaps.insert(place.unwrap_or(self.gaps.len()), value);
            self.is_changed = true;
        }
    }

    /// The line after a hole has its beginning: the hole is filled.
    pub(super) fn joined(&mut self, join: &Join) {
        self.gaps.remove(join.hole);
        self.begun += i64::try_from(join.begun).unwrap_or(i64::MAX);
    }

    /// The end of a stream behind its last hole. False: the hole is not filled up to there.
    pub(super) fn end(&mut self, seal: &Seal, at: &StreamCursor) -> bool {
        let found = self
            .open()
            .find(|(_, _, room)| room.until.is_empty() && same(&room.after, at));
        let (Some((index, ..)), Ok(Value::Array(gaps))) = (found, stored(&seal.gaps, None)) else {
            return false;
        };
        self.gaps.splice(index..=index, gaps);
        self.end = Some(seal.end.clone());
        self.is_changed = true;
        true
    }

    /// Stores what was filled in and noticed, if anything was. A sealed stream without another hole is complete then.
    pub(super) async fn store(self, connection: &mut PgConnection, key: &StreamKey) -> Result<(), sqlx::Error> {
        if !self.is_changed {
            return Ok(());
        }
        let ends = vec![i64::MAX; self.chunks.len()];
        if insert(connection, &self.chunks, &ends).await? != self.chunks.len() as u64 {
            return Err(sqlx::Error::Protocol("the numbers of a hole are taken".into()));
        }
        let bytes: i64 = self.chunks.iter().map(|chunk| i64::from(chunk.size)).sum();
        sqlx::query!(
            "update log_stream
                set gaps = $4, filled_lines = filled_lines + $5, filled_bytes = filled_bytes + $6, merged = false,
                    first_at = least(first_at, $7), last_at = greatest(last_at, $8),
                    seal = case when seal is null or seal = 'truncated' then seal
                                when $4::jsonb = '[]' then 'complete' else 'gap' end,
                    seal_reason = case when seal = 'truncated' then seal_reason
                                       when seal is not null then $4::jsonb -> -1 ->> 'reason' end,
                    seal_end = coalesce($9, seal_end)
              where pod_uid = $1 and container = $2 and restart = $3",
            key.pod_uid,
            key.container,
            key.restart,
            Value::Array(self.gaps.clone()),
            self.lines(),
            bytes + self.begun,
            self.chunks.iter().map(|chunk| chunk.first_at).min(),
            self.chunks.iter().map(|chunk| chunk.last_at).max(),
            self.end.as_deref()
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// The line after a hole begins a file of the node. Who read past it, and stopped before it had seen that, may have missed lines
/// before it. `head`: [`Chunk::head`] of who did.
fn unseen(head: Option<i64>, last: Option<i64>, to: Option<i64>) -> Option<Gap> {
    let (head, to) = head.zip(to)?;
    let has_rested = last.is_some_and(|last| to - last >= REST);
    (head < to && !has_rested).then(|| Gap {
        from: last,
        to: Some(to),
        reason: "rotation".into(),
        cut: true,
        ..Gap::default()
    })
}

/// A hole of which all up to a time is filled.
fn shortened(gap: Gap, from: i64) -> Gap {
    let share = gap.from.zip(gap.to).map(|(begin, to)| {
        let (left, whole) = (to.saturating_sub(from), to.saturating_sub(begin));
        if whole > 0 {
            (left as f64 / whole as f64).clamp(0.0, 1.0)
        } else {
            0.0
        }
    });
    Gap {
        from: Some(from),
        estimated_bytes: gap
            .estimated_bytes
            .zip(share)
            .map(|(bytes, share)| (bytes as f64 * share).round() as i64),
        ..gap
    }
}

/// Gives the line after a hole its beginning. Cursors into its chunk mean the same lines as before. False: it is not there.
pub(super) async fn join(connection: &mut PgConnection, process: Uuid, join: &Join) -> Result<bool, sqlx::Error> {
    // A chunk that is being merged is another one when that is done.
    for _ in 0..2 {
        let row = sqlx::query!(
            "delete from log_chunk
              where process_id = $1 and seq between $2 and $2 + $3::bigint and seq - coalesce(cardinality(parts), 1) = $2 - 1
             returning seq, day, pod_uid, container, restart, lines, first_at, last_at, data, encoding, size, parts",
            process,
            join.seq,
            MOST_PARTS
        )
        .fetch_optional(&mut *connection)
        .await?;
        let Some(mut row) = row else { continue };
        let text = Text::decode(row.encoding, row.data.clone());
        let is_known = text.is_ok();
        if let Ok(text) = text {
            let mut packer = Packer::default();
            packer.push(join.at, &join.content);
            text.lines().skip(1).for_each(|line| packer.push(line.at, line.content));
            let packed = packer.finish();
            (row.encoding, row.data) = (packed.encoding, packed.data);
            let begun = i32::try_from(join.begun).unwrap_or(i32::MAX);
            row.size = row.size.map(|size| size.saturating_add(begun));
            (row.first_at, row.last_at) = (row.first_at.min(join.at), row.last_at.max(join.at));
        }
        sqlx::query!(
            "insert into log_chunk (process_id, seq, day, pod_uid, container, restart, lines, first_at, last_at, data, encoding,
                                    size, parts)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            process,
            row.seq,
            row.day,
            row.pod_uid,
            row.container,
            row.restart,
            row.lines,
            row.first_at,
            row.last_at,
            row.data,
            row.encoding,
            row.size,
            row.parts.as_deref()
        )
        .execute(&mut *connection)
        .await?;
        return Ok(is_known);
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
