//! The story of a process as it is followed: in order, to its end, and resumed anywhere.

use std::time::Duration;

use octopus_shared::db::{CHANGE_CHANNEL, notify};
use octopus_tests::api::Api;
use octopus_tests::function::process;
use octopus_tests::postgres::Database;
use octopus_tests::sse::Event;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api_story::{ask, at, becomes, print, told};

/// An event of a followed story in short, and its place.
fn short(event: &Event) -> (String, Option<String>) {
    let data = event.json();
    let word = match event.event.as_str() {
        "transition" => data["state"].as_str().unwrap().to_owned(),
        "line" => [&data["line"], &data["line_base64"]]
            .into_iter()
            .find_map(Value::as_str)
            .unwrap()
            .to_owned(),
        "gap" => format!("[{}]", data["gap"]["reason"].as_str().unwrap()),
        "end" => format!("end: {}", data["complete"]),
        other => panic!("{other}"),
    };
    (word, event.id.clone())
}

async fn announce(database: &Database, process: Uuid) {
    notify(&database.manager, CHANGE_CHANNEL, &process.to_string())
        .await
        .unwrap();
}

/// A transition waits for nothing when nothing is printed, and stands before the line that is not earlier when something is.
#[tokio::test]
async fn a_story_is_followed_to_its_end_and_resumed_anywhere() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    let path = format!("/api/v1/processes/{id}/story");
    let mut events = api.events(&path, None).await;
    let mut seen = vec![short(&events.next().await.unwrap())];
    becomes(&database, id, "created", "running", None, 2).await;
    announce(&database, id).await;
    seen.push(short(&events.next().await.unwrap()));
    print(&database, id, 1, &[(2, b"two"), (3, b"three")]).await;
    announce(&database, id).await;
    seen.push(short(&events.next().await.unwrap()));
    seen.push(short(&events.next().await.unwrap()));
    // The API hears of both at once.
    becomes(&database, id, "created", "failing", Some("unhealthy"), 5).await;
    print(&database, id, 2, &[(4, b"four"), (5, b"\xff")]).await;
    sqlx::query("update log_stream set gaps = $2 where process_id = $1")
        .bind(id)
        .bind(json!([{"from": null, "to": at(4).timestamp_nanos_opt(), "reason": "rotation", "cut": true}]))
        .execute(&database.owner)
        .await
        .unwrap();
    announce(&database, id).await;
    for _ in 0..4 {
        seen.push(short(&events.next().await.unwrap()));
    }
    becomes(&database, id, "gone", "failed", Some("exit_code"), 9).await;
    sqlx::query("update log_stream set seal = 'gap' where process_id = $1")
        .bind(id)
        .execute(&database.owner)
        .await
        .unwrap();
    announce(&database, id).await;
    while let Some(event) = events.next().await {
        seen.push(short(&event));
    }
    let words: Vec<&str> = seen.iter().map(|(word, _)| word.as_str()).collect();
    assert_eq!(
        words,
        [
            "pending",
            "running",
            "two",
            "three",
            "[rotation]",
            "four",
            "failing",
            "/w==",
            "failed",
            "end: false"
        ]
    );
    for (index, (word, place)) in seen.iter().enumerate() {
        let Some(place) = place else { continue };
        let mut resumed = api.events(&path, Some(place)).await;
        let mut rest = Vec::new();
        while let Some(event) = resumed.next().await {
            rest.push(short(&event));
        }
        assert_eq!(rest, seen[index + 1..], "after {word}");
    }
    let lines = ask(&api, id, "?follow=true", "application/x-ndjson").await;
    let (end, rest) = (lines.text(), told(&ask(&api, id, "", "application/x-ndjson").await));
    let end: Value = serde_json::from_str(end.lines().last().unwrap()).unwrap();
    assert_eq!(
        (end["end"]["complete"].as_bool(), lines.text().lines().count()),
        (Some(false), rest.len() + 1)
    );
    let read = ask(&api, id, "", "text/plain").await;
    let followed = ask(&api, id, "?follow=true", "text/plain").await;
    assert_eq!(followed.body, read.body);
}

/// More transitions than are read at once, with lines among them, told as they are when it is over.
#[tokio::test]
async fn a_long_story_is_followed_in_order() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    for second in 0..600 {
        let state = if second % 2 == 0 { "running" } else { "failing" };
        sqlx::query("select transition($1, 'created', $2)")
            .bind(id)
            .bind(state)
            .execute(&database.manager)
            .await
            .unwrap();
    }
    sqlx::query("update process_event set at = $2 + number * interval '2 seconds' where process_id = $1")
        .bind(id)
        .bind(at(0))
        .execute(&database.owner)
        .await
        .unwrap();
    let names: Vec<String> = (0..1201).map(|second| second.to_string()).collect();
    let lines: Vec<(i64, &[u8])> = (0..).zip(names.iter().map(String::as_bytes)).collect();
    print(&database, id, 1, &lines).await;
    becomes(&database, id, "gone", "failed", None, 2000).await;
    sqlx::query("update log_stream set seal = 'complete' where process_id = $1")
        .bind(id)
        .execute(&database.owner)
        .await
        .unwrap();
    let read = ask(&api, id, "?limit=10000", "text/plain").await;
    assert_eq!(read.text().lines().count(), 602 + 1201);
    let followed = ask(&api, id, "?follow=true", "text/plain").await;
    assert!(followed.body == read.body, "{}", followed.text());
}

/// Who reads slowly is told of what was recorded last behind the lines that were printed before.
#[tokio::test]
async fn a_slow_reader_of_a_story_is_told_in_order() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    let long = "x".repeat(10_000);
    // More than sockets and the API itself hold.
    for seq in 1..=300 {
        let lines: Vec<(i64, &[u8])> = (0..10).map(|_| (seq, long.as_bytes())).collect();
        print(&database, id, seq, &lines).await;
    }
    becomes(&database, id, "created", "failing", Some("unhealthy"), 500).await;
    let mut events = api.events(&format!("/api/v1/processes/{id}/story"), None).await;
    let mut seen = vec![events.next().await.unwrap().event];
    // Longer than a transition waits for late lines.
    tokio::time::sleep(Duration::from_secs(3)).await;
    while seen.len() < 3002 {
        seen.push(events.next().await.unwrap().event);
    }
    assert_eq!((seen[0].as_str(), seen[3001].as_str()), ("transition", "transition"));
    assert!(seen[1..3001].iter().all(|kind| kind == "line"));
}

/// Transitions are kept for a while only, and a service may have none for longer.
#[tokio::test]
async fn a_story_whose_transitions_are_gone_waits_in_peace() {
    let (database, _server) = Database::apart().await;
    let mut owner = database.owner.acquire().await.unwrap();
    octopus_api::admin::migrate::migrate(&mut owner).await.unwrap();
    sqlx::raw_sql("create extension pg_stat_statements")
        .execute(&mut *owner)
        .await
        .unwrap();
    let api = Api::start(&database).await;
    let id = process(&api).await;
    becomes(&database, id, "created", "running", None, 1).await;
    sqlx::raw_sql("delete from process_event")
        .execute(&mut *owner)
        .await
        .unwrap();
    print(&database, id, 1, &[(2, b"two")]).await;
    let mut events = api.events(&format!("/api/v1/processes/{id}/story"), None).await;
    assert_eq!(short(&events.next().await.unwrap()).0, "two");
    assert!(events.is_silent(Duration::from_secs(3)).await);
    let asked: i64 = sqlx::query_scalar(
        "select coalesce(sum(calls), 0)::bigint from pg_stat_statements where query like '%from process_event%'",
    )
    .fetch_one(&mut *owner)
    .await
    .unwrap();
    assert!((1..20).contains(&asked), "{asked} questions for transitions");
}

/// A hole behind the last line is told before the end.
#[tokio::test]
async fn a_story_says_what_is_missing_at_its_end() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    print(&database, id, 1, &[(1, b"one")]).await;
    becomes(&database, id, "gone", "killed", Some("kill_requested"), 2).await;
    sqlx::query("update log_stream set seal = 'gap', gaps = $2 where process_id = $1")
        .bind(id)
        .bind(json!([{"from": at(1).timestamp_nanos_opt(), "to": null, "reason": "killed_early"}]))
        .execute(&database.owner)
        .await
        .unwrap();
    let read = ask(&api, id, "", "application/x-ndjson").await;
    assert_eq!(told(&read), ["pending", "one", "killed", "[killed_early]"]);
    let mut events = api.events(&format!("/api/v1/processes/{id}/story"), None).await;
    let mut words = Vec::new();
    while let Some(event) = events.next().await {
        words.push(short(&event).0);
    }
    assert_eq!(words, ["pending", "one", "killed", "[killed_early]", "end: false"]);
}
