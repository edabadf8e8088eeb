//! Pods as managers see them, and what they make of their process.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::process::{Lifecycle, ProcessKind, ProcessState};
use crate::{reason, service};

/// One look at a pod, folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodObservation {
    /// Kubernetes' uid.
    pub uid: String,
    /// The process that it was made for.
    pub process_id: Uuid,
    /// The attempt that it was made for.
    pub attempt: i32,
    /// What was wanted of its process when it was made ([`crate::service::wish`]).
    pub wish: Option<String>,
    /// The shard that its label names.
    pub shard: i16,
    /// Name in the function namespace.
    pub name: String,
    /// Node, once scheduled.
    pub node: Option<String>,
    /// Kubernetes' phase.
    pub phase: String,
    /// What it means.
    pub verdict: Verdict,
    /// Restarts of the function's container.
    pub restart_count: i32,
    /// Container statuses.
    pub containers: Vec<ContainerStatus>,
    /// Kubernetes' Events about it: warnings, and that it was preempted, the newest last.
    pub events: Vec<PodEvent>,
    /// Version of the object that was folded.
    pub resource_version: String,
    /// creationTimestamp.
    pub created_at: DateTime<Utc>,
    /// Whether its containers have ended.
    pub ended: bool,
    /// Whether the object is gone.
    pub gone: bool,
}

/// State, reason and words of a pod or a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The state.
    pub state: ProcessState,
    /// Stable id of why.
    pub reason: Option<reason::Reason>,
    /// Kubernetes' own words.
    pub message: Option<String>,
    /// Exit code of the function's container, where it is known.
    pub exit_code: Option<i32>,
}

impl Verdict {
    /// A state that needs no explanation.
    pub fn plain(state: ProcessState) -> Self {
        Self {
            state,
            reason: None,
            message: None,
            exit_code: None,
        }
    }

    /// A state with its reason.
    pub fn because(state: ProcessState, reason: reason::Reason, message: impl Into<String>) -> Self {
        Self {
            state,
            reason: Some(reason),
            message: Some(message.into()),
            exit_code: None,
        }
    }
}

/// One container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Name in the pod.
    pub name: String,
    /// Id that the node gave to this run.
    pub container_id: Option<String>,
    /// How often it was restarted.
    pub restart_count: i32,
    /// `waiting`, `running` or `terminated`.
    pub state: String,
    /// Kubernetes' reason for the state.
    pub reason: Option<String>,
    /// Exit code once terminated.
    pub exit_code: Option<i32>,
    /// When this run began.
    pub started_at: Option<DateTime<Utc>>,
    /// When this run ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// An Event of Kubernetes about a pod: a warning, or that it was preempted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PodEvent {
    /// The Event's own uid.
    pub uid: String,
    /// Kubernetes' reason: `FailedMount`, `Unhealthy`, `Preempted`.
    pub reason: String,
    /// Kubernetes' own words.
    pub message: String,
    /// How often it was seen.
    pub count: i32,
    /// When it was last seen, by the clock of who reported it.
    pub at: DateTime<Utc>,
}

/// What is known of one pod of a process, as its row holds it.
#[derive(Clone, Debug)]
pub struct KnownPod {
    /// The attempt that it was made for.
    pub attempt: i32,
    /// What was wanted of its process when it was made. None: an earlier release saw it.
    pub wish: Option<String>,
    /// What it last meant.
    pub verdict: Verdict,
    /// Whether its containers were seen to have ended.
    pub ended: bool,
    /// Whether the object is gone.
    pub gone: bool,
    /// creationTimestamp.
    pub created_at: DateTime<Utc>,
}

/// What is known of a process before a new look.
#[derive(Clone, Debug)]
pub struct KnownProcess {
    /// `service` or `task`.
    pub kind: ProcessKind,
    /// Whether it was asked to end.
    pub killed: bool,
    /// How far it has come.
    pub lifecycle: Lifecycle,
    /// What it shows.
    pub state: ProcessState,
    /// What is wanted of it ([`crate::service::wish`]).
    pub wish: String,
    /// Pods of a service that are wanted.
    pub replicas: i32,
    /// The current attempt of a task.
    pub attempt: i32,
    /// How many further attempts a task has.
    pub retries: i32,
    /// Whether all its log streams are sealed.
    pub logs_sealed: bool,
}

/// What is to be done with a process after a look at its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing has changed.
    Stay,
    /// Show this.
    Show(Lifecycle, Verdict),
    /// The attempt failed and another one follows.
    Retry(Verdict),
}

/// Decides what the pods of a process say about it. Pure.
pub fn judge(process: &KnownProcess, pods: &[KnownPod]) -> Step {
    let idle = process.kind == ProcessKind::Service && process.replicas == 0 && !process.killed;
    if process.lifecycle == Lifecycle::Gone || (pods.is_empty() && !idle) {
        return Step::Stay;
    }
    let all_gone = pods.iter().all(|pod| pod.gone);
    if process.lifecycle == Lifecycle::Stopping || process.killed {
        // The kill decides when it is gone; here it is only seen that the containers have ended.
        let ended = process.lifecycle == Lifecycle::Stopping && pods.iter().all(|pod| pod.ended || pod.gone);
        return if ended && !process.state.is_terminal() {
            Step::Show(
                Lifecycle::Stopping,
                Verdict {
                    reason: Some(reason::KILL_REQUESTED),
                    ..Verdict::plain(ProcessState::Killed)
                },
            )
        } else {
            Step::Stay
        };
    }
    match process.kind {
        ProcessKind::Service => Step::Show(
            Lifecycle::Created,
            service::verdict(process.replicas, &process.wish, pods),
        ),
        ProcessKind::Task => {
            if process.state.is_terminal() {
                // Ended before: gone as soon as its pods and the rest of its logs are.
                return if all_gone && process.logs_sealed {
                    end_of(process, pods)
                } else {
                    Step::Stay
                };
            }
            let Some(pod) = newest(pods.iter().filter(|pod| pod.attempt == process.attempt)) else {
                return Step::Stay;
            };
            let verdict = task(pod);
            if verdict.state == ProcessState::Failed && process.attempt <= process.retries {
                Step::Retry(verdict)
            } else {
                Step::Show(Lifecycle::Created, verdict)
            }
        }
    }
}

fn end_of(process: &KnownProcess, pods: &[KnownPod]) -> Step {
    match newest(pods.iter().filter(|pod| pod.attempt == process.attempt)) {
        Some(pod) => Step::Show(Lifecycle::Gone, task(pod)),
        None => Step::Stay,
    }
}

fn newest<'a>(pods: impl Iterator<Item = &'a KnownPod>) -> Option<&'a KnownPod> {
    pods.max_by_key(|pod| pod.created_at)
}

fn task(pod: &KnownPod) -> Verdict {
    let is_stopping = pod.verdict.state == ProcessState::Stopping;
    let is_over = pod.gone || pod.ended && is_stopping;
    if is_over && is_stopping && pod.verdict.reason != Some(reason::TERMINATING) {
        return Verdict {
            state: ProcessState::Failed,
            ..pod.verdict.clone()
        };
    }
    if is_over && !pod.verdict.state.is_terminal() {
        return Verdict::because(
            ProcessState::Failed,
            reason::DELETED_BY_OTHER,
            "the pod was deleted before its container was seen to end",
        );
    }
    pod.verdict.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(state: ProcessState, ended: bool, gone: bool) -> KnownPod {
        KnownPod {
            attempt: 1,
            wish: None,
            verdict: Verdict::plain(state),
            ended,
            gone,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    fn process(kind: ProcessKind, lifecycle: Lifecycle, state: ProcessState) -> KnownProcess {
        KnownProcess {
            kind,
            killed: false,
            lifecycle,
            state,
            wish: "1".into(),
            replicas: 1,
            attempt: 1,
            retries: 0,
            logs_sealed: true,
        }
    }

    #[test]
    fn the_pods_decide() {
        use Lifecycle::{Created, Gone, Requested, Stopping};
        use ProcessKind::{Service, Task};
        use ProcessState::{Failed, Killed, Pending, Ready, Running, Starting, Succeeded};
        let show = |lifecycle, state| Step::Show(lifecycle, Verdict::plain(state));
        let cases = [
            ("no pod", process(Task, Created, Starting), vec![], Step::Stay),
            (
                "seen before the creation was reported",
                process(Task, Requested, Pending),
                vec![pod(Running, false, false)],
                show(Created, Running),
            ),
            (
                "task ends",
                process(Task, Created, Running),
                vec![pod(Succeeded, true, false)],
                show(Created, Succeeded),
            ),
            (
                "task's pod removed",
                process(Task, Created, Succeeded),
                vec![pod(Succeeded, true, true)],
                show(Gone, Succeeded),
            ),
            (
                "already gone",
                process(Task, Gone, Succeeded),
                vec![pod(Succeeded, true, true)],
                Step::Stay,
            ),
            (
                "ready beats a starting pod",
                process(Service, Created, Running),
                vec![pod(Ready, false, false), pod(Starting, false, false)],
                show(Created, Ready),
            ),
            (
                "a service replaces its pod",
                process(Service, Created, Ready),
                vec![pod(Failed, true, true)],
                show(Created, Starting),
            ),
            (
                "stopping, still running",
                process(Service, Stopping, ProcessState::Stopping),
                vec![pod(Running, false, false)],
                Step::Stay,
            ),
            (
                "killed stays killed",
                process(Service, Stopping, Killed),
                vec![pod(Failed, true, true)],
                Step::Stay,
            ),
        ];
        for (name, process, pods, expected) in cases {
            assert_eq!(judge(&process, &pods), expected, "{name}");
        }
    }

    #[test]
    fn a_task_whose_pod_somebody_deleted_has_failed() {
        let seen = judge(
            &process(ProcessKind::Task, Lifecycle::Created, ProcessState::Running),
            &[pod(ProcessState::Running, false, true)],
        );
        assert!(matches!(
            seen,
            Step::Show(
                Lifecycle::Created,
                Verdict {
                    reason: Some(reason::DELETED_BY_OTHER),
                    ..
                }
            )
        ));
    }

    #[test]
    fn a_failed_attempt_is_repeated_only_when_asked_for() {
        let mut task = process(ProcessKind::Task, Lifecycle::Created, ProcessState::Running);
        let failed = [pod(ProcessState::Failed, true, false)];
        assert!(matches!(judge(&task, &failed), Step::Show(..)));
        task.retries = 1;
        assert!(matches!(judge(&task, &failed), Step::Retry(_)));
        task.attempt = 2;
        assert_eq!(judge(&task, &failed), Step::Stay, "the second attempt has no pod yet");
    }

    #[test]
    fn a_timeout_is_the_verdict_even_where_only_the_log_shows_the_end() {
        let stopping = Verdict {
            reason: Some(reason::DEADLINE_EXCEEDED),
            ..Verdict::plain(ProcessState::Stopping)
        };
        let failed = Verdict {
            state: ProcessState::Failed,
            ..stopping.clone()
        };
        let pod = |ended, gone| KnownPod {
            verdict: stopping.clone(),
            ..pod(ProcessState::Stopping, ended, gone)
        };
        let running = process(ProcessKind::Task, Lifecycle::Created, ProcessState::Stopping);
        assert_eq!(
            judge(&running, &[pod(false, false)]),
            Step::Show(Lifecycle::Created, stopping.clone())
        );
        assert_eq!(
            judge(&running, &[pod(true, false)]),
            Step::Show(Lifecycle::Created, failed.clone())
        );
        let ended = process(ProcessKind::Task, Lifecycle::Created, ProcessState::Failed);
        assert_eq!(judge(&ended, &[pod(true, true)]), Step::Show(Lifecycle::Gone, failed));
    }

    #[test]
    fn a_task_whose_pod_is_deleted_stops_and_was_deleted() {
        let terminating = Verdict::because(ProcessState::Stopping, reason::TERMINATING, "30 s");
        let pod = |ended, gone| KnownPod {
            verdict: terminating.clone(),
            ..pod(ProcessState::Stopping, ended, gone)
        };
        let task = process(ProcessKind::Task, Lifecycle::Created, ProcessState::Stopping);
        let shown = |ended, gone| match judge(&task, &[pod(ended, gone)]) {
            Step::Show(Lifecycle::Created, verdict) => (verdict.state, verdict.reason),
            step => panic!("{step:?}"),
        };
        assert_eq!(shown(false, false), (ProcessState::Stopping, Some(reason::TERMINATING)));
        for (ended, gone) in [(true, false), (false, true), (true, true)] {
            assert_eq!(
                shown(ended, gone),
                (ProcessState::Failed, Some(reason::DELETED_BY_OTHER))
            );
        }
    }

    #[test]
    fn a_preempted_pod_that_is_missing_was_preempted() {
        let verdict = |state| Verdict::because(state, reason::PREEMPTED, "by another");
        let pod = KnownPod {
            verdict: verdict(ProcessState::Stopping),
            ..pod(ProcessState::Stopping, false, true)
        };
        let task = process(ProcessKind::Task, Lifecycle::Created, ProcessState::Stopping);
        let shown = Step::Show(Lifecycle::Created, verdict(ProcessState::Failed));
        assert_eq!(judge(&task, &[pod]), shown);
    }

    #[test]
    fn an_open_log_keeps_a_process_from_being_gone() {
        let mut task = process(ProcessKind::Task, Lifecycle::Created, ProcessState::Succeeded);
        task.logs_sealed = false;
        assert_eq!(judge(&task, &[pod(ProcessState::Succeeded, true, true)]), Step::Stay);
    }
}
