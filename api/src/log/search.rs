//! Lines that a filter wants, found before the answer begins: so the answer can say in its head how far it has looked. A
//! search looks at so much of a log and goes on where it stopped when it is asked again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use octopus_shared::db::view::{self, LogChunk};
use octopus_shared::log::Cursor;
use sqlx::PgPool;
use uuid::Uuid;

use super::filter::Filter;
use super::line::Lines;

/// Chunks that are read at once.
const PAGE: i64 = 32;
/// Bytes that one search looks at, and that it finds.
const LOOKED_AT: usize = 256 << 20;
const FOUND: usize = 16 << 20;
/// How long it may take.
const TIME: Duration = Duration::from_secs(5);

/// What a search found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) lines: Vec<Lines>,
    /// How far it has looked.
    pub(super) place: Cursor,
    /// There may be more behind it.
    pub(super) more: bool,
}

/// What a search may still do.
struct Budget {
    ends: Instant,
    bytes: usize,
}

impl Budget {
    fn new() -> Self {
        Self {
            ends: Instant::now() + TIME,
            bytes: LOOKED_AT,
        }
    }

    fn take(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn is_spent(&self) -> bool {
        self.bytes == 0 || Instant::now() >= self.ends
    }
}

/// The first `limit` lines after `place` that a filter wants.
pub(super) async fn forward(
    pool: &PgPool,
    process: Uuid,
    mut place: Cursor,
    end: Cursor,
    limit: usize,
    filter: &Arc<Filter>,
) -> Result<Found, sqlx::Error> {
    let mut budget = Budget::new();
    let (mut found, mut left, mut bytes) = (Vec::new(), limit, 0);
    while place < end {
        let chunks = view::chunks(pool, process, place, end.seq, &filter.chunks, PAGE).await?;
        if chunks.is_empty() {
            place = end;
        }
        for chunk in chunks {
            budget.take(chunk.text.size());
            let (from, until) = (chunk.span.index(place), chunk.span.index(end));
            let lines = Lines {
                chunk: Arc::new(chunk),
                from,
                until,
                filter: filter.clone(),
            };
            let (count, stopped) = lines.count(left);
            left -= count;
            place = lines.place(stopped);
            bytes += if count > 0 { lines.chunk.text.size() } else { 0 };
            let lines = Lines {
                until: stopped,
                ..lines
            };
            keep(&mut found, lines, count);
            if left == 0 || bytes >= FOUND || budget.is_spent() {
                break;
            }
        }
        if left == 0 || bytes >= FOUND || budget.is_spent() {
            break;
        }
        tokio::task::yield_now().await;
    }
    Ok(Found {
        lines: found,
        more: place < end,
        place,
    })
}

/// Keeps lines of a chunk, of which `count` are wanted, if anything is to be shown of them.
fn keep(found: &mut Vec<Lines>, lines: Lines, count: usize) {
    // What was dropped before the first one is shown, and holes stand also where no line is wanted.
    if found.is_empty() || count > 0 || lines.have_holes() {
        found.push(lines);
    }
}

/// The place before the last `tail` lines that a filter wants, or how far back was looked.
pub(super) async fn tail(
    pool: &PgPool,
    process: Uuid,
    end: Cursor,
    tail: usize,
    filter: &Arc<Filter>,
) -> Result<Cursor, sqlx::Error> {
    let mut budget = Budget::new();
    let (mut until, mut left) = (end, tail);
    if tail == 0 {
        return Ok(end);
    }
    loop {
        let chunks = view::chunks_before(pool, process, until.seq.saturating_add(1), &filter.chunks, PAGE).await?;
        if chunks.is_empty() {
            return Ok(Cursor::default());
        }
        for chunk in chunks {
            budget.take(chunk.text.size());
            let found = start_of_last(&chunk, chunk.span.index(until), &mut left, filter);
            if let Some(line) = found.or(budget.is_spent().then_some(0)) {
                return Ok(chunk.span.place(line));
            }
            // Not the chunk's number: meanwhile it may be one with those before it.
            until = Cursor {
                seq: chunk.span.first_seq() - 1,
                line: i32::MAX,
            };
        }
        tokio::task::yield_now().await;
    }
}

/// Where the last `left` of the first `until` lines of a chunk that are wanted begin; else `left` less those that are.
fn start_of_last(chunk: &LogChunk, until: usize, left: &mut usize, filter: &Filter) -> Option<usize> {
    let wanted: Vec<usize> = (0..until)
        .zip(chunk.text.lines())
        .filter(|(_, line)| filter.wants(line))
        .map(|(index, _)| index)
        .collect();
    match wanted.len().checked_sub(*left) {
        Some(skipped) => wanted.get(skipped).copied(),
        None => {
            *left -= wanted.len();
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use octopus_shared::db::view::ChunkFilter;
    use octopus_shared::log::{Span, Text, push_line};

    use super::*;

    #[test]
    fn a_search_has_an_end() {
        let mut budget = Budget::new();
        assert!(!budget.is_spent());
        budget.take(LOOKED_AT - 1);
        assert!(!budget.is_spent());
        budget.take(2);
        assert!(budget.is_spent());
        let late = Budget {
            ends: Instant::now(),
            bytes: 1,
        };
        assert!(late.is_spent());
    }

    /// Lines, all of the first nanosecond.
    fn chunk(contents: &[&str]) -> LogChunk {
        let mut data = Vec::new();
        for content in contents {
            push_line(&mut data, chrono::DateTime::from_timestamp_nanos(1), content.as_bytes());
        }
        LogChunk {
            span: Span {
                seq: 1,
                lines: i32::try_from(contents.len()).unwrap(),
                parts: None,
            },
            pod_uid: String::new(),
            container: String::new(),
            restart: 0,
            attempt: 1,
            text: Text::plain(data),
            gaps: serde_json::json!([]),
        }
    }

    #[test]
    fn what_has_nothing_to_show_is_not_kept() {
        let filter = Arc::new(Filter::new(ChunkFilter::default(), Some("x"), None).unwrap());
        let hole = LogChunk {
            gaps: serde_json::json!([{"from": 0, "to": 1, "reason": "rotation"}]),
            ..chunk(&["hole"])
        };
        let mut found = Vec::new();
        for chunk in [
            chunk(&["first"]),
            chunk(&["a"]),
            chunk(&["b", "x"]),
            hole,
            chunk(&["c"]),
        ] {
            let lines = Lines {
                chunk: Arc::new(chunk),
                from: 0,
                until: usize::MAX,
                filter: filter.clone(),
            };
            let (count, _) = lines.count(usize::MAX);
            keep(&mut found, lines, count);
        }
        let first = |lines: &Lines| lines.chunk.text.lines().next().unwrap().content.to_vec();
        let kept: Vec<_> = found.iter().map(first).collect();
        assert_eq!(kept, [b"first".as_slice(), b"b", b"hole"]);
    }

    #[test]
    fn the_last_lines_are_found_across_chunks() {
        let filter = Filter::new(ChunkFilter::default(), Some("x"), None).unwrap();
        let mut left = 3;
        assert_eq!(
            start_of_last(&chunk(&["x", "a", "x", "b"]), 9, &mut left, &filter),
            None
        );
        assert_eq!(left, 1);
        assert_eq!(start_of_last(&chunk(&["a"]), 9, &mut left, &filter), None);
        assert_eq!(start_of_last(&chunk(&["x", "x", "a"]), 9, &mut left, &filter), Some(1));
    }
}
