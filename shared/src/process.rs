//! Processes: one wish to run a revision, and the states it goes through.

use serde::{Deserialize, Serialize};

use crate::error::{Checker, Invalid};

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
    /// Limits of the pod, instead of the function's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
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

/// A plain environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value, shown to everyone who may read the process.
    pub value: String,
}

/// What a pod may use, as Kubernetes quantities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// CPU that is kept free for it, in cores or thousandths: `1`, `500m`.
    pub cpu_request: String,
    /// CPU that it may use at most.
    pub cpu: String,
    /// Memory that is kept for it and that it may use at most: `256Mi`, `2Gi`.
    pub memory: String,
    /// Scratch space that it may use at most. Its printed lines count here until the node rotates them away.
    pub ephemeral_storage: String,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu_request: "10m".into(),
            cpu: "1".into(),
            memory: "256Mi".into(),
            ephemeral_storage: "1Gi".into(),
        }
    }
}

impl Resources {
    pub(crate) fn check(&self, checker: &mut Checker, path: &str) {
        for (name, value, cpu) in [
            ("cpu_request", &self.cpu_request, true),
            ("cpu", &self.cpu, true),
            ("memory", &self.memory, false),
            ("ephemeral_storage", &self.ephemeral_storage, false),
        ] {
            let remedy = if cpu {
                "write cores or thousandths: `2`, `500m`"
            } else {
                "write bytes with Mi or Gi: `256Mi`, `2Gi`"
            };
            let parsed = if cpu {
                cpu_millis(value)
            } else {
                storage_mebibytes(value)
            };
            let shown: String = value.chars().take(30).collect();
            checker.check(
                parsed.is_some_and(|amount| amount > 0),
                format!("{path}.{name}"),
                format!("`{}` is not a positive quantity", shown.escape_debug()),
                remedy,
            );
        }
        checker.check(
            cpu_millis(&self.cpu_request) <= cpu_millis(&self.cpu),
            format!("{path}.cpu_request"),
            format!("{} is more than the limit {}", self.cpu_request, self.cpu),
            "ask for no more than `cpu`",
        );
    }
}

fn cpu_millis(text: &str) -> Option<u32> {
    match text.strip_suffix('m') {
        Some(millis) => millis.parse().ok(),
        None => text.parse::<u32>().ok()?.checked_mul(1000),
    }
}

fn storage_mebibytes(text: &str) -> Option<u32> {
    match text.strip_suffix("Gi") {
        Some(gibibytes) => gibibytes.parse::<u32>().ok()?.checked_mul(1024),
        None => text.strip_suffix("Mi")?.parse().ok(),
    }
}

pub(crate) fn check_env(checker: &mut Checker, path: &str, env: &[EnvVar]) {
    checker.check(
        env.len() <= 200,
        path,
        format!("{} variables are too many", env.len()),
        "send at most 200",
    );
    for (index, variable) in env.iter().take(200).enumerate() {
        let shown: String = variable.name.chars().take(60).collect();
        checker.check(
            is_env_name(&variable.name),
            format!("{path}[{index}].name"),
            format!("`{}` is not the name of an environment variable", shown.escape_debug()),
            "use letters, digits and underscores, not beginning with a digit",
        );
        checker.check(
            variable.value.len() <= 32 << 10 && !variable.value.contains('\0'),
            format!("{path}[{index}].value"),
            "it is longer than 32 KiB or holds a NUL",
            "pass large values in a file of the source",
        );
    }
}

fn is_env_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

impl ProcessSpec {
    /// A process of `kind` with every default.
    pub fn new(kind: ProcessKind) -> Self {
        Self {
            kind,
            env: Vec::new(),
            args: Vec::new(),
            resources: None,
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
        if let Some(resources) = &self.resources {
            resources.check(&mut checker, "resources");
        }
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
    /// Waits for a manager, or for its image.
    Pending,
    /// Its objects exist, its container does not run yet.
    Starting,
    /// Its container runs. A service in this state does not answer yet, or no longer.
    Running,
    /// A service that answers.
    Ready,
    /// It cannot start or keeps ending; Kubernetes tries on. The reason says why.
    Failing,
    /// It was asked to end and has not ended yet.
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

    #[test]
    fn quantities_are_positive_and_requests_within_limits() {
        for (cpu_request, cpu, memory, refused) in [
            ("10m", "1", "64Mi", vec![]),
            ("2", "1", "64Mi", vec!["resources.cpu_request"]),
            ("0", "1", "64Mi", vec!["resources.cpu_request"]),
            ("10m", "lots", "64Mi", vec!["resources.cpu", "resources.cpu_request"]),
            ("10m", "1", "64", vec!["resources.memory"]),
            ("10m", "1", "-1Gi", vec!["resources.memory"]),
        ] {
            let mut spec = ProcessSpec::new(ProcessKind::Task);
            spec.resources = Some(Resources {
                cpu_request: cpu_request.into(),
                cpu: cpu.into(),
                memory: memory.into(),
                ..Resources::default()
            });
            let fields: Vec<_> = spec
                .validate()
                .err()
                .unwrap_or_default()
                .into_iter()
                .map(|i| i.field)
                .collect();
            assert_eq!(fields, refused, "{cpu_request} {cpu} {memory}");
        }
    }

    #[test]
    fn env_names_are_checked_by_position() {
        let mut spec = ProcessSpec::new(ProcessKind::Task);
        spec.env = vec![
            EnvVar {
                name: "GOOD".into(),
                value: String::new(),
            },
            EnvVar {
                name: "1BAD".into(),
                value: "a\0".into(),
            },
        ];
        let fields: Vec<_> = spec.validate().unwrap_err().into_iter().map(|i| i.field).collect();
        assert_eq!(fields, ["env[1].name", "env[1].value"]);
    }
}
