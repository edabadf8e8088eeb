//! An API server that refuses a share of all requests for a while, and loses answers of what it has done.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::{Client, until};
use octopus_tests::stack::faulty::Fault;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use crate::changes::settled;
use crate::functions::{PLAIN, WORK, small, task};
use crate::managers::runs;

/// Tasks that run, tasks that are killed, and services.
const TASKS: usize = 14;
const KILLED: usize = 12;
const SERVICES: usize = 4;
/// The faults last at least so long.
const LASTING: Duration = Duration::from_secs(25);

async fn change(client: &Client, process: Uuid, what: &str, body: Value) -> Uuid {
    let path = format!("/api/v1/processes/{process}/{what}");
    let command = client.insist(Method::POST, &path, &body).await;
    command["id"].as_str().unwrap().parse().unwrap()
}

/// A service that is started, restarted, changed twice, and ended when it is `ended`.
async fn service(stack: &Stack, ended: bool) -> Uuid {
    let client = &stack.client;
    let process = client.start("plain", json!({"kind": "service"})).await;
    for (what, body) in [
        ("restart", json!({})),
        ("update", json!({"revision": 1})),
        ("scale", json!({"replicas": 2})),
    ] {
        let command = change(client, process, what, body).await;
        let shown = client.ended(command, 120).await;
        assert_eq!(shown["state"], "succeeded", "{what}: {shown}");
    }
    if ended {
        change(client, process, "kill", json!({})).await;
    }
    process
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_refused_or_lost_change_nothing() {
    let (stack, faulty) = Stack::faulty("faults").await;
    let _manager = stack.manager().await;
    let client = &stack.client;
    client.build("work", WORK, small()).await;
    client.build("plain", PLAIN, small()).await;
    let mut other = small();
    other["env"] = json!([{"name": "OTHER", "value": "1"}]);
    client.build("plain", PLAIN, other).await;

    faulty.fail(true);
    let since = Instant::now();
    let tasks = async {
        let mut tasks = Vec::new();
        for _ in 0..TASKS {
            tasks.push(client.start("work", task(&["say", "ran"])).await);
            // The pace of a caller.
            sleep(Duration::from_millis(300)).await;
        }
        tasks
    };
    let killed = async {
        let mut killed = Vec::new();
        for _ in 0..KILLED {
            killed.push(client.start("work", task(&["sleep", "600"])).await);
            sleep(Duration::from_millis(300)).await;
        }
        for (number, process) in killed.iter().enumerate() {
            // One that runs ends by its deadline, another is deleted.
            if number % 2 == 0 {
                client.shows(*process, "state", "running", 60).await;
            }
            change(client, *process, "kill", json!({})).await;
        }
        killed
    };
    let services = futures::future::join_all((0..SERVICES).map(|number| service(&stack, number > 0)));
    let (tasks, killed, services) = tokio::join!(tasks, killed, services);
    sleep_until(since + LASTING).await;
    faulty.fail(false);
    let faults = faulty.faults();
    println!("after {:.0} s: {faults:?}", since.elapsed().as_secs_f64());

    // Everything that was asked for is done within seconds, and once.
    let since = Instant::now();
    until("everything that was asked for to be begun", 60, async || {
        let waiting: i64 = sqlx::query_scalar(
            "select (select count(*) from command_ready) + (select count(*) from command_lease where kind <> 'kill_process')",
        )
        .fetch_one(&stack.owner)
        .await
        .unwrap();
        (waiting == 0).then_some(())
    })
    .await;
    println!("all begun {:.1} s after the last fault", since.elapsed().as_secs_f64());
    for process in &tasks {
        let gone = client.shows(*process, "lifecycle", "gone", 120).await;
        assert_eq!(gone["state"], "succeeded", "{gone}");
        assert_eq!(runs(&stack, *process).await, (1, 1), "{gone}");
    }
    for process in killed.iter().chain(&services[1..]) {
        let gone = client.shows(*process, "lifecycle", "gone", 120).await;
        assert_eq!(gone["state"], "killed", "{gone}");
    }
    let shown = settled(&stack, services[0], 2).await;
    assert_eq!(shown["revision"], 1, "{shown}");
    for process in &services {
        for told in ["restart_requested", "update_requested", "scale_requested"] {
            let events = client.events(*process).await;
            let count = events.iter().filter(|event| event["reason"] == told).count();
            assert_eq!(count, 1, "{told}: {events:?}");
        }
    }
    let wrong: Vec<String> = sqlx::query_scalar(
        "select kind || ' ' || state || ' ' || coalesce(reason, '') from command where state <> 'succeeded' and state <> 'cancelled'
         union all
         select 'event ' || state || ' ' || coalesce(reason, '') from process_event where state in ('failed', 'unconfirmed')",
    )
    .fetch_all(&stack.owner)
    .await
    .unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");
    let deployments = stack.namespace.api::<Deployment>().list(&ListParams::default()).await;
    assert_eq!(deployments.unwrap().items.len(), 1);
    until("no other pod to be left", 60, async || {
        (stack.namespace.pods().await.len() == 2).then_some(())
    })
    .await;
    let (clean, shown) = stack.diff(&[]).await;
    assert!(clean, "{shown}");

    // It was put to the test: every verb that changes something was done with its answer lost, and refused.
    let met: BTreeSet<_> = faults.keys().map(|(method, fault)| (method.as_str(), *fault)).collect();
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        for fault in [Fault::Lost, Fault::Busy] {
            assert!(met.contains(&(method, fault)), "no {method} met {fault:?}: {faults:?}");
        }
    }
}
