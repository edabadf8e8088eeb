//! Request -> rows. What a 202 promises is written by the database in the same transaction (`accept_command` of the migrations).

mod store;

use sqlx::PgPool;
use uuid::Uuid;

use self::store::{Row, Stored, declare, store};
use super::view::{self, CommandView, ProcessView};
use crate::command::{CommandKind, MAX_DEADLINE_SECONDS, MAX_REPLICAS, Request};
use crate::error::Invalid;
use crate::function::validate_name;

/// Who asks, and under which conditions.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    /// Name of the token, or of the program that enqueues.
    pub name: String,
    /// SHA-256 of the token, which has to be valid when the command is stored. None: the program itself asks.
    pub token: Option<[u8; 32]>,
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
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The command as it stands.
    pub command: CommandView,
    /// The process that a start makes.
    pub process: Option<ProcessView>,
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
    /// The token of the asker is unknown, expired or revoked.
    #[error("the token is unknown, expired or revoked")]
    Unauthenticated,
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
    if let Some(command) = replay(pool, asker).await? {
        return read(pool, command).await;
    }
    let row = Row::new(request);
    let stored = match request {
        Request::DeclareFunction { source, .. } => declare(pool, source, &row, asker).await,
        // One statement is a transaction of its own, and takes one journey to Postgres instead of three.
        _ => store(pool, &row, asker).await,
    };
    match stored {
        Ok(Some(Stored { command, for_image })) => Ok(Accepted {
            process: match request {
                Request::StartProcess { spec, .. } => ProcessView::requested(&command, for_image, spec),
                _ => None,
            },
            command,
            replayed: false,
        }),
        Ok(None) => Err(EnqueueError::Unauthenticated),
        // The same request under the same key may have been stored since the first look: it then failed on that key, or
        // on what the other one did (a function is deleted once).
        Err(error) => match replay(pool, asker).await? {
            Some(command) => read(pool, command).await,
            None => Err(error.into()),
        },
    }
}

/// What an earlier request stored.
async fn read(pool: &PgPool, command: Uuid) -> Result<Accepted, EnqueueError> {
    let command = view::command(pool, command).await?.ok_or(sqlx::Error::RowNotFound)?;
    let process = if command.kind == CommandKind::StartProcess.as_str() {
        view::process_of(pool, &command).await?
    } else {
        None
    };
    Ok(Accepted {
        command,
        process,
        replayed: true,
    })
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

/// The command that an earlier request with the same key stored.
async fn replay(pool: &PgPool, asker: &Asker) -> Result<Option<Uuid>, EnqueueError> {
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
    if let (Some(_), Some(token)) = (&known, &asker.token)
        && view::token(pool, token).await?.is_none()
    {
        return Err(EnqueueError::Unauthenticated);
    }
    match known {
        None => Ok(None),
        Some(row) if row.request_hash == idempotency.request_hash => Ok(Some(row.command_id)),
        Some(_) => Err(EnqueueError::KeyReused),
    }
}
