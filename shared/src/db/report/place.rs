//! Where what was spooled belongs, by the lines before it. Pure.

use std::ops::Range;

use super::chunk::Chunk;
use super::spooled::LogMessage;
use super::stream::StreamCursor;
use crate::log::{Gap, Packer, Text, chained};

/// Where a message belongs in its stream as that is stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The stream goes on with it.
    Next,
    /// So many of its lines are the last ones that are stored.
    Within(usize),
    /// All of it is stored, or it is of another reading: another manager has read on after a hole, which is on record.
    Passed,
    /// Lines before it are not stored. They and it are read from the node again.
    Missing,
}

pub(super) fn place(stored: &StreamCursor, message: &LogMessage) -> Place {
    match message {
        LogMessage::Chunk(chunk) => place_lines(stored, chunk),
        LogMessage::Seal { at, .. } if same(stored, at) => Place::Next,
        LogMessage::Seal { at, .. } if stored.lines < at.lines => Place::Missing,
        LogMessage::Seal { .. } => Place::Passed,
    }
}

/// The same of lines.
pub(super) fn place_lines(stored: &StreamCursor, chunk: &Chunk) -> Place {
    if same(stored, &chunk.before) {
        return Place::Next;
    }
    if stored.lines < chunk.before.lines {
        return Place::Missing;
    }
    let begun = usize::try_from(stored.lines - chunk.before.lines).unwrap_or_default();
    if begun == 0 || stored.lines >= chunk.cursor.lines {
        return Place::Passed;
    }
    let Some((before, after)) = chunk.before.chain.clone().zip(stored.chain.as_ref()) else {
        return Place::Passed;
    };
    let Ok(text) = Text::decode(chunk.text.encoding, chunk.text.data.clone()) else {
        return Place::Passed;
    };
    let chain = text
        .lines()
        .take(begun)
        .fold(before, |chain, line| chained(&chain, line.content));
    if &chain == after {
        Place::Within(begun)
    } else {
        Place::Passed
    }
}

/// Whether two cursors are after the same line of the same log.
pub(super) fn same(a: &StreamCursor, b: &StreamCursor) -> bool {
    let known = |cursor: &StreamCursor| (cursor.time, cursor.count, cursor.hash.clone(), cursor.bytes);
    a.lines == b.lines && a.chain == b.chain && (a.chain.is_some() || known(a) == known(b))
}

/// Some lines of a chunk, behind a cursor.
pub(super) fn part_of(chunk: &Chunk, lines: Range<usize>, before: &StreamCursor) -> Chunk {
    let mut part = Chunk {
        before: before.clone(),
        size: 0,
        lines: 0,
        gaps: Vec::new(),
        seams: Vec::new(),
        ..chunk.clone()
    };
    let Ok(text) = Text::decode(chunk.text.encoding, chunk.text.data.clone()) else {
        return part;
    };
    part.gaps = gaps_of(chunk, &text, lines.clone());
    let mut packer = Packer::default();
    for line in text.lines().take(lines.end).skip(lines.start) {
        (part.first_at, part.last_at) = if part.lines == 0 {
            (line.at, line.at)
        } else {
            (part.first_at.min(line.at), part.last_at.max(line.at))
        };
        part.lines += 1;
        part.size = part
            .size
            .saturating_add(i32::try_from(line.content.len() + 1).unwrap_or(i32::MAX));
        packer.push(line.at, line.content);
    }
    part.text = packer.finish();
    part
}

/// The holes before some lines of a chunk, or within them, and those that were noticed late.
pub(super) fn gaps_of(chunk: &Chunk, text: &Text, lines: Range<usize>) -> Vec<Gap> {
    let times: Vec<Option<i64>> = text.lines().map(|line| line.at.timestamp_nanos_opt()).collect();
    let theirs = times.get(lines.start..lines.end.min(times.len())).unwrap_or_default();
    let is_there = |gap: &&Gap| match gap.to {
        None => lines.start == 0,
        to => theirs.contains(&to) || !times.contains(&to),
    };
    chunk.gaps.iter().filter(is_there).cloned().collect()
}

/// Holes that were noticed when what follows them had been handed out: they are before lines of an earlier message.
pub(super) fn late_gaps(message: &LogMessage) -> Vec<Gap> {
    let mut gaps = match message {
        LogMessage::Chunk(chunk) => match Text::decode(chunk.text.encoding, chunk.text.data.clone()) {
            Ok(text) => gaps_of(chunk, &text, 0..0),
            Err(_) => Vec::new(),
        },
        LogMessage::Seal { seal, .. } => seal.gaps.clone(),
    };
    gaps.retain(|gap| gap.to.is_some());
    gaps
}

#[cfg(test)]
mod tests;
