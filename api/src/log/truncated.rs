//! What was dropped of the beginning of a log, shown where it stood.

use chrono::SecondsFormat;
use octopus_shared::db::view::{self, LogChunk};
use octopus_shared::log::{self, Cursor};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use super::filter::Filter;

/// What was dropped of the beginning of the log of one run of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct TruncatedStart {
    /// The pod.
    pub(crate) pod_uid: String,
    /// The container.
    pub(crate) container: String,
    /// Its restart count.
    pub(crate) restart: i32,
    /// How much.
    pub(crate) truncated: log::Truncated,
}

impl TruncatedStart {
    /// A line for people, which no function printed.
    pub(super) fn mark(&self) -> String {
        let log::Truncated { lines, bytes, last_at } = &self.truncated;
        format!(
            "--- octopus: {lines} lines were dropped (log_limit, {bytes} bytes), the latest of {} ---",
            last_at.to_rfc3339_opts(SecondsFormat::Nanos, true),
        )
    }
}

/// How far a log was read, as far as it matters for what was dropped of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Up to a place that a client has named: it may be in the middle of a chunk.
    Named(Cursor),
    /// Up to the end of a chunk.
    Chunk(Cursor),
}

impl Read {
    /// What was dropped between the place and the chunk that follows it. None: nothing follows.
    pub(super) async fn until(
        self,
        pool: &PgPool,
        process: Uuid,
        chunk: Option<&LogChunk>,
        filter: &Filter,
    ) -> Result<Vec<TruncatedStart>, sqlx::Error> {
        let (Self::Named(place) | Self::Chunk(place)) = self;
        if !self.may_miss(chunk.map(|chunk| chunk.span.first_seq())) {
            return Ok(Vec::new());
        }
        let dropped = view::truncated(pool, process, place).await?;
        let wanted = dropped.into_iter().filter(|stream| {
            let container = &filter.chunks.container;
            container.as_ref().is_none_or(|name| *name == stream.container)
                && filter
                    .chunks
                    .since
                    .is_none_or(|since| stream.truncated.last_at >= since)
        });
        Ok(wanted
            .map(|stream| TruncatedStart {
                pod_uid: stream.pod_uid,
                container: stream.container,
                restart: stream.restart,
                truncated: stream.truncated,
            })
            .collect())
    }

    /// Whether a chunk may be missing before the one with the number `next`.
    fn may_miss(self, next: Option<i64>) -> bool {
        match (self, next) {
            // Of what is not there nothing can be read on.
            (Self::Named(_), None) => true,
            (Self::Chunk(_), None) => false,
            (Self::Named(place), Some(next)) if place != Cursor::default() => next > place.seq,
            (Self::Named(place) | Self::Chunk(place), Some(next)) => next > place.seq + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_in_the_numbers_are_looked_into() {
        let at = |seq, line| Cursor { seq, line };
        for (read, next, may_miss) in [
            (Read::Named(Cursor::default()), Some(1), false),
            (Read::Named(Cursor::default()), Some(2), true),
            (Read::Named(at(4, 2)), Some(4), false),
            (Read::Named(at(4, 2)), Some(5), true),
            (Read::Named(at(4, 2)), None, true),
            (Read::Chunk(at(4, 2)), Some(5), false),
            (Read::Chunk(at(4, 2)), Some(6), true),
            (Read::Chunk(at(4, 2)), None, false),
        ] {
            assert_eq!(read.may_miss(next), may_miss, "{read:?} {next:?}");
        }
    }
}
