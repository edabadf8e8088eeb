//! Several managers, and pods that somebody else deletes.

use std::collections::VecDeque;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use octopus_shared::db::claim::SUSPECT;
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use crate::functions::{WORK, small, task};
use crate::log_spool::{folder, spooling};
use crate::outages::soak;

/// How often each process ran: pods that were ever seen, in the rows and in the log.
pub(crate) async fn runs(stack: &Stack, process: Uuid) -> (usize, usize) {
    let pods = stack.client.process(process).await["pods"]
        .as_array()
        .map_or(0, Vec::len);
    let log = String::from_utf8_lossy(&stack.client.log(process).await).into_owned();
    (pods, log.matches("ran\n").count())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_managers_run_each_of_two_hundred_tasks_once() {
    let stack = Stack::start("managers").await;
    let _managers = (stack.manager().await, stack.manager().await);
    stack.client.build("work", WORK, small()).await;
    let mut processes = Vec::new();
    for _ in 0..200 {
        processes.push(stack.client.start("work", task(&["say", "ran"])).await);
    }
    for process in processes {
        let gone = stack.client.shows(process, "lifecycle", "gone", 400).await;
        assert_eq!(gone["state"], "succeeded", "{gone}");
        assert_eq!(runs(&stack, process).await, (1, 1), "{gone}");
    }
    // On a busy machine one may have lost its lease, and takes another.
    let leases = "select count(*) from manager where lease_until > now() and stopped_at is null";
    until("both managers to live", 60, async || {
        (sqlx_count(&stack, leases).await == 2).then_some(())
    })
    .await;
    assert!(stack.namespace.pods().await.is_empty());
}

/// It holds the spool of the one that was killed, so that one is dead: nobody waits for the end of its lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_is_started_again_on_the_same_disk_goes_on_at_once() {
    let stack = Stack::start("successor").await;
    let (disk, lease) = (folder("successor"), ("OCTOPUS_LEASE_SECONDS", "300"));
    let first = spooling(&stack, &disk, &[lease]).await;
    stack.client.build("work", WORK, small()).await;
    let before = stack.client.start("work", task(&["say", "ran"])).await;
    stack.client.shows(before, "lifecycle", "created", 60).await;
    first.kill().await;

    let _second = spooling(&stack, &disk, &[lease]).await;
    let after = stack.client.start("work", task(&["say", "ran"])).await;
    for process in [before, after] {
        let gone = stack.client.shows(process, "lifecycle", "gone", 100).await;
        assert_eq!(
            (&gone["state"], runs(&stack, process).await),
            (&json!("succeeded"), (1, 1)),
            "{gone}"
        );
    }
}

/// More would only wait for a small node.
const AT_ONCE: i64 = 24;

#[tokio::test(flavor = "multi_thread")]
async fn managers_that_are_killed_again_and_again_run_each_task_once() {
    let (tasks, every) = if soak() { (1000, 10) } else { (60, 5) };
    let stack = Stack::start("killed-managers").await;
    let mut managers = VecDeque::from([stack.manager().await, stack.manager().await]);
    stack.client.build("work", WORK, small()).await;
    let (mut processes, mut killed) = (Vec::new(), 0);
    let mut next = Instant::now() + Duration::from_secs(every);
    until("all tasks to be gone", 3600, async || {
        if Instant::now() > next {
            managers.pop_front().unwrap().kill().await;
            managers.push_back(stack.manager().await);
            killed += 1;
            next += Duration::from_secs(every);
        }
        let left = sqlx_count(&stack, "select count(*) from process where lifecycle <> 'gone'").await;
        let (room, missing) = (AT_ONCE - left, tasks - processes.len() as i64);
        for _ in 0..room.min(missing) {
            processes.push(stack.client.start("work", task(&["say", "ran"])).await);
        }
        (left == 0 && missing == 0).then_some(())
    })
    .await;
    println!("{tasks} tasks, {killed} managers killed");
    assert!(killed >= 2, "{killed}");
    for process in processes {
        let gone = stack.client.process(process).await;
        assert_eq!(gone["state"], "succeeded", "{gone}");
        assert_eq!(runs(&stack, process).await, (1, 1), "{gone}");
    }
    let open = "select count(*) from command where state <> 'succeeded'";
    assert_eq!(sqlx_count(&stack, open).await, 0);
    assert!(stack.namespace.pods().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_managers_died_with_again_and_again_is_carried_out_one_at_a_time() {
    let stack = Stack::start("suspects").await;
    let builder = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    assert!(builder.terminate().await);
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(stack.client.start("work", task(&["say", "ran"])).await);
    }
    let died = sqlx::query("update command_ready set rescues = $1").bind(SUSPECT);
    assert_eq!(died.execute(&stack.owner).await.unwrap().rows_affected(), 3);
    let _manager = stack
        .manager_with(&[("FAILPOINTS", "start-claimed=return(1000)")])
        .await;
    let mut most = 0;
    until("all tasks to be gone", 120, async || {
        most = most.max(sqlx_count(&stack, "select count(*) from command_lease").await);
        let left = sqlx_count(&stack, "select count(*) from process where lifecycle <> 'gone'").await;
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(most, 1, "at a time");
    for process in processes {
        assert_eq!(stack.client.process(process).await["state"], "succeeded");
    }
}

async fn sqlx_count(stack: &Stack, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&stack.owner).await.unwrap()
}

async fn delete_pod_of_running(stack: &Stack, process: Uuid) {
    stack.client.shows(process, "state", "running", 180).await;
    let name = stack.client.process(process).await["pods"][0]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let deletion = DeleteParams {
        grace_period_seconds: Some(1),
        ..DeleteParams::default()
    };
    stack.namespace.api::<Pod>().delete(&name, &deletion).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_pod_is_deleted_runs_again_only_when_asked_for() {
    let stack = Stack::start("deleted").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;

    let once = stack.client.start("work", task(&["say", "ran", "sleep", "600"])).await;
    let twice = json!({"kind": "task", "args": ["say", "ran", "sleep", "600"], "retries": 1});
    let twice = stack.client.start("work", twice).await;
    delete_pod_of_running(&stack, once).await;
    delete_pod_of_running(&stack, twice).await;

    let gone = stack.client.shows(once, "lifecycle", "gone", 180).await;
    assert_eq!(
        (&gone["state"], &gone["reason"], &gone["attempt"]),
        (&json!("failed"), &json!("deleted_by_other"), &json!(1)),
        "{gone}"
    );
    assert_eq!(gone["pods"].as_array().unwrap().len(), 1);
    let events = stack.client.events(once).await;
    let told = |state: &str, why: &str| {
        events
            .iter()
            .position(|event| event["state"] == state && event["reason"] == why)
    };
    let (stopping, failed) = (told("stopping", "terminating"), told("failed", "deleted_by_other"));
    assert!(stopping.is_some() && stopping < failed, "{events:?}");

    let again = until("the second attempt to run", 180, async || {
        let shown = stack.client.process(twice).await;
        (shown["attempt"] == 2 && shown["state"] == "running").then_some(shown)
    })
    .await;
    assert_eq!(again["pods"].as_array().unwrap().len(), 2, "{again}");
    let kill = stack.client.kill(twice, json!({})).await;
    stack.client.ended(kill, 180).await;
    assert!(stack.namespace.pods().await.is_empty());
}
