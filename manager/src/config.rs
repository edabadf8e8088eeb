//! Every setting of the manager, read once from the command line and the environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use octopus_shared::reason::{self, Reason};
use url::Url;

use crate::cluster::{expose, gpu};

/// The settings of a running manager. It runs outside the cluster; any number of managers may serve one, and each takes over
/// within seconds what a dead one left. SIGTERM finishes what is under way, a second one gives it back at once.
#[derive(Clone, Debug, Args)]
pub struct Config {
    /// Postgres, as a login in the role octopus_manager. A direct connection: LISTEN does not pass a transaction pooler.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Connections to Postgres at most.
    #[arg(long, env = "OCTOPUS_DATABASE_CONNECTIONS", default_value_t = 16)]
    pub database_connections: u32,
    /// Kubeconfig of the manager's service account. It may appear later: the manager waits for it.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: PathBuf,
    /// Seconds that a renewed token lives. It is renewed at half of its life; API servers refuse less than 600.
    #[arg(long, env = "OCTOPUS_TOKEN_SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(600..))]
    pub token_seconds: u32,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "OCTOPUS_LISTEN", default_value = "127.0.0.1:8081")]
    pub listen: SocketAddr,
    /// Name of the cluster: commands are addressed to it.
    #[arg(long, env = "OCTOPUS_CLUSTER", default_value = "default")]
    pub cluster: String,
    /// Namespace of the functions. Outside of it the manager only renews its own token, and makes pods in the build namespace.
    #[arg(long, env = "OCTOPUS_NAMESPACE", default_value = "octopus-functions")]
    pub namespace: String,
    /// Registry that images are pushed to: http(s)://host:port.
    #[arg(long, env = "OCTOPUS_REGISTRY_PUSH")]
    pub registry_push: String,
    /// User at that registry.
    #[arg(long, env = "OCTOPUS_REGISTRY_PUSH_USER")]
    pub registry_push_user: Option<String>,
    /// File that holds the password of that user.
    #[arg(long, env = "OCTOPUS_REGISTRY_PUSH_PASSWORD_FILE")]
    pub registry_push_password_file: Option<PathBuf>,
    /// Name under which nodes pull the same images: host:port, with a path if there is one.
    #[arg(long, env = "OCTOPUS_REGISTRY_PULL")]
    pub registry_pull: String,
    /// Secret of type dockerconfigjson in the function namespace with which nodes pull. The manager only names it.
    #[arg(long, env = "OCTOPUS_REGISTRY_PULL_SECRET")]
    pub registry_pull_secret: Option<String>,
    /// Base image for each Python version: cp311=reference,cp312=reference. http:// before a reference: a plain registry.
    #[arg(
        long,
        env = "OCTOPUS_BASE_IMAGES",
        default_value = "cp310=docker.io/library/python:3.10-slim,cp311=docker.io/library/python:3.11-slim,cp312=docker.io/library/python:3.12-slim,cp313=docker.io/library/python:3.13-slim"
    )]
    pub base_images: String,
    /// System packages that all base images hold, separated by commas: what functions may ask for by `apt-get install`.
    #[arg(long, env = "OCTOPUS_SYSTEM_PACKAGES", value_delimiter = ',')]
    pub system_packages: Vec<String>,
    /// The uv binary, which resolves and unpacks dependencies.
    #[arg(long, env = "OCTOPUS_UV", default_value = "uv")]
    pub uv: PathBuf,
    /// Any Python from 3.8: uv does not start without one. Nothing of a function is run by it.
    #[arg(long, env = "OCTOPUS_PYTHON", default_value = "python3")]
    pub python: PathBuf,
    /// Package index instead of PyPI. It may hold credentials, which are never shown.
    #[arg(long, env = "OCTOPUS_INDEX_URL", hide_env_values = true)]
    pub index_url: Option<Url>,
    /// Namespace in which packages that exist as source only are built, each in a pod of its own (k8s/builds.yaml). Without it,
    /// or when it is empty, such packages are refused.
    #[arg(long, env = "OCTOPUS_BUILD_NAMESPACE")]
    pub build_namespace: Option<String>,
    /// Secret in that namespace whose key `url` is the package index with its password, for those pods.
    #[arg(long, env = "OCTOPUS_BUILD_INDEX_SECRET")]
    pub build_index_secret: Option<String>,
    /// Where wheels and layers are kept between builds. It may be emptied at any time.
    #[arg(long, env = "OCTOPUS_CACHE_DIR", default_value = "/var/cache/octopus")]
    pub cache_dir: PathBuf,
    /// Certificate authorities (PEM) for the registry and the package index, for a company proxy for one.
    #[arg(long, env = "OCTOPUS_CA_BUNDLE")]
    pub ca_bundle: Option<PathBuf>,
    /// Runtime class of the pods, for example gvisor.
    #[arg(long, env = "OCTOPUS_RUNTIME_CLASS")]
    pub runtime_class: Option<String>,
    /// Run pods in user namespaces. Needs Kubernetes 1.30 and nodes that can: ask the cluster's operator.
    #[arg(long, env = "OCTOPUS_USER_NAMESPACES", value_parser = FalseyValueParser::new())]
    pub user_namespaces: bool,
    /// Extended resource that the nodes' device plugin offers for GPUs.
    #[arg(long, env = "OCTOPUS_GPU_RESOURCE", default_value = "nvidia.com/gpu", value_parser = gpu::resource)]
    pub gpu_resource: String,
    /// Labels of the nodes that pods with GPUs run on: key=value,...
    #[arg(long, env = "OCTOPUS_GPU_NODE_SELECTOR", default_value = "")]
    pub gpu_node_selector: gpu::Selector,
    /// Taints that pods with GPUs tolerate: `key[=value][:effect],...` Left out: taints that are named as the resource is.
    #[arg(long, env = "OCTOPUS_GPU_TOLERATIONS")]
    pub gpu_tolerations: Option<gpu::Tolerations>,
    /// Runtime class of pods with GPUs instead of the one of all pods.
    #[arg(long, env = "OCTOPUS_GPU_RUNTIME_CLASS")]
    pub gpu_runtime_class: Option<String>,
    /// Address of the nodes as callers outside of the cluster see them: what `expose: node_port` is told with.
    #[arg(long, env = "OCTOPUS_NODE_ADDRESS")]
    pub node_address: Option<String>,
    /// Scheme and domain of the cluster's ingress, each function below it at a name of its own: `https://functions.example.org`
    #[arg(long, env = "OCTOPUS_INGRESS_URL", value_parser = expose::ingress_url)]
    pub ingress_url: Option<Url>,
    /// Ingress class. Left out: the cluster's default one.
    #[arg(long, env = "OCTOPUS_INGRESS_CLASS")]
    pub ingress_class: Option<String>,
    /// Labels of the namespace of the ingress controller, which calls the functions: key=value,...
    #[arg(long, env = "OCTOPUS_INGRESS_NAMESPACE_LABELS", default_value = "")]
    pub ingress_namespace_labels: gpu::Selector,
    /// Blocks that stay closed whatever a function's `egress` says, separated by commas: those of nodes, API server, Postgres and
    /// registry should be among them.
    #[arg(long, env = "OCTOPUS_CLOSED_BLOCKS", value_delimiter = ',', default_value = "169.254.0.0/16,fd00:ec2::/32,fe80::/10", value_parser = expose::block)]
    pub closed_blocks: Vec<String>,
    /// Seconds that a claim outlives its manager's last beat. Another manager takes over after that.
    #[arg(long, env = "OCTOPUS_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..=300))]
    pub lease_seconds: u64,
    /// Seconds between two looks at the queue when nothing announces work.
    #[arg(long, env = "OCTOPUS_POLL_SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub poll_seconds: u64,
    /// Images built at the same time.
    #[arg(long, env = "OCTOPUS_BUILDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub builds: u32,
    /// Processes created at the same time.
    #[arg(long, env = "OCTOPUS_STARTS", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub starts: u32,
    /// Processes ended at the same time.
    #[arg(long, env = "OCTOPUS_KILLS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub kills: u32,
    /// Logs followed at the same time; the others are read again and again. A node serves 128 to all its readers.
    #[arg(long, env = "OCTOPUS_FOLLOWED_LOGS", default_value_t = 100)]
    pub followed_logs: usize,
    /// Bytes a second that are read of one process's logs at most, 65536 or more; 0: as many as there are. Who prints more is read
    /// slower, and what its node rotates away meanwhile is on record as a gap.
    #[arg(long, env = "OCTOPUS_LOG_BYTES_PER_SECOND", default_value_t = 64 << 20, value_parser = log_rate)]
    pub log_bytes_per_second: u64,
    /// Bytes of printed lines that are kept of one process at most; 0: all. Of a longer log the oldest lines are dropped, and
    /// counted: its streams are `truncated`. Looked after every 10 s.
    #[arg(long, env = "OCTOPUS_LOG_BYTES_PER_PROCESS", default_value_t = 1 << 30, value_parser = clap::value_parser!(i64).range(0..))]
    pub log_bytes_per_process: i64,
    /// Folder of this manager alone, on a disk that outlives it, where logs are kept while Postgres is away. Without it, or when it
    /// is empty, logs wait on their nodes then, which keep little.
    #[arg(long, env = "OCTOPUS_SPOOL_DIR")]
    pub spool_dir: Option<PathBuf>,
    /// Bytes of that folder at most. When it is full, logs wait on their nodes.
    #[arg(long, env = "OCTOPUS_SPOOL_BYTES", default_value_t = 512 << 20, value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub spool_bytes: u64,
    /// Days after which commands, events and logs are dropped; a command that has not ended stays.
    #[arg(long, env = "OCTOPUS_KEEP_DAYS", default_value_t = 14, value_parser = clap::value_parser!(i32).range(1..=3650))]
    pub keep_days: i32,
    /// Seconds that an object of a process that is gone is left alone, and that a process without objects is believed.
    #[arg(long, env = "OCTOPUS_ORPHAN_GRACE_SECONDS", default_value_t = 60)]
    pub orphan_grace_seconds: u64,
    /// Seconds that a task waits for an image that its node does not find in the registry; then it fails. A malformed name fails it at
    /// once, and a service waits as long as it is wanted.
    #[arg(long, env = "OCTOPUS_IMAGE_NOT_FOUND_SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub image_not_found_seconds: u32,
    /// The same for an image that its node cannot pull for another reason: the registry is away, or refuses it.
    #[arg(long, env = "OCTOPUS_IMAGE_PULL_SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub image_pull_seconds: u32,
    /// Log as JSON, for collectors.
    #[arg(long, env = "OCTOPUS_LOG_JSON", value_parser = FalseyValueParser::new())]
    pub log_json: bool,
}

impl Config {
    /// How long a task waits for its image, by what its node says of it.
    pub fn image_grace(&self) -> [(Reason, Duration); 4] {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        [
            (reason::INVALID_IMAGE_NAME, Duration::ZERO),
            (reason::IMAGE_NOT_FOUND, seconds(self.image_not_found_seconds)),
            (reason::IMAGE_PULL_UNAUTHORIZED, seconds(self.image_pull_seconds)),
            (reason::IMAGE_PULL_FAILED, seconds(self.image_pull_seconds)),
        ]
    }

    /// How long a claim outlives the last beat.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }
}

/// A slower reader would take the silence that it makes for one of the stream.
fn log_rate(text: &str) -> Result<u64, String> {
    let rate: u64 = text.parse().map_err(|error| format!("{error}"))?;
    (rate == 0 || rate >= 65536)
        .then_some(rate)
        .ok_or_else(|| "it must be 0, or 65536 or more".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_logs_is_none_or_enough() {
        for (text, rate) in [("0", Some(0)), ("65535", None), ("65536", Some(65536)), ("-1", None)] {
            assert_eq!(log_rate(text).ok(), rate);
        }
    }
}
