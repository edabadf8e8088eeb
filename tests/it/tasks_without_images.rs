//! Which pods of tasks are given up for want of their image.

use std::time::Duration;

use octopus_shared::db::report::{self, Watch};
use octopus_shared::pod::{PodObservation, Verdict};
use octopus_shared::process::ProcessState;
use octopus_shared::reason;
use octopus_tests::api::Api;
use octopus_tests::function::{manager, observed, pod, process, watch};
use octopus_tests::postgres::Database;
use uuid::Uuid;

/// A task, and the watch that sees its pods.
async fn prepared() -> (Database, Watch, Uuid) {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let watch = watch(&database, instance).await;
    let process = process(&api).await;
    (database, watch, process)
}

#[tokio::test]
async fn a_pod_is_given_up_after_its_grace_and_until_it_is_deleted() {
    let (database, watch, process) = prepared().await;
    let pool = &database.manager;
    let look = async |state, why| {
        let look = PodObservation {
            phase: "Pending".into(),
            ..pod(process, "u", "1", Verdict::because(state, why, "words"))
        };
        observed(pool, &watch, &look).await;
    };
    let waiting = async |seconds| {
        let grace = [(reason::IMAGE_NOT_FOUND, Duration::from_secs(seconds))];
        let found = report::waiting_pods(pool, &watch, &grace).await.unwrap();
        found.iter().map(|pod| (pod.why, pod.words.clone())).collect::<Vec<_>>()
    };
    look(ProcessState::Failing, reason::CONFIG_ERROR).await;
    assert_eq!(waiting(0).await, [], "that is not its image");
    look(ProcessState::Failing, reason::IMAGE_NOT_FOUND).await;
    assert_eq!(waiting(3600).await, [], "the registry may have it soon");
    let given_up = [(reason::IMAGE_NOT_FOUND, "words".to_owned())];
    assert_eq!(waiting(0).await, given_up);
    // A manager has left word that it is given up, and died before it deleted it.
    look(ProcessState::Failed, reason::IMAGE_NOT_FOUND).await;
    assert_eq!(waiting(3600).await, given_up);
}

/// Each attempt of a task fails as its process shows already.
#[tokio::test]
async fn every_attempt_that_fails_leaves_an_event() {
    let (database, watch, process) = prepared().await;
    let pool = &database.manager;
    sqlx::query("update process set spec = spec || '{\"retries\": 1}' where id = $1")
        .bind(process)
        .execute(&database.owner)
        .await
        .unwrap();
    for attempt in 1..=2 {
        for state in [ProcessState::Failing, ProcessState::Failed] {
            let uid = format!("attempt-{attempt}");
            let look = PodObservation {
                attempt,
                ..pod(
                    process,
                    &uid,
                    "1",
                    Verdict::because(state, reason::IMAGE_NOT_FOUND, "words"),
                )
            };
            observed(pool, &watch, &look).await;
        }
    }
    let told: Vec<String> = sqlx::query_scalar(
        "select coalesce(message, '') from process_event where state in ('failing', 'failed') order by number",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(told, ["words", "attempt 1 of 2 failed: words", "words"]);
}
