//! Restart, update and scale of a service, on the live objects.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::functions::{HELLO, WORK, small};

/// Asks for a change and waits for the end of its command.
async fn change(stack: &Stack, process: Uuid, what: &str, body: Value) {
    let path = format!("/api/v1/processes/{process}/{what}");
    let (status, command) = stack.client.send(Method::POST, &path, &body).await;
    assert_eq!(status, 202, "{command}");
    let command = command["id"].as_str().unwrap().parse().unwrap();
    let ended = stack.client.ended(command, 120).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
}

/// Waits until exactly what is wanted is there and answers.
pub(crate) async fn settled(stack: &Stack, process: Uuid, pods: usize) -> Value {
    until(&format!("{pods} ready pods and no other"), 180, async || {
        let shown = stack.client.process(process).await;
        let settled = shown["state"] == "ready" && !is_partial(&shown);
        (settled && uids(stack).await.len() == pods).then_some(shown)
    })
    .await
}

fn is_partial(process: &Value) -> bool {
    ["rolling_out", "rollout_hindered", "partly_ready"].contains(&process["reason"].as_str().unwrap_or_default())
}

async fn uids(stack: &Stack) -> Vec<String> {
    let pods = stack.namespace.api::<Pod>().list(&ListParams::default()).await.unwrap();
    let mut uids: Vec<_> = pods.items.into_iter().filter_map(|pod| pod.metadata.uid).collect();
    uids.sort();
    uids
}

async fn live(stack: &Stack, name: &str) -> Value {
    let live = stack.namespace.api::<Deployment>().get(name).await.unwrap();
    serde_json::to_value(live.spec.unwrap().template).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_takes_away_what_its_revision_no_longer_has() {
    let stack = Stack::start("update").await;
    let _manager = stack
        .manager_with(&[("OCTOPUS_GPU_RESOURCE", "octopus.test/none")])
        .await;
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": "models"},
        "spec": {"storageClassName": "", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }))
    .unwrap();
    let volume = format!("models-{}", stack.namespace.name);
    let persistent: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": volume},
        "spec": {
            "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "claimRef": {"namespace": stack.namespace.name, "name": "models"},
            "hostPath": {"path": format!("/tmp/{volume}"), "type": "DirectoryOrCreate"},
        },
    }))
    .unwrap();
    let volumes: Api<PersistentVolume> = Api::all(stack.namespace.admin.clone());
    volumes.create(&PostParams::default(), &persistent).await.unwrap();
    let claims = stack.namespace.api::<PersistentVolumeClaim>();
    claims.create(&PostParams::default(), &claim).await.unwrap();

    let mut rich = small();
    rich["env"] = json!([{"name": "DROPPED", "value": "yes"}]);
    rich["volumes"] = json!([{"claim": "models", "path": "/models"}]);
    stack.client.build("hello", HELLO, rich).await;
    let process = stack.client.start("hello", json!({"kind": "service"})).await;
    let first = settled(&stack, process, 1).await;
    let name = first["name"].as_str().unwrap().to_owned();
    let before = uids(&stack).await;
    let template = live(&stack, &name).await.to_string();
    for had in ["DROPPED", "models"] {
        assert!(template.contains(had), "{template}");
    }

    // The environment variable and the volume go, and nothing is away meanwhile.
    stack.client.build("hello", HELLO, small()).await;
    change(&stack, process, "update", json!({})).await;
    let second = settled(&stack, process, 1).await;
    assert_eq!(second["revision"], 2, "{second}");
    assert_ne!(uids(&stack).await, before, "a new pod");
    let template = live(&stack, &name).await.to_string();
    for gone in ["DROPPED", "models", "HF_HOME"] {
        assert!(!template.contains(gone), "{gone}: {template}");
    }
    let events = stack.client.events(process).await;
    let since = events
        .iter()
        .position(|event| event["reason"] == "update_requested")
        .unwrap();
    assert_eq!(events[since]["message"], "revision 2 instead of 1");
    let away: Vec<_> = events[since..]
        .iter()
        .filter(|event| event["state"] != "ready")
        .collect();
    assert!(away.is_empty(), "{away:?}");

    // A GPU that no node has, and its limit is gone with the next revision.
    let mut greedy = small();
    greedy["resources"]["gpus"] = json!(1);
    stack.client.build("hello", HELLO, greedy).await;
    change(&stack, process, "update", json!({"revision": 3})).await;
    stack.client.shows(process, "reason", "insufficient_gpu", 120).await;
    assert!(live(&stack, &name).await.to_string().contains("octopus.test/none"));
    change(&stack, process, "update", json!({"revision": 2})).await;
    assert_eq!(settled(&stack, process, 1).await["revision"], 2);
    let template = live(&stack, &name).await.to_string();
    assert!(!template.contains("octopus.test/none"), "{template}");

    let kill = stack.client.kill(process, json!({})).await;
    assert_eq!(stack.client.ended(kill, 90).await["state"], "succeeded");
    assert!(stack.namespace.pods().await.is_empty());
    volumes.delete(&volume, &DeleteParams::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_does_not_start_leaves_the_earlier_pods_in_place() {
    let stack = Stack::start("hindered").await;
    let _manager = stack.manager().await;
    stack.client.build("hello", HELLO, small()).await;
    let process = stack.client.start("hello", json!({"kind": "service"})).await;
    settled(&stack, process, 1).await;
    let before = uids(&stack).await;
    stack.client.build("hello", "raise SystemExit(3)\n", small()).await;
    change(&stack, process, "update", json!({"revision": 2})).await;
    let hindered = stack.client.shows(process, "reason", "rollout_hindered", 120).await;
    assert_eq!(hindered["state"], "ready", "{hindered}");
    assert!(uids(&stack).await.contains(&before[0]), "the earlier pod answers");
    // Back, and the pod that answered all the time is the one that stays.
    change(&stack, process, "update", json!({"revision": 1})).await;
    settled(&stack, process, 1).await;
    assert_eq!(uids(&stack).await, before);
    let kill = stack.client.kill(process, json!({})).await;
    assert_eq!(stack.client.ended(kill, 90).await["state"], "succeeded");
    assert!(stack.namespace.pods().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_restarted_and_scaled_and_killed_with_all_its_pods() {
    let stack = Stack::start("scale").await;
    let manager = stack.manager().await;
    stack.client.build("hello", HELLO, small()).await;
    let process = stack.client.start("hello", json!({"kind": "service"})).await;
    let name = settled(&stack, process, 1).await["name"].as_str().unwrap().to_owned();
    let first = uids(&stack).await;

    change(&stack, process, "scale", json!({"replicas": 3})).await;
    settled(&stack, process, 3).await;
    let three = uids(&stack).await;
    assert!(three.contains(&first[0]), "what runs runs on");

    change(&stack, process, "restart", Value::Null).await;
    settled(&stack, process, 3).await;
    let new = uids(&stack).await;
    assert!(new.iter().all(|uid| !three.contains(uid)), "{three:?} {new:?}");
    let template = live(&stack, &name).await;
    let at = &template["metadata"]["annotations"]["octopus-process-manager/restarted-at"];
    assert!(at.is_string(), "{template}");

    change(&stack, process, "scale", json!({"replicas": 0})).await;
    stack.client.shows(process, "reason", "scaled_to_zero", 90).await;
    until("no pod to be left", 90, async || {
        uids(&stack).await.is_empty().then_some(())
    })
    .await;
    // Neither is it taken for one whose objects have vanished: twice the grace of the tests, which is a time and not a state.
    tokio::time::sleep(Duration::from_secs(22)).await;
    assert_eq!(stack.client.process(process).await["lifecycle"], "created");

    // Asked for while no manager lives, in this order.
    assert!(manager.terminate().await);
    for (what, body) in [("scale", json!({"replicas": 5})), ("scale", json!({"replicas": 2}))] {
        let path = format!("/api/v1/processes/{process}/{what}");
        let (_, command) = stack.client.send(Method::POST, &path, &body).await;
        assert_eq!(command["waiting_for"]["what"], "manager", "{command}");
    }
    // Scaled by hand meanwhile: that is shown.
    let by_hand = json!({"spec": {"replicas": 1}});
    let deployments = stack.namespace.api::<Deployment>();
    let patched = deployments
        .patch(&name, &PatchParams::default(), &Patch::Merge(by_hand))
        .await;
    patched.unwrap();
    let (clean, shown) = stack.diff(&[]).await;
    let words: Vec<_> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["words"].clone())
        .collect();
    assert!(!clean && words.contains(&json!("1 replicas instead of 0")), "{shown}");
    let next = stack.manager().await;
    settled(&stack, process, 2).await;
    assert_eq!(stack.diff(&[]).await, (true, json!([])));
    until("drift to be counted", 30, async || {
        let metrics = next.metrics().await?;
        let counts = ["missing", "extra", "different", "stuck"];
        counts
            .iter()
            .all(|what| metrics.contains(&format!("octopus_drift_processes{{what=\"{what}\"}} 0\n")))
            .then_some(())
    })
    .await;
    let kill = stack.client.kill(process, json!({})).await;
    assert_eq!(stack.client.ended(kill, 90).await["state"], "succeeded");
    assert!(stack.namespace.pods().await.is_empty());
    let left = stack
        .namespace
        .api::<Deployment>()
        .list(&ListParams::default())
        .await
        .unwrap();
    assert!(left.items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_claim_changed_an_earlier_one_does_not() {
    const FENCE: &str = "octopus-process-manager/fence";
    let stack = Stack::start("fence").await;
    let _manager = stack.manager().await;
    stack.client.build("hello", HELLO, small()).await;
    let process = stack.client.start("hello", json!({"kind": "service"})).await;
    let name = settled(&stack, process, 1).await["name"].as_str().unwrap().to_owned();
    let before = live(&stack, &name).await;
    let deployments = stack.namespace.api::<Deployment>();
    let fence = async |token: Value| {
        let patch = json!({"metadata": {"annotations": {FENCE: token}}});
        deployments
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    };
    // As if this manager had slept while another one took its claim over and was done.
    fence(json!("9000000000")).await;
    let path = format!("/api/v1/processes/{process}/restart");
    let (_, command) = stack.client.send(Method::POST, &path, &Value::Null).await;
    let command: Uuid = command["id"].as_str().unwrap().parse().unwrap();
    until("the restart to be tried twice", 60, async || {
        let tried: Option<i32> = sqlx::query_scalar("select attempts from command_ready")
            .fetch_optional(&stack.owner)
            .await
            .unwrap();
        tried.is_some_and(|tried| tried >= 2).then_some(())
    })
    .await;
    assert_eq!(live(&stack, &name).await, before);
    fence(Value::Null).await;
    assert_eq!(stack.client.ended(command, 90).await["state"], "succeeded");
    assert_ne!(live(&stack, &name).await, before);
    let tokens = deployments.get(&name).await.unwrap().metadata.annotations.unwrap();
    assert!(tokens[FENCE].parse::<i64>().unwrap() < 9_000_000_000);
    let kill = stack.client.kill(process, json!({"grace_seconds": 2})).await;
    stack.client.ended(kill, 90).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_late_is_not_begun_and_can_be_asked_for_again() {
    let stack = Stack::start("late").await;
    let path = "/api/v1/functions/work?deadline_seconds=1";
    let body = json!({"spec": small(), "source": WORK});
    let (_, declared) = stack.client.send(Method::PUT, path, &body).await;
    let command: Uuid = declared["id"].as_str().unwrap().parse().unwrap();
    until("its time to be over", 30, async || {
        let over: bool = sqlx::query_scalar("select deadline < now() from command_ready")
            .fetch_one(&stack.owner)
            .await
            .unwrap();
        over.then_some(())
    })
    .await;
    let _manager = stack.manager().await;
    let failed = stack.client.ended(command, 60).await;
    assert_eq!(
        (&failed["state"], &failed["reason"]),
        (&json!("failed"), &json!("command_deadline_exceeded")),
        "{failed}"
    );
    let path = format!("/api/v1/commands/{command}/requeue");
    let (status, asked) = stack.client.send(Method::POST, &path, &Value::Null).await;
    assert_eq!(status, 202, "{asked}");
    let built = stack.client.ended(command, 180).await;
    assert_eq!(built["state"], "succeeded", "{built}");
    assert_eq!(built["failures"][0]["reason"], "command_deadline_exceeded", "{built}");
}
