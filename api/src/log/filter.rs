//! Which lines are wanted, by what they say and when and where they were printed.

use chrono::{DateTime, Utc};
use octopus_shared::db::view::{ChunkFilter, LogChunk};
use octopus_shared::log;
use regex::bytes::{Regex, RegexBuilder};

/// Longest text or expression that is searched for.
const LONGEST: usize = 1000;
/// Bytes that a compiled expression may take, and its cache.
const SIZE: usize = 1 << 20;
/// Groups within groups.
const NESTING: u32 = 32;

/// Lines that are wanted. What is none does not count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) chunks: ChunkFilter,
    pattern: Option<Regex>,
}

impl Filter {
    /// A filter. The error says what is wrong with the expression.
    pub(crate) fn new(chunks: ChunkFilter, text: Option<&str>, expression: Option<&str>) -> Result<Self, String> {
        let escaped = text.map(regex::escape);
        let pattern = escaped.as_deref().or(expression).map(compile).transpose()?;
        Ok(Self { chunks, pattern })
    }

    pub(crate) fn is_all(&self) -> bool {
        self.pattern.is_none() && self.chunks == ChunkFilter::default()
    }

    /// Whether the container of a chunk is wanted.
    pub(crate) fn wants_chunk(&self, chunk: &LogChunk) -> bool {
        let wanted = self.chunks.container.as_ref();
        wanted.is_none_or(|container| *container == chunk.container)
    }

    /// Whether lines of this time are wanted.
    pub(crate) fn wants_time(&self, at: DateTime<Utc>) -> bool {
        self.chunks.since.is_none_or(|since| at >= since) && self.chunks.until.is_none_or(|until| at < until)
    }

    /// Whether a line of a chunk that is wanted is wanted.
    pub(crate) fn wants(&self, line: &log::Line<'_>) -> bool {
        self.wants_time(line.at)
            && self
                .pattern
                .as_ref()
                .is_none_or(|pattern| pattern.is_match(line.content))
    }
}

fn compile(expression: &str) -> Result<Regex, String> {
    if expression.len() > 4 * LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    RegexBuilder::new(expression)
        .size_limit(SIZE)
        .dfa_size_limit(SIZE)
        .nest_limit(NESTING)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "it is too big once it is compiled".to_owned(),
            // The last line says what is wrong, the others show where.
            error => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                last.trim_start_matches("error: ").to_owned()
            }
        })
}

/// Refuses what is too long before anything is made of it.
pub(crate) fn is_short(text: &str) -> bool {
    text.len() <= LONGEST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(text: Option<&str>, expression: Option<&str>, line: &[u8]) -> bool {
        let filter = Filter::new(ChunkFilter::default(), text, expression).unwrap();
        filter.wants(&log::Line {
            at: DateTime::from_timestamp_nanos(5),
            content: line,
        })
    }

    #[test]
    fn text_is_taken_as_it_is_and_expressions_are_not() {
        assert!(wants(Some("a.c"), None, b"xa.cx") && !wants(Some("a.c"), None, b"abc"));
        assert!(wants(None, Some("a.c"), b"abc") && !wants(None, Some("^b"), b"abc"));
        assert!(wants(None, Some("(?i)ERROR"), b"an Error \xff"));
        assert!(wants(None, Some(r"(?-u:\xff)"), b"an Error \xff"));
        assert!(wants(None, None, b""));
    }

    #[test]
    fn expressions_have_bounds() {
        for (expression, words) in [
            ("(", "unclosed group"),
            (r"(\w{100}){100}", "too big"),
            (&"(".repeat(40), "unclosed group"),
            (&format!("{}{}", "(".repeat(40), ")".repeat(40)), "nest"),
            (&"a".repeat(5000), "longer"),
        ] {
            let error = Filter::new(ChunkFilter::default(), None, Some(expression)).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn times_are_from_and_before() {
        let chunks = ChunkFilter {
            since: Some(DateTime::from_timestamp_nanos(5)),
            until: Some(DateTime::from_timestamp_nanos(7)),
            container: None,
        };
        let filter = Filter::new(chunks, None, None).unwrap();
        for (nanos, wanted) in [(4, false), (5, true), (6, true), (7, false)] {
            assert_eq!(filter.wants_time(DateTime::from_timestamp_nanos(nanos)), wanted);
        }
        assert!(!filter.is_all() && Filter::default().is_all());
    }
}
