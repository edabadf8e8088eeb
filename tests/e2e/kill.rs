//! A kill is a row: it outlives every program.

use octopus_tests::stack::Stack;
use serde_json::json;

use crate::functions::{WORK, small, task};
use crate::log_spool::has_begun;

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_takes_effect_when_the_manager_is_back() {
    let stack = Stack::start("kill-later").await;
    let manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let process = stack.client.start("work", task(&["say", "ran", "sleep", "600"])).await;
    has_begun(&stack, process).await;
    assert!(
        manager.terminate().await,
        "a manager that is told to end does so cleanly"
    );

    let kill = stack.client.kill(process, json!({})).await;
    let waiting = stack.client.get(&format!("/api/v1/commands/{kill}")).await;
    assert_eq!(waiting["waiting_for"]["what"], "manager", "{waiting}");
    assert_eq!(stack.namespace.pods().await.len(), 1, "the pod outlives the manager");

    let _next = stack.manager().await;
    assert_eq!(stack.client.ended(kill, 60).await["state"], "succeeded");
    let gone = stack.client.process(process).await;
    assert_eq!(
        (&gone["lifecycle"], &gone["state"]),
        (&json!("gone"), &json!("killed")),
        "{gone}"
    );
    assert_eq!(stack.client.log(process).await, b"ran\n");
    assert!(stack.namespace.pods().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_the_creation_prevents_it() {
    let stack = Stack::start("kill-first").await;
    let manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    manager.terminate().await;

    let process = stack.client.start("work", task(&["say", "ran"])).await;
    let kill = stack.client.kill(process, json!({})).await;
    let again = stack.client.kill(process, json!({"grace_seconds": 5})).await;
    let _next = stack.manager().await;
    for command in [kill, again] {
        assert_eq!(stack.client.ended(command, 60).await["state"], "succeeded");
    }
    let gone = stack.client.process(process).await;
    assert_eq!(
        (&gone["lifecycle"], &gone["state"]),
        (&json!("gone"), &json!("killed")),
        "{gone}"
    );
    assert!(gone["pods"].as_array().unwrap().is_empty(), "{gone}");
    assert!(stack.namespace.pods().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_function_ends_its_processes() {
    let stack = Stack::start("delete").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let process = stack.client.start("work", task(&["sleep", "600"])).await;
    stack.client.shows(process, "state", "running", 60).await;
    let (status, command) = stack
        .client
        .send(
            reqwest::Method::DELETE,
            "/api/v1/functions/work",
            &serde_json::Value::Null,
        )
        .await;
    assert_eq!(status, 202, "{command}");
    let command = command["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(stack.client.ended(command, 60).await["state"], "succeeded");
    assert_eq!(stack.client.process(process).await["lifecycle"], "gone");
    assert!(stack.namespace.pods().await.is_empty());
}
