//! A kill at each stage of a start, and at any moment of it: nothing runs afterwards, and nothing is left.

use std::time::Duration;

use futures::future::join_all;
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::crash_matrix::left;
use crate::functions::{PLAIN, WORK, small, task};
use crate::outages::soak;

/// Stages of the start of a service, and then of a task. The first start that comes to one is held there for a while, and some
/// later ones for a moment.
const STAGES: [&str; 6] = [
    "start-claimed",
    "start-policy",
    "start-service",
    "start-created",
    "start-reported",
    "start-pod",
];

async fn start(stack: &Stack, is_service: bool) -> Uuid {
    if is_service {
        stack.client.start("plain", json!({"kind": "service"})).await
    } else {
        stack.client.start("work", task(&["sleep", "600"])).await
    }
}

/// Ends one, and demands that the kill succeeds and the process shows it. Answers how long that took.
async fn kill(stack: &Stack, process: Uuid) -> Duration {
    let since = Instant::now();
    let kill = stack.client.kill(process, json!({})).await;
    // A kubelet looks at some of its pods once a minute only.
    let ended = stack.client.ended(kill, 240).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let gone = stack.client.process(process).await;
    assert_eq!(
        (&gone["lifecycle"], &gone["state"]),
        (&json!("gone"), &json!("killed")),
        "{gone}"
    );
    since.elapsed()
}

async fn nothing_left(stack: &Stack) {
    until("nothing to be left", 60, async || {
        (left(stack).await == [0; 5]).then_some(())
    })
    .await;
    let open: Vec<(String, String)> =
        sqlx::query_as("select kind, state from command where state in ('waiting', 'failed')")
            .fetch_all(&stack.owner)
            .await
            .unwrap();
    assert!(open.is_empty(), "{open:?}");
    assert_eq!(stack.diff(&[]).await, (true, json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_of_a_start_leaves_nothing() {
    let stack = Stack::start("kill-stages").await;
    let builder = stack.manager().await;
    stack.client.build("plain", PLAIN, small()).await;
    stack.client.build("work", WORK, small()).await;
    assert!(builder.terminate().await);
    let held = STAGES
        .map(|stage| format!("{stage}=1*return(8000)->30%return(400)"))
        .join(";");
    // What a kill left would not be cleaned up behind it.
    let reconciler = ("OCTOPUS_ORPHAN_GRACE_SECONDS", "3600");
    let _manager = stack.manager_with(&[("FAILPOINTS", held.as_str()), reconciler]).await;

    // One is held at each stage: of the services the first stands before its policy, the last behind its report.
    let services = join_all((0..5).map(|_| start(&stack, true))).await;
    until("a service to be held at each stage", 30, async || {
        // Deployment, ReplicaSet, Service, NetworkPolicy, Pod.
        let [deployments, _, services, policies, _] = left(&stack).await;
        ((deployments, services, policies) == (2, 3, 4)).then_some(())
    })
    .await;
    let at_pod = start(&stack, false).await;
    until("a task to be held behind its pod", 30, async || {
        let pods = stack.namespace.pods().await;
        pods.iter().any(|name| name.starts_with("work-")).then_some(())
    })
    .await;
    join_all(
        services
            .into_iter()
            .chain([at_pod])
            .map(|process| kill(&stack, process)),
    )
    .await;
    nothing_left(&stack).await;

    let since = Instant::now();
    let rounds = if soak() { 10 } else { 1 };
    let mut taken = Vec::new();
    for round in 0..rounds {
        let ended = join_all((0..20).map(async |number| {
            let process = start(&stack, (round + number) % 2 == 0).await;
            // At a random moment, which is the point: not a wait for something.
            sleep(Duration::from_millis(rand::random_range(0..4000))).await;
            kill(&stack, process).await
        }))
        .await;
        taken.extend(ended);
    }
    nothing_left(&stack).await;
    taken.sort();
    println!(
        "{} starts killed at random moments in {:.0} s: {:.1} s each by the median, {:.1} s at most",
        taken.len(),
        since.elapsed().as_secs_f64(),
        taken[taken.len() / 2].as_secs_f64(),
        taken[taken.len() - 1].as_secs_f64()
    );
}
