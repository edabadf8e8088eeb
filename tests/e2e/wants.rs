//! What a function lacks is named within seconds, with a remedy, and when it appears the function goes on by itself.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, ResourceQuota, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::functions::{HELLO, WORK, small, task};

/// The promise: from the request to the reason.
const SOON: u64 = 10;

/// A process that shows this state and reason, with words and a remedy.
async fn lacks(stack: &Stack, process: Uuid, state: &str, reason: &str) -> Value {
    let shown = stack.client.shows(process, "reason", reason, SOON).await;
    assert_eq!(shown["state"], state, "{shown}");
    for field in ["message", "remedy"] {
        assert!(shown[field].as_str().is_some_and(|words| !words.is_empty()), "{shown}");
    }
    shown
}

async fn succeeds(stack: &Stack, process: Uuid) {
    let gone = stack.client.shows(process, "lifecycle", "gone", 120).await;
    assert_eq!(
        (&gone["state"], &gone["reason"]),
        (&json!("succeeded"), &Value::Null),
        "{gone}"
    );
}

fn object<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_named_and_awaited() {
    const VALUE: &str = "not-for-anybodys-eyes";
    let stack = Stack::start("secret").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    // Its image is on the node then.
    let first = stack.client.start("work", task(&["say", "first"])).await;
    succeeds(&stack, first).await;

    let mut spec = task(&["say", "has it"]);
    spec["env"] = json!([{"name": "API_KEY", "from_secret": {"name": "keys", "key": "openai"}}]);
    let process = stack.client.start("work", spec).await;
    let shown = lacks(&stack, process, "failing", "config_error").await;
    assert!(
        shown["message"].as_str().unwrap().contains("secret \"keys\" not found"),
        "{shown}"
    );
    assert!(shown["remedy"].as_str().unwrap().contains("Secret"), "{shown}");

    let secret: Secret = object(json!({"metadata": {"name": "keys"}, "stringData": {"openai": VALUE}}));
    stack
        .namespace
        .api::<Secret>()
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
    succeeds(&stack, process).await;

    let manifest = stack
        .client
        .send(
            reqwest::Method::GET,
            &format!("/api/v1/processes/{process}/manifest"),
            &Value::Null,
        )
        .await
        .1;
    assert!(manifest.to_string().contains("secretKeyRef"), "{manifest}");
    let row: String = sqlx::query_scalar(
        "select concat(to_jsonb(p), (select jsonb_agg(to_jsonb(d)) from pod d), (select jsonb_agg(to_jsonb(e)) from process_event e))
           from process p where id = $1",
    )
    .bind(process)
    .fetch_one(&stack.owner)
    .await
    .unwrap();
    assert!(row.contains("keys") && !row.contains(VALUE));
    for file in std::fs::read_dir(stack.logs()).unwrap() {
        let log = std::fs::read_to_string(file.unwrap().path()).unwrap_or_default();
        assert!(!log.contains(VALUE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_gpu_is_named_and_awaited() {
    let resource = format!("octopus.test/gpu-{}", &Uuid::new_v4().simple().to_string()[..8]);
    let stack = Stack::start("gpu").await;
    let _manager = stack.manager_with(&[("OCTOPUS_GPU_RESOURCE", &resource)]).await;
    stack.client.build("work", WORK, small()).await;
    let mut spec = task(&["say", "has it"]);
    spec["resources"] = json!({"gpus": 1});
    let process = stack.client.start("work", spec).await;
    let shown = lacks(&stack, process, "starting", "insufficient_gpu").await;
    assert!(shown["message"].as_str().unwrap().contains(&resource), "{shown}");

    let nodes: Api<Node> = Api::all(stack.namespace.admin.clone());
    let node = nodes.list(&ListParams::default()).await.unwrap().items[0]
        .metadata
        .name
        .clone()
        .unwrap();
    let offer = async |amount: Value| {
        let offered = json!({ resource.as_str(): amount });
        let patch = json!({"status": {"capacity": offered, "allocatable": offered}});
        nodes
            .patch_status(&node, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    };
    offer(json!("1")).await;
    // The node is not the test's own: what it is made to offer is taken back however this ends.
    let ended = stack.client.shows(process, "lifecycle", "gone", 600);
    let ended = tokio::time::timeout(Duration::from_secs(120), ended).await;
    offer(Value::Null).await;
    assert_eq!(ended.unwrap()["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_beyond_the_quota_says_so_and_awaits_room() {
    let stack = Stack::start("quota").await;
    let _manager = stack.manager().await;
    stack.client.build("hello", HELLO, small()).await;
    let quotas = stack.namespace.api::<ResourceQuota>();
    let allow = async |pods: &str| {
        let patch = json!({"spec": {"hard": {"pods": pods}}});
        quotas
            .patch(&stack.namespace.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
    };
    allow("0").await.unwrap();
    // What is refused is decided by what the quota's own controller has seen.
    until("the quota to hold", 30, async || {
        let quota = quotas.get(&stack.namespace.name).await.ok()?;
        (quota.status?.hard?.get("pods")?.0 == "0").then_some(())
    })
    .await;
    let process = stack.client.start("hello", json!({"kind": "service"})).await;
    let shown = lacks(&stack, process, "failing", "quota_exceeded").await;
    assert!(shown["message"].as_str().unwrap().contains("exceeded quota"), "{shown}");
    assert!(stack.namespace.pods().await.is_empty());

    let unwanted = stack.client.start("hello", json!({"kind": "service"})).await;
    lacks(&stack, unwanted, "failing", "quota_exceeded").await;
    let kill = stack.client.kill(unwanted, json!({})).await;
    assert_eq!(stack.client.ended(kill, 30).await["state"], "succeeded");
    assert_eq!(stack.client.process(unwanted).await["lifecycle"], "gone");

    allow("500").await.unwrap();
    stack.client.shows(process, "state", "ready", 120).await;
    let kill = stack.client.kill(process, json!({})).await;
    assert_eq!(stack.client.ended(kill, 60).await["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_does_not_exist_is_named_and_awaited() {
    let stack = Stack::start("volume").await;
    let _manager = stack.manager().await;
    let mut spec = small();
    spec["volumes"] = json!([{"claim": "models", "path": "/models"}]);
    stack.client.build("work", WORK, spec).await;
    let process = stack.client.start("work", task(&["say", "has it"])).await;
    let shown = lacks(&stack, process, "starting", "volume_not_found").await;
    assert!(shown["message"].as_str().unwrap().contains("\"models\""), "{shown}");

    let claim: PersistentVolumeClaim = object(json!({
        "metadata": {"name": "models"},
        "spec": {"storageClassName": "", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }));
    let claims = stack.namespace.api::<PersistentVolumeClaim>();
    claims.create(&PostParams::default(), &claim).await.unwrap();
    lacks(&stack, process, "starting", "volume_pending").await;

    let name = format!("models-{}", stack.namespace.name);
    let volume: PersistentVolume = object(json!({
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "claimRef": {"namespace": stack.namespace.name, "name": "models"},
            "hostPath": {"path": format!("/tmp/{name}"), "type": "DirectoryOrCreate"},
        },
    }));
    let volumes: Api<PersistentVolume> = Api::all(stack.namespace.admin.clone());
    volumes.create(&PostParams::default(), &volume).await.unwrap();
    succeeds(&stack, process).await;
    volumes.delete(&name, &DeleteParams::default()).await.unwrap();
}
