//! Request -> rows. What a 202 promises is written by the database in the same transaction (`accept_command` of the migrations).

use serde_json::{Value, json};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use crate::command::{CommandKind, MAX_DEADLINE_SECONDS, MAX_REPLICAS, Request, VERSION};
use crate::error::Invalid;
use crate::function::{Source, validate_name};

/// Who asks, and under which conditions.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    /// Name of the token, or of the program that enqueues.
    pub name: String,
    /// `Idempotency-Key` and the hash of the request that it belongs to.
    pub idempotency: Option<Idempotency>,
    /// W3C trace context.
    pub trace_parent: Option<String>,
    /// Seconds after which the command fails unless a manager has begun it.
    pub deadline_seconds: Option<i32>,
}

/// A key under which a request is carried out once.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The caller's key, 1 to 255 characters.
    pub key: String,
    /// SHA-256 of method, path and body.
    pub request_hash: [u8; 32],
}

/// What was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The command.
    pub command: Uuid,
    /// Whether an earlier request with the same key had stored it.
    pub replayed: bool,
}

/// Why nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// Fields that were refused.
    #[error("invalid input")]
    Invalid(Vec<Invalid>),
    /// What is named does not exist.
    #[error("{message}")]
    NotFound {
        /// What is missing.
        message: String,
        /// What to do.
        remedy: Option<String>,
    },
    /// What is named is in no state for it.
    #[error("{message}")]
    Conflict {
        /// What stands against it.
        message: String,
        /// What to do.
        remedy: Option<String>,
    },
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// Postgres.
    #[error(transparent)]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for EnqueueError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return Self::Database(error);
        };
        let message = database.message().to_owned();
        let remedy = database
            .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
            .and_then(|e| e.hint())
            .map(str::to_owned);
        match database.code().as_deref() {
            Some("OC404") => Self::NotFound { message, remedy },
            Some("OC409") => Self::Conflict { message, remedy },
            _ => Self::Database(error),
        }
    }
}

/// Checks a request and stores it, with everything that its 202 promises.
///
/// # Errors
/// [`EnqueueError`]; nothing is stored then.
pub async fn enqueue(pool: &PgPool, request: &Request, asker: &Asker) -> Result<Accepted, EnqueueError> {
    validate(request).map_err(EnqueueError::Invalid)?;
    validate_deadline(request, asker.deadline_seconds).map_err(|invalid| EnqueueError::Invalid(vec![invalid]))?;
    if let Some(accepted) = replay(pool, asker).await? {
        return Ok(accepted);
    }
    let row = Row::new(request);
    let stored = match request {
        Request::DeclareFunction { source, .. } => declare(pool, source, &row, asker).await,
        // One statement is a transaction of its own, and takes one journey to Postgres instead of three.
        _ => insert(pool, &row, asker).await,
    };
    match stored {
        Ok(()) => Ok(Accepted {
            command: row.id,
            replayed: false,
        }),
        // The same request under the same key may have been stored since the first look: it then failed on that key, or
        // on what the other one did (a function is deleted once).
        Err(error) => replay(pool, asker).await?.ok_or_else(|| error.into()),
    }
}

/// Stores a declaration and its source together.
async fn declare(pool: &PgPool, source: &Source, row: &Row<'_>, asker: &Asker) -> Result<(), sqlx::Error> {
    let mut transaction = crate::db::begin(pool).await?;
    put_bundle(&mut transaction, source).await?;
    insert(&mut *transaction, row, asker).await?;
    transaction.commit().await
}

fn validate(request: &Request) -> Result<(), Vec<Invalid>> {
    match request {
        Request::DeclareFunction { name, spec, source } => {
            let checks = [validate_name(name), spec.validate(), source.validate()];
            let refused: Vec<_> = checks.into_iter().filter_map(Result::err).flatten().collect();
            if refused.is_empty() { Ok(()) } else { Err(refused) }
        }
        Request::StartProcess { spec, .. } => spec.validate(),
        Request::KillProcess { options, .. } => match options.grace_seconds {
            Some(seconds) if !(0..=3600).contains(&seconds) => Err(vec![Invalid::new(
                "grace_seconds",
                format!("{seconds} is out of range"),
                "choose 0 to 3600 seconds",
            )]),
            _ => Ok(()),
        },
        Request::ScaleProcess { replicas, .. } if !(0..=MAX_REPLICAS).contains(replicas) => Err(vec![Invalid::new(
            "replicas",
            format!("{replicas} is out of range"),
            format!("choose 0 to {MAX_REPLICAS}"),
        )]),
        Request::DeleteFunction { .. }
        | Request::RestartProcess { .. }
        | Request::UpdateProcess { .. }
        | Request::ScaleProcess { .. }
        | Request::RequeueCommand { .. }
        | Request::CancelCommand { .. } => Ok(()),
    }
}

fn validate_deadline(request: &Request, seconds: Option<i32>) -> Result<(), Invalid> {
    let refused = |problem: String, remedy: &str| Err(Invalid::new("deadline_seconds", problem, remedy));
    match seconds {
        Some(_) if !request.may_have_a_deadline() => {
            refused("this has none: what it asks for holds at once".into(), "leave it out")
        }
        Some(seconds) if !(1..=MAX_DEADLINE_SECONDS).contains(&seconds) => {
            refused(format!("{seconds} is out of range"), "choose 1 to 604800 seconds")
        }
        _ => Ok(()),
    }
}

async fn replay(pool: &PgPool, asker: &Asker) -> Result<Option<Accepted>, EnqueueError> {
    let Some(idempotency) = &asker.idempotency else {
        return Ok(None);
    };
    let known = sqlx::query!(
        "select request_hash, command_id from idempotency where who = $1 and key = $2",
        asker.name,
        idempotency.key
    )
    .fetch_optional(pool)
    .await?;
    match known {
        None => Ok(None),
        Some(row) if row.request_hash == idempotency.request_hash => Ok(Some(Accepted {
            command: row.command_id,
            replayed: true,
        })),
        Some(_) => Err(EnqueueError::KeyReused),
    }
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
struct Row<'a> {
    id: Uuid,
    cluster: &'a str,
    kind: CommandKind,
    function_name: Option<&'a str>,
    revision_id: Option<Uuid>,
    process_id: Option<Uuid>,
    target_command: Option<Uuid>,
    payload: Value,
}

impl<'a> Row<'a> {
    fn new(request: &'a Request) -> Self {
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

async fn insert(executor: impl PgExecutor<'_>, row: &Row<'_>, asker: &Asker) -> Result<(), sqlx::Error> {
    let idempotency = asker.idempotency.as_ref();
    sqlx::query!(
        "insert into command (id, cluster, kind, version, function_name, revision_id, process_id, target_command, payload,
                              requested_by, idempotency_key, request_hash, trace_parent, deadline_seconds)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        row.id,
        row.cluster,
        row.kind.as_str(),
        VERSION,
        row.function_name,
        row.revision_id,
        row.process_id,
        row.target_command,
        row.payload,
        asker.name,
        idempotency.map(|idempotency| idempotency.key.as_str()),
        idempotency.map(|idempotency| idempotency.request_hash.as_slice()),
        asker.trace_parent,
        asker.deadline_seconds,
    )
    .execute(executor)
    .await?;
    Ok(())
}
