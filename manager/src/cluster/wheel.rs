//! Pods that build wheels from source: a stranger's set-up code runs there, in a namespace of its own, isolated, with
//! limits, with a way to the package index and to nothing else. The wheel comes out through a forwarded port.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::sleep;

use super::helper::{Helper, LOOK_EVERY, NotRunning, START_LIMIT, remove, running};
use super::{Cluster, ClusterError, limited};
use crate::config::Config;
use crate::image::{
    AUTHORITIES_PATH, Away, BuildError, BuildFault, BuildLog, MAX_WHEEL_BYTES, PROGRAM_PATH, Part, Wheel, WheelMaker,
    WheelOrder,
};

/// Port of the pod's program, on its loopback address.
const PORT: u16 = 8080;
/// Compiled packages take long; flash-attn takes hours and is refused by this.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
/// The answer's first line.
const MAX_HEAD_BYTES: u64 = 64 << 10;

/// Builds wheels in pods.
#[derive(Clone)]
pub struct WheelPods {
    cluster: Cluster,
    namespace: String,
    index_secret: Option<String>,
}

/// The first line of the pod's answer.
#[derive(Debug, Deserialize)]
struct Head {
    error: Option<String>,
    #[serde(default)]
    file: String,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    sha256: String,
}

impl WheelPods {
    /// None: the settings name no namespace for builds.
    pub fn new(config: &Config, cluster: &Cluster) -> Option<Self> {
        Some(Self {
            cluster: cluster.clone(),
            namespace: config.build_namespace.clone().filter(|name| !name.is_empty())?,
            index_secret: config.build_index_secret.clone(),
        })
    }

    async fn build(&self, order: &WheelOrder, log: &dyn BuildLog) -> Result<Wheel, BuildError> {
        let pods = self.cluster.pods_of(&self.namespace);
        let wanted = pod(
            order,
            self.cluster.around.pull_secret.as_deref(),
            self.index_secret.as_deref(),
        )
        .map_err(|error| BuildError::machine("the build's pod cannot be written", error))?;
        let pod = create(&pods, &wanted).await?;
        let name = pod.metadata.name.clone().unwrap_or_default();
        log.line(&format!("pod {name} of {}", self.namespace));
        let built = tokio::time::timeout(BUILD_LIMIT, async {
            running(&pods, &name).await.map_err(not_running)?;
            fetch(&pods, &name).await
        });
        let built = built.await.unwrap_or_else(|_| {
            let problem = format!("building it took longer than {} minutes", BUILD_LIMIT.as_secs() / 60);
            Err(refused(problem))
        });
        remove(&pods, &pod).await;
        built
    }
}

impl WheelMaker for WheelPods {
    fn make<'a>(&'a self, order: &'a WheelOrder, log: &'a dyn BuildLog) -> BoxFuture<'a, Result<Wheel, BuildError>> {
        Box::pin(self.build(order, log))
    }
}

fn away(error: impl std::fmt::Display) -> BuildError {
    BuildError::new(
        BuildFault::Unreachable,
        format!("the pod that builds it cannot be had: {error}"),
        "Check the namespace of the builds and the manager's rights in it; it is tried again.",
    )
}

fn refused(problem: impl AsRef<str>) -> BuildError {
    BuildError::new(
        BuildFault::SourceDistribution,
        problem,
        "Choose a version with a wheel; or ask the operator for base images with what its build needs, a compiler for one.",
    )
}

fn not_running(why: NotRunning) -> BuildError {
    match why {
        NotRunning::Ended(_) => refused(why.to_string()),
        NotRunning::Cluster(error) => of_cluster(error),
        NotRunning::Stuck(_) | NotRunning::Deleted => away(why),
    }
}

/// An API server that is away is waited for; one that says no may go on saying it.
fn of_cluster(error: ClusterError) -> BuildError {
    let asked = match &error {
        ClusterError::Away(_) => Duration::ZERO,
        ClusterError::Busy { after, .. } => *after,
        _ => return away(error),
    };
    let part = Away {
        part: Part::ApiServer,
        asked,
        silent: false,
    };
    away(error).for_want_of(part)
}

/// Creates the pod. One of the same name builds the same thing: another manager's, or that of an earlier try. It is used
/// while it lives.
async fn create(pods: &Api<Pod>, wanted: &Pod) -> Result<Pod, BuildError> {
    let name = wanted.metadata.name.clone().unwrap_or_default();
    match limited(pods.create(&PostParams::default(), wanted)).await {
        Ok(pod) => return Ok(pod),
        Err(ClusterError::Refused { code: 409, .. }) => {}
        Err(error) => return Err(of_cluster(error)),
    }
    let found = limited(pods.get_opt(&name)).await.map_err(of_cluster)?;
    let found = found.ok_or_else(|| away("it is being deleted"))?;
    let phase = found.status.as_ref().and_then(|status| status.phase.as_deref());
    if found.metadata.deletion_timestamp.is_none() && matches!(phase, None | Some("Pending" | "Running")) {
        return Ok(found);
    }
    remove(pods, &found).await;
    Err(away("one of an earlier try is being deleted"))
}

/// Connects until the program listens, then waits for its answer.
async fn fetch(pods: &Api<Pod>, name: &str) -> Result<Wheel, BuildError> {
    loop {
        match answer(pods, name).await {
            Ok(Some(built)) => return built,
            // Not listening yet, or ended: the pod tells which.
            Ok(None) | Err(_) => {
                running(pods, name).await.map_err(not_running)?;
                sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// One connection. None: it was closed before anything came.
async fn answer(pods: &Api<Pod>, name: &str) -> Result<Option<Result<Wheel, BuildError>>, kube::Error> {
    let mut forwarded = pods.portforward(name, &[PORT]).await?;
    let Some(stream) = forwarded.take_stream(PORT) else {
        return Ok(None);
    };
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let read = (&mut stream).take(MAX_HEAD_BYTES).read_until(b'\n', &mut line).await;
    if read.is_err() || line.last() != Some(&b'\n') {
        return Ok(None);
    }
    let mut content = Vec::new();
    // A stranger's code ran beside whoever answers: what comes is bounded and checked.
    let read = (&mut stream).take(MAX_WHEEL_BYTES + 1).read_to_end(&mut content).await;
    if read.is_err() {
        return Ok(None);
    }
    Ok(Some(check(&line, content)))
}

fn check(line: &[u8], content: Vec<u8>) -> Result<Wheel, BuildError> {
    let head: Head =
        serde_json::from_slice(line).map_err(|_| refused("its build answered something else than a wheel"))?;
    if let Some(error) = head.error {
        return Err(refused(format!("it could not be built: {error}")));
    }
    if content.len() as u64 > MAX_WHEEL_BYTES {
        return Err(refused("its wheel is larger than 512 MiB"));
    }
    if content.len() as u64 != head.bytes || hex::encode(Sha256::digest(&content)) != head.sha256 {
        return Err(away("its wheel came incomplete"));
    }
    Ok(Wheel {
        file: head.file,
        content,
    })
}

/// The pod of one wheel. Named by what it builds, so that two managers do not build it twice.
fn pod(order: &WheelOrder, pull_secret: Option<&str>, index_secret: Option<&str>) -> Result<Pod, serde_json::Error> {
    let mut command = vec![
        "python".to_owned(),
        "-u".into(),
        PROGRAM_PATH.into(),
        order.requirement.clone(),
    ];
    let mut env = vec![
        json!({"name": "HOME", "value": "/tmp"}),
        json!({"name": "TMPDIR", "value": "/tmp"}),
        json!({"name": "UV_CACHE_DIR", "value": "/tmp/.cache/uv"}),
        json!({"name": "UV_PYTHON_DOWNLOADS", "value": "never"}),
        json!({"name": "UV_NO_PROGRESS", "value": "1"}),
        // The image's own setting is for functions.
        json!({"name": "PIP_NO_INDEX", "value": ""}),
    ];
    for name in ["PIP_INDEX_URL", "UV_DEFAULT_INDEX"] {
        match (index_secret, &order.index) {
            (Some(secret), _) => {
                env.push(json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": "url"}}}));
            }
            (None, Some(index)) => env.push(json!({"name": name, "value": index})),
            (None, None) => {}
        }
    }
    for index in &order.indexes {
        command.extend(["--extra-index-url".to_owned(), index.clone()]);
    }
    if !order.indexes.is_empty() {
        env.push(json!({"name": "UV_INDEX", "value": order.indexes.join(" ")}));
    }
    if order.authorities {
        for name in ["SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"] {
            env.push(json!({"name": name, "value": AUTHORITIES_PATH}));
        }
    }
    Helper {
        name: format!("wheel-{}", &order.key[..20.min(order.key.len())]),
        purpose: "wheel",
        image: &order.image,
        command,
        env,
        resources: json!({
            "requests": {"cpu": "100m", "memory": "512Mi", "ephemeral-storage": "64Mi"},
            "limits": {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "8Gi"},
        }),
        scratch: "8Gi",
        deadline: BUILD_LIMIT + START_LIMIT,
        pull_secret,
    }
    .pod()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> WheelOrder {
        WheelOrder {
            key: "0123456789abcdef0123456789abcdef".into(),
            requirement: "docopt==0.6.2".into(),
            index: Some("https://index.example.com/simple".into()),
            indexes: vec!["https://more.example.com/simple".into()],
            image: "registry/functions@sha256:0".into(),
            authorities: true,
        }
    }

    #[test]
    fn the_pod_is_isolated_and_holds_no_secret() {
        insta::assert_yaml_snapshot!("wheel", pod(&order(), Some("pull"), Some("index")).unwrap());
    }

    #[test]
    fn only_a_whole_wheel_is_taken() {
        let content = b"wheel".to_vec();
        let head = |bytes: u64, hash: &str| {
            serde_json::to_vec(&json!({"file": "a-1-py3-none-any.whl", "bytes": bytes, "sha256": hash})).unwrap()
        };
        let hash = hex::encode(Sha256::digest(&content));
        let whole = check(&head(5, &hash), content.clone()).unwrap();
        assert_eq!(
            (whole.file.as_str(), whole.content),
            ("a-1-py3-none-any.whl", content.clone())
        );
        for (line, retryable) in [
            (head(6, &hash), true),
            (head(5, &"0".repeat(64)), true),
            (b"{\"error\": \"no compiler\"}".to_vec(), false),
            (b"hello".to_vec(), false),
        ] {
            assert_eq!(check(&line, content.clone()).unwrap_err().is_retryable(), retryable);
        }
    }
}
