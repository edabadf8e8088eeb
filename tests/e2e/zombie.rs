//! A manager that sleeps through its lease in the middle of its work, while another one takes over, and then wakes up.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::changes::settled;
use crate::functions::{PLAIN, small};

/// Of the lease of these managers.
const LEASE: (&str, &str) = ("OCTOPUS_LEASE_SECONDS", "3");
const THREE_LEASES: Duration = Duration::from_secs(9);

/// Waits until the sleeper has woken up and begun anew: then it has said whatever it had to say.
async fn both_live(stack: &Stack) {
    until("the sleeper to begin anew", 60, async || {
        let living: i64 =
            sqlx::query_scalar("select count(*) from manager where lease_until > now() and stopped_at is null")
                .fetch_one(&stack.owner)
                .await
                .unwrap();
        (living == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeper_undoes_no_later_change() {
    const FENCE: &str = "octopus-process-manager/fence";
    let stack = Stack::start("zombie-change").await;
    // It holds still with the objects of its change in its hands.
    let sleeper = stack
        .manager_with(&[LEASE, ("FAILPOINTS", "change-policy=1*sleep(5000)")])
        .await;
    stack.client.build("plain", PLAIN, small()).await;
    let mut other = small();
    other["env"] = json!([{"name": "OTHER", "value": "1"}]);
    stack.client.build("plain", PLAIN, other).await;
    let process = stack.client.start("plain", json!({"kind": "service"})).await;
    let name = settled(&stack, process, 1).await["name"].as_str().unwrap().to_owned();
    let ask = async |what: &str, body: Value| -> Uuid {
        let path = format!("/api/v1/processes/{process}/{what}");
        let (_, command) = stack.client.send(Method::POST, &path, &body).await;
        command["id"].as_str().unwrap().parse().unwrap()
    };
    let restart = ask("restart", Value::Null).await;
    let policies = stack.namespace.api::<NetworkPolicy>();
    until("the sleeper to be in the middle of it", 60, async || {
        let policy = policies.get(&name).await.unwrap();
        policy.metadata.annotations?.contains_key(FENCE).then_some(())
    })
    .await;
    sleeper.signal("STOP").await;
    let since = Instant::now();

    let _other = stack.manager_with(&[LEASE]).await;
    assert_eq!(stack.client.ended(restart, 60).await["state"], "succeeded");
    let update = ask("update", json!({"revision": 1})).await;
    assert_eq!(stack.client.ended(update, 60).await["state"], "succeeded");
    settled(&stack, process, 1).await;
    let deployments = stack.namespace.api::<Deployment>();
    let before = deployments.get(&name).await.unwrap();
    sleep_until(since + THREE_LEASES).await;

    sleeper.signal("CONT").await;
    both_live(&stack).await;
    let after = deployments.get(&name).await.unwrap();
    assert_eq!(after.metadata.generation, before.metadata.generation);
    assert_eq!(after.metadata.annotations, before.metadata.annotations);
    let shown = settled(&stack, process, 1).await;
    assert_eq!(shown["revision"], 1, "{shown}");
    let events = stack.client.events(process).await;
    let told = |reason: &str| events.iter().filter(|event| event["reason"] == reason).count();
    assert_eq!(
        (told("restart_requested"), told("update_requested")),
        (1, 1),
        "{events:?}"
    );
    assert_eq!(
        stack.client.get(&format!("/api/v1/commands/{restart}")).await["state"],
        "succeeded"
    );
    let kill = stack.client.kill(process, json!({})).await;
    assert_eq!(stack.client.ended(kill, 60).await["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sleeper_still_creates_is_removed() {
    let stack = Stack::start("zombie-start").await;
    let sleeper = stack
        .manager_with(&[LEASE, ("FAILPOINTS", "start-service=1*sleep(5000)")])
        .await;
    stack.client.build("plain", PLAIN, small()).await;
    let process = stack.client.start("plain", json!({"kind": "service"})).await;
    let services = stack.namespace.api::<Service>();
    let ours = ListParams::default().labels("octopus-process-manager/process");
    until("the sleeper to be in the middle of it", 60, async || {
        (!services.list(&ours).await.unwrap().items.is_empty()).then_some(())
    })
    .await;
    sleeper.signal("STOP").await;
    let since = Instant::now();
    // Started, and ended, by another one.
    let _other = stack.manager_with(&[LEASE]).await;
    settled(&stack, process, 1).await;
    let kill = stack.client.kill(process, json!({})).await;
    assert_eq!(stack.client.ended(kill, 60).await["state"], "succeeded");
    sleep_until(since + THREE_LEASES).await;

    sleeper.signal("CONT").await;
    both_live(&stack).await;
    let deployments = stack.namespace.api::<Deployment>();
    let pods = stack.namespace.api::<Pod>();
    // Whether it got through or not: nothing of it is there in the end.
    until("nothing of it to be left", 180, async || {
        let left = deployments.list(&ours).await.unwrap().items.len()
            + services.list(&ours).await.unwrap().items.len()
            + pods.list(&ours).await.unwrap().items.len();
        (left == 0).then_some(())
    })
    .await;
    let gone = stack.client.process(process).await;
    assert_eq!(
        (&gone["lifecycle"], &gone["state"]),
        (&json!("gone"), &json!("killed")),
        "{gone}"
    );
    let (clean, shown) = stack.diff(&[]).await;
    assert!(clean, "{shown}");
}
