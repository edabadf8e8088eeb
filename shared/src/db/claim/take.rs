//! Row -> claim: of the commands that wait, and of those that managers died with.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::Claim;
use crate::command::{CommandKind, VERSION};

/// Claims up to `limit` commands of `kinds`, the most urgent first (`claim_commands` of the migrations).
///
/// # Errors
/// When Postgres is away, or when the unique key of `command_lease` caught what the ordering missed.
pub async fn claim(
    pool: &PgPool,
    instance: Uuid,
    cluster: &str,
    kinds: &[CommandKind],
    limit: i64,
) -> Result<Vec<Claim>, sqlx::Error> {
    claim_above(pool, instance, cluster, kinds, 0, limit).await
}

/// Claims as [`claim`] does, of the commands whose order is above a number.
pub(super) async fn claim_above(
    pool: &PgPool,
    instance: Uuid,
    cluster: &str,
    kinds: &[CommandKind],
    above: i64,
    limit: i64,
) -> Result<Vec<Claim>, sqlx::Error> {
    let kinds: Vec<String> = kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"select seq as "seq!", id as "id!", token as "token!", kind as "kind!", function_name, revision_id, process_id,
                  payload as "payload!", attempts as "attempts!", trace_parent, created_at as "created_at!"
             from claim_commands($1, $2, $3, $4, $5, $6)"#,
        instance,
        cluster,
        &kinds,
        VERSION,
        above,
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().filter_map(Row::claim).collect())
}

/// Claims the oldest command that [`SUSPECT`](super::SUSPECT) managers died with, of any kind but kills (`claim_suspect` of the
/// migrations). A manager carries out one such at a time.
///
/// # Errors
/// As [`claim`].
pub async fn claim_suspect(pool: &PgPool, instance: Uuid, cluster: &str) -> Result<Option<Claim>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select seq as "seq!", id as "id!", token as "token!", kind as "kind!", function_name, revision_id, process_id,
                  payload as "payload!", attempts as "attempts!", trace_parent, created_at as "created_at!"
             from claim_suspect($1, $2, $3)"#,
        instance,
        cluster,
        VERSION
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.and_then(Row::claim))
}

/// A claim as Postgres answers it.
struct Row {
    seq: i64,
    id: Uuid,
    token: i64,
    kind: String,
    function_name: Option<String>,
    revision_id: Option<Uuid>,
    process_id: Option<Uuid>,
    payload: Value,
    attempts: i32,
    trace_parent: Option<String>,
    created_at: DateTime<Utc>,
}

impl Row {
    fn claim(self) -> Option<Claim> {
        Some(Claim {
            kind: CommandKind::parse(&self.kind)?,
            seq: self.seq,
            id: self.id,
            token: self.token,
            function_name: self.function_name,
            revision_id: self.revision_id,
            process_id: self.process_id,
            payload: self.payload,
            attempts: self.attempts,
            trace_parent: self.trace_parent,
            created_at: self.created_at,
        })
    }
}
