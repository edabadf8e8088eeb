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
    /// A command: an earlier one about the same thing, or the one that makes this process.
    Command,
}

/// What each of these commands waits for; those that wait for nothing or have ended are absent.
pub(super) async fn waiting(pool: &PgPool, commands: &[Uuid]) -> Result<HashMap<Uuid, WaitingFor>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        select c.id as "id!", c.cluster as "cluster!", c.created_at as "created_at!", r.waits_for is not null as "for_image!", m.served as "served!",
               greatest(c.created_at, m.unserved_since) as "unserved_since!", earlier.id as "earlier?",
               earlier.created_at as "earlier_at?",
               coalesce(r.seq is not null and c.kind <> 'declare_function' and not k.reachable, false) as "away!"
          from command c
          left join command_ready r on r.seq = c.seq
          left join cluster k on k.name = c.cluster
         cross join lateral (
               select coalesce(bool_or(m.lease_until > now() and m.stopped_at is null
                                       and (m.kinds ->> c.kind)::integer >= c.version), false) as served,
                      case when not coalesce(bool_or(m.lease_until > now() and m.stopped_at is null), false)
                           then max(least(m.lease_until, m.stopped_at)) end as unserved_since
                 from manager m where m.cluster = c.cluster) m
          left join lateral (
               select o.id, o.created_at
                 from (select seq from command_ready where key = r.key and seq < r.seq
                       union all select seq from command_lease where key = r.key) before
                 join command o on o.seq = before.seq
                order by o.seq limit 1) earlier on true
         where c.id = any($1) and c.state = 'waiting'
        "#,
        commands
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let (what, command, since) = if !row.served {
                (WaitedFor::Manager, None, row.unserved_since)
            } else if row.for_image {
                (WaitedFor::Image, None, row.created_at)
            } else if row.away && row.earlier.is_none() {
                (WaitedFor::Cluster, None, row.created_at)
            } else {
                (WaitedFor::Command, Some(row.earlier?), row.earlier_at?)
            };
            Some((
                row.id,
                WaitingFor {
                    what,
                    cluster: row.cluster,
                    command,
                    since,
                },
            ))
        })
        .collect())
}
