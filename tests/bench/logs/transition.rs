//! A transition at the API server, as a bare watch sees it -> the transition readable, by a client that follows all of them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use octopus_tests::stack::Stack;
use serde_json::json;
use tokio::sync::mpsc;

use crate::quantile;

const TASKS: usize = 60;
const SOURCE: &str = "import time\ntime.sleep(1)\n";

/// Process, state, and when it was seen.
type Seen = mpsc::UnboundedSender<(String, &'static str, Instant)>;

pub(super) async fn run(stack: &Stack) {
    stack.client.build("blink", SOURCE, json!({})).await;
    let (of_server, mut at_server) = mpsc::unbounded_channel();
    let (of_feed, mut in_feed) = mpsc::unbounded_channel();
    let feed = stack.client.feed().await;
    let watching = tokio::spawn(watch(stack.namespace.api::<Pod>(), of_server));
    let following = tokio::spawn(follow(feed, of_feed));
    for _ in 0..TASKS {
        let process = stack.client.start("blink", json!({"kind": "task"})).await;
        stack.client.shows(process, "lifecycle", "gone", 60).await;
    }
    watching.abort();
    following.abort();
    let mut first = HashMap::new();
    while let Some((process, state, at)) = at_server.recv().await {
        first.entry((process, state)).or_insert(at);
    }
    let mut waits: Vec<Duration> = Vec::new();
    while let Some((process, state, at)) = in_feed.recv().await {
        if let Some(since) = first.remove(&(process, state)) {
            waits.push(at.saturating_duration_since(since));
        }
    }
    waits.sort_unstable();
    println!(
        "transition seen by a bare watch -> by a follower of the API: p50 {:.0?}, p99 {:.0?} ({} transitions of {TASKS} tasks, one \
         after another)",
        quantile(&waits, 0.5),
        quantile(&waits, 0.99),
        waits.len()
    );
}

async fn watch(pods: kube::Api<Pod>, seen: Seen) {
    let changes = watcher(pods, watcher::Config::default()).touched_objects();
    pin_mut!(changes);
    while let Some(Ok(pod)) = changes.next().await {
        let process = pod.labels().get("octopus-process-manager/process").cloned();
        let state = match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
            Some("Running") => "running",
            Some("Succeeded") => "succeeded",
            _ => continue,
        };
        let sent = process.is_none_or(|process| seen.send((process, state, Instant::now())).is_ok());
        if !sent {
            return;
        }
    }
}

async fn follow(mut feed: octopus_tests::sse::Events, seen: Seen) {
    while let Some(event) = feed.next().await {
        if event.event != "transition" {
            continue;
        }
        let transition = event.json();
        let state = match transition["state"].as_str() {
            Some("running") => "running",
            Some("succeeded") => "succeeded",
            _ => continue,
        };
        let process = transition["process_id"].as_str().unwrap_or_default().to_owned();
        if seen.send((process, state, Instant::now())).is_err() {
            return;
        }
    }
}
