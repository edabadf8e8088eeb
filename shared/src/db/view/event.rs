//! Transitions of processes: in the order of one process, and as one feed of all of them.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use crate::process::{Lifecycle, ProcessState};

/// One transition of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventView {
    /// The process.
    pub process_id: Uuid,
    /// From 1, without holes, within the process: the order of its transitions.
    pub number: i64,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// Cluster of the process.
    pub cluster: String,
    /// Lifecycle after the transition.
    pub lifecycle: Lifecycle,
    /// State after the transition.
    pub state: ProcessState,
    /// Stable id of why.
    pub reason: Option<String>,
    /// The same for people.
    pub message: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Exit code where the transition has one.
    pub exit_code: Option<i32>,
    /// The pod that it was seen on.
    pub pod_uid: Option<String>,
}

/// Up to `limit` transitions of a process after number `after`, in order.
///
/// # Errors
/// When Postgres is away.
pub async fn events(pool: &PgPool, process: Uuid, after: i64, limit: i64) -> Result<Vec<EventView>, sqlx::Error> {
    sqlx::query_as!(
        EventView,
        r#"select process_id, number, at, cluster, lifecycle as "lifecycle: Lifecycle", state as "state: ProcessState", reason,
                  message, remedy, exit_code, pod_uid
             from process_event where process_id = $1 and number > $2 order by number limit $3"#,
        process,
        after,
        limit
    )
    .fetch_all(pool)
    .await
}

/// A place in the feed of all transitions: after this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedCursor {
    /// The transaction that wrote it.
    pub transaction: u64,
    /// The process.
    pub process_id: Uuid,
    /// Its number within the process.
    pub number: i64,
}

impl fmt::Display for FeedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.transaction, self.process_id.simple(), self.number)
    }
}

impl FromStr for FeedCursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const REFUSED: &str = "it is no cursor of this feed";
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(REFUSED);
        Ok(Self {
            transaction: part()?.parse().map_err(|_| REFUSED)?,
            process_id: part()?.parse().map_err(|_| REFUSED)?,
            number: part()?.parse().map_err(|_| REFUSED)?,
        })
    }
}

/// The place before which every transition is visible, and after which those that are still being written come.
///
/// # Errors
/// When Postgres is away.
pub async fn feed_end(pool: &PgPool) -> Result<FeedCursor, sqlx::Error> {
    let oldest = sqlx::query_scalar!(r#"select pg_snapshot_xmin(pg_current_snapshot())::text as "xmin!""#)
        .fetch_one(pool)
        .await?;
    Ok(FeedCursor {
        transaction: number(&oldest)?,
        ..FeedCursor::default()
    })
}

/// Up to `limit` transitions after `after`. Only what is older than every open transaction is read, so that none that
/// commits late is skipped. Transitions of one process may come out of their order when two transactions that were open
/// at once wrote them: `number` says which was first.
///
/// # Errors
/// When Postgres is away.
pub async fn feed(pool: &PgPool, after: &FeedCursor, limit: i64) -> Result<Vec<(FeedCursor, EventView)>, sqlx::Error> {
    sqlx::query!(
        r#"select transaction::text as "transaction!", process_id, number, at, cluster, lifecycle as "lifecycle: Lifecycle",
                  state as "state: ProcessState", reason, message, remedy, exit_code, pod_uid
             from process_event
            where transaction < pg_snapshot_xmin(pg_current_snapshot())
              and (transaction, process_id, number) > ($1::text::xid8, $2, $3)
            order by process_event.transaction, process_id, number
            limit $4"#,
        after.transaction.to_string(),
        after.process_id,
        after.number,
        limit
    )
    .fetch_all(pool)
    .await?
    .into_iter()
    .map(|row| {
        let cursor =
            FeedCursor { transaction: number(&row.transaction)?, process_id: row.process_id, number: row.number };
        let event = EventView {
            process_id: row.process_id,
            number: row.number,
            at: row.at,
            cluster: row.cluster,
            lifecycle: row.lifecycle,
            state: row.state,
            reason: row.reason,
            message: row.message,
            remedy: row.remedy,
            exit_code: row.exit_code,
            pod_uid: row.pod_uid,
        };
        Ok((cursor, event))
    })
    .collect()
}

fn number(text: &str) -> Result<u64, sqlx::Error> {
    text.parse()
        .map_err(|error: std::num::ParseIntError| sqlx::Error::Decode(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_the_way_through_a_client() {
        let cursor = FeedCursor {
            transaction: 7,
            process_id: Uuid::now_v7(),
            number: 3,
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for bad in ["", "7", "7.x.1", "-1.0.0"] {
            assert!(bad.parse::<FeedCursor>().is_err(), "{bad}");
        }
    }
}
