//! What can be asked for: the kinds of commands, their payloads and their states.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::function::{FunctionSpec, Source};
use crate::process::ProcessSpec;

/// Version of the payloads that this release writes. A manager claims only versions that it knows.
pub const VERSION: i16 = 1;

/// Longest time by which a command may have to be begun: a week.
pub const MAX_DEADLINE_SECONDS: i32 = 604_800;

/// Most pods that a service may have.
pub const MAX_REPLICAS: i32 = 100;

/// A request, before it is a row.
#[derive(Clone, Debug)]
pub enum Request {
    /// Declare a function, or a new revision of it.
    DeclareFunction {
        /// Name of the function.
        name: String,
        /// Its settings.
        spec: FunctionSpec,
        /// Its code.
        source: Source,
    },
    /// End every process of a function and forget its name.
    DeleteFunction {
        /// Name of the function.
        name: String,
    },
    /// Start a process of a function.
    StartProcess {
        /// Name of the function.
        function: String,
        /// Number of the revision; the newest when none is named.
        revision: Option<i32>,
        /// What is to run, and how.
        spec: ProcessSpec,
    },
    /// Replace the pods of a service by new ones.
    RestartProcess {
        /// The process.
        process: Uuid,
    },
    /// Let a service run another revision.
    UpdateProcess {
        /// The process.
        process: Uuid,
        /// Number of the revision; the newest when none is named.
        revision: Option<i32>,
    },
    /// Let a service have more pods, or fewer.
    ScaleProcess {
        /// The process.
        process: Uuid,
        /// Pods that are wanted, 0 to [`MAX_REPLICAS`].
        replicas: i32,
    },
    /// End a process.
    KillProcess {
        /// The process.
        process: Uuid,
        /// How, and how fast.
        options: KillOptions,
    },
    /// Put a failed command back into the queue.
    RequeueCommand {
        /// The command.
        command: Uuid,
    },
    /// Take back a command that no manager has claimed yet.
    CancelCommand {
        /// The command.
        command: Uuid,
    },
}

impl Request {
    /// Whether it may be given a time by which it has to be begun. What a kill or a deletion asks for holds at once, and the
    /// others are carried out when they are stored.
    pub fn may_have_a_deadline(&self) -> bool {
        match self {
            Self::DeclareFunction { .. }
            | Self::StartProcess { .. }
            | Self::RestartProcess { .. }
            | Self::UpdateProcess { .. }
            | Self::ScaleProcess { .. } => true,
            Self::DeleteFunction { .. }
            | Self::KillProcess { .. }
            | Self::RequeueCommand { .. }
            | Self::CancelCommand { .. } => false,
        }
    }
}

/// How a process is to be ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct KillOptions {
    /// Seconds between SIGTERM and SIGKILL, 0 to 3600. A kill can only shorten the function's own `stop_grace_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<i32>,
    /// Delete the pods without waiting for the end of their containers or of their logs. The process then ends as
    /// `unconfirmed` unless the end of its containers was seen.
    #[serde(default)]
    pub force: bool,
}

/// Kinds of commands that managers carry out, as the `kind` column spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CommandKind {
    /// Build the image of a revision.
    DeclareFunction,
    /// End all processes of a function.
    DeleteFunction,
    /// Create a process's objects.
    StartProcess,
    /// Create the next attempt of a task. Asked for by managers only.
    RetryProcess,
    /// Replace the pods of a service.
    RestartProcess,
    /// Let a service run another revision.
    UpdateProcess,
    /// Let a service have more pods, or fewer.
    ScaleProcess,
    /// End a process.
    KillProcess,
    /// Carried out by the database in the transaction that stores it.
    CancelCommand,
    /// Carried out by the database in the transaction that stores it.
    RequeueCommand,
}

impl CommandKind {
    /// Every kind that a manager carries out.
    pub const CLAIMED: [Self; 8] = [
        Self::DeclareFunction,
        Self::DeleteFunction,
        Self::StartProcess,
        Self::RetryProcess,
        Self::RestartProcess,
        Self::UpdateProcess,
        Self::ScaleProcess,
        Self::KillProcess,
    ];

    /// The spelling of the `kind` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeclareFunction => "declare_function",
            Self::DeleteFunction => "delete_function",
            Self::StartProcess => "start_process",
            Self::RetryProcess => "retry_process",
            Self::RestartProcess => "restart_process",
            Self::UpdateProcess => "update_process",
            Self::ScaleProcess => "scale_process",
            Self::KillProcess => "kill_process",
            Self::CancelCommand => "cancel_command",
            Self::RequeueCommand => "requeue_command",
        }
    }

    /// The kind that the `kind` column spells.
    pub fn parse(kind: &str) -> Option<Self> {
        Self::CLAIMED
            .into_iter()
            .chain([Self::CancelCommand, Self::RequeueCommand])
            .find(|known| known.as_str() == kind)
    }
}
