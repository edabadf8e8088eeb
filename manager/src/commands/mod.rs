//! One file per verb: look, decide, act. Nothing here waits for another command; long work looks at what is wanted again
//! after every await that matters.

mod change_process;
mod declare_function;
mod delete_function;
mod kill_process;
mod start_process;

use std::time::Duration;

use octopus_shared::command::CommandKind;
use octopus_shared::db::claim::{Claim, Outcome};
use octopus_shared::db::report::ReportError;
use octopus_shared::reason::Reason;

use crate::cluster::ClusterError;
use crate::context::Context;

/// How carrying a command out ended: it must choose.
#[derive(Clone, Debug)]
pub enum Ending {
    /// For good.
    Done(Outcome),
    /// To be done again later.
    Later {
        /// Not before.
        delay: Duration,
        /// Whether it counts as a failed attempt.
        failed: bool,
        /// Why, for the log.
        why: String,
    },
}

impl Ending {
    /// Carried out.
    pub const SUCCEEDED: Self = Self::Done(Outcome::Succeeded);

    /// It cannot be carried out.
    pub fn failed(reason: Reason, message: impl Into<String>) -> Self {
        Self::Done(Outcome::Failed {
            reason: reason.id.into(),
            message: message.into(),
            remedy: reason.remedy.into(),
        })
    }

    /// Something that may pass stands against it. The delay grows with the attempts.
    pub fn retry(claim: &Claim, why: impl std::fmt::Display) -> Self {
        let seconds = 2_u64
            .saturating_pow(u32::try_from(claim.attempts).unwrap_or_default().min(5))
            .min(30);
        Self::Later {
            delay: Duration::from_secs(seconds),
            failed: true,
            why: why.to_string(),
        }
    }

    /// Its time has not come.
    pub fn wait(delay: Duration, why: impl Into<String>) -> Self {
        Self::Later {
            delay,
            failed: false,
            why: why.into(),
        }
    }

    /// For metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Done(Outcome::Succeeded) => "succeeded",
            Self::Done(Outcome::Failed { .. }) => "failed",
            Self::Done(Outcome::Cancelled { .. }) => "cancelled",
            Self::Later { .. } => "later",
        }
    }
}

/// What stops a command on its way. None of these is a verdict about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Obstacle {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Carries a command out.
pub async fn carry_out(context: &Context, claim: &Claim) -> Ending {
    let carried_out = match claim.kind {
        CommandKind::DeclareFunction => declare_function::carry_out(context, claim).await,
        CommandKind::DeleteFunction => delete_function::carry_out(context, claim).await,
        CommandKind::StartProcess | CommandKind::RetryProcess => start_process::carry_out(context, claim).await,
        CommandKind::RestartProcess | CommandKind::UpdateProcess | CommandKind::ScaleProcess => {
            change_process::carry_out(context, claim).await
        }
        CommandKind::KillProcess => kill_process::carry_out(context, claim).await,
        // The database carries it out; no manager claims it.
        CommandKind::CancelCommand => Ok(Ending::SUCCEEDED),
    };
    carried_out.unwrap_or_else(|obstacle| Ending::retry(claim, obstacle))
}

/// The id that every command of this kind has; without it the row is damaged.
pub(crate) fn subject(id: Option<uuid::Uuid>) -> Result<uuid::Uuid, Obstacle> {
    id.ok_or_else(|| Obstacle::Database(sqlx::Error::Decode("the command names nothing".into())))
}
