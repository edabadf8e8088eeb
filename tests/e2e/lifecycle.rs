//! A process from its request to its disappearance.

use octopus_tests::stack::Stack;
use serde_json::{Value, json};

use crate::functions::{HELLO, WORK, small, task};

fn path(events: &[Value]) -> Vec<String> {
    let name = |event: &Value| {
        let field = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        format!("{} {}", field("lifecycle"), field("state"))
    };
    events.iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_goes_from_its_request_to_ready_to_gone() {
    let stack = Stack::start("service").await;
    let _manager = stack.manager().await;
    let client = &stack.client;

    // Declared and started at once: the start waits for the image.
    client.declare("hello", HELLO, json!({"stop_grace_seconds": 2})).await;
    let process = client.start("hello", json!({"kind": "service"})).await;
    let asked = client.process(process).await;
    assert_eq!(
        (&asked["lifecycle"], &asked["state"]),
        (&json!("requested"), &json!("pending"))
    );

    let ready = client.shows(process, "state", "ready", 180).await;
    let name = ready["name"].as_str().unwrap();
    assert_eq!(
        ready["endpoint"],
        format!("http://{name}.{}.svc.cluster.local:5000", stack.namespace.name)
    );
    let (_, manifest) = client
        .send(
            reqwest::Method::GET,
            &format!("/api/v1/processes/{process}/manifest"),
            &Value::Null,
        )
        .await;
    let manifest = manifest.as_str().unwrap();
    assert!(
        manifest.contains("kind: Deployment") && manifest.contains("kind: Service") && manifest.contains("@sha256:")
    );
    let log = String::from_utf8(client.log(process).await).unwrap();
    assert!(log.contains("hello starts"), "{log}");

    let kill = client.kill(process, json!({})).await;
    assert_eq!(client.ended(kill, 60).await["state"], "succeeded");
    let events = client.events(process).await;
    let seen = path(&events);
    let expected = [
        "requested pending",
        "created starting",
        "created ready",
        "stopping stopping",
        "stopping killed",
        "gone killed",
    ];
    let mut rest = seen.iter();
    for step in expected {
        assert!(
            rest.any(|seen| seen == step),
            "{step} is missing, or out of order, in {seen:?}"
        );
    }
    let numbers: Vec<_> = events.iter().map(|event| event["number"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (1..=i64::try_from(events.len()).unwrap()).collect::<Vec<_>>());
    let times: Vec<_> = events
        .iter()
        .map(|event| event["at"].as_str().unwrap().to_owned())
        .collect();
    assert!(times.is_sorted(), "{times:?}");

    assert!(stack.namespace.pods().await.is_empty());
    let gone = client.process(process).await;
    assert!(
        gone["log_streams"]
            .as_array()
            .unwrap()
            .iter()
            .all(|stream| stream["seal"] == "complete"),
        "{gone}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_shows_why_it_failed() {
    let stack = Stack::start("task").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let process = stack
        .client
        .start("work", task(&["say", "before the end", "exit", "3"]))
        .await;
    let gone = stack.client.shows(process, "lifecycle", "gone", 60).await;
    assert_eq!(
        (&gone["state"], &gone["reason"], &gone["exit_code"]),
        (&json!("failed"), &json!("exit_code"), &json!(3))
    );
    assert!(!gone["remedy"].as_str().unwrap().is_empty());
    assert_eq!(stack.client.log(process).await, b"before the end\n");
    assert_eq!(gone["last_lines"], json!(["before the end"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_ends_at_its_timeout() {
    let stack = Stack::start("timeout").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let spec = json!({"kind": "task", "args": ["say", "here", "sleep", "600"], "timeout_seconds": 15});
    let process = stack.client.start("work", spec).await;
    let gone = stack.client.shows(process, "lifecycle", "gone", 90).await;
    assert_eq!(
        (&gone["state"], &gone["reason"]),
        (&json!("failed"), &json!("deadline_exceeded")),
        "{gone}"
    );
    assert_eq!(stack.client.log(process).await, b"here\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_isolated() {
    let stack = Stack::start("isolation").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let process = stack.client.start("work", task(&["look", ""])).await;
    stack.client.shows(process, "lifecycle", "gone", 60).await;
    let log = String::from_utf8(stack.client.log(process).await).unwrap();
    assert_eq!(
        log,
        "uid 65532\ncapabilities 0000000000000000\ntoken False\nservice links False\nroot read-only\nscratch writable\n"
    );
}
