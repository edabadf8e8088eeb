//! Insert -> create request, and accepted creates per second against a bare client.

use std::time::Instant;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use octopus_shared::db::COMMAND_CHANNEL;
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use octopus_tests::stack::programs::Program;
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinHandle;

use super::processes::measured;
use super::{idle_node, quantile};

/// How long a start waited for its create request.
const SENT: &str = "octopus_create_request_wait_seconds";

/// Creates in each round.
const CREATES: usize = 200;
/// Pairs of rounds: one of the product, one of the bare client.
const ROUNDS: usize = 7;
/// Starts whose latency is measured.
const SINGLE: usize = 100;
/// The manager's default OCTOPUS_STARTS.
const PARALLEL: usize = 32;

pub(super) async fn run(stack: &Stack) {
    let source = "print('never runs')\n";
    let builder = stack.manager().await;
    stack.client.build("idle", source, json!({})).await;
    idle_node::close(stack).await;
    latency(stack, &builder).await;
    assert!(builder.terminate().await, "the manager ends cleanly");

    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let (product, manifest) = product(stack).await;
        let bare = bare(stack, &manifest).await;
        println!(
            "creates per second, round {round}: octopus-manager {product:.0}, bare client {bare:.0}, ratio {:.2}",
            product / bare
        );
        ratios.push(product / bare);
    }
    idle_node::open(stack).await;
    ratios.sort_by(f64::total_cmp);
    println!(
        "creates: median ratio to the bare client {:.2} ({CREATES} pods a round, {PARALLEL} at a time)",
        ratios[ROUNDS / 2]
    );
}

/// One command after another, each stored while the manager has nothing to do: what a caller waits for at best.
async fn latency(stack: &Stack, manager: &Program) {
    let mut stored = Vec::new();
    for _ in 0..SINGLE {
        let started = Instant::now();
        let (_, answer) = stack
            .client
            .send(Method::POST, "/api/v1/functions/idle/processes", &idle_node::task())
            .await;
        let command = answer["id"].as_str().and_then(|id| id.parse().ok()).expect("a command");
        stack.client.ended(command, 30).await;
        stored.push(started.elapsed());
    }
    stored.sort_unstable();
    println!(
        "insert -> create request sent: p50 {:.1?}, p99 {:.1?} ({SINGLE} starts, one after another)",
        measured(manager, SENT, "0.5").await,
        measured(manager, SENT, "0.99").await
    );
    println!(
        "request -> created, as the caller's long poll sees it: p50 {:.1?}, p99 {:.1?}",
        quantile(&stored, 0.5),
        quantile(&stored, 0.99)
    );
    clear(stack).await;
}

/// Starts that are stored in one transaction while a manager has nothing to do: from then until the API server has accepted the last.
async fn product(stack: &Stack) -> (f64, Pod) {
    let manager = stack.manager().await;
    // Connections are there and plans are known, as they are of a manager that works.
    store(stack, PARALLEL).await;
    created(stack, PARALLEL).await;
    let accepted = accepted(stack).await;
    let started = store(stack, CREATES).await;
    let seconds = (accepted.await.expect("counted") - started).as_secs_f64();
    created(stack, PARALLEL + CREATES).await;
    let manifest: serde_json::Value = sqlx::query_scalar(
        "select manifest -> 0 from process where manifest is not null order by created_at desc limit 1",
    )
    .fetch_one(&stack.owner)
    .await
    .expect("a manifest");
    clear(stack).await;
    assert!(manager.terminate().await, "the manager ends cleanly");
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    (
        CREATES as f64 / seconds,
        serde_json::from_value(manifest).expect("a pod"),
    )
}

/// Stores so many starts at once, and says when that was done.
async fn store(stack: &Stack, number: usize) -> Instant {
    sqlx::query(
        "with stored as (
             insert into command (id, kind, version, function_name, process_id, payload, requested_by)
             select gen_random_uuid(), 'start_process', 1, 'idle', gen_random_uuid(), $1, 'bench' from generate_series(1, $2)
             returning id)
         select pg_notify($3, '') from stored limit 1",
    )
    .bind(json!({"kind": "task", "revision": null, "spec": idle_node::task()}))
    .bind(i32::try_from(number).unwrap_or(i32::MAX))
    .bind(COMMAND_CHANNEL)
    .execute(&stack.owner)
    .await
    .expect("stored");
    Instant::now()
}

/// Waits until so many processes are known to be created.
async fn created(stack: &Stack, number: usize) {
    until("all pods to be created", 300, async || {
        let count: i64 = sqlx::query_scalar("select count(*) from process where lifecycle = 'created'")
            .fetch_one(&stack.owner)
            .await
            .expect("Postgres answers");
        (count >= i64::try_from(number).unwrap_or(i64::MAX)).then_some(())
    })
    .await;
}

/// When the API server has accepted all creations of a round, of those that follow: a watch says so, of the product and of the bare
/// client alike.
async fn accepted(stack: &Stack) -> JoinHandle<Instant> {
    let pods = stack.namespace.api::<Pod>();
    let version = pods
        .list_metadata(&ListParams::default())
        .await
        .expect("listed")
        .metadata
        .resource_version;
    let watched = pods
        .watch_metadata(&WatchParams::default(), &version.unwrap_or_default())
        .await;
    let mut events = watched.expect("watched").boxed();
    tokio::spawn(async move {
        let mut number = 0;
        while number < CREATES {
            let event = events.next().await.expect("the watch goes on").expect("an event");
            number += usize::from(matches!(event, WatchEvent::Added(_)));
        }
        Instant::now()
    })
}

/// The same objects, as fast as the client library can send them.
async fn bare(stack: &Stack, manifest: &Pod) -> f64 {
    let pods = stack.namespace.api::<Pod>();
    let accepted = accepted(stack).await;
    let started = Instant::now();
    stream::iter(0..CREATES)
        .map(|number| {
            let mut pod = manifest.clone();
            pod.metadata.name = Some(format!("bare-{number}"));
            let pods = pods.clone();
            async move { pods.create(&PostParams::default(), &pod).await.expect("created") }
        })
        .buffer_unordered(PARALLEL)
        .count()
        .await;
    let seconds = (accepted.await.expect("counted") - started).as_secs_f64();
    clear(stack).await;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    (CREATES as f64 / seconds)
}

/// Removes every pod, and waits until no process is left either: a round begins with nothing to do.
async fn clear(stack: &Stack) {
    let pods = stack.namespace.api::<Pod>();
    let deletion = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    pods.delete_collection(&deletion, &ListParams::default())
        .await
        .expect("deleted");
    until("the namespace to be empty", 60, async || {
        stack.namespace.pods().await.is_empty().then_some(())
    })
    .await;
    until("the processes to be gone", 60, async || {
        let left: i64 = sqlx::query_scalar("select count(*) from process where lifecycle < 'gone'")
            .fetch_one(&stack.owner)
            .await
            .expect("Postgres answers");
        (left == 0).then_some(())
    })
    .await;
}
