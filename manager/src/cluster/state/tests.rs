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

/// Seen on a busy node: the pod was deleted, and its kubelet had lost sight of the container when it reported the end.
#[test]
fn a_deleted_pod_whose_container_nobody_saw_end_was_deleted() {
    let pod = |deleted: bool, waiting: &str| {
        let mut pod = json!({
            "metadata": {"name": "hello-1", "uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-01-02T03:04:05Z",
                         "labels": {label::PROCESS: uuid::Uuid::nil().to_string(), label::ATTEMPT: "1"}},
            "spec": {"containers": [{"name": CONTAINER}]},
            "status": with("Failed", json!({"waiting": {"reason": waiting}})),
        });
        if deleted {
            pod["metadata"]["deletionTimestamp"] = "2026-01-02T03:05:05Z".into();
        }
        let seen = fold(&serde_json::from_value(pod).unwrap(), false).unwrap();
        (
            seen.verdict.state,
            seen.verdict.reason.map(|reason| reason.id),
            seen.ended,
        )
    };
    let failed = |reason| (ProcessState::Failed, Some(reason), true);
    assert_eq!(pod(true, "ContainerCreating"), failed("deleted_by_other"));
    assert_eq!(pod(false, "ContainerCreating"), failed("start_error"));
    assert_eq!(pod(true, "RunContainerError"), failed("start_error"));
}

/// By hand or by a drained node, with the time that its function has to end.
#[test]
fn a_function_that_ended_with_its_deleted_pod_was_deleted() {
    let pod = |code: i32, why: &str, finished: &str, grace: Option<i64>| {
        let terminated = json!({"terminated": {"exitCode": code, "reason": why, "finishedAt": finished}});
        let mut pod = json!({
            "metadata": {"name": "hello-1", "uid": "u", "labels": {label::PROCESS: uuid::Uuid::nil().to_string()}},
            "spec": {"containers": [{"name": CONTAINER}]},
            "status": with("Failed", terminated),
        });
        if let Some(grace) = grace {
            pod["metadata"]["deletionTimestamp"] = "2026-01-02T03:05:30Z".into();
            pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        }
        let seen = fold(&serde_json::from_value(pod).unwrap(), false).unwrap().verdict;
        (seen.reason.unwrap().id, seen.message.unwrap(), seen.exit_code)
    };
    let (then, before) = ("2026-01-02T03:05:00Z", "2026-01-02T03:04:59Z");
    let by_signal = "it was ended by signal 15";
    for (code, why, finished, grace, expected, words) in [
        (
            143,
            "Error",
            then,
            Some(30),
            "deleted_by_other",
            "the pod was deleted: it was ended by signal 15",
        ),
        (
            1,
            "Error",
            then,
            Some(30),
            "deleted_by_other",
            "the pod was deleted: it ended with exit code 1",
        ),
        (143, "Error", before, Some(30), "signal", by_signal),
        (143, "Error", then, Some(0), "signal", by_signal),
        (143, "Error", then, None, "signal", by_signal),
        (
            137,
            "OOMKilled",
            then,
            Some(30),
            "oom_killed",
            "it used more memory than its limit",
        ),
    ] {
        let seen = pod(code, why, finished, grace);
        assert_eq!(seen, (expected, words.to_owned(), Some(code)), "{finished} {grace:?}");
    }
}

#[test]
fn a_pod_that_is_being_deleted_stops() {
    let pod = |kind: ProcessKind, status: Value| {
        let pod = json!({
            "metadata": {"name": "hello-1", "uid": "u", "deletionTimestamp": "2026-01-02T03:05:30Z",
                         "labels": {label::PROCESS: uuid::Uuid::nil().to_string(), label::KIND: kind.as_str()}},
            "spec": {"containers": [{"name": CONTAINER}]},
            "status": status,
        });
        let seen = fold(&serde_json::from_value(pod).unwrap(), false).unwrap();
        (
            seen.verdict.state,
            seen.verdict.reason.map(|reason| reason.id),
            seen.verdict.message.unwrap_or_default(),
        )
    };
    let mut running = with("Running", json!({"running": {}}));
    // Of kubelets that tell of the containers before the phase.
    let ended = |code: i32| with("Running", json!({"terminated": {"exitCode": code}}));
    let words = "the pod is being deleted: its containers have until 2026-01-02T03:05:30Z to end";
    for kind in [ProcessKind::Task, ProcessKind::Service] {
        let expected = (ProcessState::Stopping, Some("terminating"), words.to_owned());
        for status in [running.clone(), ended(0), ended(143)] {
            assert_eq!(pod(kind, status), expected);
        }
    }
    let waiting = with("Running", json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    assert_eq!(pod(ProcessKind::Service, waiting).1, Some("crash_loop"));
    running["reason"] = "NodeLost".into();
    assert_eq!(pod(ProcessKind::Service, running).1, Some("node_lost"));
}

#[test]
fn a_task_that_has_just_ended_well_does_not_fail() {
    let pod = json!({
        "metadata": {"name": "hello-1", "uid": "u", "labels": {
            label::PROCESS: uuid::Uuid::nil().to_string(), label::KIND: ProcessKind::Task.as_str()}},
        "status": with("Running", json!({"terminated": {"exitCode": 0, "reason": "Completed"}})),
    });
    let seen = fold(&serde_json::from_value(pod).unwrap(), false).unwrap().verdict;
    assert_eq!(seen, Verdict::plain(ProcessState::Running));
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
        (
            with("Running", terminated(0, "Completed")),
            Failing,
            Some("exit_code"),
            Some(0),
        ),
        (
            with("Failed", terminated(255, "Error")),
            Failed,
            Some("exit_code"),
            Some(255),
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
fn a_node_that_ends_or_refuses_a_pod_is_named() {
    let failed = |reason: &str, message: &str| json!({"phase": "Failed", "reason": reason, "message": message});
    let mut shut_down = with("Failed", json!({"terminated": {"exitCode": 143, "reason": "Error"}}));
    shut_down["reason"] = "Terminated".into();
    shut_down["message"] = "Pod was terminated in response to imminent node shutdown.".into();
    let disrupted = |why: &str, message: &str| {
        let mut status = with("Failed", json!({"terminated": {"exitCode": 137, "reason": "Error"}}));
        status["conditions"] =
            json!([{"type": "DisruptionTarget", "status": "True", "reason": why, "message": message}]);
        status
    };
    let preempted = "default-scheduler: preempting to accommodate a higher priority pod";
    for (status, id, message, exit_code) in [
        (
            failed("Preempting", "Preempted in order to admit critical pod"),
            "preempted",
            "Preempted in order to admit critical pod",
            None,
        ),
        (
            shut_down,
            "node_shutdown",
            "Pod was terminated in response to imminent node shutdown.",
            Some(143),
        ),
        (
            failed("OutOfcpu", "Pod Node didn't have enough resource: cpu"),
            "node_refused",
            "Pod Node didn't have enough resource: cpu",
            None,
        ),
        (failed("NodeAffinity", ""), "node_refused", "NodeAffinity", None),
        (
            disrupted("PreemptionByScheduler", preempted),
            "preempted",
            preempted,
            Some(137),
        ),
        (
            disrupted("DeletionByTaintManager", "taint"),
            "node_lost",
            "taint",
            Some(137),
        ),
        (
            disrupted("EvictionByEvictionAPI", "drain"),
            "deleted_by_other",
            "drain",
            Some(137),
        ),
        (
            disrupted("TerminationByKubelet", ""),
            "signal",
            "it was ended by signal 9",
            Some(137),
        ),
    ] {
        let seen = observe(status.clone()).verdict;
        assert_eq!(
            (
                seen.state,
                seen.reason.map(|reason| reason.id),
                seen.message.as_deref(),
                seen.exit_code
            ),
            (ProcessState::Failed, Some(id), Some(message), exit_code),
            "{status}"
        );
    }
}

/// Documents of a 1.20 cluster, as its API server showed them: what no test of the whole provokes, for it would take the node from
/// the others. Pods of a higher priority ended one by its grace, and its function ended well.
#[test]
fn recorded_pods_say_what_became_of_them() {
    use ProcessState::{Failed, Failing, Succeeded};
    for (recorded, state, id, message) in [
        (
            include_str!("recorded/node_refused.json"),
            Failed,
            Some("node_refused"),
            Some("Pod Node didn't have enough resource: cpu, requested: 64000, used: 0, capacity: 2000"),
        ),
        (
            include_str!("recorded/preempted_by_kubelet.json"),
            Failed,
            Some("preempted"),
            Some("Preempted in order to admit critical pod"),
        ),
        (
            include_str!("recorded/preempted_by_scheduler.json"),
            Succeeded,
            None,
            None,
        ),
        (
            include_str!("recorded/node_unreachable.json"),
            Failing,
            Some("node_lost"),
            Some("its node has stopped answering"),
        ),
    ] {
        let seen = fold(&serde_json::from_str(recorded).unwrap(), false).unwrap().verdict;
        assert_eq!(
            (seen.state, seen.reason.map(|reason| reason.id), seen.message.as_deref()),
            (state, id, message)
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

#[test]
fn a_container_that_was_started_again_says_how_the_last_run_ended() {
    use ProcessState::{Failing, Ready, Running};
    let after = |last: Value, state: Value, ready: bool| {
        let mut status = with("Running", state);
        status["containerStatuses"][0]["lastState"] = json!({"terminated": last});
        status["containerStatuses"][0]["ready"] = ready.into();
        status["conditions"] = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
        status
    };
    let running = || json!({"running": {"startedAt": "2026-01-02T03:04:05Z"}});
    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
    let no_program = json!({"exitCode": 128, "reason": "StartError", "message": "exec: \"/no\": no such file"});
    for (status, state, id, message) in [
        (
            after(json!({"exitCode": 137, "reason": "OOMKilled"}), running(), false),
            Running,
            Some("oom_killed"),
            Some("the last run: it used more memory than its limit"),
        ),
        (
            after(json!({"exitCode": 137, "reason": "OOMKilled"}), running(), true),
            Ready,
            None,
            None,
        ),
        (
            after(json!({"exitCode": 0}), running(), false),
            Running,
            Some("exit_code"),
            Some("the last run: it ended with exit code 0"),
        ),
        (
            after(json!({"exitCode": 0}), waiting.clone(), false),
            Failing,
            Some("crash_loop"),
            Some("the last run: it ended with exit code 0"),
        ),
        (
            after(no_program, waiting, false),
            Failing,
            Some("start_error"),
            Some("the last run: exec: \"/no\": no such file"),
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
fn a_pod_that_was_given_up_keeps_the_reason() {
    let seen = |given_up: &str, status: Value| {
        let pod = json!({
            "metadata": {"name": "hello-1", "uid": "u", "labels": {label::PROCESS: uuid::Uuid::nil().to_string()},
                         "annotations": {label::GIVEN_UP: given_up}},
            "status": status,
        });
        let verdict = fold(&serde_json::from_value(pod).unwrap(), false).unwrap().verdict;
        (verdict.state, verdict.reason.map(|reason| reason.id), verdict.message)
    };
    let waiting = with(
        "Pending",
        json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}),
    );
    // Newer kubelets make up an end of a container that never was.
    let made_up = with(
        "Failed",
        json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}),
    );
    for status in [waiting.clone(), made_up] {
        assert_eq!(
            seen("image_not_found: r/f: not found", status),
            (
                ProcessState::Failed,
                Some("image_not_found"),
                Some("r/f: not found".into())
            )
        );
    }
    let (state, reason, _) = seen("something else", waiting);
    assert_eq!((state, reason), (ProcessState::Failing, Some("image_pull_failed")));
    // It came at the last moment.
    let mut runs = with("Running", json!({"running": {}}));
    runs["containerStatuses"][0]["containerID"] = "containerd://1".into();
    assert_eq!(seen("image_not_found: no", runs).0, ProcessState::Running);
}
