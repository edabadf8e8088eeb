//! Pods that look at the cluster from inside: one listens, one looks, both in the function namespace and as isolated as
//! functions are. A policy opens one of two ports between them; whether the other is closed shows what policies are worth.

use std::time::Duration;

use chrono::Utc;
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, LogParams, PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::judge::{Gpu, Inside};
use crate::cluster::helper::{Helper, LOOK_EVERY, NotRunning, PURPOSE, START_LIMIT, remove, running};
use crate::cluster::{Cluster, ClusterError, Deletion, limited};

/// The program of both pods.
pub(super) const PROGRAM: &str = include_str!("probe.py");
/// Where an image has a function's file.
const PROGRAM_PATH: &str = "/app/main.py";
const ALLOWED_PORT: u16 = 8080;
const DENIED_PORT: u16 = 8081;
/// A minute more than both may take.
const DEADLINE: Duration = Duration::from_secs(2 * START_LIMIT.as_secs() + 120);
/// The program itself bounds what it does to some 30 s.
const LOOK_LIMIT: Duration = Duration::from_secs(90);
/// A scheduler answers within a second.
const SCHEDULE_LIMIT: Duration = Duration::from_secs(15);

/// The objects of one preflight, told apart from those of others by its id.
pub(super) struct Probe<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) image: &'a str,
    pub(super) id: Uuid,
}

/// What became of the probes.
#[derive(Debug)]
pub(super) enum Probed {
    /// What the pod saw, and how far the node's clock is ahead of ours, in seconds.
    Seen(Inside, f64),
    /// No pod ran: why, in a node's or the scheduler's words.
    NotStarted(String),
    /// Something else went wrong.
    Failed(String),
}

impl Probe<'_> {
    fn name(&self, role: &str) -> String {
        format!("preflight-{role}-{}", &self.id.simple().to_string()[..12])
    }

    fn pod(&self, role: &str, arguments: &[&str]) -> Result<Pod, serde_json::Error> {
        let mut command: Vec<String> = ["python", "-I", "-u", PROGRAM_PATH].map(String::from).into();
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let mut pod = Helper {
            name: self.name(role),
            purpose: "preflight",
            image: self.image,
            command,
            env: Vec::new(),
            resources: json!({
                "requests": {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "16Mi"},
                "limits": {"cpu": "1", "memory": "512Mi", "ephemeral-storage": "128Mi"},
            }),
            scratch: "16Mi",
            deadline: DEADLINE,
            pull_secret: self.cluster.around.pull_secret.as_deref(),
        }
        .pod()?;
        if let Some(labels) = pod.metadata.labels.as_mut() {
            labels.insert(RUN.into(), self.id.to_string());
        }
        if let Some(spec) = pod.spec.as_mut() {
            spec.runtime_class_name.clone_from(&self.cluster.around.runtime_class);
            spec.termination_grace_period_seconds = Some(0);
        }
        Ok(pod)
    }

    /// Opens one port between the pods of this preflight, and closes everything else about them.
    fn policy(&self) -> Result<NetworkPolicy, serde_json::Error> {
        let pods = json!({"matchLabels": {RUN: self.id.to_string()}});
        let open = json!([{"protocol": "TCP", "port": ALLOWED_PORT}]);
        serde_json::from_value(json!({
            "metadata": {
                "name": self.name("policy"),
                "labels": {
                    "app.kubernetes.io/managed-by": "octopus-manager",
                    PURPOSE: "preflight",
                    RUN: self.id.to_string(),
                },
            },
            "spec": {
                "podSelector": pods,
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": pods}], "ports": open}],
                "egress": [{"to": [{"podSelector": pods}], "ports": open}],
            },
        }))
    }

    /// Runs both pods to the end of what the second one has to say.
    pub(super) async fn look(&self) -> Probed {
        match self.looked().await {
            Ok((inside, skew)) => Probed::Seen(inside, skew),
            Err(Fault::NotStarted(why)) => Probed::NotStarted(why.to_string()),
            Err(Fault::Failed(why)) => Probed::Failed(why),
        }
    }

    async fn looked(&self) -> Result<(Inside, f64), Fault> {
        let pods = self.cluster.api::<Pod>();
        limited(
            self.cluster
                .api::<NetworkPolicy>()
                .create(&PostParams::default(), &self.policy()?),
        )
        .await?;
        let (allowed, denied) = (ALLOWED_PORT.to_string(), DENIED_PORT.to_string());
        let listener = self.pod("listener", &["serve", &allowed, &denied])?;
        limited(pods.create(&PostParams::default(), &listener)).await?;
        let listener = running(&pods, &self.name("listener")).await?;
        // A port that nobody listens at yet would look like one that a policy closes.
        let listens = |line: &str| (line == "listening").then_some(());
        self.first_line("listener", listens).await?;
        let address = listener.status.and_then(|status| status.pod_ip).unwrap_or_default();
        let looker = self.pod("looker", &["look", &address, &allowed, &denied])?;
        limited(pods.create(&PostParams::default(), &looker)).await?;
        match running(&pods, &self.name("looker")).await {
            // It may have said everything before it was looked at.
            Ok(_) | Err(NotRunning::Ended(_)) => {}
            Err(why) => return Err(why.into()),
        }
        self.first_line("looker", seen).await
    }

    /// What the first line of a pod's log that says something says.
    async fn first_line<T>(&self, role: &str, says: impl Fn(&str) -> Option<T>) -> Result<T, Fault> {
        timeout(LOOK_LIMIT, self.read_until(role, says))
            .await
            .map_err(|_| Fault::Failed(format!("the {role} said nothing within {} s", LOOK_LIMIT.as_secs())))?
    }

    async fn read_until<T>(&self, role: &str, says: impl Fn(&str) -> Option<T>) -> Result<T, Fault> {
        let parameters = LogParams {
            follow: true,
            ..LogParams::default()
        };
        let pods = self.cluster.api::<Pod>();
        let stream = limited(pods.log_stream(&self.name(role), &parameters)).await?;
        let mut lines = stream.lines();
        let mut last = String::new();
        while let Some(line) = lines
            .try_next()
            .await
            .map_err(|error| Fault::Failed(error.to_string()))?
        {
            if let Some(said) = says(&line) {
                return Ok(said);
            }
            last = line;
        }
        Err(Fault::Failed(format!("the {role} ended without a result: {last}")))
    }

    /// Asks the scheduler for a place for a pod with one GPU. It never runs longer than that.
    pub(super) async fn gpu(&self) -> Gpu {
        match self.scheduled().await {
            Ok(answer) => answer,
            Err(Fault::NotStarted(why)) => Gpu::Unknown(why.to_string()),
            Err(Fault::Failed(why)) => Gpu::Unknown(why),
        }
    }

    async fn scheduled(&self) -> Result<Gpu, Fault> {
        let gpus = &self.cluster.around.gpus;
        let mut pod = self.pod("gpu", &["serve"])?;
        if let Some(spec) = pod.spec.as_mut() {
            spec.node_selector = Some(gpus.selector.0.clone());
            spec.tolerations = Some(gpus.tolerated()).filter(|taints: &Vec<Toleration>| !taints.is_empty());
            for container in &mut spec.containers {
                let one = || {
                    (
                        gpus.resource.clone(),
                        k8s_openapi::apimachinery::pkg::api::resource::Quantity("1".into()),
                    )
                };
                let resources = container.resources.get_or_insert_default();
                resources.limits.get_or_insert_default().extend([one()]);
                resources.requests.get_or_insert_default().extend([one()]);
            }
        }
        let pods = self.cluster.api::<Pod>();
        limited(pods.create(&PostParams::default(), &pod)).await?;
        let name = self.name("gpu");
        let ends = Instant::now() + SCHEDULE_LIMIT;
        while Instant::now() < ends {
            let pod = limited(pods.get_opt(&name)).await?.ok_or(NotRunning::Deleted)?;
            if let Some(answer) = placed(&pod) {
                return Ok(answer);
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(Gpu::Unknown("the scheduler said nothing about a pod with a GPU".into()))
    }

    /// Removes what this preflight made, and what others left that were interrupted. Best effort: the pods end by themselves.
    pub(super) async fn clear(&self) {
        let ours = ListParams::default().labels(&format!("{PURPOSE}=preflight"));
        let old = Utc::now() - DEADLINE;
        let done = |metadata: &ObjectMeta| {
            let label = metadata.labels.as_ref().and_then(|labels| labels.get(RUN));
            let made = metadata.creation_timestamp.as_ref().map(|made| made.0);
            label.is_some_and(|run| *run == self.id.to_string())
                || made.is_some_and(|made| made.as_second() < old.timestamp())
        };
        let pods = self.cluster.api::<Pod>();
        if let Ok(found) = limited(pods.list(&ours)).await {
            for pod in found.items.iter().filter(|pod| done(&pod.metadata)) {
                remove(&pods, pod).await;
            }
        }
        if let Ok(found) = limited(self.cluster.api::<NetworkPolicy>().list(&ours)).await {
            for policy in found.items.iter().filter(|policy| done(&policy.metadata)) {
                let removed = self
                    .cluster
                    .remove::<NetworkPolicy>(&policy.metadata, Deletion::Graceful);
                if let Err(error) = removed.await {
                    tracing::info!(error = %error, "the policy of a preflight was not removed");
                }
            }
        }
    }
}

/// The looker's one line, and how far the node's clock was ahead of ours when it was read.
fn seen(line: &str) -> Option<(Inside, f64)> {
    let inside: Inside = serde_json::from_str(line).ok()?;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century fit")]
    let here = Utc::now().timestamp_millis() as f64 / 1000.0;
    let skew = inside.time - here;
    Some((inside, skew))
}

/// Which preflight an object belongs to.
const RUN: &str = "octopus-process-manager/preflight";

/// Where the scheduler put a pod, if it said so.
fn placed(pod: &Pod) -> Option<Gpu> {
    if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
        return Some(Gpu::Scheduled(node));
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    (scheduled.reason.as_deref() == Some("Unschedulable"))
        .then(|| Gpu::Unschedulable(scheduled.message.clone().unwrap_or_default()))
}

/// Asks whether a privileged pod would be accepted, without creating it.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn privileged_refused(cluster: &Cluster) -> Result<Option<String>, ClusterError> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "preflight-privileged", "labels": {PURPOSE: "preflight"}},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "none", "image": "none",
                "securityContext": {"privileged": true},
                "resources": {
                    "requests": {"cpu": "1m", "memory": "16Mi"},
                    "limits": {"cpu": "1m", "memory": "16Mi"},
                },
            }],
        },
    }))
    .map_err(|error| ClusterError::Away(error.to_string()))?;
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    match limited(cluster.api::<Pod>().create(&dry, &pod)).await {
        Ok(_) => Ok(None),
        Err(ClusterError::Refused { message, .. })
            if message.contains("PodSecurity") || message.contains("privileged") =>
        {
            Ok(Some(message))
        }
        Err(error) => Err(error),
    }
}

/// Why a probe did not end.
enum Fault {
    NotStarted(NotRunning),
    Failed(String),
}

impl From<NotRunning> for Fault {
    fn from(why: NotRunning) -> Self {
        match why {
            NotRunning::Stuck(_) | NotRunning::Ended(_) => Self::NotStarted(why),
            NotRunning::Deleted | NotRunning::Cluster(_) => Self::Failed(why.to_string()),
        }
    }
}

impl From<ClusterError> for Fault {
    fn from(error: ClusterError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
