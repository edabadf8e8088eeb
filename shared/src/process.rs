//! Processes: one wish to run a revision, and the states it goes through.

use serde::{Deserialize, Serialize};

use crate::env::{EnvVar, check_env};
use crate::error::{Checker, Invalid};
use crate::resources::Resources;

/// What is to run, and how. Kept with the process as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// `service` or `task`.
    pub kind: ProcessKind,
    /// Environment variables, added to the function's own; the same name wins over it.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// Arguments after the function's file.
    #[serde(default)]
    pub args: Vec<String>,
    /// Limits of the pod. What is given here wins over the function's own.
    #[serde(default)]
    pub resources: Resources,
    /// Tasks only: seconds after which an attempt is ended, 1 to 604800 (a week). Default 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i64>,
    /// Tasks only: how many further attempts there are after one that failed or vanished, 0 to 10.
    #[serde(default)]
    pub retries: i32,
}

/// Whether a process stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ProcessKind {
    /// Stays up and answers HTTP: a Deployment and a Service.
    Service,
    /// Runs once and ends: one Pod per attempt.
    Task,
}

impl ProcessKind {
    /// The spelling of the `kind` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Task => "task",
        }
    }
}

impl ProcessSpec {
    /// A process of `kind` with every default.
    pub fn new(kind: ProcessKind) -> Self {
        Self {
            kind,
            env: Vec::new(),
            args: Vec::new(),
            resources: Resources::default(),
            timeout_seconds: None,
            retries: 0,
        }
    }

    /// Checks everything that can be checked without asking anybody.
    ///
    /// # Errors
    /// Every field that is refused, with the remedy.
    pub fn validate(&self) -> Result<(), Vec<Invalid>> {
        let mut checker = Checker::default();
        check_env(&mut checker, "env", &self.env);
        self.resources.check(&mut checker, "resources");
        checker.check(
            self.args.len() <= 200 && self.args.iter().map(String::len).sum::<usize>() <= 32 << 10,
            "args",
            "they are more than 200 or longer than 32 KiB",
            "pass large input in a file of the source",
        );
        checker.check(
            !self.args.iter().any(|arg| arg.contains('\0')),
            "args",
            "one holds a NUL",
            "remove it",
        );
        if self.kind == ProcessKind::Service {
            checker.check(
                self.timeout_seconds.is_none(),
                "timeout_seconds",
                "a service runs until it is killed",
                "leave it out, or start a task",
            );
            checker.check(
                self.retries == 0,
                "retries",
                "a service is restarted for ever",
                "leave it out, or start a task",
            );
        }
        checker.check(
            self.timeout_seconds
                .is_none_or(|seconds| (1..=604_800).contains(&seconds)),
            "timeout_seconds",
            "it is out of range",
            "choose 1 to 604800 seconds",
        );
        checker.check(
            (0..=10).contains(&self.retries),
            "retries",
            "it is out of range",
            "choose 0 to 10",
        );
        checker.finish()
    }
}

/// How far a process has come. Moves only forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "process_lifecycle", rename_all = "snake_case")]
pub enum Lifecycle {
    /// Stored; nothing of it is in the cluster.
    Requested,
    /// Its objects were created.
    Created,
    /// It is being ended.
    Stopping,
    /// Nothing of it is left in the cluster.
    Gone,
}

/// What is seen of a process. Moves freely within a lifecycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ProcessState {
    /// Waits for a manager, or for its image; or no pod of the service is wanted.
    Pending,
    /// Its objects exist, its container does not run yet.
    Starting,
    /// Its container runs. A service in this state does not answer yet, or no longer.
    Running,
    /// A service that answers.
    Ready,
    /// It cannot start or keeps ending; Kubernetes tries on. The reason says why.
    Failing,
    /// It is being ended: by a kill, by its timeout, or because its pod was deleted.
    Stopping,
    /// A task that ended with exit code 0.
    Succeeded,
    /// It ended otherwise, or never ran.
    Failed,
    /// It was ended because somebody asked for it.
    Killed,
    /// It was deleted, but nobody saw its containers end.
    Unconfirmed,
}

impl ProcessState {
    /// The spelling of the `state` columns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Failing => "failing",
            Self::Stopping => "stopping",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Killed => "killed",
            Self::Unconfirmed => "unconfirmed",
        }
    }

    /// Whether nothing runs any more in this state.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Killed | Self::Unconfirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_no_timeout_and_a_task_has_bounds() {
        let mut spec = ProcessSpec::new(ProcessKind::Service);
        assert!(spec.validate().is_ok());
        spec.timeout_seconds = Some(5);
        assert_eq!(spec.validate().unwrap_err()[0].field, "timeout_seconds");
        let mut task = ProcessSpec::new(ProcessKind::Task);
        task.retries = 11;
        assert_eq!(task.validate().unwrap_err()[0].field, "retries");
    }
}
