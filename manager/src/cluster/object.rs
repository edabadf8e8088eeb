//! Rows -> Kubernetes objects. Pure functions that return typed structs; the snapshots beside this file show them as YAML.

pub mod change;
pub(super) mod need;
mod pod;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use octopus_shared::db::report::ProcessRow;
use uuid::Uuid;

use self::pod::pod_spec;
use super::expose::{self, Reach};
use super::gpu::Gpus;
use super::{label, policy};

/// Name of the one container of every pod.
pub const CONTAINER: &str = "function";
/// Seconds that a task runs at most when nothing was asked for.
const DEFAULT_TIMEOUT_SECONDS: i64 = 3600;

/// What all objects of a cluster have in common.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The installation.
    pub installation: Uuid,
    /// Secret with which nodes pull.
    pub pull_secret: Option<String>,
    /// Runtime class.
    pub runtime_class: Option<String>,
    /// Whether pods run in user namespaces.
    pub user_namespaces: bool,
    /// Where pods with GPUs run.
    pub gpus: Gpus,
    /// The ways to functions, and from them.
    pub reach: Reach,
}

/// The NetworkPolicy of a process, if it needs one.
pub fn policy(around: &Surroundings, process: &ProcessRow) -> Result<Option<NetworkPolicy>, serde_json::Error> {
    let metadata = metadata(around, process, process.name.clone());
    policy::policy(&around.reach, process, metadata).map(hashed).transpose()
}

/// The Ingress of a process, if it is exposed by one.
pub fn ingress(around: &Surroundings, process: &ProcessRow) -> Result<Option<Ingress>, serde_json::Error> {
    let metadata = metadata(around, process, process.name.clone());
    expose::ingress(&around.reach, process, metadata)
        .map(hashed)
        .transpose()
}

/// The Service and the Deployment of a process of kind `service`.
pub fn service(
    around: &Surroundings,
    process: &ProcessRow,
    image: &str,
) -> Result<(Service, Deployment), serde_json::Error> {
    let selector: BTreeMap<_, _> = [(label::PROCESS.to_owned(), process.id.to_string())].into();
    let service = Service {
        metadata: metadata(around, process, process.name.clone()),
        spec: Some(ServiceSpec {
            selector: Some(selector.clone()),
            type_: expose::service_type(process.function_spec.expose),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port: process.function_spec.port.into(),
                target_port: Some(IntOrString::String("http".into())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    let deployment = Deployment {
        metadata: ObjectMeta {
            annotations: label::restart(process).map(|restart| [restart].into()),
            ..metadata(around, process, process.name.clone())
        },
        spec: Some(DeploymentSpec {
            replicas: Some(process.replicas),
            revision_history_limit: Some(1),
            selector: LabelSelector {
                match_labels: Some(selector),
                ..LabelSelector::default()
            },
            strategy: Some(strategy(process)),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels(around, process)),
                    annotations: pod::annotations(process),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod_spec(around, process, image, true)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    };
    Ok((hashed(service)?, hashed_deployment(deployment)?))
}

/// The number of pods is no part of the hash: it changes alone.
fn hashed_deployment(mut deployment: Deployment) -> Result<Deployment, serde_json::Error> {
    let replicas = deployment.spec.as_mut().and_then(|spec| spec.replicas.take());
    let mut deployment = hashed(deployment)?;
    if let Some(spec) = &mut deployment.spec {
        spec.replicas = replicas;
    }
    Ok(deployment)
}

/// One pod more while it is replaced, but not where that one would wait for the GPU that the old one holds.
fn strategy(process: &ProcessRow) -> DeploymentStrategy {
    if need::limits(process).gpus > 0 {
        return DeploymentStrategy {
            type_: Some("Recreate".into()),
            rolling_update: None,
        };
    }
    DeploymentStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(1)),
            max_unavailable: Some(IntOrString::Int(0)),
        }),
    }
}

/// The Pod of one attempt of a process of kind `task`.
pub fn task(around: &Surroundings, process: &ProcessRow, image: &str) -> Result<Pod, serde_json::Error> {
    let mut labels = pod_labels(around, process);
    labels.insert(label::ATTEMPT.into(), process.attempt.to_string());
    let name = format!("{}-{}", process.name, process.attempt);
    let metadata = ObjectMeta {
        labels: Some(labels),
        ..metadata(around, process, name)
    };
    hashed(Pod {
        metadata,
        spec: Some(PodSpec {
            restart_policy: Some("Never".into()),
            active_deadline_seconds: Some(process.spec.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS)),
            ..pod_spec(around, process, image, false)
        }),
        ..Pod::default()
    })
}

fn metadata(around: &Surroundings, process: &ProcessRow, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        labels: Some(label::labels(around.installation, process)),
        ..ObjectMeta::default()
    }
}

fn pod_labels(around: &Surroundings, process: &ProcessRow) -> BTreeMap<String, String> {
    let mut labels = label::labels(around.installation, process);
    if process.function_spec.calls_functions {
        labels.insert(label::CALLS_FUNCTIONS.into(), "true".into());
    }
    labels
}

fn hashed<K: kube::Resource + serde::Serialize>(mut object: K) -> Result<K, serde_json::Error> {
    let hash = label::spec_hash(&object)?;
    object
        .meta_mut()
        .annotations
        .get_or_insert_default()
        .insert(label::SPEC_HASH.into(), hash);
    Ok(object)
}

#[cfg(test)]
pub(crate) mod tests {
    use octopus_shared::env::EnvVar as Variable;
    use octopus_shared::function::{Entry, FunctionSpec, Volume};
    use octopus_shared::process::{Lifecycle, ProcessKind, ProcessSpec, ProcessState};

    use super::*;

    pub(crate) fn around() -> Surroundings {
        Surroundings {
            installation: Uuid::nil(),
            pull_secret: None,
            runtime_class: None,
            user_namespaces: false,
            gpus: Gpus {
                resource: "nvidia.com/gpu".into(),
                selector: "gpu=a100".parse().unwrap(),
                tolerations: None,
                runtime_class: Some("nvidia".into()),
            },
            reach: Reach::default(),
        }
    }

    /// A process without anything special.
    pub(crate) fn process(kind: ProcessKind) -> ProcessRow {
        ProcessRow {
            id: Uuid::max(),
            name: "hello-ffffffffffff".into(),
            function: "hello".into(),
            revision: 3,
            function_spec: FunctionSpec {
                env: vec![Variable::plain("MODE", "function")],
                ..FunctionSpec::default()
            },
            entry: Default::default(),
            device_map: BTreeMap::new(),
            spec: ProcessSpec {
                env: vec![Variable::plain("MODE", "process")],
                ..ProcessSpec::new(kind)
            },
            killed: false,
            kill_grace_seconds: None,
            kill_force: false,
            lifecycle: Lifecycle::Requested,
            state: ProcessState::Pending,
            attempt: 2,
            image: None,
            replicas: 1,
            restarted_at: None,
            pod_seen: false,
        }
    }

    #[test]
    fn a_service() {
        let (service, deployment) =
            service(&around(), &process(ProcessKind::Service), "registry/functions@sha256:0").unwrap();
        insta::assert_yaml_snapshot!("service", service);
        insta::assert_yaml_snapshot!("deployment", deployment);
    }

    #[test]
    fn a_task_with_everything() {
        let around = Surroundings {
            pull_secret: Some("pull".into()),
            runtime_class: Some("gvisor".into()),
            user_namespaces: true,
            ..around()
        };
        let mut process = process(ProcessKind::Task);
        process.spec.args = vec!["--fast".into()];
        process.function_spec.calls_functions = true;
        insta::assert_yaml_snapshot!("task", task(&around, &process, "registry/functions@sha256:0").unwrap());
    }

    #[test]
    fn a_service_with_everything() {
        let around = Surroundings {
            pull_secret: Some("pull".into()),
            runtime_class: Some("gvisor".into()),
            ..around()
        };
        let volume = |claim: &str, path: &str, read_only| Volume {
            claim: claim.into(),
            path: path.into(),
            read_only,
        };
        let mut process = process(ProcessKind::Service);
        process.device_map = [("cuda:0".into(), "10GiB".into()), ("cpu".into(), "2GiB".into())].into();
        process.entry = Entry {
            set_up: Some("/v1/setup".into()),
            health: Some("/v1/health-check".into()),
            takes_address: true,
        };
        process.spec.args = vec!["--port=5000".into(), "--fast".into()];
        process.function_spec = FunctionSpec {
            start_seconds: 60,
            env: vec![
                Variable::secret("API_KEY", "keys", "openai"),
                Variable::plain("TORCH_HOME", "/models/mine"),
            ],
            volumes: vec![
                volume("data", "/data", true),
                volume("models", "/models", false),
                volume("models", "/shown", true),
            ],
            pull_secrets: vec!["pull".into(), "other".into()],
            ..FunctionSpec::default()
        };
        let (_, deployment) = service(&around, &process, "registry/functions@sha256:0").unwrap();
        insta::assert_yaml_snapshot!("everything", deployment);
    }

    #[test]
    fn the_same_row_makes_the_same_object() {
        let make = |attempt| {
            let mut process = process(ProcessKind::Task);
            process.attempt = attempt;
            task(&around(), &process, "image").unwrap().metadata
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1).name, make(2).name);
        assert_ne!(make(1).annotations, make(2).annotations);
    }
}
