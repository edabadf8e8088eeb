//! Functions as their users write them: unchanged files of every form, each made ready without network, set up once, and
//! called.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams, PostParams};
use octopus_tests::stack::Stack;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::functions::CALL;

struct File {
    name: &'static str,
    source: &'static str,
    spec: Value,
    /// Route that is called, and what it answers.
    route: &'static str,
    answer: &'static str,
    has_set_up: bool,
}

macro_rules! source {
    ($name:literal) => {
        include_str!(concat!("functions/octopus/", $name, ".py"))
    };
}

fn file(name: &'static str, source: &'static str, answer: &'static str) -> File {
    File {
        name,
        source,
        spec: json!({"resources": {"memory": "256Mi"}}),
        route: "/v1/answer",
        answer,
        has_set_up: true,
    }
}

fn files() -> Vec<File> {
    let without_set_up = |file: File| File {
        has_set_up: false,
        ..file
    };
    vec![
        without_set_up(file("plain", source!("plain"), "plain")),
        file("full", source!("full"), "full"),
        File {
            route: "/answer",
            ..file("rewritten", source!("rewritten"), "rewritten")
        },
        file("upgrade", source!("upgrade"), "upgrade"),
        without_set_up(file("old-python", source!("old_python"), "old python")),
        file("system", source!("system"), "system"),
        File {
            spec: json!({"resources": {"memory": "256Mi", "gpus": 0, "shared_memory": "32Mi"}}),
            ..file("gpu", source!("gpu"), "gpu")
        },
        file("slow", source!("slow"), "slow"),
        file("source", source!("source"), "source 0.6.2"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_file_runs_unchanged() {
    let stack = Stack::start("files").await;
    let _manager = stack.manager().await;
    let client = &stack.client;
    let files = files();
    let mut builds = Vec::new();
    for file in &files {
        builds.push(client.declare(file.name, file.source, file.spec.clone()).await);
    }
    client.build("call", CALL, json!({"calls_functions": true})).await;
    for (file, build) in files.iter().zip(builds) {
        let built = client.ended(build, 300).await;
        assert_eq!(built["state"], "succeeded", "{}: {built}", file.name);
        let process = client.start(file.name, json!({"kind": "service"})).await;
        ready(&stack, file.name, process).await;
        let answer = call(&stack, process, file.route).await;
        assert!(
            answer.contains("call: 201") && answer.contains(file.answer),
            "{}: {answer}",
            file.name
        );
        let log = String::from_utf8(client.log(process).await).unwrap();
        let performed = log.matches("set-up performed\n").count();
        assert_eq!(performed, usize::from(file.has_set_up), "{}: {log}", file.name);
        let kill = client.kill(process, json!({})).await;
        assert_eq!(client.ended(kill, 60).await["state"], "succeeded", "{}", file.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_kept_on_their_volume_across_revisions() {
    let stack = Stack::start("models").await;
    let _manager = stack.manager().await;
    let client = &stack.client;
    volume(&stack).await;
    for (revision, found) in [(1, "the model was fetched"), (2, "the model was there")] {
        let source = format!("{}\n# revision {revision}\n", source!("models"));
        let spec = json!({
            "volumes": [{"claim": "models", "path": "/models"}],
            // The node's folder outlives this test.
            "env": [{"name": "MODEL", "value": stack.namespace.name}],
        });
        client.build("models", &source, spec).await;
        let process = client.start("models", json!({"kind": "service"})).await;
        ready(&stack, "models", process).await;
        let log = String::from_utf8(client.log(process).await).unwrap();
        assert!(log.contains(found), "revision {revision}: {log}");
        let kill = client.kill(process, json!({})).await;
        client.ended(kill, 60).await;
    }
}

/// Waits until a service is ready, and says how long that took once its image was there.
async fn ready(stack: &Stack, name: &str, process: Uuid) {
    stack.client.shows(process, "state", "ready", 120).await;
    let selector = ListParams::default().labels(&format!("octopus-process-manager/process={process}"));
    let pods = stack.namespace.api::<Pod>().list(&selector).await.unwrap();
    let status = pods.items[0].status.clone().unwrap();
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.restart_count, 0, "{name}");
    let started = container.state.clone().unwrap().running.unwrap().started_at.unwrap();
    let conditions = status.conditions.unwrap();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    let ready = ready.last_transition_time.clone().unwrap();
    let took = ready.0.duration_since(started.0);
    // A figure to read and not to assert: the machine may be busy.
    println!("{name} was ready {took:#} after its container started");
}

/// Calls a service at its endpoint from inside of the cluster; answers what the caller printed.
async fn call(stack: &Stack, process: Uuid, route: &str) -> String {
    let endpoint = stack.client.process(process).await["endpoint"]
        .as_str()
        .unwrap()
        .to_owned();
    let url = format!("{endpoint}{route}");
    let caller = stack
        .client
        .start("call", json!({"kind": "task", "args": [url, "somebody"]}))
        .await;
    stack.client.shows(caller, "lifecycle", "gone", 60).await;
    String::from_utf8(stack.client.log(caller).await).unwrap()
}

/// A volume on the node and the claim of it, as an operator makes them.
async fn volume(stack: &Stack) {
    let name = stack.namespace.name.clone();
    let volume: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": name,
            // The kubelet sets no owner on a folder of the node: this one everybody may write.
            "hostPath": {"path": "/tmp", "type": "Directory"},
        },
    }))
    .unwrap();
    let volumes: Api<PersistentVolume> = Api::all(stack.namespace.admin.clone());
    volumes.create(&PostParams::default(), &volume).await.unwrap();
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": "models"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": name,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }))
    .unwrap();
    let claims = stack.namespace.api::<PersistentVolumeClaim>();
    claims.create(&PostParams::default(), &claim).await.unwrap();
}
