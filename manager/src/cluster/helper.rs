//! Pods of the manager's own: they build a wheel, or probe the cluster, and go. As isolated as functions are.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Preconditions};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::object::CONTAINER;
use super::{ClusterError, limited};

/// What such a pod is for: `wheel` or `preflight`.
pub(crate) const PURPOSE: &str = "octopus-process-manager/purpose";
/// A pod that does not run by then will not.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(3 * 60);
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A node says these once it has tried, and will try again for hours.
const HOPELESS: [&str; 4] = [
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
];

/// A pod that runs one program of ours once.
#[derive(Clone, Debug)]
pub(crate) struct Helper<'a> {
    pub(crate) name: String,
    pub(crate) purpose: &'static str,
    pub(crate) image: &'a str,
    pub(crate) command: Vec<String>,
    /// As Kubernetes has it.
    pub(crate) env: Vec<Value>,
    /// Requests and limits, as Kubernetes has them.
    pub(crate) resources: Value,
    /// Of `/tmp`.
    pub(crate) scratch: &'static str,
    /// The pod ends by itself after that.
    pub(crate) deadline: Duration,
    pub(crate) pull_secret: Option<&'a str>,
}

impl Helper<'_> {
    pub(crate) fn pod(self) -> Result<Pod, serde_json::Error> {
        let secrets: Vec<Value> = self.pull_secret.iter().map(|name| json!({"name": name})).collect();
        serde_json::from_value(json!({
            "metadata": {
                "name": self.name,
                "labels": {"app.kubernetes.io/managed-by": "octopus-manager", PURPOSE: self.purpose},
            },
            "spec": {
                "restartPolicy": "Never",
                "activeDeadlineSeconds": self.deadline.as_secs(),
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "imagePullSecrets": secrets,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": CONTAINER,
                    "image": self.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": self.command,
                    "env": self.env,
                    "workingDir": "/tmp",
                    "resources": self.resources,
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "capabilities": {"drop": ["ALL"]},
                        "readOnlyRootFilesystem": true,
                    },
                    "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
                }],
                "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": self.scratch}}],
            },
        }))
    }
}

/// Why a pod does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRunning {
    /// It ended before, or at once.
    #[error("its pod ended: {0}")]
    Ended(String),
    /// Waiting longer would not help, by its node's or the scheduler's own words.
    #[error("{0}")]
    Stuck(String),
    /// Somebody deleted it.
    #[error("somebody deleted it")]
    Deleted,
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Waits until a pod runs, and answers how it then is.
pub(crate) async fn running(pods: &Api<Pod>, name: &str) -> Result<Pod, NotRunning> {
    let ends = Instant::now() + START_LIMIT;
    loop {
        let pod = limited(pods.get_opt(name)).await?.ok_or(NotRunning::Deleted)?;
        let status = pod.status.clone().unwrap_or_default();
        match status.phase.as_deref() {
            Some("Running") => return Ok(pod),
            Some("Failed" | "Succeeded") => {
                return Err(NotRunning::Ended(status.message.or(status.reason).unwrap_or_default()));
            }
            _ if is_hopeless(&pod) || Instant::now() > ends => return Err(NotRunning::Stuck(why(&pod))),
            _ => sleep(LOOK_EVERY).await,
        }
    }
}

fn is_hopeless(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| &status.container_statuses)
        .flatten();
    let waiting = statuses.filter_map(|status| status.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    waiting.into_iter().any(|reason| HOPELESS.contains(&reason))
}

/// What a pod that does not start waits for.
pub(crate) fn why(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let waiting = status.container_statuses.into_iter().flatten().next();
    let waiting = waiting.and_then(|container| container.state?.waiting);
    let unscheduled = status
        .conditions
        .into_iter()
        .flatten()
        .find_map(|condition| condition.message);
    waiting
        .and_then(|waiting| waiting.message.or(waiting.reason))
        .or(unscheduled)
        .unwrap_or_else(|| "it does not start".into())
}

/// Best effort: the pod's own deadline ends it, and whoever comes next removes it.
pub(crate) async fn remove(pods: &Api<Pod>, pod: &Pod) {
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let name = pod.metadata.name.clone().unwrap_or_default();
    if let Err(error) = limited(pods.delete(&name, &parameters)).await {
        tracing::info!(pod.name = %name, error = %error, "a pod of the manager's own was not removed");
    }
}
