//! The pod of a process: isolated, started by the starter of its image, asked how it is.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, ExecAction, HTTPGetAction, LocalObjectReference, PodSecurityContext,
    PodSpec, Probe, SeccompProfile, SecurityContext, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use octopus_shared::db::report::ProcessRow;

use super::{CONTAINER, Surroundings, need};
use crate::cluster::label;

/// User and group that functions run as.
const NOBODY: i64 = 65532;
/// The starter, which every image holds beside the function.
const STARTER: &str = "/opt/octopus/start.py";
/// The function's file in its image.
const FUNCTION: &str = "/app/main.py";

/// What the pods of a service say about themselves, beside their labels.
pub(super) fn annotations(process: &ProcessRow) -> Option<BTreeMap<String, String>> {
    let route = process.entry.set_up.clone();
    let set_up = route.map(|route| (label::SET_UP.to_owned(), route));
    let all: BTreeMap<_, _> = set_up.into_iter().chain(label::restart(process)).collect();
    Some(all).filter(|all| !all.is_empty())
}

/// Isolation by default: no root, no privilege, no token, a read-only root, sized scratch space, limits on everything.
pub(super) fn pod_spec(around: &Surroundings, process: &ProcessRow, image: &str, answers: bool) -> PodSpec {
    let spec = &process.function_spec;
    let limits = need::limits(process);
    let gpus = (limits.gpus > 0).then_some(&around.gpus);
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        host_users: around.user_namespaces.then_some(false),
        image_pull_secrets: Some(pull_secrets(around, process)).filter(|names| !names.is_empty()),
        node_selector: gpus
            .map(|gpus| gpus.selector.0.clone())
            .filter(|labels| !labels.is_empty()),
        tolerations: gpus.map(super::Gpus::tolerated).filter(|taints| !taints.is_empty()),
        runtime_class_name: gpus
            .and_then(|gpus| gpus.runtime_class.clone())
            .or_else(|| around.runtime_class.clone()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(NOBODY),
            run_as_group: Some(NOBODY),
            fs_group: Some(NOBODY),
            // A volume of models is large: its files change hands once, not at every start.
            fs_group_change_policy: (!spec.volumes.is_empty()).then(|| "OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(spec.stop_grace_seconds.into()),
        volumes: Some(need::volumes(spec, &limits)),
        containers: vec![Container {
            resources: Some(need::requirements(&limits, &around.gpus.resource)),
            ..container(process, image, answers)
        }],
        ..PodSpec::default()
    }
}

/// The manager's own, then the function's.
fn pull_secrets(around: &Surroundings, process: &ProcessRow) -> Vec<LocalObjectReference> {
    let mut names: Vec<&String> = around.pull_secret.iter().collect();
    for name in &process.function_spec.pull_secrets {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
        .into_iter()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect()
}

fn container(process: &ProcessRow, image: &str, answers: bool) -> Container {
    Container {
        name: CONTAINER.into(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: Some(command(process, answers)),
        args: Some(arguments(process, answers)).filter(|args| !args.is_empty()),
        env: Some(need::environment(process)),
        ports: answers.then(|| {
            vec![ContainerPort {
                name: Some("http".into()),
                container_port: process.function_spec.port.into(),
                ..ContainerPort::default()
            }]
        }),
        startup_probe: answers.then(|| started(process.function_spec.start_seconds)),
        readiness_probe: answers.then(|| healthy(process.entry.health.as_deref())),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".into()]),
                ..Capabilities::default()
            }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(need::mounts(&process.function_spec)),
        ..Container::default()
    }
}

/// `-I` shields the starter alone from the function's environment and folder; the function gets all of it.
fn command(process: &ProcessRow, answers: bool) -> Vec<String> {
    let mut command = ["python", "-I", "-u", STARTER].map(String::from).to_vec();
    if answers {
        command.extend(["--port".to_owned(), process.function_spec.port.to_string()]);
        if let Some(route) = &process.entry.set_up {
            command.extend(["--set-up".to_owned(), route.clone()]);
        }
    }
    command.extend(["--", FUNCTION].map(String::from));
    command
}

/// The process's own arguments, after the address that a rewritten file has to be told.
fn arguments(process: &ProcessRow, answers: bool) -> Vec<String> {
    let own = &process.spec.args;
    let names = |option: &str| {
        own.iter().any(|arg| {
            arg.strip_prefix(option)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })
    };
    let address = [
        ("--host", "0.0.0.0".to_owned()),
        ("--port", process.function_spec.port.to_string()),
    ];
    let told = address
        .into_iter()
        .filter(|(option, _)| answers && process.entry.takes_address && !names(option))
        .flat_map(|(option, value)| [option.to_owned(), value]);
    told.chain(own.iter().cloned()).collect()
}

/// Until it listens and its set-up was performed. The starter knows; until then nobody asks whether it is well.
fn started(seconds: i32) -> Probe {
    Probe {
        exec: Some(ExecAction {
            command: Some(["python", "-I", "-S", STARTER, "--probe"].map(String::from).into()),
        }),
        period_seconds: Some(1),
        timeout_seconds: Some(5),
        failure_threshold: Some(seconds),
        ..Probe::default()
    }
}

/// By its health route where it has one, which is optional, or else by whether it takes connections.
fn healthy(route: Option<&str>) -> Probe {
    let port = IntOrString::String("http".into());
    let (http_get, tcp_socket) = match route {
        Some(route) => (
            Some(HTTPGetAction {
                path: Some(route.to_owned()),
                port,
                ..HTTPGetAction::default()
            }),
            None,
        ),
        None => (
            None,
            Some(TCPSocketAction {
                port,
                ..TCPSocketAction::default()
            }),
        ),
    };
    Probe {
        http_get,
        tcp_socket,
        period_seconds: Some(2),
        timeout_seconds: Some(2),
        failure_threshold: Some(5),
        ..Probe::default()
    }
}
