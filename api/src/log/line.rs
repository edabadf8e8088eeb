//! What a reader of a log is sent.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use octopus_shared::db::view::{LogChunk, LogStreamView};
use octopus_shared::log::{self, Cursor};
use octopus_shared::process::ProcessState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::filter::Filter;
use super::truncated::TruncatedStart;

/// One printed line. `line` when it is UTF-8, else `line_base64`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Line {
    /// The place after it: `after` or `Last-Event-ID` of a reader that goes on.
    pub(crate) cursor: String,
    /// When the node received it.
    pub(crate) at: DateTime<Utc>,
    /// The pod.
    pub(crate) pod_uid: String,
    /// The container.
    pub(crate) container: String,
    /// Its restart count.
    pub(crate) restart: i32,
    /// The attempt of the process.
    pub(crate) attempt: i32,
    /// It may lack its beginning: it comes after a hole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) partial: bool,
    /// The line, without its newline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<String>,
    /// The line in base64, when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) line_base64: Option<String>,
}

/// A known hole in the log of one run of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub(crate) struct Gap {
    /// The pod.
    pub(crate) pod_uid: String,
    /// The container.
    pub(crate) container: String,
    /// Its restart count.
    pub(crate) restart: i32,
    /// Between which timestamps, and why.
    pub(crate) gap: log::Gap,
}

impl Gap {
    /// Holes behind the last line of a stream. The others are shown where they are.
    pub(super) fn at_end_of(stream: &LogStreamView) -> impl Iterator<Item = Self> {
        gaps(&stream.gaps).filter(|gap| gap.to.is_none()).map(|gap| Self {
            pod_uid: stream.pod_uid.clone(),
            container: stream.container.clone(),
            restart: stream.restart,
            gap,
        })
    }

    /// A line for people, which no function printed.
    pub(super) fn mark(&self) -> String {
        let time = |nanos: Option<i64>| {
            nanos.map_or_else(
                || "an unknown time".to_owned(),
                |nanos| DateTime::from_timestamp_nanos(nanos).to_rfc3339_opts(SecondsFormat::Nanos, true),
            )
        };
        let bytes = match (self.gap.bytes, self.gap.estimated_bytes) {
            (Some(bytes), _) => format!(", {bytes} bytes"),
            (None, Some(bytes)) => format!(", about {bytes} bytes"),
            (None, None) => String::new(),
        };
        format!(
            "--- octopus: lines are or may be missing ({}{bytes}) between {} and {} ---",
            self.gap.reason,
            time(self.gap.from),
            time(self.gap.to),
        )
    }
}

/// What is not understood is left out: a later release may have written it.
fn gaps(value: &serde_json::Value) -> impl Iterator<Item = log::Gap> {
    let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|gap| serde_json::from_value(gap.clone()).ok())
}

/// Whether a hole is before a line that is kept, and not the sum of those that were dropped with their lines.
fn is_among_lines(gap: &log::Gap) -> bool {
    gap.to.is_some() && gap.reason != log::LOG_LIMIT
}

/// Which of these lines, by their times, a hole is shown before: the one with just the time at which it ends. A node may have joined
/// that one to the line before, without its time: then the first later one behind a line that came before the end. None: neither
/// is among them.
fn line_after(gap: &log::Gap, times: &[Option<i64>]) -> Option<usize> {
    let exact = times.iter().position(|at| *at == gap.to);
    exact.or_else(|| {
        let mut lines = times.iter().enumerate();
        lines.find(|(_, at)| (gap.from..gap.to).contains(*at))?;
        lines.find(|(_, at)| **at > gap.to).map(|(index, _)| index)
    })
}

/// The end of a log that cannot grow any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct End {
    /// The process's last state.
    pub(crate) state: ProcessState,
    /// Whether it is known that every byte that was printed is stored: no stream has a gap or was cut, and without any stream
    /// no container can have run.
    pub(crate) complete: bool,
    /// The streams and their seals.
    pub(crate) streams: Vec<LogStreamView>,
}

/// What is sent, one after the other.
#[derive(Debug)]
pub(crate) enum Item {
    /// Lines of one chunk.
    Lines(Lines),
    /// A hole behind the last line.
    Gap(Gap),
    /// What was dropped before the next line.
    Truncated(TruncatedStart),
    /// Nothing comes after it.
    End(End),
    /// All that is stored was sent. Only for who asks for it.
    Rests,
}

/// Lines of one chunk: those that are wanted, between two of its lines.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    pub(crate) chunk: Arc<LogChunk>,
    /// How many of its lines were sent before.
    pub(crate) from: usize,
    /// How many to send up to.
    pub(crate) until: usize,
    pub(crate) filter: Arc<Filter>,
}

/// A line, or a hole before it.
pub(crate) enum Entry<'a> {
    Gap(Gap),
    Line(Printed<'a>),
}

/// A line in its chunk.
pub(crate) struct Printed<'a> {
    pub(crate) index: usize,
    pub(crate) line: log::Line<'a>,
    /// It may lack its beginning.
    pub(crate) partial: bool,
}

impl Lines {
    /// How many of them are wanted, up to `most`, and the place after the last of those; the end of the chunk if there are
    /// fewer.
    pub(crate) fn count(&self, most: usize) -> (usize, usize) {
        let mut found = 0;
        for printed in self.printed() {
            found += 1;
            if found == most {
                return (found, printed.index + 1);
            }
        }
        (found, self.chunk.text.count().min(self.until))
    }

    fn printed(&self) -> impl Iterator<Item = Printed<'_>> {
        let wants_chunk = self.filter.wants_chunk(&self.chunk);
        self.chunk
            .text
            .lines()
            .enumerate()
            .take(self.until)
            .skip(self.from)
            .filter(move |(_, line)| wants_chunk && self.filter.wants(line))
            .map(|(index, line)| Printed {
                index,
                line,
                partial: false,
            })
    }

    /// The lines, and the holes between them. A hole is shown whether or not the line after it is wanted.
    pub(crate) fn entries(&self) -> Vec<Entry<'_>> {
        let holes = self.holes();
        if holes.is_empty() {
            return self.printed().map(Entry::Line).collect();
        }
        let mut entries = Vec::new();
        if !self.filter.wants_chunk(&self.chunk) {
            return entries;
        }
        let lines = self.chunk.text.lines().enumerate();
        for (index, line) in lines.take(self.until).skip(self.from) {
            let mut partial = false;
            for (_, gap) in holes.iter().filter(|(after, _)| *after == index) {
                partial |= gap.cut;
                if self.filter.wants_time(line.at) {
                    entries.push(Entry::Gap(Gap {
                        pod_uid: self.chunk.pod_uid.clone(),
                        container: self.chunk.container.clone(),
                        restart: self.chunk.restart,
                        gap: gap.clone(),
                    }));
                }
            }
            if self.filter.wants(&line) {
                entries.push(Entry::Line(Printed { index, line, partial }));
            }
        }
        entries
    }

    /// The holes in the chunk, each with the number of the line that it is shown before.
    fn holes(&self) -> Vec<(usize, log::Gap)> {
        let gaps: Vec<log::Gap> = gaps(&self.chunk.gaps).filter(is_among_lines).collect();
        if gaps.is_empty() {
            return Vec::new();
        }
        let lines = self.chunk.text.lines();
        let times: Vec<Option<i64>> = lines.map(|line| line.at.timestamp_nanos_opt()).collect();
        let holes = gaps.into_iter();
        holes
            .filter_map(|gap| line_after(&gap, &times).map(|line| (line, gap)))
            .collect()
    }

    /// Whether there are holes between them.
    pub(super) fn have_holes(&self) -> bool {
        self.holes()
            .iter()
            .any(|(line, _)| (self.from..self.until).contains(line))
    }

    /// A line with where and when it was printed.
    pub(crate) fn describe(&self, printed: &Printed<'_>) -> Line {
        let text = std::str::from_utf8(printed.line.content).ok().map(str::to_owned);
        Line {
            cursor: self.place(printed.index + 1).to_string(),
            at: printed.line.at,
            pod_uid: self.chunk.pod_uid.clone(),
            container: self.chunk.container.clone(),
            restart: self.chunk.restart,
            attempt: self.chunk.attempt,
            partial: printed.partial,
            line_base64: text.is_none().then(|| STANDARD.encode(printed.line.content)),
            line: text,
        }
    }

    /// The place after so many lines of the chunk.
    pub(crate) fn place(&self, lines: usize) -> Cursor {
        self.chunk.span.place(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_that_were_dropped_with_their_lines_stand_before_none() {
        let hole = |to, reason: &str| log::Gap {
            to,
            reason: reason.into(),
            ..log::Gap::default()
        };
        assert!(is_among_lines(&hole(Some(3), "rotation")));
        assert!(!is_among_lines(&hole(Some(3), log::LOG_LIMIT)));
        assert!(!is_among_lines(&hole(None, "pod_gone")));
    }

    #[test]
    fn a_hole_stands_before_the_line_with_its_time_and_else_before_a_later_one() {
        for (times, from, to, expected) in [
            (&[1, 3, 5][..], Some(1), 3, Some(1)),
            (&[1, 3, 3], Some(1), 3, Some(1)),
            (&[3, 5], Some(1), 3, Some(0)),
            // Its line has no time of its own.
            (&[1, 2, 5, 6], Some(2), 4, Some(2)),
            (&[1, 2, 5, 6], None, 4, Some(2)),
            // A later line of the file before came first.
            (&[2, 5, 4, 6], Some(2), 4, Some(2)),
            (&[2, 5, 3, 6], Some(3), 4, Some(3)),
            // The clock was set back.
            (&[7, 9, 2, 5], Some(2), 4, Some(3)),
            (&[1, 9], Some(2), 4, None),
            // It is in another chunk, or between two.
            (&[5, 6], Some(2), 4, None),
            (&[2, 3], Some(2), 4, None),
            // The rest of a line.
            (&[1, 5], Some(4), 4, None),
        ] {
            let gap = log::Gap {
                from,
                to: Some(to),
                ..log::Gap::default()
            };
            let times: Vec<_> = times.iter().copied().map(Some).collect();
            assert_eq!(line_after(&gap, &times), expected, "{times:?} {from:?} {to}");
        }
    }
}
