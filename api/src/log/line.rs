//! What a reader of a log is sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use octopus_shared::db::view::{LogChunk, LogStreamView};
use octopus_shared::log::{Cursor, lines};
use octopus_shared::process::ProcessState;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

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
    /// The line, without its newline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<String>,
    /// The line in base64, when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) line_base64: Option<String>,
}

impl Line {
    fn new(chunk: &LogChunk, cursor: Cursor, at: DateTime<Utc>, content: &[u8]) -> Self {
        let text = std::str::from_utf8(content).ok().map(str::to_owned);
        Self {
            cursor: cursor.to_string(),
            at,
            pod_uid: chunk.pod_uid.clone(),
            container: chunk.container.clone(),
            restart: chunk.restart,
            attempt: chunk.attempt,
            line_base64: text.is_none().then(|| STANDARD.encode(content)),
            line: text,
        }
    }
}

/// A known hole in the log of one run of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Gap {
    /// The pod.
    pub(crate) pod_uid: String,
    /// The container.
    pub(crate) container: String,
    /// Its restart count.
    pub(crate) restart: i32,
    /// Between which timestamps, in nanoseconds since 1970, null where unknown, and why: `{from, to, reason}`.
    #[schema(value_type = Object)]
    pub(crate) gap: Value,
}

impl Gap {
    pub(super) fn of(stream: &LogStreamView) -> impl Iterator<Item = Self> {
        let gaps = stream.gaps.as_array().map(Vec::as_slice).unwrap_or_default();
        gaps.iter().map(|gap| Self {
            pod_uid: stream.pod_uid.clone(),
            container: stream.container.clone(),
            restart: stream.restart,
            gap: gap.clone(),
        })
    }
}

/// The end of a log that cannot grow any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct End {
    /// The process's last state.
    pub(crate) state: ProcessState,
    /// Whether every byte that was printed was sent: no stream has a gap or was cut.
    pub(crate) complete: bool,
    /// The streams and their seals.
    pub(crate) streams: Vec<LogStreamView>,
}

/// What is sent, one after the other.
#[derive(Debug)]
pub(crate) enum Item {
    /// Lines of one chunk: the chunk, how many of its lines were sent before, and how many to send up to.
    Lines { chunk: LogChunk, from: usize, until: usize },
    /// A hole.
    Gap(Gap),
    /// Nothing comes after it.
    End(End),
}

/// The lines of an [`Item::Lines`], as they were printed.
pub(super) fn contents(chunk: &LogChunk, from: usize, until: usize) -> impl Iterator<Item = &[u8]> {
    lines(&chunk.data).take(until).skip(from).map(|line| line.content)
}

/// The lines of an [`Item::Lines`], with where and when they were printed.
pub(super) fn described(chunk: &LogChunk, from: usize, until: usize) -> impl Iterator<Item = Line> {
    lines(&chunk.data)
        .enumerate()
        .take(until)
        .skip(from)
        .map(|(index, line)| {
            let cursor = Cursor {
                seq: chunk.seq,
                line: i32::try_from(index + 1).unwrap_or(i32::MAX),
            };
            Line::new(chunk, cursor, line.at, line.content)
        })
}
