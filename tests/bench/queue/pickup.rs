//! What a caller waits for when nothing else is done: from the answer of the API to the commit of the claim, with the real
//! programs and an API server of Kubernetes that has nothing.

use chrono::{DateTime, TimeDelta, Utc};
use octopus_shared::command::CommandKind;
use octopus_tests::api::Api;
use octopus_tests::function::services;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::sleep;

use super::Queue;
use super::idle::{Programs, ready};
use crate::quantile;

const SAMPLES: usize = 200;

pub(crate) async fn run_pickup() {
    let Some(queue) = Queue::new("pickup").await else {
        return;
    };
    let owner = &queue.database.owner;
    // The claims of this bench's own manager are not wanted.
    sqlx::query("update manager set lease_until = now(), stopped_at = now()")
        .execute(owner)
        .await
        .expect("its lease is over");
    let processes = services(&queue.database, "default", SAMPLES).await;
    let api = Api::start(&queue.database).await;
    let programs = Programs::new(&queue.database.url).await;
    let _manager = programs.manager();
    ready(owner).await;

    let (mut waits, mut commits) = (Vec::new(), Vec::new());
    for process in processes {
        commits.push(commit(&queue).await);
        let stored = api
            .post(&format!("/api/v1/processes/{process}/kill"), &json!({}))
            .await
            .accepted();
        let answered = Utc::now();
        let command = stored["id"].as_str().expect("an id").to_owned();
        let claimed = claimed(&queue, &command).await;
        waits.push(
            (claimed - answered)
                .max(TimeDelta::zero())
                .to_std()
                .expect("not negative"),
        );
        // Until nothing is under way.
        sleep(Duration::from_millis(50)).await;
    }
    waits.sort_unstable();
    commits.sort_unstable();
    let commit = quantile(&commits, 0.5);
    let (p50, p99) = (quantile(&waits, 0.5), quantile(&waits, 0.99));
    println!(
        "idle, stored -> claimed ({}), {SAMPLES} times: p50 {p50:.2?}, of {:.2?} that it may take; p99 {p99:.2?}, of {:.2?}; \
         a commit {commit:.2?}",
        CommandKind::KillProcess.as_str(),
        Duration::from_millis(1) + 3 * commit,
        Duration::from_millis(5) + 3 * commit,
    );
}

/// One commit of one row.
async fn commit(queue: &Queue) -> Duration {
    let began = Instant::now();
    sqlx::query("update installation set created_at = created_at")
        .execute(&queue.database.owner)
        .await
        .expect("stored");
    began.elapsed()
}

/// When the claim of a command was committed.
async fn claimed(queue: &Queue, command: &str) -> DateTime<Utc> {
    for _ in 0..2000 {
        let found: Option<DateTime<Utc>> = sqlx::query_scalar(
            "select pg_xact_commit_timestamp(l.xmin) from command_lease l join command c using (seq) where c.id = $1::uuid",
        )
        .bind(command)
        .fetch_optional(&queue.database.owner)
        .await
        .expect("an answer");
        if let Some(found) = found {
            return found;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("command {command} was not claimed within 10 s");
}
