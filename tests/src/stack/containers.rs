//! A registry with a password and a cluster: started once for each run, from the images that the environment names. What
//! is there already is used instead: `KUBECONFIG`, with `OCTOPUS_REGISTRY_PUSH` and `OCTOPUS_REGISTRY_PULL`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use testcontainers::core::{ContainerPort, ExecCommand, Mount, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, Image, ImageExt};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::postgres::{LABEL, remove_when_we_end};

/// User and password of the registry.
pub const REGISTRY_USER: (&str, &str) = ("octopus", "octopus-test");
/// The same as a line of htpasswd, with bcrypt's lowest cost.
const HTPASSWD: &str = "octopus:$2b$05$SYW7gyspbUrY.V.3ZB5ITuEHf3z0nGn4P77MDOJKK3BLBIhy3/Oby\n";
/// Where both kinds of node write their administrator's kubeconfig.
const KUBECONFIG: &str = "/etc/kubernetes/admin.kubeconfig";
/// The same version as in docker-compose.yml.
const K3S: &str = "rancher/k3s:v1.34.1-k3s1";
/// Names how long a log may be until its node rotates it, in a run that wants longer ones; the development cluster has it too.
const LOG_MAX_SIZE: &str = "LOG_MAX_SIZE";
/// Python versions for which there is a base image in the tests.
const PYTHONS: [(&str, &str, &str); 4] = [
    ("cp310", "PYTHON_IMAGE_310", "python:3.10-slim"),
    ("cp311", "PYTHON_IMAGE_311", "python:3.11-slim"),
    ("cp312", "PYTHON_IMAGE_312", "python:3.12-slim"),
    ("cp313", "PYTHON_IMAGE_313", "python:3.13-slim"),
];

/// Those that there are: a stand-in for a Python that this machine does not have is not named.
fn pythons() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let stand_in = env::var("IMAGES").is_ok_and(|kind| kind == "stand-in");
    PYTHONS
        .into_iter()
        .filter(move |(_, variable, _)| !stand_in || env::var(variable).is_ok())
}

/// What all tests of a run share.
pub struct Containers {
    /// Administrator's kubeconfig of the cluster.
    pub kubeconfig: PathBuf,
    /// URL that is pushed to.
    pub registry_push: String,
    /// Name that nodes pull from.
    pub registry_pull: String,
    /// The node's container, where it is ours: for faults that only it can have.
    pub node: Option<ContainerAsync<GenericImage>>,
    _registry: Option<ContainerAsync<GenericImage>>,
}

static CONTAINERS: OnceCell<Containers> = OnceCell::const_new();

/// Starts them at the first call.
pub async fn containers() -> &'static Containers {
    CONTAINERS.get_or_init(start).await
}

async fn start() -> Containers {
    if let Ok(kubeconfig) = env::var("KUBECONFIG") {
        let setting = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} must be set beside KUBECONFIG"));
        return Containers {
            kubeconfig: kubeconfig.into(),
            registry_push: setting("OCTOPUS_REGISTRY_PUSH"),
            registry_pull: setting("OCTOPUS_REGISTRY_PULL"),
            node: None,
            _registry: None,
        };
    }
    let id = std::process::id();
    let network = format!("octopus-test-{id}");
    let registry_name = format!("octopus-test-registry-{id}");
    let registry = registry(&network, &registry_name).await;
    remove_when_we_end(registry.id());
    let port = registry.get_host_port_ipv4(5000).await.expect("the registry's port");
    push_bases(port).await;
    let registry_pull = format!("{registry_name}:5000");
    let node = cluster(&network, &registry_pull).await;
    remove_when_we_end(node.id());
    let kubeconfig = write_kubeconfig(&node).await;
    let registry_push = format!("http://127.0.0.1:{port}");
    Containers {
        kubeconfig,
        registry_push,
        registry_pull,
        node: Some(node),
        _registry: Some(registry),
    }
}

fn image(variable: &str, default: &str) -> GenericImage {
    let name = env::var(variable).unwrap_or_else(|_| default.to_owned());
    let (name, tag) = name.rsplit_once(':').map_or((name.as_str(), "latest"), |parts| parts);
    GenericImage::new(name, tag)
}

async fn registry(network: &str, name: &str) -> ContainerAsync<GenericImage> {
    image("REGISTRY_IMAGE", "registry:2")
        .with_exposed_port(ContainerPort::Tcp(5000))
        .with_wait_for(WaitFor::message_on_stderr("listening on"))
        .with_label(LABEL.0, LABEL.1)
        .with_network(network)
        .with_container_name(name)
        .with_copy_to("/htpasswd", HTPASSWD.as_bytes().to_vec())
        .with_env_var("REGISTRY_AUTH", "htpasswd")
        .with_env_var("REGISTRY_AUTH_HTPASSWD_REALM", "test")
        .with_env_var("REGISTRY_AUTH_HTPASSWD_PATH", "/htpasswd")
        .start()
        .await
        .expect("the registry starts")
}

/// A node of one of two kinds: k3s, or the stand-in where it cannot be pulled (k8s/dev/node.Dockerfile).
async fn cluster(network: &str, registry: &str) -> ContainerAsync<GenericImage> {
    let image = image("CLUSTER_IMAGE", K3S);
    let is_k3s = image.name().contains("k3s");
    let ready = if is_k3s {
        "Node controller sync successful"
    } else {
        "cluster ready"
    };
    let request = image
        .with_exposed_port(ContainerPort::Tcp(6443))
        .with_wait_for(WaitFor::message_on_either_std(ready))
        .with_startup_timeout(Duration::from_secs(240))
        .with_label(LABEL.0, LABEL.1)
        .with_network(network)
        .with_hostname("cluster");
    let request = if is_k3s {
        k3s(request, registry)
    } else {
        stand_in(request, registry)
    };
    request.start().await.expect("the cluster starts")
}

fn k3s(request: ContainerRequest<GenericImage>, registry: &str) -> ContainerRequest<GenericImage> {
    let (user, password) = REGISTRY_USER;
    let registries = format!(
        "{{mirrors: {{\"{registry}\": {{endpoint: [\"http://{registry}\"]}}}}, \
         configs: {{\"{registry}\": {{auth: {{username: {user}, password: {password}}}}}}}}}"
    );
    request
        .with_privileged(true)
        .with_env_var("K3S_KUBECONFIG_OUTPUT", KUBECONFIG)
        .with_copy_to("/etc/rancher/k3s/registries.yaml", registries.into_bytes())
        .with_mount(Mount::tmpfs_mount("/run"))
        .with_mount(Mount::tmpfs_mount("/var/run"))
        .with_cmd([
            "server".to_owned(),
            "--tls-san=127.0.0.1".into(),
            "--disable=traefik,servicelb,metrics-server".into(),
            "--kubelet-arg=max-pods=500".into(),
            format!("--kubelet-arg=container-log-max-size={}", log_max_size()),
            "--kube-controller-manager-arg=node-cidr-mask-size=22".into(),
        ])
}

fn log_max_size() -> String {
    env::var(LOG_MAX_SIZE).unwrap_or_else(|_| "10Mi".into())
}

fn stand_in(request: ContainerRequest<GenericImage>, registry: &str) -> ContainerRequest<GenericImage> {
    request
        .with_env_var("REGISTRY", registry)
        .with_env_var("REGISTRY_USER", REGISTRY_USER.0)
        .with_env_var("REGISTRY_PASSWORD", REGISTRY_USER.1)
        .with_env_var("KUBECONFIG_OUTPUT", KUBECONFIG)
        .with_env_var(LOG_MAX_SIZE, log_max_size())
        .with_cap_add("ALL")
        .with_cap_drop("SYS_RESOURCE")
        .with_security_opt("seccomp=unconfined")
        .with_security_opt("apparmor=unconfined")
        .with_mount(Mount::bind_mount("/sys/fs/cgroup", "/sys/fs/cgroup"))
        .with_mount(Mount::bind_mount("/dev/kmsg", "/dev/kmsg"))
        .with_host_config_modifier(|config| {
            config.device_cgroup_rules = Some(vec!["a *:* rwm".into()]);
            config.binds = Some(
                ["/sys:/sys:rw", "/lib/modules:/lib/modules:ro"]
                    .map(String::from)
                    .into(),
            );
        })
}

async fn write_kubeconfig(node: &ContainerAsync<GenericImage>) -> PathBuf {
    let mut shown = node
        .exec(ExecCommand::new(["cat", KUBECONFIG]))
        .await
        .expect("the kubeconfig");
    let text = String::from_utf8(shown.stdout_to_vec().await.expect("the kubeconfig")).expect("text");
    let port = node.get_host_port_ipv4(6443).await.expect("the API server's port");
    let path = scratch().join("admin.kubeconfig");
    let here = format!("https://127.0.0.1:{port}");
    let text = text
        .replace("https://cluster:6443", &here)
        .replace("https://127.0.0.1:6443", &here);
    std::fs::write(&path, text).expect("a file");
    path
}

/// A file of the node, where its container is ours.
pub async fn node_file(shared: &Containers, path: &str) -> Option<Vec<u8>> {
    on_node(shared, &["cat", path]).await
}

/// What a command prints on the node, where its container is ours: that of this run, or the one that OCTOPUS_NODE_CONTAINER names
/// beside KUBECONFIG. None: it is not, or the command failed.
pub async fn on_node(shared: &Containers, command: &[&str]) -> Option<Vec<u8>> {
    let id = match &shared.node {
        Some(node) => node.id().to_owned(),
        None => env::var("OCTOPUS_NODE_CONTAINER").ok()?,
    };
    let shown = Command::new("docker")
        .args(["exec", &id])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("docker is installed");
    shown.status.success().then_some(shown.stdout)
}

/// A folder of this run.
pub fn scratch() -> PathBuf {
    let path = target().join("e2e").join(std::process::id().to_string());
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

/// The folder with the programs: the tests run from its `deps`.
pub(crate) fn target() -> PathBuf {
    let test = env::current_exe().expect("the path of this program");
    let profile = test.ancestors().find(|path| path.join("octopus-manager").exists());
    profile
        .map(Path::to_owned)
        .expect("cargo build --bins has not made the programs yet")
}

/// One of our programs.
pub fn program(name: &str) -> PathBuf {
    target().join(name)
}

/// Pushes the Python images that functions are built on.
async fn push_bases(port: u16) {
    let config = scratch().join("docker");
    std::fs::create_dir_all(&config).expect("a folder");
    let registry = format!("127.0.0.1:{port}");
    docker(
        &config,
        &[
            "login",
            "--username",
            REGISTRY_USER.0,
            "--password",
            REGISTRY_USER.1,
            &registry,
        ],
    )
    .await;
    for (tag, variable, default) in pythons() {
        let image = env::var(variable).unwrap_or_else(|_| default.to_owned());
        let pushed = format!("{registry}/base/python:{tag}");
        docker(&config, &["tag", &image, &pushed]).await;
        docker(&config, &["push", "--quiet", &pushed]).await;
        docker(&config, &["rmi", &pushed]).await;
    }
}

/// The local name of a base image: `cp312`.
pub fn base_image(tag: &str) -> String {
    let (_, variable, default) = PYTHONS
        .iter()
        .find(|(known, ..)| *known == tag)
        .expect("a known Python");
    env::var(variable).unwrap_or_else(|_| (*default).to_owned())
}

async fn docker(config: &Path, arguments: &[&str]) {
    let output = Command::new("docker")
        .env("DOCKER_CONFIG", config)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("docker is installed");
    assert!(
        output.status.success(),
        "docker {}: {}",
        arguments[0],
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The setting OCTOPUS_BASE_IMAGES for the images that were pushed.
pub(crate) fn base_images(registry_push: &str) -> String {
    let bases: Vec<_> = pythons()
        .map(|(tag, ..)| format!("{tag}={registry_push}/base/python:{tag}"))
        .collect();
    bases.join(",")
}
