//! Rows -> Kubernetes objects. Pure functions that return typed structs; the snapshots beside this file show them as YAML.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, LocalObjectReference, Pod,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext,
    Service, ServicePort, ServiceSpec, TCPSocketAction, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use octopus_shared::db::report::ProcessRow;
use uuid::Uuid;

use super::label;

/// Name of the one container of every pod.
pub const CONTAINER: &str = "function";
/// User and group that functions run as.
const NOBODY: i64 = 65532;
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
        metadata: metadata(around, process, process.name.clone()),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            revision_history_limit: Some(1),
            selector: LabelSelector {
                match_labels: Some(selector),
                ..LabelSelector::default()
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels(around, process)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod_spec(around, process, image, true)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    };
    Ok((hashed(service)?, hashed(deployment)?))
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

/// URL at which a service is called from inside its cluster.
pub fn endpoint(process: &ProcessRow, namespace: &str) -> String {
    format!(
        "http://{}.{namespace}.svc.cluster.local:{}",
        process.name, process.function_spec.port
    )
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

/// Isolation by default: no root, no privilege, no token, a read-only root, sized scratch space, limits on everything.
fn pod_spec(around: &Surroundings, process: &ProcessRow, image: &str, answers: bool) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        host_users: around.user_namespaces.then_some(false),
        image_pull_secrets: around
            .pull_secret
            .as_ref()
            .map(|name| vec![LocalObjectReference { name: name.clone() }]),
        runtime_class_name: around.runtime_class.clone(),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(NOBODY),
            run_as_group: Some(NOBODY),
            fs_group: Some(NOBODY),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(process.function_spec.stop_grace_seconds.into()),
        containers: vec![container(process, image, answers)],
        volumes: Some(vec![Volume {
            name: "scratch".into(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity(resources(process).ephemeral_storage.clone())),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        }]),
        ..PodSpec::default()
    }
}

fn container(process: &ProcessRow, image: &str, answers: bool) -> Container {
    let port = process.function_spec.port.into();
    Container {
        name: CONTAINER.into(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: Some(["python", "-u", "/app/main.py"].map(String::from).into()),
        args: Some(process.spec.args.clone()).filter(|args| !args.is_empty()),
        env: Some(environment(process)),
        ports: answers.then(|| {
            vec![ContainerPort {
                name: Some("http".into()),
                container_port: port,
                ..ContainerPort::default()
            }]
        }),
        // TCP, not HTTP: a health route is optional in a function's file.
        readiness_probe: answers.then(|| Probe {
            tcp_socket: Some(TCPSocketAction {
                port: IntOrString::String("http".into()),
                ..TCPSocketAction::default()
            }),
            period_seconds: Some(2),
            timeout_seconds: Some(2),
            failure_threshold: Some(5),
            ..Probe::default()
        }),
        resources: Some(requirements(process)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".into()]),
                ..Capabilities::default()
            }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: "scratch".into(),
            mount_path: "/tmp".into(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

/// Later ones win: what every function is given, the function's own, the process's own.
fn environment(process: &ProcessRow) -> Vec<EnvVar> {
    let given = [("HOME", "/tmp"), ("TMPDIR", "/tmp"), ("XDG_CACHE_HOME", "/tmp/.cache")];
    let declared = process.function_spec.env.iter().chain(&process.spec.env);
    let merged: BTreeMap<&str, &str> = given
        .into_iter()
        .chain(declared.map(|variable| (variable.name.as_str(), variable.value.as_str())))
        .collect();
    merged
        .into_iter()
        .map(|(name, value)| EnvVar {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            ..EnvVar::default()
        })
        .collect()
}

fn resources(process: &ProcessRow) -> &octopus_shared::process::Resources {
    process
        .spec
        .resources
        .as_ref()
        .unwrap_or(&process.function_spec.resources)
}

fn requirements(process: &ProcessRow) -> ResourceRequirements {
    let resources = resources(process);
    let quantities = |list: [(&str, &str); 3]| {
        Some(
            list.into_iter()
                .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
                .collect(),
        )
    };
    ResourceRequirements {
        limits: quantities([
            ("cpu", &resources.cpu),
            ("memory", &resources.memory),
            ("ephemeral-storage", &resources.ephemeral_storage),
        ]),
        // Without a request of its own, scratch space would be reserved at its limit.
        requests: quantities([
            ("cpu", &resources.cpu_request),
            ("memory", &resources.memory),
            ("ephemeral-storage", "16Mi"),
        ]),
        ..ResourceRequirements::default()
    }
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
mod tests {
    use octopus_shared::function::FunctionSpec;
    use octopus_shared::process::{EnvVar, Lifecycle, ProcessKind, ProcessSpec, ProcessState};

    use super::*;

    fn around() -> Surroundings {
        Surroundings {
            installation: Uuid::nil(),
            pull_secret: None,
            runtime_class: None,
            user_namespaces: false,
        }
    }

    fn process(kind: ProcessKind) -> ProcessRow {
        ProcessRow {
            id: Uuid::max(),
            name: "hello-ffffffffffff".into(),
            function: "hello".into(),
            revision: 3,
            function_spec: FunctionSpec {
                env: vec![EnvVar {
                    name: "MODE".into(),
                    value: "function".into(),
                }],
                ..FunctionSpec::default()
            },
            spec: ProcessSpec {
                env: vec![EnvVar {
                    name: "MODE".into(),
                    value: "process".into(),
                }],
                ..ProcessSpec::new(kind)
            },
            killed: false,
            kill_grace_seconds: None,
            kill_force: false,
            lifecycle: Lifecycle::Requested,
            state: ProcessState::Pending,
            attempt: 2,
            image: None,
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
