//! Kubernetes' words -> reasons: what its status leaves to its messages. Pure. What a message does not tell for sure keeps
//! the general reason.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, PodCondition, PodSpec, PodStatus};
use octopus_shared::pod::Verdict;
use octopus_shared::process::ProcessState;
use octopus_shared::reason::{self, Reason};

use super::object::CONTAINER;
use super::object::need::{SCRATCH, SHARED_MEMORY};

/// What a pod lacks that the scheduler finds no node for.
pub(super) fn unschedulable(spec: Option<&PodSpec>, message: &str) -> Reason {
    let gpus = gpu_resource(spec);
    let no_gpus = gpus.is_some_and(|resource| message.contains(&format!("Insufficient {resource}")));
    // The one selector that a pod of ours may have leads to nodes with GPUs.
    let no_node = gpus.is_some()
        && message.contains("didn't match")
        && ["node selector", "node affinity"]
            .iter()
            .any(|words| message.contains(words));
    match volume(message) {
        Some(why) => why,
        None if no_gpus || no_node => reason::INSUFFICIENT_GPU,
        None => reason::UNSCHEDULABLE,
    }
}

/// What is wrong with a claim, when a message is about that.
pub(super) fn volume(message: &str) -> Option<Reason> {
    let claim = message.contains("persistentvolumeclaim");
    if claim && (message.contains("not found") || message.contains("non-existent persistentvolume")) {
        return Some(reason::VOLUME_NOT_FOUND);
    }
    let unbound = message.contains("unbound immediate PersistentVolumeClaims")
        || message.contains("didn't find available persistent volumes to bind");
    unbound.then_some(reason::VOLUME_PENDING)
}

/// Why an image could not be pulled, as container runtimes and registries put it.
pub(super) fn image(message: &str) -> Reason {
    const REFUSED: [&str; 6] = [
        "401 unauthorized",
        "403 forbidden",
        "authorization failed",
        "authentication required",
        "no basic auth credentials",
        "denied",
    ];
    let message = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    if says(&REFUSED) {
        reason::IMAGE_PULL_UNAUTHORIZED
    } else if says(&["not found", "manifest unknown"]) {
        reason::IMAGE_NOT_FOUND
    } else {
        reason::IMAGE_PULL_FAILED
    }
}

/// What a pod had too much of when its node ended it.
pub(super) fn evicted(spec: Option<&PodSpec>, message: &str) -> Reason {
    let outgrew = |volume: &str| message.contains(&format!("EmptyDir volume \"{volume}\" exceeds the limit"));
    let whole = message.contains("ephemeral local storage usage exceeds the total limit")
        || message.contains("exceeded its local ephemeral storage limit");
    if outgrew(SCRATCH) {
        reason::EVICTED_SCRATCH
    } else if outgrew(SHARED_MEMORY) {
        reason::EVICTED_SHARED_MEMORY
    } else if whole && logs_have_room(spec) {
        // The node looks at the volumes first: they were within their limit, and the root cannot be written.
        reason::EVICTED_LOG_VOLUME
    } else {
        reason::EVICTED
    }
}

/// Why a pod failed that no container of it ended: its node, or the scheduler in favour of others. The words are those of
/// kubelets (pkg/kubelet/lifecycle, preemption and nodeshutdown) and of the conditions that Kubernetes has since 1.26.
pub(super) fn ended_by_node(status: &PodStatus, kubernetes: Option<&str>) -> Option<Reason> {
    match kubernetes {
        Some("Preempting") => return Some(reason::PREEMPTED),
        // Up to 1.21, and since.
        Some("NodeShutdown" | "Shutdown" | "Terminated") => return Some(reason::NODE_SHUTDOWN),
        Some("NodeAffinity" | "NodePorts" | "UnexpectedAdmissionError" | "AppArmor" | "TopologyAffinityError") => {
            return Some(reason::NODE_REFUSED);
        }
        Some(lacking) if lacking.starts_with("OutOf") => return Some(reason::NODE_REFUSED),
        _ => {}
    }
    match disruption(status)?.reason.as_deref() {
        Some("PreemptionByScheduler") => Some(reason::PREEMPTED),
        Some("DeletionByTaintManager") => Some(reason::NODE_LOST),
        Some("EvictionByEvictionAPI") => Some(reason::DELETED_BY_OTHER),
        _ => None,
    }
}

/// Whether the pod's node has stopped answering: then Kubernetes itself says that the pod is not ready. A kubelet says so of both
/// or of neither, but for the gates of a pod, which none of ours has.
pub(super) fn is_out_of_reach(spec: Option<&PodSpec>, status: &PodStatus) -> bool {
    let is = |condition: &str, value: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|found| found.type_ == condition && found.status == value)
    };
    let has_gates = spec
        .and_then(|spec| spec.readiness_gates.as_ref())
        .is_some_and(|gates| !gates.is_empty());
    is("Ready", "False") && is("ContainersReady", "True") && !has_gates
}

/// What Kubernetes says about it.
pub(super) fn words_of_node(status: &PodStatus) -> String {
    let message = status.message.clone().filter(|message| !message.is_empty());
    message
        .or_else(|| disruption(status)?.message.clone())
        .or_else(|| status.reason.clone())
        .unwrap_or_default()
}

fn disruption(status: &PodStatus) -> Option<&PodCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True")
}

/// Why a Deployment has no pod, when it says so: its ReplicaSet is refused one.
pub fn hindered(deployment: &Deployment) -> Option<Verdict> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    let message = failure.message.clone().unwrap_or_default();
    let why = if message.contains("exceeded quota") {
        reason::QUOTA_EXCEEDED
    } else {
        reason::REJECTED_BY_CLUSTER
    };
    Some(Verdict::because(ProcessState::Failing, why, message))
}

fn function(spec: Option<&PodSpec>) -> Option<&Container> {
    spec?.containers.iter().find(|container| container.name == CONTAINER)
}

/// The resource that GPUs of this pod are asked for by: the one with a domain in its name.
fn gpu_resource(spec: Option<&PodSpec>) -> Option<&str> {
    let limits = function(spec)?.resources.as_ref()?.limits.as_ref()?;
    limits.keys().find(|name| name.contains('/')).map(String::as_str)
}

/// Whether the limit of the whole is more than that of its files. Pods of release 0.1 had one limit for both.
fn logs_have_room(spec: Option<&PodSpec>) -> bool {
    let limit =
        function(spec).and_then(|container| container.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage"));
    let scratch = spec
        .and_then(|spec| spec.volumes.as_ref()?.iter().find(|volume| volume.name == SCRATCH))
        .and_then(|volume| volume.empty_dir.as_ref()?.size_limit.as_ref());
    limit.is_some() && scratch.is_some() && limit != scratch
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(gpu: bool, scratch: &str) -> PodSpec {
        let mut limits = json!({"cpu": "1", "ephemeral-storage": "1124Mi"});
        if gpu {
            limits["nvidia.com/gpu"] = "1".into();
        }
        serde_json::from_value(json!({
            "containers": [{"name": CONTAINER, "resources": {"limits": limits}}],
            "volumes": [{"name": SCRATCH, "emptyDir": {"sizeLimit": scratch}}],
        }))
        .unwrap()
    }

    #[test]
    fn the_scheduler_says_what_is_missing() {
        const HELPLESS: &str = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
        for (gpu, message, id) in [
            // 1.20
            (true, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.".into(), "insufficient_gpu"),
            (false, "0/1 nodes are available: 1 Insufficient cpu.".into(), "unschedulable"),
            (true, "0/1 nodes are available: 1 Insufficient memory.".into(), "unschedulable"),
            (false, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.".into(), "unschedulable"),
            (true, "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match Pod's node affinity.".into(), "insufficient_gpu"),
            (false, "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity.".into(), "unschedulable"),
            (true, "0/1 nodes are available: 1 node(s) had taint {nvidia.com/gpu: }, that the pod didn't tolerate.".into(), "unschedulable"),
            (false, "0/1 nodes are available: 1 persistentvolumeclaim \"models\" not found.".into(), "volume_not_found"),
            (false, "persistentvolumeclaim \"models\" not found".into(), "volume_not_found"),
            (false, "0/1 nodes are available: 1 pod has unbound immediate PersistentVolumeClaims.".into(), "volume_pending"),
            (false, "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.".into(), "volume_pending"),
            (false, "0/1 nodes are available: 1 node(s) had volume node affinity conflict.".into(), "unschedulable"),
            // 1.33
            (true, format!("0/1 nodes are available: 1 Insufficient nvidia.com/gpu. {HELPLESS}"), "insufficient_gpu"),
            (true, format!("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. {HELPLESS}"), "insufficient_gpu"),
            (false, format!("0/1 nodes are available: persistentvolumeclaim \"models\" not found. {HELPLESS}"), "volume_not_found"),
            (false, format!("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. {HELPLESS}"), "volume_pending"),
            (false, "0/1 nodes are available: persistentvolumeclaim \"models\" bound to non-existent persistentvolume \"disk\".".into(), "volume_not_found"),
        ] {
            assert_eq!(unschedulable(Some(&spec(gpu, "1Gi")), &message).id, id, "{gpu} {message}");
        }
    }

    #[test]
    fn a_registry_says_why_it_gives_no_image() {
        for (message, id) in [
            (
                "rpc error: code = NotFound desc = failed to pull and unpack image \"r/f@sha256:0\": failed to resolve reference \"r/f@sha256:0\": r/f@sha256:0: not found",
                "image_not_found",
            ),
            ("manifest unknown: manifest unknown", "image_not_found"),
            (
                "failed to resolve reference \"r/f:1\": pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
                "image_pull_unauthorized",
            ),
            (
                "failed to resolve reference \"r/f:1\": unexpected status code [manifests 1]: 401 Unauthorized",
                "image_pull_unauthorized",
            ),
            ("unauthorized: authentication required", "image_pull_unauthorized"),
            (
                "failed to do request: Head \"https://r/v2/f/manifests/1\": dial tcp 127.0.0.1:1: connect: connection refused",
                "image_pull_failed",
            ),
            ("dial tcp: lookup r: no such host", "image_pull_failed"),
            ("x509: certificate signed by unknown authority", "image_pull_failed"),
            ("pull QPS exceeded", "image_pull_failed"),
            ("Back-off pulling image \"r/f:1\"", "image_pull_failed"),
        ] {
            assert_eq!(image(message).id, id, "{message}");
        }
    }

    #[test]
    fn a_node_says_what_outgrew_its_limit() {
        for (scratch, message, id) in [
            (
                "1Gi",
                "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Gi\". ",
                "evicted_scratch",
            ),
            (
                "1Gi",
                "Usage of EmptyDir volume \"shm\" exceeds the limit \"64Mi\". ",
                "evicted_shared_memory",
            ),
            (
                "1Gi",
                "Pod ephemeral local storage usage exceeds the total limit of containers 1124Mi. ",
                "evicted_log_volume",
            ),
            (
                "1Gi",
                "Container function exceeded its local ephemeral storage limit \"1124Mi\". ",
                "evicted_log_volume",
            ),
            (
                "1124Mi",
                "Pod ephemeral local storage usage exceeds the total limit of containers 1124Mi. ",
                "evicted",
            ),
            (
                "1Gi",
                "The node was low on resource: ephemeral-storage. Container function was using 900Mi, which exceeds its request of 16Mi. ",
                "evicted",
            ),
            (
                "1Gi",
                "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 9Gi. Container function was using 900Mi, request is 16Mi, has larger consumption of ephemeral-storage. ",
                "evicted",
            ),
            ("1Gi", "The node was low on resource: memory. ", "evicted"),
        ] {
            assert_eq!(evicted(Some(&spec(false, scratch)), message).id, id, "{message}");
        }
        assert_eq!(evicted(None, "").id, "evicted");
    }

    #[test]
    fn a_deployment_says_why_it_has_no_pod() {
        let deployment = |type_: &str, status: &str, message: &str| {
            serde_json::from_value::<Deployment>(json!({"status": {"conditions": [
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetCreated"},
                {"type": type_, "status": status, "reason": "FailedCreate", "message": message}]}}))
            .unwrap()
        };
        let quota = "pods \"hello-0-5d9c\" is forbidden: exceeded quota: octopus-functions, requested: requests.memory=256Mi, used: requests.memory=0, limited: requests.memory=64Mi";
        let security =
            "pods \"hello-0-5d9c\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot != true";
        for (deployment, expected) in [
            (
                deployment("ReplicaFailure", "True", quota),
                Some((reason::QUOTA_EXCEEDED, quota)),
            ),
            (
                deployment("ReplicaFailure", "True", security),
                Some((reason::REJECTED_BY_CLUSTER, security)),
            ),
            (deployment("ReplicaFailure", "False", quota), None),
            (deployment("Available", "True", ""), None),
            (Deployment::default(), None),
        ] {
            let expected = expected.map(|(why, message)| Verdict::because(ProcessState::Failing, why, message));
            assert_eq!(hindered(&deployment), expected);
        }
    }
}
