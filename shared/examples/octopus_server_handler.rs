//! How a handler of octopus_server starts an AI service with this crate alone: no HTTP call, no web framework.
//!
//! The database user must be in the role `octopus_api`. The handler's route, state and answer are octopus_server's own;
//! this is what it calls for `POST /api/v1/ai-services/{id}` with `{"operation": "Enable"}`.
//!
//!     DATABASE_URL=postgres://... cargo run -p octopus-shared --example octopus_server_handler -- FUNCTION REQUEST_ID

use std::fmt;

use octopus_shared::command::Request;
use octopus_shared::db::enqueue::{Asker, EnqueueError, Idempotency, enqueue};
use octopus_shared::db::view::ProcessView;
use octopus_shared::db::{COMMAND_CHANNEL, notify, pool};
use octopus_shared::process::{ProcessKind, ProcessSpec};
use sha2::{Digest, Sha256};
use sqlx::PgPool;

/// What octopus_server answers with when a service cannot be enabled.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The status code.
    pub(crate) status: u16,
    /// For people.
    pub(crate) message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.message)
    }
}

impl std::error::Error for Refusal {}

impl From<EnqueueError> for Refusal {
    fn from(error: EnqueueError) -> Self {
        let status = match &error {
            EnqueueError::Invalid(_) => 422,
            EnqueueError::NotFound { .. } => 404,
            EnqueueError::Conflict { .. } | EnqueueError::KeyReused => 409,
            EnqueueError::Unauthenticated => 401,
            EnqueueError::Database(_) => 500,
        };
        Self {
            status,
            message: error.to_string(),
        }
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self {
            status: 500,
            message: error.to_string(),
        }
    }
}

/// Starts a service of `function` and answers with it as it stands. Called again with the same `request`, it answers with
/// the same process: a client may repeat itself.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn enable(pool: &PgPool, function: &str, request: &str) -> Result<ProcessView, Refusal> {
    let start = Request::StartProcess {
        function: function.to_owned(),
        revision: None,
        spec: ProcessSpec::new(ProcessKind::Service),
    };
    let request_hash = Sha256::digest(format!("enable {function}")).into();
    let asker = Asker {
        name: "octopus_server".to_owned(),
        idempotency: Some(Idempotency {
            key: request.to_owned(),
            request_hash,
        }),
        ..Asker::default()
    };
    let accepted = enqueue(pool, &start, &asker).await?;
    // Only makes it faster: managers look for themselves every few seconds.
    notify(pool, COMMAND_CHANNEL, &accepted.command.cluster).await?;
    accepted.process.ok_or_else(|| Refusal {
        status: 500,
        message: "a start without a process".to_owned(),
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(function), Some(request)) = (arguments.next(), arguments.next()) else {
        return Err("name a function and a request id".into());
    };
    let pool = pool(&std::env::var("DATABASE_URL")?, 2)?;
    let process = enable(&pool, &function, &request).await?;
    eprintln!("{} is {}", process.summary.name, process.summary.state.as_str());
    Ok(())
}
