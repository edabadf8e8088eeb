//! Images with 70 MB of dependencies: cold, with known wheels, with a known layer; each code-only change beside `docker
//! build` and `docker push` of the same thing. Then start -> Ready beside a bare client that creates the same pod.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use octopus_tests::stack::containers::{base_image, scratch};
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

use super::quantile;

/// numpy alone unpacks to some 70 MB.
const DEPENDENCIES: &str = "pip install -q numpy==2.2.6 Flask==3.1.0";
/// Interleaved pairs.
const PAIRS: usize = 7;

fn source(dependencies: &str, mark: usize) -> String {
    format!(
        r#"dependencies = ["{dependencies}"]
config_str = '''{{"device_map": {{}}, "required_python_version": "cp312", "functions": []}}'''
from flask import Flask
app = Flask(__name__)
MARK = {mark}
if __name__ == "__main__":
    app.run(host="0.0.0.0", port=5000, threaded=True)
"#
    )
}

pub(super) async fn run(stack: &Stack) {
    let manager = stack.manager().await;
    let cold = build(stack, &source(DEPENDENCIES, 0)).await;
    let more = format!("{DEPENDENCIES} six==1.17.0");
    let wheels = build(stack, &source(&more, 0)).await;
    println!("image, nothing known: {cold:.1?}; wheels known, another layer: {wheels:.1?}");

    let docker = Docker::prepare(stack).await;
    println!(
        "docker build and push of the same, nothing known: {:.1?}",
        docker.build(0).await
    );
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for mark in 1..=PAIRS {
        ours.push(build(stack, &source(DEPENDENCIES, mark)).await);
        theirs.push(docker.build(mark).await);
    }
    ours.sort_unstable();
    theirs.sort_unstable();
    let (ours, theirs) = (quantile(&ours, 0.5), quantile(&theirs, 0.5));
    println!(
        "image, code changed: request -> image in the registry {ours:.1?}, docker build and push {theirs:.1?}, {:.1} times \
         as fast (medians of {PAIRS} pairs)",
        theirs.as_secs_f64() / ours.as_secs_f64()
    );
    starts(stack).await;
    assert!(manager.terminate().await, "the manager ends cleanly");
}

/// From the request to the end of its command.
async fn build(stack: &Stack, source: &str) -> Duration {
    let started = Instant::now();
    stack.client.build("image", source, json!({})).await;
    started.elapsed()
}

struct Docker {
    folder: tempfile::TempDir,
    tag: String,
}

impl Docker {
    async fn prepare(stack: &Stack) -> Self {
        let folder = tempfile::tempdir_in(scratch()).expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
        let authorities = std::env::var("OCTOPUS_CA_BUNDLE").ok();
        let bundle = authorities.map_or_else(String::new, |path| {
            std::fs::read_to_string(path).expect("the authorities")
        });
        write("ca.crt", &bundle);
        let trusted = if bundle.is_empty() {
            ""
        } else {
            "ENV PIP_CERT=/ca.crt\n"
        };
        let packages = DEPENDENCIES.trim_start_matches("pip install -q ");
        write(
            "Dockerfile",
            &format!(
                "FROM {}\nCOPY ca.crt /ca.crt\n{trusted}RUN pip install --no-cache-dir {packages}\nCOPY main.py /app/main.py\n",
                base_image("cp312")
            ),
        );
        let registry = stack.shared.registry_push.trim_start_matches("http://");
        Self {
            folder,
            tag: format!("{registry}/bench/docker:latest"),
        }
    }

    /// The same code change as a daemon makes it.
    async fn build(&self, mark: usize) -> Duration {
        let main = self.folder.path().join("main.py");
        std::fs::write(main, source(DEPENDENCIES, mark)).expect("a file");
        let started = Instant::now();
        docker(&[
            "build",
            "--quiet",
            "--tag",
            &self.tag,
            &self.folder.path().display().to_string(),
        ])
        .await;
        docker(&["push", "--quiet", &self.tag]).await;
        started.elapsed()
    }
}

async fn docker(arguments: &[&str]) {
    let ended = Command::new("docker")
        .env("DOCKER_CONFIG", Path::join(&scratch(), "docker"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("docker is installed");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// The image is on the node after the first start; each pair starts a service, and then a bare pod of the same spec.
async fn starts(stack: &Stack) {
    let mut pod = None;
    let mut ours = Vec::new();
    let mut bare = Vec::new();
    for round in 0..=PAIRS {
        let started = Instant::now();
        let process = stack.client.start("image", json!({"kind": "service"})).await;
        stack.client.shows(process, "state", "ready", 120).await;
        let took = started.elapsed();
        let template = pod.get_or_insert(bare_pod(stack, process).await);
        let kill = stack.client.kill(process, json!({"grace_seconds": 2})).await;
        stack.client.ended(kill, 60).await;
        let beside = start_bare(stack, template).await;
        if round > 0 {
            ours.push(took);
            bare.push(beside);
        }
    }
    ours.sort_unstable();
    bare.sort_unstable();
    println!(
        "start -> Ready: request -> ready in the API {:.1?}, a bare client's pod of the same spec {:.1?} (medians of {PAIRS} \
         pairs, polled every 100 ms)",
        quantile(&ours, 0.5),
        quantile(&bare, 0.5)
    );
}

/// The pod of a service as a plain pod, without what the cluster added to it.
async fn bare_pod(stack: &Stack, process: Uuid) -> Pod {
    let selector = ListParams::default().labels(&format!("octopus-process-manager/process={process}"));
    let pods = stack.namespace.api::<Pod>().list(&selector).await.expect("pods");
    let mut spec = serde_json::to_value(&pods.items.first().expect("a pod").spec).expect("JSON");
    let fields = spec.as_object_mut().expect("a spec");
    for added in [
        "nodeName",
        "tolerations",
        "priority",
        "serviceAccount",
        "serviceAccountName",
        "preemptionPolicy",
    ] {
        fields.remove(added);
    }
    fields.insert("terminationGracePeriodSeconds".into(), 0.into());
    let pod: Value = json!({"metadata": {"name": "bare"}, "spec": spec});
    serde_json::from_value(pod).expect("a pod")
}

async fn start_bare(stack: &Stack, pod: &Pod) -> Duration {
    let pods = stack.namespace.api::<Pod>();
    let started = Instant::now();
    pods.create(&PostParams::default(), pod).await.expect("a pod");
    until("the bare pod to be ready", 120, async || {
        let conditions = pods.get("bare").await.ok()?.status?.conditions?;
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
            .then_some(())
    })
    .await;
    let took = started.elapsed();
    pods.delete("bare", &DeleteParams::default()).await.expect("a deletion");
    until("the bare pod to be gone", 60, async || {
        pods.get_opt("bare").await.ok()?.is_none().then_some(())
    })
    .await;
    took
}
