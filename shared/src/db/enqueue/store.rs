//! A command and what it carries, stored.

use serde_json::{Value, json};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::Asker;
use crate::command::{CommandKind, Request, VERSION};
use crate::db::view::{self, CommandView};
use crate::function::Source;

/// Stores a declaration and its source together.
pub(super) async fn declare(
    pool: &PgPool,
    source: &Source,
    row: &Row<'_>,
    asker: &Asker,
) -> Result<Option<Stored>, sqlx::Error> {
    let mut transaction = crate::db::begin(pool).await?;
    put_bundle(&mut transaction, source).await?;
    let Some(mut stored) = store(&mut *transaction, row, asker).await? else {
        return Ok(None);
    };
    // Its revision was made by that statement, and is seen by the next one.
    let seen = view::command(&mut *transaction, row.id).await?;
    stored.command = seen.ok_or(sqlx::Error::RowNotFound)?;
    transaction.commit().await?;
    Ok(Some(stored))
}

async fn put_bundle(connection: &mut PgConnection, source: &Source) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into bundle (sha256, format, content) values ($1, $2, $3) on conflict do nothing",
        &source.sha256(),
        source.format.as_str(),
        source.content
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The columns of a command that its sender fills.
pub(super) struct Row<'a> {
    pub(super) id: Uuid,
    cluster: &'a str,
    kind: CommandKind,
    function_name: Option<&'a str>,
    revision_id: Option<Uuid>,
    process_id: Option<Uuid>,
    target_command: Option<Uuid>,
    payload: Value,
}

impl<'a> Row<'a> {
    pub(super) fn new(request: &'a Request) -> Self {
        let blank = |kind| Row {
            id: Uuid::now_v7(),
            cluster: "",
            kind,
            function_name: None,
            revision_id: None,
            process_id: None,
            target_command: None,
            payload: json!({}),
        };
        match request {
            Request::DeclareFunction { name, spec, source } => Row {
                cluster: &spec.cluster,
                function_name: Some(name),
                revision_id: Some(Uuid::now_v7()),
                payload: json!({ "spec": spec, "bundle": hex::encode(source.sha256()) }),
                ..blank(CommandKind::DeclareFunction)
            },
            Request::DeleteFunction { name } => Row {
                function_name: Some(name),
                ..blank(CommandKind::DeleteFunction)
            },
            Request::StartProcess {
                function,
                revision,
                spec,
            } => Row {
                function_name: Some(function),
                process_id: Some(Uuid::now_v7()),
                payload: json!({ "kind": spec.kind, "revision": revision, "spec": spec }),
                ..blank(CommandKind::StartProcess)
            },
            Request::RestartProcess { process } => Row {
                process_id: Some(*process),
                ..blank(CommandKind::RestartProcess)
            },
            Request::UpdateProcess { process, revision } => Row {
                process_id: Some(*process),
                payload: json!({ "revision": revision }),
                ..blank(CommandKind::UpdateProcess)
            },
            Request::ScaleProcess { process, replicas } => Row {
                process_id: Some(*process),
                payload: json!({ "replicas": replicas }),
                ..blank(CommandKind::ScaleProcess)
            },
            Request::KillProcess { process, options } => Row {
                process_id: Some(*process),
                payload: json!(options),
                ..blank(CommandKind::KillProcess)
            },
            Request::RequeueCommand { command } => Row {
                target_command: Some(*command),
                ..blank(CommandKind::RequeueCommand)
            },
            Request::CancelCommand { command } => Row {
                target_command: Some(*command),
                ..blank(CommandKind::CancelCommand)
            },
        }
    }
}

/// A command that was stored.
pub(super) struct Stored {
    pub(super) command: CommandView,
    /// Whether it waits for an image.
    pub(super) for_image: bool,
}

macro_rules! storing {
    ($age:ident, $executor:expr, $row:expr, $asker:expr) => {{
        let idempotency = $asker.idempotency.as_ref();
        let stored = view::standing!(
            "with c as (
                 insert into command (id, cluster, kind, version, function_name, revision_id, process_id, target_command, payload,
                                      requested_by, idempotency_key, request_hash, trace_parent, deadline_seconds)
                 select $1::uuid, $2::text, $3::text, $4::smallint, $5::text, $6::uuid, $7::uuid, $8::uuid, $9::jsonb, $10::text,
                        $11::text, $12::bytea, $13::text, $14::integer
                  where $15::bytea is null
                     or exists (select from api_token
                                 where sha256 = $15 and (expires_at is null or expires_at > now())
                                   and (revoked_at is null or revoked_at > now()))
                 returning *, command_key(command) as key, awaited_revision(command) as waits_for
             ), r as (select seq, key, waits_for from c where state = 'waiting')",
            "c left join r",
            $age,
            "",
            $row.id,
            $row.cluster,
            $row.kind.as_str(),
            VERSION,
            $row.function_name,
            $row.revision_id,
            $row.process_id,
            $row.target_command,
            $row.payload,
            $asker.name,
            idempotency.map(|idempotency| idempotency.key.as_str()),
            idempotency.map(|idempotency| idempotency.request_hash.as_slice()),
            $asker.trace_parent,
            $asker.deadline_seconds,
            $asker.token.as_ref().map(<[u8; 32]>::as_slice)
        )
        .fetch_optional($executor)
        .await?;
        Ok(stored.map(|row| Stored {
            for_image: row.for_image,
            command: view::shown!(row),
        }))
    }};
}

/// Stores a row and answers with the command as it stands. None: the token of its asker does not hold, and nothing was stored.
pub(super) async fn store(
    executor: impl PgExecutor<'_>,
    row: &Row<'_>,
    asker: &Asker,
) -> Result<Option<Stored>, sqlx::Error> {
    match row.kind {
        CommandKind::StartProcess => storing!(FRESH, executor, row, asker),
        _ => storing!(QUEUED, executor, row, asker),
    }
}
