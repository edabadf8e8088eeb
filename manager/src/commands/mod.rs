//! One file per verb: look, decide, act. Nothing here waits for another command; long work looks at what is wanted again
//! after every await that matters.

mod build_log;
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

/// The longest delay between two attempts.
const LONGEST: Duration = Duration::from_secs(30);
/// The same, where the API server refused for a moment.
const LONGEST_AWAY: Duration = Duration::from_secs(5);

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
        Self::retry_after(claim, Duration::ZERO, LONGEST, why)
    }

    /// The same, within `longest`, and not before the time that somebody asked to be left alone for.
    fn retry_after(claim: &Claim, asked: Duration, longest: Duration, why: impl std::fmt::Display) -> Self {
        let seconds = 2_u64.saturating_pow(u32::try_from(claim.attempts).unwrap_or_default().min(5));
        Self::Later {
            // Jitter takes up to a fifth away.
            delay: Duration::from_secs(seconds).min(longest).max(asked.mul_f64(1.25)),
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

impl Obstacle {
    /// How long it keeps a command away at most: an API server that fails now and then is back in a moment.
    fn longest(&self) -> Duration {
        match self {
            Self::Cluster(ClusterError::Away(_) | ClusterError::Busy { .. }) => LONGEST_AWAY,
            _ => LONGEST,
        }
    }

    /// How long it asked to be left alone.
    fn patience(&self) -> Duration {
        match self {
            Self::Cluster(ClusterError::Busy { after, .. }) => *after,
            _ => Duration::ZERO,
        }
    }
}

/// Carries a command out.
pub async fn carry_out(context: &Context, claim: &Claim) -> Ending {
    let mut revived = context.cluster.revived();
    let carried_out = async {
        match claim.kind {
            CommandKind::DeclareFunction => declare_function::carry_out(context, claim).await,
            CommandKind::DeleteFunction => delete_function::carry_out(context, claim).await,
            CommandKind::StartProcess | CommandKind::RetryProcess => start_process::carry_out(context, claim).await,
            CommandKind::RestartProcess | CommandKind::UpdateProcess | CommandKind::ScaleProcess => {
                change_process::carry_out(context, claim).await
            }
            CommandKind::KillProcess => kill_process::carry_out(context, claim).await,
            // The database carries them out; no manager claims one.
            CommandKind::CancelCommand | CommandKind::RequeueCommand => Ok(Ending::SUCCEEDED),
        }
    };
    let carried_out = tokio::select! {
        carried_out = carried_out => carried_out,
        _ = revived.changed(), if claim.kind != CommandKind::DeclareFunction => {
            return Ending::wait(Duration::ZERO, "the API server is back and will not answer what was asked before");
        }
    };
    match carried_out {
        Ok(ending) => ending,
        // It is not about this command: until the cluster is back none is claimed, and then this one as soon as the others.
        Err(Obstacle::Cluster(error @ ClusterError::Away(_))) if !context.cluster_answers().await => {
            Ending::wait(Duration::from_secs(1), error.to_string())
        }
        Err(obstacle) => Ending::retry_after(claim, obstacle.patience(), obstacle.longest(), obstacle),
    }
}

/// The id that every command of this kind has; without it the row is damaged.
pub(crate) fn subject(id: Option<uuid::Uuid>) -> Result<uuid::Uuid, Obstacle> {
    id.ok_or_else(|| Obstacle::Database(sqlx::Error::Decode("the command names nothing".into())))
}

#[cfg(test)]
mod tests {
    use octopus_shared::command::CommandKind;
    use uuid::Uuid;

    use super::*;

    fn delay(attempts: i32, obstacle: Obstacle) -> Duration {
        let claim = Claim {
            seq: 1,
            id: Uuid::nil(),
            token: 1,
            kind: CommandKind::StartProcess,
            function_name: None,
            revision_id: None,
            process_id: None,
            payload: serde_json::Value::Null,
            attempts,
            trace_parent: None,
            created_at: chrono::DateTime::UNIX_EPOCH,
        };
        match Ending::retry_after(&claim, obstacle.patience(), obstacle.longest(), obstacle) {
            Ending::Later {
                delay, failed: true, ..
            } => delay,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_delay_grows_and_is_at_least_what_was_asked_for() {
        let away = || Obstacle::Cluster(ClusterError::Away("x".into()));
        let busy = |seconds| {
            Obstacle::Cluster(ClusterError::Busy {
                message: "x".into(),
                after: Duration::from_secs(seconds),
            })
        };
        let broken = || Obstacle::Database(sqlx::Error::PoolTimedOut);
        let grown = [0, 1, 2, 5, 50].map(|attempts| delay(attempts, broken()).as_secs());
        assert_eq!(grown, [1, 2, 4, 30, 30]);
        // What the API server refuses for a moment is begun within 10 s of its return.
        let grown = [0, 1, 2, 5, 50].map(|attempts| delay(attempts, away()).as_secs());
        assert_eq!(grown, [1, 2, 4, 5, 5]);
        // Whatever jitter makes of it.
        assert!(delay(0, busy(60)).mul_f64(0.8) >= Duration::from_secs(60));
        assert_eq!(delay(5, busy(1)), Duration::from_secs(5));
    }
}
