//! The story of a process as it is read: its transitions and its lines, in order of time, each once.

use chrono::{DateTime, TimeDelta, Utc};
use octopus_shared::log::push_line;
use octopus_tests::api::{Answer, Api, send};
use octopus_tests::function::process;
use octopus_tests::postgres::Database;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) fn at(second: i64) -> DateTime<Utc> {
    let begin: DateTime<Utc> = "2026-01-02T03:04:00Z".parse().unwrap();
    begin + TimeDelta::seconds(second)
}

/// Stores lines, each with its second, as the watching manager does.
pub(crate) async fn print(database: &Database, process: Uuid, seq: i64, lines: &[(i64, &[u8])]) {
    let mut data = Vec::new();
    for (second, line) in lines {
        push_line(&mut data, at(*second), line);
    }
    sqlx::query(
        "with stream as (
             insert into log_stream (process_id, pod_uid, container, restart, attempt) values ($1, 'pod-1', 'function', 0, 1)
             on conflict do nothing)
         insert into log_chunk (process_id, seq, day, pod_uid, container, restart, lines, first_at, last_at, data)
         values ($1, $2, (now() at time zone 'utc')::date, 'pod-1', 'function', 0, $3, $4, $5, $6)",
    )
    .bind(process)
    .bind(seq)
    .bind(i32::try_from(lines.len()).unwrap())
    .bind(at(lines[0].0))
    .bind(at(lines[lines.len() - 1].0))
    .bind(data)
    .execute(&database.owner)
    .await
    .unwrap();
}

/// A transition at a second, and the first one, that of the request, at second 0.
pub(crate) async fn becomes(
    database: &Database,
    process: Uuid,
    lifecycle: &str,
    state: &str,
    reason: Option<&str>,
    second: i64,
) {
    let mut transaction = octopus_shared::db::begin(&database.owner).await.unwrap();
    sqlx::query("select transition($1, $2::process_lifecycle, $3, $4, $5)")
        .bind(process)
        .bind(lifecycle)
        .bind(state)
        .bind(reason)
        .bind(reason.map(|_| "two\nlines"))
        .execute(&mut *transaction)
        .await
        .unwrap();
    for (time, number) in [(0, "min"), (second, "max")] {
        let all = format!(
            "update process_event set at = $2
              where process_id = $1 and number = (select {number}(number) from process_event where process_id = $1)"
        );
        sqlx::query(sqlx::AssertSqlSafe(all))
            .bind(process)
            .bind(at(time))
            .execute(&mut *transaction)
            .await
            .unwrap();
    }
    transaction.commit().await.unwrap();
}

pub(crate) async fn ask(api: &Api, process: Uuid, query: &str, accept: &str) -> Answer {
    let path = format!("/api/v1/processes/{process}/story{query}");
    send(api.request(Method::GET, &path, &api.viewer).header("accept", accept)).await
}

/// What a part tells, in short: states, lines, and holes in brackets.
pub(crate) fn told(answer: &Answer) -> Vec<String> {
    let text = answer.text();
    let values = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    values
        .map(|value| {
            let word = |value: &Value| value.as_str().map(str::to_owned);
            word(&value["event"]["state"])
                .or_else(|| word(&value["gap"]["gap"]["reason"]).map(|reason| format!("[{reason}]")))
                .or_else(|| word(&value["line"]["line"]))
                .or_else(|| word(&value["line"]["line_base64"]))
                .unwrap()
        })
        .collect()
}

async fn a_story(database: &Database, process: Uuid) {
    becomes(database, process, "created", "running", None, 2).await;
    print(database, process, 1, &[(1, b"early"), (2, b"two"), (3, b"three")]).await;
    print(
        database,
        process,
        2,
        &[(5, b"five"), (4, b"the clock was set back"), (6, b"\xff")],
    )
    .await;
    becomes(database, process, "gone", "failed", Some("exit_code"), 6).await;
    sqlx::query("update log_stream set gaps = $2 where process_id = $1")
        .bind(process)
        .bind(json!([{"from": null, "to": at(5).timestamp_nanos_opt(), "reason": "rotation", "cut": true}]))
        .execute(&database.owner)
        .await
        .unwrap();
}

const STORY: [&str; 10] = [
    "pending",
    "early",
    "running",
    "two",
    "three",
    "[rotation]",
    "five",
    "the clock was set back",
    "failed",
    "/w==",
];

#[tokio::test]
async fn transitions_and_lines_come_in_order_of_time() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    a_story(&database, id).await;
    let all = ask(&api, id, "", "application/x-ndjson").await;
    assert_eq!(told(&all), STORY);
    assert_eq!(
        (&all.headers["octopus-cursor"], &all.headers["octopus-more"]),
        (&"3-2.3".parse().unwrap(), &"false".parse().unwrap())
    );
    let first: Value = serde_json::from_str(all.text().lines().nth(6).unwrap()).unwrap();
    assert_eq!(
        first,
        json!({"cursor": "2-2.1", "line": {"cursor": "2.1", "at": "2026-01-02T03:04:05Z", "pod_uid": "pod-1",
               "container": "function", "restart": 0, "attempt": 1, "partial": true, "line": "five"}})
    );
    let text = ask(&api, id, "?after=2-2.1", "text/plain").await;
    let expected = [
        b"2026-01-02T03:04:04.000000000Z the clock was set back\n".as_slice(),
        b"2026-01-02T03:04:06.000000000Z === failed: exit_code: two lines\n",
        b"2026-01-02T03:04:06.000000000Z \xff\n",
    ]
    .concat();
    assert_eq!(text.body, expected);
}

/// However small the parts, and whatever is added in between.
#[tokio::test]
async fn a_story_in_parts_tells_everything_once() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    a_story(&database, id).await;
    for limit in 1..=11 {
        let (mut all, mut after, mut more) = (Vec::new(), "0-0.0".to_owned(), true);
        while more {
            let part = ask(
                &api,
                id,
                &format!("?after={after}&limit={limit}"),
                "application/x-ndjson",
            )
            .await;
            let new = told(&part);
            let counted = new.iter().filter(|word| !word.starts_with('[')).count();
            assert!(counted <= limit, "{new:?}");
            all.extend(new);
            after = part.headers["octopus-cursor"].to_str().unwrap().to_owned();
            more = part.headers["octopus-more"] == "true";
        }
        assert_eq!(all, STORY, "parts of {limit}");
        let nothing = ask(&api, id, &format!("?after={after}"), "text/plain").await;
        assert_eq!(nothing.body, b"");
    }
    print(&database, id, 3, &[(3, b"late")]).await;
    let rest = ask(&api, id, "?after=3-2.3", "application/x-ndjson").await;
    assert_eq!(told(&rest), ["late"]);
}

#[tokio::test]
async fn the_end_of_a_log_that_outlives_its_chunks_is_told() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    a_story(&database, id).await;
    sqlx::raw_sql(
        "insert into log_kept (function_name, process_id, data) select 'hello', process_id, data from log_chunk where seq = 2;
         delete from log_chunk",
    )
    .execute(&database.owner)
    .await
    .unwrap();
    let all = ask(&api, id, "", "application/x-ndjson").await;
    assert_eq!(
        told(&all),
        ["pending", "running", "five", "the clock was set back", "failed", "/w=="]
    );
    let rest = ask(&api, id, "?after=2-0.2", "application/x-ndjson").await;
    assert_eq!(told(&rest), ["failed", "/w=="]);
}

#[tokio::test]
async fn a_failure_comes_with_the_last_lines_of_the_log() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    let shown = async || {
        let process = api.read(&format!("/api/v1/processes/{id}")).await;
        process["last_lines"].as_array().unwrap().clone()
    };
    assert_eq!(shown().await, [] as [Value; 0]);
    let long = "\u{fc}".repeat(10_000);
    print(&database, id, 1, &[(1, b"far away"), (2, long.as_bytes()), (3, b"3")]).await;
    print(
        &database,
        id,
        2,
        &[(4, b""), (5, b"\xff"), (6, "\u{fc}".repeat(501).as_bytes())],
    )
    .await;
    becomes(&database, id, "created", "running", None, 7).await;
    assert_eq!(shown().await, [] as [Value; 0]);
    becomes(&database, id, "created", "failing", Some("crash_loop"), 8).await;
    let short = "\u{fc}".repeat(500);
    assert_eq!(shown().await, ["far away", &short, "3", "", "\u{fffd}", &short]);
    let many: Vec<_> = (0..30).map(|number| (9, number.to_string())).collect();
    let many: Vec<_> = many.iter().map(|(second, line)| (*second, line.as_bytes())).collect();
    print(&database, id, 3, &many).await;
    becomes(&database, id, "gone", "failed", Some("exit_code"), 10).await;
    let expected: Vec<String> = (20..30).map(|number| number.to_string()).collect();
    assert_eq!(shown().await, expected);
    sqlx::raw_sql(
        "insert into log_kept (function_name, process_id, data) select 'hello', process_id, data from log_chunk where seq = 2;
         delete from log_chunk",
    )
    .execute(&database.owner)
    .await
    .unwrap();
    assert_eq!(shown().await.len(), 3);
}

#[tokio::test]
async fn what_is_no_story_is_refused() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    for (query, field) in [
        ("?after=1.2", "after"),
        ("?after=-1-1.1", "after"),
        ("?limit=0", "limit"),
        ("?limit=10001", "limit"),
        ("?limit=5&follow=true", "limit"),
    ] {
        let answer = ask(&api, id, query, "*/*").await;
        assert_eq!(
            (answer.status.as_u16(), answer.fields()),
            (400, vec![field.to_owned()]),
            "{query}"
        );
    }
    let events = ask(&api, id, "?limit=5", "text/event-stream").await;
    assert_eq!(
        (events.status.as_u16(), events.fields()),
        (400, vec!["limit".to_owned()])
    );
    assert_eq!(ask(&api, id, "", "image/png").await.status, 406);
    for query in ["", "?follow=true"] {
        assert_eq!(ask(&api, Uuid::nil(), query, "*/*").await.status, 404);
    }
}
