//! `&Pod` -> what it means. Pure. Container statuses decide first, then conditions.

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus as Status, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use octopus_shared::pod::{ContainerStatus, PodObservation, Verdict};
use octopus_shared::process::{ProcessKind, ProcessState};
use octopus_shared::reason::{self, Reason};

use super::object::CONTAINER;
use super::{label, why};

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
    let started = state.running.as_ref().and_then(|running| running.started_at.as_ref());
    ContainerStatus {
        name: status.name.clone(),
        container_id: status.container_id.clone(),
        restart_count: status.restart_count,
        state: name.into(),
        reason,
        exit_code: terminated.and_then(exit_code),
        started_at: started
            .or(terminated.and_then(|t| t.started_at.as_ref()))
            .map(utc)
            .filter(|at| at.timestamp() > 0),
        finished_at: terminated
            .and_then(|t| t.finished_at.as_ref())
            .map(utc)
            .filter(|at| at.timestamp() > 0),
    }
}

/// The exit code, unless the kubelet made it up.
fn exit_code(terminated: &ContainerStateTerminated) -> Option<i32> {
    (terminated.reason.as_deref() != Some("ContainerStatusUnknown")).then_some(terminated.exit_code)
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
        ("Failed", _) => match &state.terminated {
            Some(terminated) => ended(terminated),
            None => Verdict::because(ProcessState::Failed, reason::START_ERROR, words(&status.message)),
        },
        ("Running", _) => running(pod, &status, function, &state),
        _ => pending(pod, &status, &state),
    }
}

fn running(pod: &Pod, status: &PodStatus, function: Option<&Status>, state: &ContainerState) -> Verdict {
    if let Some(waiting) = &state.waiting {
        let mut verdict = waits(waiting.reason.as_deref(), waiting.message.as_deref());
        let last = function
            .and_then(|function| function.last_state.as_ref())
            .and_then(|last| last.terminated.as_ref());
        if let (Some(reason::CRASH_LOOP), Some(last)) = (verdict.reason, last) {
            let last = ended(last);
            verdict.exit_code = last.exit_code;
            verdict.message = last.message.map(|message| format!("the last run: {message}"));
            // Whatever says more than that it ends again and again.
            if let Some(why @ (reason::SET_UP_FAILED | reason::PROCESS_LIMIT | reason::OOM_KILLED)) = last.reason {
                verdict.reason = Some(why);
            }
        }
        return verdict;
    }
    if let Some(terminated) = &state.terminated {
        return Verdict {
            state: ProcessState::Failing,
            ..ended(terminated)
        };
    }
    if label::kind_of(&pod.metadata) == Some(ProcessKind::Task.as_str()) {
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
        return Verdict::plain(ProcessState::Running);
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
    let not_found =
        message.is_some_and(|message| message.contains("not found") || message.contains("manifest unknown"));
    if let Some(why) = message.and_then(why::volume) {
        return because(ProcessState::Starting, why);
    }
    match kubernetes {
        Some("ImagePullBackOff" | "ErrImagePull") if not_found => {
            because(ProcessState::Failing, reason::IMAGE_NOT_FOUND)
        }
        Some("ImagePullBackOff" | "ErrImagePull" | "RegistryUnavailable" | "ImageInspectError") => {
            because(ProcessState::Failing, reason::IMAGE_PULL_FAILED)
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
    let signal = terminated
        .signal
        .filter(|signal| *signal > 0)
        .or(code.filter(|code| *code > 128).map(|code| code - 128));
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
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn observe(status: Value) -> PodObservation {
        let pod = json!({
            "metadata": {"name": "hello-1", "uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-01-02T03:04:05Z",
                         "labels": {label::PROCESS: uuid::Uuid::nil().to_string(), label::ATTEMPT: "2"}},
            "spec": {"containers": [{"name": CONTAINER}]},
            "status": status,
        });
        fold(&serde_json::from_value(pod).unwrap(), false).unwrap()
    }

    fn with(phase: &str, state: Value) -> Value {
        json!({"phase": phase, "containerStatuses": [
            {"name": CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
    }

    #[test]
    fn every_status_has_a_meaning() {
        use ProcessState::{Failed, Failing, Running, Starting, Stopping, Succeeded};
        let terminated = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
        let waiting = |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        let running = || json!({"running": {"startedAt": "2026-01-02T03:04:05Z"}});
        let mut deadline = with("Failed", running());
        deadline["reason"] = "DeadlineExceeded".into();
        let mut deadline_over = with("Failed", terminated(143, "Error"));
        deadline_over["reason"] = "DeadlineExceeded".into();
        for (status, state, reason, exit_code) in [
            (json!({"phase": "Pending"}), Starting, None, None),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1"}]}),
                Starting,
                Some("unschedulable"),
                None,
            ),
            (with("Pending", waiting("ContainerCreating", "")), Starting, None, None),
            (
                with("Pending", waiting("ErrImagePull", "manifest unknown")),
                Failing,
                Some("image_not_found"),
                None,
            ),
            (
                with("Pending", waiting("ImagePullBackOff", "connection refused")),
                Failing,
                Some("image_pull_failed"),
                None,
            ),
            (
                with("Pending", waiting("InvalidImageName", "")),
                Failing,
                Some("invalid_image_name"),
                None,
            ),
            (
                with("Pending", waiting("CreateContainerConfigError", "secret")),
                Failing,
                Some("config_error"),
                None,
            ),
            (with("Running", running()), Running, None, None),
            (
                with("Running", waiting("CrashLoopBackOff", "")),
                Failing,
                Some("crash_loop"),
                None,
            ),
            (
                with("Running", terminated(1, "Error")),
                Failing,
                Some("exit_code"),
                Some(1),
            ),
            (with("Succeeded", terminated(0, "Completed")), Succeeded, None, Some(0)),
            (
                with("Failed", terminated(3, "Error")),
                Failed,
                Some("exit_code"),
                Some(3),
            ),
            (
                with("Failed", terminated(139, "Error")),
                Failed,
                Some("signal"),
                Some(139),
            ),
            (
                with("Failed", terminated(137, "OOMKilled")),
                Failed,
                Some("oom_killed"),
                Some(137),
            ),
            (
                with("Failed", terminated(137, "ContainerStatusUnknown")),
                Failed,
                Some("node_lost"),
                None,
            ),
            (
                json!({"phase": "Failed", "reason": "Evicted", "message": "disk"}),
                Failed,
                Some("evicted"),
                None,
            ),
            (deadline, Stopping, Some("deadline_exceeded"), None),
            (deadline_over, Failed, Some("deadline_exceeded"), Some(143)),
        ] {
            let seen = observe(status.clone()).verdict;
            assert_eq!(
                (seen.state, seen.reason.map(|reason| reason.id), seen.exit_code),
                (state, reason, exit_code),
                "{status}"
            );
        }
    }

    #[test]
    fn ready_needs_the_condition_and_the_container() {
        let mut status = with("Running", json!({"running": {}}));
        status["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(observe(status.clone()).verdict.state, ProcessState::Running);
        status["containerStatuses"][0]["ready"] = true.into();
        assert_eq!(observe(status).verdict.state, ProcessState::Ready);
    }

    #[test]
    fn ready_after_its_set_up_says_so() {
        let pod = json!({
            "metadata": {"name": "hello-1", "uid": "u", "labels": {label::PROCESS: uuid::Uuid::nil().to_string()},
                         "annotations": {label::SET_UP: "/v1/setup"}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
                {"name": CONTAINER, "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]},
        });
        let seen = fold(&serde_json::from_value(pod).unwrap(), false).unwrap().verdict;
        assert_eq!(
            (seen.state, seen.reason),
            (ProcessState::Ready, Some(reason::SET_UP_PERFORMED))
        );
    }

    #[test]
    fn kubernetes_own_words_are_kept_and_the_starters_are_heard() {
        use ProcessState::{Failed, Failing, Starting, Succeeded};
        let waiting =
            |reason: &str, message: &str| with("Pending", json!({"waiting": {"reason": reason, "message": message}}));
        let said = |phase: &str, code: i32, message: &str| {
            with(
                phase,
                json!({"terminated": {"exitCode": code, "reason": "Error", "message": message}}),
            )
        };
        let mut again = with(
            "Running",
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}),
        );
        again["containerStatuses"][0]["lastState"] =
            json!({"terminated": {"exitCode": 70, "message": "octopus/set_up_failed: POST /v1/setup answered 500"}});
        let mut hog = again.clone();
        hog["containerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let no_secret = "secret \"keys\" not found";
        let no_key = "couldn't find key openai in Secret octopus-functions/keys";
        let no_claim = "persistentvolumeclaim \"models\" not found";
        for (status, state, id, message) in [
            (
                waiting("CreateContainerConfigError", no_secret),
                Failing,
                Some("config_error"),
                Some(no_secret),
            ),
            (
                waiting("CreateContainerConfigError", no_key),
                Failing,
                Some("config_error"),
                Some(no_key),
            ),
            (
                waiting("ContainerCreating", no_claim),
                Starting,
                Some("volume_not_found"),
                Some(no_claim),
            ),
            (
                said("Failed", 70, "octopus/set_up_failed: POST /v1/setup answered 500\n"),
                Failed,
                Some("set_up_failed"),
                Some("POST /v1/setup answered 500"),
            ),
            (
                said(
                    "Running",
                    1,
                    "its own words\noctopus/process_limit: 12 forks were refused",
                ),
                Failing,
                Some("process_limit"),
                Some("12 forks were refused"),
            ),
            (
                said("Failed", 3, "octopus/kill_requested: no"),
                Failed,
                Some("exit_code"),
                Some("it ended with exit code 3"),
            ),
            (said("Succeeded", 0, "octopus/process_limit: 1"), Succeeded, None, None),
            (
                again,
                Failing,
                Some("set_up_failed"),
                Some("the last run: POST /v1/setup answered 500"),
            ),
            (
                hog,
                Failing,
                Some("oom_killed"),
                Some("the last run: it used more memory than its limit"),
            ),
        ] {
            let seen = observe(status.clone()).verdict;
            assert_eq!(
                (seen.state, seen.reason.map(|reason| reason.id), seen.message.as_deref()),
                (state, id, message),
                "{status}"
            );
        }
    }

    #[test]
    fn a_task_is_never_ready() {
        let pod = json!({
            "metadata": {"name": "hello-1", "uid": "u", "labels": {label::PROCESS: uuid::Uuid::nil().to_string(), label::KIND: "task"}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
                {"name": CONTAINER, "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]},
        });
        let seen = fold(&serde_json::from_value(pod).unwrap(), false).unwrap();
        assert_eq!(seen.verdict, Verdict::plain(ProcessState::Running));
    }

    #[test]
    fn a_final_phase_with_a_running_container_is_no_end() {
        assert!(!observe(with("Failed", json!({"running": {}}))).ended);
        assert!(observe(with("Failed", json!({"terminated": {"exitCode": 1}}))).ended);
        assert_eq!(observe(json!({"phase": "Pending"})).attempt, 2);
    }
}
