//! `&Pod` -> what it means. Pure. Container statuses decide first, then conditions.

use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus as Status, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use octopus_shared::pod::{ContainerStatus, PodObservation, Verdict};
use octopus_shared::process::{ProcessKind, ProcessState};
use octopus_shared::reason::{self, Reason};

use super::object::CONTAINER;
use super::{label, why};

/// What a kubelet says of a container that its node has lost.
pub const FORGOTTEN: &str = "ContainerStatusUnknown";

/// Shells and runtimes tell the end by a signal as 128 and its number; those of Linux end here, signal(7).
const LAST_SIGNAL: i32 = 64;

/// Folds a pod. None: it lacks what every pod of ours has, so it is not one.
pub fn fold(pod: &Pod, gone: bool) -> Option<PodObservation> {
    let metadata = &pod.metadata;
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.clone().unwrap_or_else(|| "Pending".into());
    let containers: Vec<_> = status.container_statuses.iter().flatten().map(container).collect();
    let finished = matches!(phase.as_str(), "Succeeded" | "Failed");
    Some(PodObservation {
        uid: metadata.uid.clone()?,
        process_id: label::process_of(metadata)?,
        attempt: label::attempt_of(metadata),
        wish: label::wish_of(metadata),
        shard: label::shard_of(metadata),
        name: metadata.name.clone()?,
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        verdict: verdict(pod, &phase),
        restart_count: containers
            .iter()
            .find(|c| c.name == CONTAINER)
            .map_or(0, |c| c.restart_count),
        // A phase may be final before its containers are: old kubelets set it when they begin to end them.
        ended: finished && !containers.iter().any(|c| c.state == "running"),
        containers,
        events: Vec::new(),
        phase,
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        created_at: metadata.creation_timestamp.as_ref().map_or(DateTime::UNIX_EPOCH, utc),
        gone,
    })
}

/// A Kubernetes time as chrono's.
pub fn utc(time: &Time) -> DateTime<Utc> {
    DateTime::from_timestamp_nanos(i64::try_from(time.0.as_nanosecond()).unwrap_or_default())
}

/// One container's status.
fn container(status: &Status) -> ContainerStatus {
    let state = status.state.clone().unwrap_or_default();
    let (name, reason) = match &state {
        ContainerState { running: Some(_), .. } => ("running", None),
        ContainerState {
            terminated: Some(terminated),
            ..
        } => ("terminated", terminated.reason.clone()),
        ContainerState { waiting, .. } => ("waiting", waiting.as_ref().and_then(|waiting| waiting.reason.clone())),
    };
    let terminated = state.terminated.as_ref();
    let ended = ended_run(status);
    let started = state.running.as_ref().and_then(|running| running.started_at.as_ref());
    ContainerStatus {
        name: status.name.clone(),
        container_id: status.container_id.clone(),
        restart_count: status.restart_count,
        state: name.into(),
        reason,
        exit_code: terminated.and_then(exit_code),
        started_at: started
            .or(ended.and_then(|ended| ended.started_at.as_ref()))
            .map(utc)
            .filter(|at| at.timestamp() > 0),
        finished_at: ended
            .and_then(|ended| ended.finished_at.as_ref())
            .map(utc)
            .filter(|at| at.timestamp() > 0),
    }
}

/// How the newest run of a container ended. While it waits to be started again that is its last state, if that is of the same
/// container: the kubelet makes one up when the node has lost it, and the next one may be made and not started yet.
pub fn ended_run(status: &Status) -> Option<&ContainerStateTerminated> {
    let state = status.state.as_ref()?;
    let last = || status.last_state.as_ref()?.terminated.as_ref();
    let is_known =
        |ended: &&ContainerStateTerminated| has_id(&ended.container_id) && ended.container_id == status.container_id;
    state
        .terminated
        .as_ref()
        .or_else(|| state.waiting.as_ref().and_then(|_| last().filter(is_known)))
}

/// Whether a container has been made that has not started yet, and the last state is that of the one before it.
pub fn waits_to_start(status: &Status) -> bool {
    let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    last.is_some_and(|last| {
        has_id(&last.container_id) && has_id(&status.container_id) && last.container_id != status.container_id
    })
}

/// Whether the container of a pod cannot be made for want of its image.
pub fn waits_for_image(pod: &Pod) -> bool {
    fold(pod, false)
        .and_then(|look| look.verdict.reason)
        .is_some_and(|reason| reason::OF_IMAGES.contains(&reason))
}

/// Whether the node has given a container an id.
pub fn has_id(id: &Option<String>) -> bool {
    id.as_ref().is_some_and(|id| !id.is_empty())
}

/// The exit code, unless the kubelet made it up.
fn exit_code(terminated: &ContainerStateTerminated) -> Option<i32> {
    (terminated.reason.as_deref() != Some(FORGOTTEN)).then_some(terminated.exit_code)
}

fn verdict(pod: &Pod, phase: &str) -> Verdict {
    let status = pod.status.clone().unwrap_or_default();
    let function = status
        .container_statuses
        .iter()
        .flatten()
        .find(|status| status.name == CONTAINER);
    let state = function.and_then(|function| function.state.clone()).unwrap_or_default();
    let words = |message: &Option<String>| message.clone().unwrap_or_default();
    let was_made = function.is_some_and(|function| has_id(&function.container_id));
    if let Some((reason, words)) = label::given_up(&pod.metadata).filter(|_| !was_made) {
        return Verdict::because(ProcessState::Failed, reason, words);
    }
    match (phase, status.reason.as_deref()) {
        ("Succeeded", _) => Verdict {
            exit_code: Some(0),
            ..Verdict::plain(ProcessState::Succeeded)
        },
        (_, Some("Evicted")) => {
            let message = words(&status.message);
            Verdict::because(ProcessState::Failed, why::evicted(pod.spec.as_ref(), &message), message)
        }
        (_, Some("NodeLost")) => Verdict::because(ProcessState::Failing, reason::NODE_LOST, words(&status.message)),
        ("Failed", Some("DeadlineExceeded")) => Verdict {
            state: if state.running.is_some() {
                ProcessState::Stopping
            } else {
                ProcessState::Failed
            },
            reason: Some(reason::DEADLINE_EXCEEDED),
            message: Some("it ran longer than its timeout and was ended".into()),
            exit_code: state.terminated.as_ref().and_then(exit_code),
        },
        ("Failed", kubernetes) => match (why::ended_by_node(&status, kubernetes), &state.terminated) {
            (Some(why), terminated) => Verdict {
                exit_code: terminated.as_ref().and_then(exit_code),
                ..Verdict::because(ProcessState::Failed, why, why::words_of_node(&status))
            },
            (None, Some(terminated)) if was_ended_by_deletion(pod, terminated) => deleted(ended(terminated)),
            (None, Some(terminated)) => ended(terminated),
            // Ended with its pod, and its node lost sight of it.
            (None, None) if pod.metadata.deletion_timestamp.is_some() && is_out_of_sight(&state) => Verdict::because(
                ProcessState::Failed,
                reason::DELETED_BY_OTHER,
                "the pod was deleted before its container was seen to end",
            ),
            (None, None) => Verdict::because(ProcessState::Failed, reason::START_ERROR, words(&status.message)),
        },
        ("Running", _) => running(pod, &status, function, &state),
        _ => pending(pod, &status, &state),
    }
}

/// The kubelet says that the container is yet to be made.
fn is_out_of_sight(state: &ContainerState) -> bool {
    let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
    matches!(waiting, None | Some("ContainerCreating" | "PodInitializing"))
}

/// Whether a container ended after its pod was deleted. Who deletes a pod that has ended gives it no time.
fn was_ended_by_deletion(pod: &Pod, terminated: &ContainerStateTerminated) -> bool {
    let grace = pod.metadata.deletion_grace_period_seconds.filter(|grace| *grace > 0);
    let until = pod
        .metadata
        .deletion_timestamp
        .as_ref()
        .map(|until| utc(until).timestamp());
    let finished = terminated.finished_at.as_ref().map(|at| utc(at).timestamp());
    let deleted = until.zip(grace).map(|(until, grace)| until - grace);
    finished
        .zip(deleted)
        .is_some_and(|(finished, deleted)| finished >= deleted)
}

/// The end of a container whose pod somebody deleted. What says more than that it was told to end remains.
fn deleted(ended: Verdict) -> Verdict {
    match (ended.reason, &ended.message) {
        (Some(reason::SIGNAL | reason::EXIT_CODE), Some(words)) => Verdict {
            reason: Some(reason::DELETED_BY_OTHER),
            message: Some(format!("the pod was deleted: {words}")),
            ..ended
        },
        _ => ended,
    }
}

fn running(pod: &Pod, status: &PodStatus, function: Option<&Status>, state: &ContainerState) -> Verdict {
    if let Some(waiting) = &state.waiting {
        let mut verdict = waits(waiting.reason.as_deref(), waiting.message.as_deref());
        let last = function
            .and_then(|function| function.last_state.as_ref())
            .and_then(|last| last.terminated.as_ref());
        if let (Some(reason::CRASH_LOOP), Some(last)) = (verdict.reason, last) {
            let last = ended_early(last);
            verdict.exit_code = last.exit_code;
            verdict.message = last.message.map(of_last_run);
            // Whatever says more than that it ends again and again.
            if let Some(
                why @ (reason::SET_UP_FAILED | reason::PROCESS_LIMIT | reason::OOM_KILLED | reason::START_ERROR),
            ) = last.reason
            {
                verdict.reason = Some(why);
            }
        }
        return verdict;
    }
    let is_lost = why::is_out_of_reach(pod.spec.as_ref(), status);
    if let Some(until) = pod.metadata.deletion_timestamp.as_ref().filter(|_| !is_lost) {
        let until = utc(until).to_rfc3339_opts(SecondsFormat::Secs, true);
        let words = format!("the pod is being deleted: its containers have until {until} to end");
        return Verdict::because(ProcessState::Stopping, reason::TERMINATING, words);
    }
    let is_task = label::kind_of(&pod.metadata) == Some(ProcessKind::Task.as_str());
    match &state.terminated {
        // Its phase says so a moment later.
        Some(terminated) if is_task && ended(terminated).state == ProcessState::Succeeded => {
            return Verdict::plain(ProcessState::Running);
        }
        Some(terminated) => {
            return Verdict {
                state: ProcessState::Failing,
                ..ended_early(terminated)
            };
        }
        None => {}
    }
    if is_lost {
        return Verdict::because(
            ProcessState::Failing,
            reason::NODE_LOST,
            "its node has stopped answering",
        );
    }
    if is_task {
        // Without a probe Kubernetes calls every running container ready; a task has nothing to be ready for.
        return Verdict::plain(ProcessState::Running);
    }
    let ready = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let answers = function.is_some_and(|function| function.ready);
    if !(ready && answers) {
        return Verdict {
            state: ProcessState::Running,
            ..started_again(function)
        };
    }
    match label::set_up_of(&pod.metadata) {
        // Its startup probe succeeds only after the route did.
        Some(route) => Verdict::because(
            ProcessState::Ready,
            reason::SET_UP_PERFORMED,
            format!("POST {route} was answered with success"),
        ),
        None => Verdict::plain(ProcessState::Ready),
    }
}

/// Why a container was started again that does not answer yet: nobody need have looked while it had ended.
fn started_again(function: Option<&Status>) -> Verdict {
    let last = function
        .and_then(|function| function.last_state.as_ref())
        .and_then(|last| last.terminated.as_ref());
    let last = last.map_or(Verdict::plain(ProcessState::Running), ended_early);
    Verdict {
        message: last.message.map(of_last_run),
        ..last
    }
}

fn of_last_run(message: String) -> String {
    format!("the last run: {message}")
}

fn pending(pod: &Pod, status: &PodStatus, state: &ContainerState) -> Verdict {
    if let Some(waiting) = &state.waiting {
        return waits(waiting.reason.as_deref(), waiting.message.as_deref());
    }
    let unscheduled = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    match unscheduled {
        Some(condition) => {
            let message = condition.message.clone().unwrap_or_default();
            Verdict::because(
                ProcessState::Starting,
                why::unschedulable(pod.spec.as_ref(), &message),
                message,
            )
        }
        None => Verdict::plain(ProcessState::Starting),
    }
}

fn waits(kubernetes: Option<&str>, message: Option<&str>) -> Verdict {
    let because = |state, reason: Reason| Verdict::because(state, reason, message.unwrap_or_default());
    if let Some(why) = message.and_then(why::volume) {
        return because(ProcessState::Starting, why);
    }
    match kubernetes {
        Some("ImagePullBackOff" | "ErrImagePull" | "RegistryUnavailable" | "ImageInspectError") => {
            because(ProcessState::Failing, why::image(message.unwrap_or_default()))
        }
        Some("InvalidImageName") => because(ProcessState::Failing, reason::INVALID_IMAGE_NAME),
        Some("CreateContainerConfigError") => because(ProcessState::Failing, reason::CONFIG_ERROR),
        Some("CreateContainerError" | "RunContainerError" | "StartError") => {
            because(ProcessState::Failing, reason::START_ERROR)
        }
        Some("CrashLoopBackOff") => because(ProcessState::Failing, reason::CRASH_LOOP),
        _ => Verdict::plain(ProcessState::Starting),
    }
}

/// A container that has ended, whatever will become of its pod.
fn ended(terminated: &ContainerStateTerminated) -> Verdict {
    let code = exit_code(terminated);
    let signal = terminated.signal.filter(|signal| *signal > 0).or(code
        .map(|code| code.saturating_sub(128))
        .filter(|signal| (1..=LAST_SIGNAL).contains(signal)));
    let (reason, message) = match (terminated.reason.as_deref(), signal, code) {
        (Some("OOMKilled"), ..) => (reason::OOM_KILLED, "it used more memory than its limit".to_owned()),
        // The starter's last words.
        _ if code != Some(0)
            && let Some((why, words)) = said(terminated) =>
        {
            (why, words)
        }
        (Some("StartError" | "ContainerCannotRun"), ..) => {
            (reason::START_ERROR, terminated.message.clone().unwrap_or_default())
        }
        (_, Some(signal), _) => (reason::SIGNAL, format!("it was ended by signal {signal}")),
        (_, None, Some(0)) => {
            return Verdict {
                exit_code: Some(0),
                ..Verdict::plain(ProcessState::Succeeded)
            };
        }
        (_, None, Some(code)) => (reason::EXIT_CODE, format!("it ended with exit code {code}")),
        (_, None, None) => (reason::NODE_LOST, "the node does not know how it ended".to_owned()),
    };
    Verdict {
        state: ProcessState::Failed,
        reason: Some(reason),
        message: Some(message),
        exit_code: code,
    }
}

/// The end of a container that was to go on: to end well is not to do what is wanted.
fn ended_early(terminated: &ContainerStateTerminated) -> Verdict {
    let ended = ended(terminated);
    if ended.state != ProcessState::Succeeded {
        return ended;
    }
    Verdict {
        exit_code: ended.exit_code,
        ..Verdict::because(ProcessState::Failed, reason::EXIT_CODE, "it ended with exit code 0")
    }
}

/// What the starter wrote about an end that it knows the reason of: `octopus/<reason>: <words>`. A function can write it too,
/// and deceives its own user with it.
fn said(terminated: &ContainerStateTerminated) -> Option<(Reason, String)> {
    terminated.message.as_deref()?.lines().rev().find_map(|line| {
        let (id, words) = line.strip_prefix("octopus/")?.split_once(':')?;
        let why = [reason::SET_UP_FAILED, reason::PROCESS_LIMIT]
            .into_iter()
            .find(|known| known.id == id)?;
        Some((why, words.trim().chars().take(1000).collect()))
    })
}

#[cfg(test)]
mod tests;
