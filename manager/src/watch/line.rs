//! Bytes of a log stream -> lines with their timestamps. Pure.
//!
//! A line is not always one line of the node's. A container runtime splits what is longer than 16 KiB into parts, and cuts
//! a line in two when the log is rotated in the middle of it: its end is then the first line of the next file. Kubelets
//! before 1.26 write a timestamp before each part, in the middle of the line. Those are taken out again here, so that what
//! is stored is what was printed.

use std::ops::Range;

use chrono::{DateTime, TimeDelta, Utc};
use memchr::{memchr, memmem};
use octopus_shared::log;

/// Longest line that is held, with its timestamps.
const MAX_LINE: usize = 16 << 20;
/// containerd's longest part of a line.
const PART: usize = 16 << 10;
/// While a log is rotated, lines of the old file may be later than those of the new one, by less than this.
pub(crate) const OVERLAP: TimeDelta = TimeDelta::seconds(1);

/// A line as it came, without its newline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) bytes: Vec<u8>,
    /// Bytes at its end that were too many to hold.
    pub(crate) lost: usize,
}

/// Cuts bytes into lines. Keeps an unfinished one until its end comes.
#[derive(Debug, Default)]
pub(crate) struct Splitter(Raw);

impl Splitter {
    /// Takes bytes in and hands out the lines that are finished by them.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Vec<Raw> {
        let mut lines = Vec::new();
        while let Some(end) = memchr(b'\n', bytes) {
            self.hold(&bytes[..end]);
            lines.push(std::mem::take(&mut self.0));
            bytes = &bytes[end + 1..];
        }
        self.hold(bytes);
        lines
    }

    fn hold(&mut self, bytes: &[u8]) {
        let room = bytes.len().min(MAX_LINE.saturating_sub(self.0.bytes.len()));
        self.0.bytes.extend_from_slice(&bytes[..room]);
        self.0.lost += bytes.len() - room;
    }

    /// What is left without a newline: a last line once the container has ended; the beginning of one that the rotation
    /// cut in two; or a fragment of one that is still being written.
    pub(crate) fn rest(&self) -> Option<&Raw> {
        Some(&self.0).filter(|rest| !rest.bytes.is_empty())
    }
}

/// A line with its timestamp, on its way into a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamped {
    pub(crate) at: DateTime<Utc>,
    pub(crate) content: Vec<u8>,
    /// Bytes at its end that were too many to hold.
    pub(crate) lost: usize,
    /// Where the rotation cut it: the timestamp of what follows, which a later read shows as a line of its own, and where
    /// in the content that begins.
    pub(crate) seam: Option<(DateTime<Utc>, usize)>,
}

impl Stamped {
    /// `is_seam` says whether a file of the log begins with a timestamp that stands in the middle of a line.
    /// None: the line has no timestamp, so it is not the function's but the kubelet's own, or the end of one.
    pub(crate) fn parse(raw: &Raw, is_seam: impl Fn(DateTime<Utc>) -> bool) -> Option<Self> {
        let line = log::parse_line(&raw.bytes)?;
        let (mut whole, mut seam) = (Vec::with_capacity(line.content.len()), None);
        let mut begin = 0;
        for part in parts(raw, &line, &is_seam) {
            whole.extend_from_slice(&line.content[begin..part.stamp.start]);
            begin = part.stamp.end;
            if part.rotated {
                seam = Some((part.at, whole.len()));
            }
        }
        whole.extend_from_slice(&line.content[begin..]);
        Some(Self {
            at: line.at,
            content: whole,
            lost: raw.lost,
            seam,
        })
    }

    /// The timestamps in the middle of a line that are the node's if a file of the log begins with them.
    pub(crate) fn doubtful(raw: &Raw) -> Vec<DateTime<Utc>> {
        let has_another = month(raw).is_some_and(|(month, rest)| memmem::find(rest, month).is_some());
        let Some(line) = log::parse_line(&raw.bytes).filter(|_| has_another) else {
            return Vec::new();
        };
        let all = parts(raw, &line, &|_| true);
        all.filter(|part| part.rotated).map(|part| part.at).collect()
    }

    /// This line and the one that the next file begins with.
    pub(crate) fn joined(mut self, rest: &Self) -> Self {
        let begin = self.content.len();
        self.content.extend_from_slice(&rest.content);
        self.lost += rest.lost;
        self.seam = match rest.seam {
            Some((at, offset)) => Some((at, begin + offset)),
            None => Some((rest.at, begin)),
        };
        self
    }

    /// What comes after the cut, as a line: what comes before it belongs to another one.
    pub(crate) fn second_half(mut self) -> Self {
        if let Some((at, offset)) = self.seam.take() {
            self.at = at;
            self.content.drain(..offset);
        }
        self
    }

    /// The line by which a later read knows that it has come this far.
    pub(crate) fn anchor(&self) -> (DateTime<Utc>, &[u8]) {
        match self.seam {
            Some((at, offset)) => (at, &self.content[offset..]),
            None => (self.at, &self.content),
        }
    }
}

/// A timestamp in the middle of a line.
struct Part {
    at: DateTime<Utc>,
    /// Where it stands, with the space behind it.
    stamp: Range<usize>,
    /// The rotation cut the line there, and not its length.
    rotated: bool,
}

/// The timestamps that the node put into a line. They do not run backwards, but for those of two files, which the runtime
/// writes at the same time for a moment.
fn parts<'a>(
    raw: &'a Raw,
    line: &log::Line<'a>,
    is_seam: &'a impl Fn(DateTime<Utc>) -> bool,
) -> impl Iterator<Item = Part> {
    let content = line.content;
    // All begin with the year and the month of the line: one search finds them among longer texts.
    let month = month(raw).map(|(month, _)| month);
    let month = month.filter(|month| memmem::find(content, month).is_some());
    let (mut begin, mut last) = (0, line.at);
    std::iter::from_fn(move || {
        let part = next_part(content, begin, last, month?, is_seam)?;
        (begin, last) = (part.stamp.end, part.at);
        Some(part)
    })
}

/// `2026-01-` of a line's own timestamp, and what comes after it.
fn month(raw: &Raw) -> Option<(&[u8], &[u8])> {
    raw.bytes.split_at_checked(8)
}

fn next_part(
    content: &[u8],
    begin: usize,
    last: DateTime<Utc>,
    month: &[u8],
    is_seam: impl Fn(DateTime<Utc>) -> bool,
) -> Option<Part> {
    let full = begin + PART;
    let within = &content[begin..content.len().min(full + month.len())];
    for found in memmem::find_iter(within, month) {
        let start = begin + found;
        let Some((at, length)) = stamp(&content[start..]) else {
            continue;
        };
        let rotated = start < full;
        // A line that the rotation cut has something before the cut.
        let is_node = if rotated {
            start > begin && at >= last - OVERLAP && is_seam(at)
        } else {
            at >= last
        };
        if is_node {
            return Some(Part {
                at,
                stamp: start..start + length,
                rotated,
            });
        }
    }
    None
}

/// A timestamp just as the kubelet writes them, `2026-01-02T03:04:05.000000006Z `, and its length with the space.
fn stamp(bytes: &[u8]) -> Option<(DateTime<Utc>, usize)> {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00.000000000";
    let is_shaped = bytes.len() > SHAPE.len()
        && SHAPE.iter().zip(bytes).all(|(shape, byte)| match shape {
            b'0' => byte.is_ascii_digit(),
            mark => mark == byte,
        });
    if !is_shaped {
        return None;
    }
    let zone = if bytes[SHAPE.len()] == b'Z' { 1 } else { 6 };
    let end = SHAPE.len() + zone;
    if bytes.get(end) != Some(&b' ') {
        return None;
    }
    let at = DateTime::parse_from_rfc3339(std::str::from_utf8(&bytes[..end]).ok()?).ok()?;
    Some((at.to_utc(), end + 1))
}

#[cfg(test)]
mod tests;
