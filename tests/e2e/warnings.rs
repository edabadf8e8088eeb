//! What a pod's status keeps to itself, told by Kubernetes' warnings.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, PostParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::containers::{containers, on_node};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::functions::{SICK, WORK, small, task};

async fn warned(stack: &Stack, process: Uuid, state: &str, reason: &str, words: &str) -> Value {
    let shown = stack.client.shows(process, "reason", reason, 60).await;
    assert_eq!(shown["state"], state, "{shown}");
    assert!(shown["message"].as_str().unwrap().contains(words), "{shown}");
    let events = shown["pods"][0]["events"].as_array().unwrap();
    let told = |event: &Value| event["message"].as_str().unwrap().contains(words);
    assert!(events.iter().any(told), "{shown}");
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_cannot_be_mounted_is_named_and_awaited() {
    let stack = Stack::start("mount").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let name = format!("mount-{}", stack.namespace.name);
    let path = format!("/tmp/{name}");
    let volume: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "claimRef": {"namespace": stack.namespace.name, "name": "models"},
            "hostPath": {"path": path, "type": "Directory"},
        },
    }))
    .unwrap();
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": "models"},
        "spec": {"storageClassName": "", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }))
    .unwrap();
    let volumes: Api<PersistentVolume> = Api::all(stack.namespace.admin.clone());
    volumes.create(&PostParams::default(), &volume).await.unwrap();
    let claims = stack.namespace.api::<PersistentVolumeClaim>();
    claims.create(&PostParams::default(), &claim).await.unwrap();

    let mut settings = small();
    settings["volumes"] = json!([{"claim": "models", "path": "/models"}]);
    stack.client.build("mounted", WORK, settings).await;
    let process = stack.client.start("mounted", task(&["say", "has it"])).await;
    warned(
        &stack,
        process,
        "starting",
        "volume_not_mounted",
        "hostPath type check failed",
    )
    .await;
    on_node(containers().await, &["mkdir", &path]).await.expect("a folder");
    let gone = stack.client.shows(process, "lifecycle", "gone", 180).await;
    assert_eq!(
        (&gone["state"], &gone["reason"]),
        (&json!("succeeded"), &Value::Null),
        "{gone}"
    );
    volumes.delete(&name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_falls_ill_says_so() {
    let stack = Stack::start("sick").await;
    let _manager = stack.manager().await;
    stack.client.build("sick", SICK, small()).await;
    let process = stack.client.start("sick", json!({"kind": "service"})).await;
    stack.client.shows(process, "state", "ready", 60).await;
    warned(&stack, process, "running", "unhealthy", "statuscode: 503").await;
    let kill = stack.client.kill(process, json!({})).await;
    stack.client.ended(kill, 60).await;
}
