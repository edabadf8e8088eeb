//! What a log waits for: a line printed -> the line readable through the API, by a client that follows the log; the same of
//! transitions; and (part `drain`) logs as fast as they come.

pub(crate) mod drain;
mod transition;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use octopus_tests::stack::Stack;
use serde_json::json;

use super::quantile;

const LINES: usize = 300;

/// Prints its clock, the machine's own, every 50 ms.
const SOURCE: &str = "import time
for _ in range(300):
    print(time.time(), flush=True)
    time.sleep(0.05)
";

pub(super) async fn run(stack: &Stack) {
    let manager = stack.manager().await;
    transition::run(stack).await;
    lines(stack).await;
    assert!(manager.terminate().await, "the manager ends cleanly");
}

async fn lines(stack: &Stack) {
    stack.client.build("clock", SOURCE, json!({})).await;
    let process = stack.client.start("clock", json!({"kind": "task"})).await;
    stack.client.shows(process, "state", "running", 60).await;
    let mut waits = Vec::new();
    stack
        .client
        .follow(process, |line| {
            let printed: f64 = line.trim().parse().expect("a time");
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("a clock after 1970");
            waits.push(now.saturating_sub(Duration::from_secs_f64(printed)));
        })
        .await;
    assert_eq!(waits.len(), LINES, "every line was followed");
    waits.sort_unstable();
    println!(
        "line printed -> readable: p50 {:.0?}, p95 {:.0?} ({LINES} lines, 20 a second, by SSE)",
        quantile(&waits, 0.5),
        quantile(&waits, 0.95)
    );
}
