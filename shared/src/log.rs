//! How printed lines are kept in chunks, and the cursor by which they are read.

mod merge;
mod span;
mod stored;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use self::merge::{MOST_PARTS, Piece, Plan, TARGET, plan};
pub use self::span::Span;
pub use self::stored::{Encoded, PLAIN, Packer, Text, Undecodable};

/// One printed line, without its newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When the node received it.
    pub at: DateTime<Utc>,
    /// The bytes as they were printed: not necessarily text.
    pub content: &'a [u8],
}

/// Appends one line to a plain chunk, as releases before compression wrote them.
pub fn push_line(data: &mut Vec<u8>, at: DateTime<Utc>, content: &[u8]) {
    data.extend_from_slice(at.to_rfc3339_opts(SecondsFormat::Nanos, true).as_bytes());
    data.push(b' ');
    data.extend_from_slice(content);
    data.push(b'\n');
}

/// The lines of a plain chunk, in order.
fn lines(data: &[u8]) -> impl DoubleEndedIterator<Item = Line<'_>> {
    data.strip_suffix(b"\n")
        .unwrap_or(data)
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
}

/// A line as the API server and a plain chunk have it: timestamp, space, bytes. None without a timestamp.
pub fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let space = line.iter().take(40).position(|byte| *byte == b' ')?;
    let at = DateTime::parse_from_rfc3339(std::str::from_utf8(&line[..space]).ok()?).ok()?;
    Some(Line {
        at: at.to_utc(),
        content: &line[space + 1..],
    })
}

/// The running hash of a log after one more line: SHA-256 of the hash before it, the line, and a newline. It begins with
/// nothing.
pub fn chained(before: &[u8], line: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(line);
    hash.update(b"\n");
    hash.finalize().to_vec()
}

/// Nanoseconds. Whoever printed nothing for so long before a new file of the node began did not print during the change of files. On a
/// node that has too much to do a runtime was seen to take the two halves of a line half a second apart.
pub const REST: i64 = 2_000_000_000;

/// A known hole in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Gap {
    /// Timestamp of the last line before it, nanoseconds since 1970.
    pub from: Option<i64>,
    /// Timestamp of the first line after it.
    pub to: Option<i64>,
    /// Stable id of why.
    pub reason: String,
    /// The line after it may lack its beginning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Bytes that are missing, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Bytes that would be missing if printing had gone on as it did before. None: nothing is known to tell it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_bytes: Option<i64>,
}

/// Why lines were dropped: of a hole, those around it.
pub const LOG_LIMIT: &str = "log_limit";
/// Why there is a hole whose lines may be in a spool; its id follows.
const SPOOLED_BY: &str = "spooled by ";

impl Gap {
    /// The same, its lines being in a spool perhaps.
    #[must_use]
    pub fn spooled_by(self, spool: Uuid) -> Self {
        Self {
            reason: format!("{SPOOLED_BY}{spool}"),
            ..self
        }
    }

    /// Whether it is the sum of holes among lines that were dropped, of which the other one was.
    pub fn has_summed(&self, other: &Self) -> bool {
        self.reason == LOG_LIMIT && other.to.is_some() && other.to <= self.to
    }

    /// Whether its lines may be in a spool.
    pub fn is_spooled(&self) -> bool {
        self.reason.starts_with(SPOOLED_BY)
    }
}

/// What was dropped of the beginning of a stream to keep within a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Truncated {
    /// Lines.
    pub lines: i64,
    /// Bytes, without timestamps.
    pub bytes: i64,
    /// The latest timestamp of these lines.
    pub last_at: DateTime<Utc>,
}

/// A place in the log of a process: after line `line` of chunk `seq`. Shown to clients as an opaque word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The chunk.
    pub seq: i64,
    /// Lines of that chunk that were read.
    pub line: i32,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seq, self.line)
    }
}

impl FromStr for Cursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (seq, line) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self {
            seq: seq.parse()?,
            line: line.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_as_they_were_printed() {
        let at: DateTime<Utc> = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
        let printed: [&[u8]; 5] = [
            b"plain",
            b"",
            b"\0 NUL",
            b"\xff\xfe",
            b"2026-01-02T03:04:05Z looks like one",
        ];
        let mut data = Vec::new();
        for content in printed {
            push_line(&mut data, at, content);
        }
        let read: Vec<_> = lines(&data).collect();
        assert_eq!(read.len(), printed.len());
        for (line, content) in read.iter().zip(printed) {
            assert_eq!((line.at, line.content), (at, content));
        }
    }

    #[test]
    fn text_without_a_timestamp_is_no_line() {
        assert_eq!(
            parse_line(b"failed to create fsnotify watcher: too many open files"),
            None
        );
        assert_eq!(parse_line(b""), None);
    }

    #[test]
    fn cursors_survive_the_way_through_a_client() {
        let cursor = Cursor { seq: 7, line: 3 };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert!("x".parse::<Cursor>().is_err());
    }
}
