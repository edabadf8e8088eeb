//! Logs: the bytes that were printed, once and in order, in every form.

use std::time::Duration;

use chrono::{DateTime, Utc};
use octopus_shared::db::{CHANGE_CHANNEL, notify};
use octopus_shared::log::push_line;
use octopus_tests::api::{Answer, Api, send};
use octopus_tests::function::{declare, process, start};
use octopus_tests::postgres::Database;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

const PRINTED: [&[u8]; 6] = [
    b"first",
    b"",
    b"\0 NUL",
    b"\xff\xfe no UTF-8",
    b"a\rb",
    "ünï".as_bytes(),
];

/// Stores a chunk as the watching manager does.
pub(crate) async fn store<L: AsRef<[u8]>>(database: &Database, process: Uuid, seq: i64, lines: &[L]) {
    let at: DateTime<Utc> = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
    let mut data = Vec::new();
    for line in lines {
        push_line(&mut data, at, line.as_ref());
    }
    sqlx::query(
        "with stream as (
             insert into log_stream (process_id, pod_uid, container, restart, attempt) values ($1, 'pod-1', 'function', 0, 1)
             on conflict do nothing)
         insert into log_chunk (process_id, seq, day, pod_uid, container, restart, lines, first_at, last_at, data)
         values ($1, $2, (now() at time zone 'utc')::date, 'pod-1', 'function', 0, $3, $4, $4, $5)",
    )
    .bind(process)
    .bind(seq)
    .bind(i32::try_from(lines.len()).unwrap())
    .bind(at)
    .bind(data)
    .execute(&database.owner)
    .await
    .unwrap();
}

pub(crate) async fn end(database: &Database, process: Uuid, gaps: Value) {
    let seal = if gaps == json!([]) { "complete" } else { "gap" };
    sqlx::query("update log_stream set seal = $2, gaps = $3 where process_id = $1")
        .bind(process)
        .bind(seal)
        .bind(gaps)
        .execute(&database.owner)
        .await
        .unwrap();
    sqlx::query("select transition($1, 'gone', 'succeeded')")
        .bind(process)
        .execute(&database.manager)
        .await
        .unwrap();
}

async fn read(api: &Api, process: Uuid, query: &str, accept: &str) -> Answer {
    let path = format!("/api/v1/processes/{process}/logs{query}");
    let answer = send(api.request(Method::GET, &path, &api.viewer).header("accept", accept)).await;
    assert_eq!(answer.status, 200, "{query}");
    answer
}

fn printed(lines: &[&[u8]]) -> Vec<u8> {
    lines.iter().flat_map(|line| [*line, b"\n"].concat()).collect()
}

fn ndjson(answer: &Answer) -> Vec<Value> {
    answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn text_is_what_was_printed_byte_for_byte() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    assert_eq!(read(&api, id, "", "*/*").await.body, b"");
    store(&database, id, 1, &PRINTED[..2]).await;
    store(&database, id, 2, &PRINTED[2..]).await;
    for (query, lines, cursor) in [
        ("", &PRINTED[..], "2.4"),
        ("?tail=0", &PRINTED[6..], "2.4"),
        ("?tail=1", &PRINTED[5..], "2.4"),
        ("?tail=5", &PRINTED[1..], "2.4"),
        ("?tail=600", &PRINTED[..], "2.4"),
        ("?after=1.1", &PRINTED[1..], "2.4"),
        ("?after=2.3", &PRINTED[5..], "2.4"),
        ("?after=2.4", &PRINTED[6..], "2.4"),
        ("?after=9.9", &PRINTED[6..], "9.9"),
        ("?limit=1", &PRINTED[..1], "1.1"),
        ("?limit=3", &PRINTED[..3], "2.1"),
        ("?limit=3&after=1.1", &PRINTED[1..4], "2.2"),
        ("?limit=2&after=2.1", &PRINTED[3..5], "2.3"),
        ("?limit=6", &PRINTED[..], "2.4"),
        ("?limit=7", &PRINTED[..], "2.4"),
        ("?tail=4&limit=2", &PRINTED[2..4], "2.2"),
    ] {
        let answer = read(&api, id, query, "text/plain").await;
        assert_eq!(answer.body, printed(lines), "{query}");
        assert_eq!(answer.headers["octopus-cursor"], cursor, "{query}");
    }
    assert_eq!(
        read(&api, id, "", "*/*").await.headers["content-type"],
        "text/plain; charset=utf-8"
    );
}

#[tokio::test]
async fn ndjson_names_every_line_and_every_hole() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    store(&database, id, 1, &PRINTED).await;
    let lines = ndjson(&read(&api, id, "", "application/x-ndjson").await);
    assert_eq!(lines.len(), PRINTED.len());
    assert_eq!(
        lines[2],
        json!({"cursor": "1.3", "at": "2026-01-02T03:04:05.000000006Z", "pod_uid": "pod-1", "container": "function",
               "restart": 0, "attempt": 1, "line": "\u{0} NUL"})
    );
    assert_eq!(
        (&lines[3]["line"], &lines[3]["line_base64"]),
        (&Value::Null, &json!("//4gbm8gVVRGLTg="))
    );
    end(&database, id, json!([{"from": 1, "to": null, "reason": "evicted"}])).await;
    let lines = ndjson(&read(&api, id, "?tail=1", "application/x-ndjson").await);
    assert_eq!(lines.len(), 3);
    assert_eq!(
        (&lines[1]["gap"]["reason"], &lines[1]["container"]),
        (&json!("evicted"), &json!("function"))
    );
    assert_eq!(
        (&lines[2]["end"]["complete"], &lines[2]["end"]["state"]),
        (&json!(false), &json!("succeeded"))
    );
    assert_eq!(
        ndjson(&read(&api, id, "?limit=2", "application/x-ndjson").await).len(),
        2,
        "the end was not reached"
    );
}

#[tokio::test]
async fn a_follower_gets_what_is_printed_next_until_the_end() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    store(&database, id, 1, &["a", "b", "c"]).await;
    let mut events = api.events(&format!("/api/v1/processes/{id}/logs?tail=2"), None).await;
    for expected in ["b", "c"] {
        let event = events.next().await.unwrap();
        assert_eq!(
            (event.event.as_str(), &event.json()["line"]),
            ("line", &json!(expected))
        );
    }
    store(&database, id, 2, &["d"]).await;
    notify(&database.manager, CHANGE_CHANNEL, &id.to_string())
        .await
        .unwrap();
    let event = events.next().await.unwrap();
    assert_eq!((event.id.as_deref(), &event.json()["line"]), (Some("2.1"), &json!("d")));
    store(&database, id, 3, &["e"]).await;
    end(&database, id, json!([])).await;
    assert_eq!(events.next().await.unwrap().json()["line"], "e");
    let last = events.next().await.unwrap();
    assert_eq!((last.event.as_str(), &last.json()["complete"]), ("end", &json!(true)));
    assert_eq!(last.json()["streams"][0]["seal"], "complete");
    assert_eq!(events.next().await, None);
    let text = read(&api, id, "?follow=true&after=2.0", "text/plain").await;
    assert_eq!(text.body, b"d\ne\n");
}

#[tokio::test]
async fn a_process_that_is_gone_while_a_stream_is_open_keeps_its_followers() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    store(&database, id, 1, &["a"]).await;
    sqlx::query("select transition($1, 'gone', 'succeeded')")
        .bind(id)
        .execute(&database.manager)
        .await
        .unwrap();
    let mut events = api.events(&format!("/api/v1/processes/{id}/logs"), None).await;
    events.next().await.unwrap();
    assert!(events.is_silent(Duration::from_millis(500)).await);
    store(&database, id, 2, &["late"]).await;
    sqlx::query("update log_stream set seal = 'complete'")
        .execute(&database.owner)
        .await
        .unwrap();
    assert_eq!(events.next().await.unwrap().json()["line"], "late");
    assert_eq!(events.next().await.unwrap().event, "end");
}

/// Of a process of which no log was read: whether it is known that there was none.
#[tokio::test]
async fn a_log_that_nobody_read_is_complete_if_nothing_can_have_run() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    declare(&api, "hello").await;
    for (made, pod, reason, complete) in [
        (false, None, "killed_before_creation", true),
        (true, None, "deleted_by_other", false),
        (true, Some(("failed", Some("image_not_found"))), "image_not_found", true),
        (true, Some(("failed", Some("node_refused"))), "node_refused", true),
        (
            true,
            Some(("failing", Some("image_not_found"))),
            "deleted_by_other",
            false,
        ),
        (true, Some(("starting", None)), "deleted_by_other", false),
        (false, Some(("starting", None)), "deleted_by_other", false),
    ] {
        let started = start(&api, "hello").await;
        let id: Uuid = started["process_id"].as_str().unwrap().parse().unwrap();
        if made {
            sqlx::query("update process set manifest = '[]' where id = $1")
                .bind(id)
                .execute(&database.owner)
                .await
                .unwrap();
        }
        if let Some((state, why)) = pod {
            sqlx::query(
                "insert into pod (uid, process_id, attempt, name, phase, state, reason, resource_version, observation, created_at, gone_at)
                 values ($1::text, $1, 1, $1::text, 'Pending', $2, $3, '1', 1, now(), now())",
            )
            .bind(id)
            .bind(state)
            .bind(why)
            .execute(&database.owner)
            .await
            .unwrap();
        }
        sqlx::query("select transition($1, 'gone', 'failed', $2)")
            .bind(id)
            .bind(reason)
            .execute(&database.manager)
            .await
            .unwrap();
        let shown = ndjson(&read(&api, id, "", "application/x-ndjson").await);
        assert_eq!(
            (&shown[0]["end"]["complete"], &shown[0]["end"]["streams"]),
            (&json!(complete), &json!([])),
            "{made} {pod:?} {reason}"
        );
    }
}

#[tokio::test]
async fn the_end_of_a_log_outlives_its_chunks() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    store(&database, id, 41, &["x", "y", "z"]).await;
    end(&database, id, json!([])).await;
    sqlx::raw_sql(
        "insert into log_kept (function_name, process_id, data) select 'hello', process_id, data from log_chunk; delete from log_chunk",
    )
    .execute(&database.owner)
    .await
    .unwrap();
    for (query, lines) in [
        ("", "x\ny\nz\n"),
        ("?tail=2", "y\nz\n"),
        ("?tail=9", "x\ny\nz\n"),
        ("?limit=2", "x\ny\n"),
        ("?after=0.2", "z\n"),
        ("?after=41.3", ""),
    ] {
        assert_eq!(read(&api, id, query, "text/plain").await.text(), lines, "{query}");
    }
}
