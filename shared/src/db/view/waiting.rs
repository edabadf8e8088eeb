//! What a command that has not ended waits for.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

/// What stands between a command and its end, besides work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WaitingFor {
    /// What kind of thing.
    pub what: WaitedFor,
    /// The cluster whose managers are meant.
    pub cluster: String,
    /// The command that has to end, or to be claimed, first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Uuid>,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// Kinds of things that are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WaitedFor {
    /// No living manager of the cluster knows this kind of command.
    Manager,
    /// The image of the revision is still being built.
    Image,
    /// The API server of the cluster does not answer.
    Cluster,
    /// A registry or the package index does not answer, and the build of the image waits for it.
    Registry,
    /// A command: an earlier one about the same thing, or the one that makes this process.
    Command,
}

/// How a command that has not ended stands.
pub(in crate::db) struct Stand {
    pub(in crate::db) cluster: String,
    pub(in crate::db) created_at: DateTime<Utc>,
    /// Whether a living manager knows its kind and version.
    pub(in crate::db) served: bool,
    pub(in crate::db) unserved_since: DateTime<Utc>,
    pub(in crate::db) for_image: bool,
    pub(in crate::db) for_registry: bool,
    /// The API server does not answer.
    pub(in crate::db) away: bool,
    /// The oldest command before it under its key.
    pub(in crate::db) earlier: Option<(Uuid, DateTime<Utc>)>,
}

impl Stand {
    pub(in crate::db) fn waiting_for(self) -> Option<WaitingFor> {
        let (what, command, since) = if !self.served {
            (WaitedFor::Manager, None, self.unserved_since)
        } else if self.for_registry {
            (WaitedFor::Registry, None, self.created_at)
        } else if self.for_image {
            (WaitedFor::Image, None, self.created_at)
        } else if self.away && self.earlier.is_none() {
            (WaitedFor::Cluster, None, self.created_at)
        } else {
            let (command, since) = self.earlier?;
            (WaitedFor::Command, Some(command), since)
        };
        Some(WaitingFor {
            what,
            cluster: self.cluster,
            command,
            since,
        })
    }
}

/// Commands `c` and how they stand: further columns, further joins and which of them, then the arguments. They are those of the
/// table, or of a statement before that has `c` and their places in the queue `r`; `FRESH` are commands about something that no
/// other one can be about yet.
// `!`: sqlx reads from the plan what may be null, and the plan of a left join depends on how full the tables are.
macro_rules! standing {
    (COMMAND, $which:literal, $($argument:expr),+) => {
        $crate::db::view::standing!("", "command c left join command_ready r", QUEUED, $which, $($argument),+)
    };
    ($columns:literal, $joins:literal, $which:literal, $($argument:expr),+) => {
        $crate::db::view::standing!(
            @ "", "command c left join command_ready r", QUEUED, $columns, $joins, $which, $($argument),+
        )
    };
    // With all that `shown!` takes.
    ($before:literal, $from:literal, $age:ident, $which:literal, $($argument:expr),+) => {
        $crate::db::view::standing!(
            @ $before,
            $from,
            $age,
            r#", c.kind as "kind!",
                case when l.seq is null or c.state <> 'waiting' then c.state else 'running' end as "state!", c.function_name,
                v.number as "revision?", c.process_id, c.target_command, c.requested_by as "requested_by!", c.finished_at,
                c.reason, c.message, c.remedy, c.created_at + make_interval(secs => c.deadline_seconds) as deadline,
                c.failures as "failures!""#,
            " left join command_lease l on l.seq = c.seq left join revision v on v.id = c.revision_id",
            $which,
            $($argument),+
        )
    };
    // The queue's small tables say which: a join would look through commands of all days.
    (@ $before:literal, $from:literal, QUEUED, $columns:literal, $joins:literal, $which:literal, $($argument:expr),+) => {
        $crate::db::view::standing!(
            @ $before,
            $from,
            " left join lateral (
                      select min(seq) as seq
                        from (select seq from command_ready where key = r.key and seq < r.seq
                              union all select seq from command_lease where key = r.key) before) first on true
                 left join lateral (
                      select o.id, o.created_at from command o where o.seq = first.seq limit 1) earlier on true",
            $columns,
            $joins,
            $which,
            $($argument),+
        )
    };
    (@ $before:literal, $from:literal, FRESH, $columns:literal, $joins:literal, $which:literal, $($argument:expr),+) => {
        $crate::db::view::standing!(
            @ $before,
            $from,
            " cross join (select null::uuid as id, null::timestamptz as created_at) earlier",
            $columns,
            $joins,
            $which,
            $($argument),+
        )
    };
    (@ $before:literal, $from:literal, $earlier:literal, $columns:literal, $joins:literal, $which:literal, $($argument:expr),+) => {
        sqlx::query!(
            $before
                + r#"select c.id as "id!", c.cluster as "cluster!", c.created_at as "created_at!", r.waits_for is not null as "for_image!",
                      b.id is not null as "for_registry!", m.served as "served!",
                      greatest(c.created_at, m.unserved_since) as "unserved_since!", earlier.id as "earlier?",
                      earlier.created_at as "earlier_at?",
                      coalesce(r.seq is not null and c.kind <> 'declare_function' and not k.reachable, false) as "away!""#
                + $columns
                + r#"
                 from "#
                + $from
                + r#" on r.seq = c.seq
                 left join cluster k on k.name = c.cluster
                 left join revision b on b.id = case when c.kind = 'declare_function' then c.revision_id else r.waits_for end
                                     and b.build_state = 'building' and b.build_reason = 'registry_or_index_unreachable'
                cross join lateral (
                      select coalesce(bool_or(m.lease_until > now() and m.stopped_at is null
                                              and (m.kinds ->> c.kind)::integer >= c.version), false) as served,
                             case when not coalesce(bool_or(m.lease_until > now() and m.stopped_at is null), false)
                                  then max(least(m.lease_until, m.stopped_at)) end as unserved_since
                        from manager m where m.cluster = c.cluster and c.state = 'waiting') m"#
                + $earlier
                + $joins
                + $which,
            $($argument),+
        )
    };
}
pub(in crate::db) use standing;

/// What each of these commands waits for; those that wait for nothing or have ended are absent.
pub(super) async fn waiting(pool: &PgPool, commands: &[Uuid]) -> Result<HashMap<Uuid, WaitingFor>, sqlx::Error> {
    let rows = standing!("", "", " where c.id = any($1) and c.state = 'waiting'", commands)
        .fetch_all(pool)
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let stand = Stand {
                cluster: row.cluster,
                created_at: row.created_at,
                served: row.served,
                unserved_since: row.unserved_since,
                for_image: row.for_image,
                for_registry: row.for_registry,
                away: row.away,
                earlier: row.earlier.zip(row.earlier_at),
            };
            Some((row.id, stand.waiting_for()?))
        })
        .collect())
}
