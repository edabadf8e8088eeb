//! Transitions: of one process, in order; of all, without a hole.

use std::time::Duration;

use octopus_tests::api::Api;
use octopus_tests::function::{process, start};
use octopus_tests::postgres::Database;
use octopus_tests::stack::client::until;
use serde_json::{Value, json};
use uuid::Uuid;

async fn transition(database: &Database, process: Uuid, lifecycle: &'static str, state: &'static str) {
    sqlx::query("select transition($1, $2::process_lifecycle, $3, 'why', 'words', 'do this')")
        .bind(process)
        .bind(lifecycle)
        .bind(state)
        .execute(&database.manager)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_transitions_of_a_process_are_in_order_and_paged() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    for (lifecycle, state) in [
        ("created", "starting"),
        ("created", "ready"),
        ("stopping", "stopping"),
        ("gone", "killed"),
    ] {
        transition(&database, id, lifecycle, state).await;
    }
    transition(&database, id, "created", "running").await;
    let events = api.read(&format!("/api/v1/processes/{id}/events")).await;
    let seen: Vec<_> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["number"].clone(), e["state"].clone()))
        .collect();
    let expected = ["pending", "starting", "ready", "stopping", "killed"];
    assert_eq!(
        seen,
        (1..)
            .zip(expected)
            .map(|(n, state)| (json!(n), json!(state)))
            .collect::<Vec<_>>()
    );
    assert_eq!(events["items"][4]["remedy"], "do this");
    let page = api
        .read(&format!("/api/v1/processes/{id}/events?limit=2&after=2"))
        .await;
    assert_eq!((&page["items"][0]["number"], &page["next"]), (&json!(3), &json!(4)));
}

#[tokio::test]
async fn the_feed_is_resumed_without_a_hole_or_a_repetition() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let mut feed = api.events("/api/v1/events", None).await;
    let place = feed.next().await.unwrap();
    assert_eq!((place.event.as_str(), place.data.as_str()), ("", ""));
    let id = process(&api).await;
    let first = feed.next().await.unwrap();
    assert_eq!(
        (first.event.as_str(), &first.json()["process_id"]),
        ("transition", &json!(id))
    );
    drop(feed);
    api.stop().await;
    transition(&database, id, "created", "starting").await;
    let api = Api::start(&database).await;
    let mut feed = api.events("/api/v1/events", first.id.as_deref()).await;
    feed.next().await.unwrap();
    assert_eq!(feed.next().await.unwrap().json()["number"], 2);
    assert!(feed.is_silent(Duration::from_millis(300)).await);
    let mut all = api.events("/api/v1/events?after=0", None).await;
    all.next().await.unwrap();
    assert_eq!(
        [
            all.next().await.unwrap().json()["number"].clone(),
            all.next().await.unwrap().json()["number"].clone()
        ],
        [1, 2]
    );
    let mut from_start = api.events("/api/v1/events", place.id.as_deref()).await;
    from_start.next().await.unwrap();
    assert_eq!(from_start.next().await.unwrap().json()["number"], 1);
}

#[tokio::test]
async fn a_transaction_that_commits_late_is_not_skipped() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let (slow, quick) = (process(&api).await, start(&api, "hello").await["process_id"].clone());
    let quick: Uuid = serde_json::from_value(quick).unwrap();
    // A feed begins at the oldest transaction that is open, and shows what was written since.
    until("older transactions to end", 30, async || {
        let past = "select pg_snapshot_xmin(pg_current_snapshot()) > max(transaction) from process_event";
        let past: bool = sqlx::query_scalar(past).fetch_one(&database.owner).await.unwrap();
        past.then_some(())
    })
    .await;
    let mut feed = api.events("/api/v1/events", None).await;
    feed.next().await.unwrap();
    let mut transaction = octopus_shared::db::begin(&database.manager).await.unwrap();
    sqlx::query("select transition($1, 'created', 'running')")
        .bind(slow)
        .execute(&mut *transaction)
        .await
        .unwrap();
    transition(&database, quick, "created", "running").await;
    assert!(
        feed.is_silent(Duration::from_millis(400)).await,
        "an older transaction is open"
    );
    transaction.commit().await.unwrap();
    let seen: Vec<Value> = vec![feed.next().await.unwrap().json(), feed.next().await.unwrap().json()];
    assert_eq!(
        [&seen[0]["process_id"], &seen[1]["process_id"]],
        [&json!(slow), &json!(quick)]
    );
}
