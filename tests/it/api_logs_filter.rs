//! Logs: the lines that are asked for, the holes between them, and answers that are compressed.

use std::io::Read;

use chrono::{DateTime, TimeDelta, Utc};
use flate2::read::GzDecoder;
use octopus_shared::db::{CHANGE_CHANNEL, notify};
use octopus_shared::log::push_line;
use octopus_tests::api::{Answer, Api, send};
use octopus_tests::function::process;
use octopus_tests::postgres::Database;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

fn at(second: i64) -> DateTime<Utc> {
    let begin: DateTime<Utc> = "2026-01-02T03:04:00.000000006Z".parse().unwrap();
    begin + TimeDelta::seconds(second)
}

/// Stores a chunk as the watching manager does: a line each second from `second` on.
async fn store(database: &Database, process: Uuid, seq: i64, container: &str, second: i64, lines: &[&str]) {
    let mut data = Vec::new();
    let times: Vec<_> = (second..).take(lines.len()).map(at).collect();
    for (line, at) in lines.iter().zip(&times) {
        push_line(&mut data, *at, line.as_bytes());
    }
    sqlx::query(
        "with stream as (
             insert into log_stream (process_id, pod_uid, container, restart, attempt) values ($1, 'pod-1', $3, 0, 1)
             on conflict do nothing)
         insert into log_chunk (process_id, seq, day, pod_uid, container, restart, lines, first_at, last_at, data)
         values ($1, $2, (now() at time zone 'utc')::date, 'pod-1', $3, 0, $4, $5, $6, $7)",
    )
    .bind(process)
    .bind(seq)
    .bind(container)
    .bind(i32::try_from(lines.len()).unwrap())
    .bind(times[0])
    .bind(times[times.len() - 1])
    .bind(data)
    .execute(&database.owner)
    .await
    .unwrap();
}

async fn has_gaps(database: &Database, process: Uuid, container: &str, gaps: Value) {
    sqlx::query("update log_stream set gaps = $3 where process_id = $1 and container = $2")
        .bind(process)
        .bind(container)
        .bind(gaps)
        .execute(&database.owner)
        .await
        .unwrap();
}

async fn ask(api: &Api, process: Uuid, query: &str, accept: &str) -> Answer {
    let path = format!("/api/v1/processes/{process}/logs{query}");
    send(api.request(Method::GET, &path, &api.viewer).header("accept", accept)).await
}

async fn read(api: &Api, process: Uuid, query: &str, accept: &str) -> Answer {
    let answer = ask(api, process, query, accept).await;
    assert_eq!(answer.status, 200, "{query}");
    answer
}

/// A log of two containers: a to h, one each second, `c` and `d` by the second one.
async fn log(database: &Database, process: Uuid) {
    store(database, process, 1, "function", 0, &["a one", "b two"]).await;
    store(database, process, 2, "side", 2, &["c one", "d (two"]).await;
    store(database, process, 3, "function", 4, &["e one", "f two", "g ONE", "h"]).await;
}

#[tokio::test]
async fn lines_are_chosen_by_time_container_and_words() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    log(&database, id).await;
    for (query, lines, cursor, more) in [
        ("", "abcdefgh", "3.4", false),
        ("?since=2026-01-02T03:04:04Z", "efgh", "3.4", false),
        ("?since=2026-01-02T03:04:04.000000007Z", "fgh", "3.4", false),
        ("?until=2026-01-02T03:04:02.000000006Z", "ab", "3.4", false),
        (
            "?since=2026-01-02T05:04:03%2B02:00&until=2026-01-02T03:04:05Z",
            "de",
            "3.4",
            false,
        ),
        ("?since=2030-01-01T00:00:00Z", "", "3.4", false),
        ("?container=side", "cd", "3.4", false),
        ("?container=nobody", "", "3.4", false),
        ("?grep=one", "ace", "3.4", false),
        ("?grep=(two", "d", "3.4", false),
        ("?regex=(?i)one$", "aceg", "3.4", false),
        ("?regex=^[a-c]", "abc", "3.4", false),
        ("?grep=one&container=function", "ae", "3.4", false),
        ("?grep=one&limit=2", "ac", "2.1", true),
        ("?grep=one&limit=2&after=2.1", "e", "3.4", false),
        ("?grep=h&limit=1", "h", "3.4", false),
        ("?grep=one&tail=2", "ce", "3.4", false),
        ("?grep=one&tail=0", "", "3.4", false),
        ("?grep=one&tail=9", "ace", "3.4", false),
        ("?grep=one&tail=3&limit=1", "a", "1.1", true),
        ("?container=side&tail=1", "d", "3.4", false),
        ("?after=3.1&grep=two", "f", "3.4", false),
        ("?limit=8", "abcdefgh", "3.4", false),
        ("?limit=3", "abc", "2.1", true),
    ] {
        let answer = read(&api, id, query, "text/plain").await;
        let first: String = answer.text().lines().filter_map(|line| line.chars().next()).collect();
        assert_eq!(first, lines, "{query}");
        assert_eq!(answer.headers["octopus-cursor"], cursor, "{query}");
        assert_eq!(answer.headers["octopus-more"], more.to_string(), "{query}");
    }
}

#[tokio::test]
async fn what_cannot_be_searched_for_is_refused_by_its_name() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    let long = "x".repeat(1001);
    for (query, field) in [
        ("since=yesterday", "since"),
        ("until=2026-01-02", "until"),
        ("until=2026-01-02T03:04:05Z&follow=true", "until"),
        ("grep=a&regex=b", "regex"),
        ("regex=(", "regex"),
        ("regex=(%5Cw{100}){100}", "regex"),
        (&format!("grep={long}"), "grep"),
        (&format!("container={long}"), "container"),
        (&format!("regex={long}"), "regex"),
    ] {
        let answer = ask(&api, id, &format!("?{query}"), "*/*").await;
        assert_eq!(
            (answer.status.as_u16(), answer.fields()),
            (400, vec![field.to_owned()]),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_follower_sees_only_what_it_asked_for() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    log(&database, id).await;
    let path = format!("/api/v1/processes/{id}/logs?grep=one&tail=2");
    let mut events = api.events(&path, None).await;
    for (line, cursor) in [("c one", "2.1"), ("e one", "3.1")] {
        let event = events.next().await.unwrap();
        assert_eq!(
            (event.id.as_deref(), &event.json()["line"]),
            (Some(cursor), &json!(line))
        );
    }
    store(&database, id, 4, "function", 9, &["i", "j one"]).await;
    notify(&database.manager, CHANGE_CHANNEL, &id.to_string())
        .await
        .unwrap();
    let event = events.next().await.unwrap();
    assert_eq!(
        (event.id.as_deref(), &event.json()["line"]),
        (Some("4.2"), &json!("j one"))
    );
    // With an end in time there is nothing to wait for.
    let past = format!("/api/v1/processes/{id}/logs?until=2026-01-02T03:04:01Z");
    let mut events = api.events(&past, None).await;
    assert_eq!(events.next().await.unwrap().json()["line"], "a one");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn holes_stand_where_they_are() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    log(&database, id).await;
    let time = |second| at(second).timestamp_nanos_opt();
    let gaps = json!([
        {"from": time(1), "to": time(4), "reason": "rotated_away", "cut": true},
        {"from": time(6), "to": time(6), "reason": "line_too_long", "bytes": 7},
        {"from": time(7), "to": null, "reason": "killed_early"},
        {"later": "releases may write what this one does not know"},
    ]);
    has_gaps(&database, id, "function", gaps).await;
    let shown = |text: &str| -> String {
        let words = text.lines().map(|line| {
            let value: Value = serde_json::from_str(line).unwrap();
            let partial = if value["partial"] == true { "~" } else { "" };
            match value["line"].as_str() {
                Some(line) => format!("{partial}{}", &line[..1]),
                None => format!("[{}]", value["gap"]["reason"].as_str().unwrap()),
            }
        });
        words.collect()
    };
    for (query, expected) in [
        ("", "abcd[rotated_away]~ef[line_too_long]gh[killed_early]"),
        ("?after=2.2", "[rotated_away]~ef[line_too_long]gh[killed_early]"),
        ("?after=3.1", "f[line_too_long]gh[killed_early]"),
        ("?limit=5", "abcd[rotated_away]~e"),
        ("?limit=4", "abcd"),
        ("?container=side", "cd[killed_early]"),
        ("?grep=h", "[rotated_away][line_too_long]h[killed_early]"),
        ("?until=2026-01-02T03:04:05Z", "abcd[rotated_away]~e[killed_early]"),
    ] {
        let answer = read(&api, id, query, "application/x-ndjson").await;
        assert_eq!(shown(&answer.text()), expected, "{query}");
    }
    let text = read(&api, id, "?container=function&marks=true", "text/plain")
        .await
        .text();
    let expected = "a one\nb two\n\
        --- octopus: lines are or may be missing (rotated_away) between 2026-01-02T03:04:01.000000006Z and 2026-01-02T03:04:04.000000006Z ---\n\
        e one\nf two\n\
        --- octopus: lines are or may be missing (line_too_long, 7 bytes) between 2026-01-02T03:04:06.000000006Z and 2026-01-02T03:04:06.000000006Z ---\n\
        g ONE\nh\n\
        --- octopus: lines are or may be missing (killed_early) between 2026-01-02T03:04:07.000000006Z and an unknown time ---\n";
    assert_eq!(text, expected);
    let plain = read(&api, id, "?container=function", "text/plain").await.text();
    assert_eq!(plain, "a one\nb two\ne one\nf two\ng ONE\nh\n");
}

/// A node may have joined the line at which a hole ends to the one before, without its time.
#[tokio::test]
async fn a_hole_without_its_line_stands_before_the_next_one() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    log(&database, id).await;
    store(&database, id, 4, "function", 8, &["i", "j"]).await;
    let time = |milliseconds| (at(0) + TimeDelta::milliseconds(milliseconds)).timestamp_nanos_opt();
    let gaps = json!([
        {"from": time(5000), "to": time(5500), "reason": "rotation", "cut": true},
        {"from": time(7000), "to": time(9000), "reason": "rotated_away", "cut": true},
    ]);
    has_gaps(&database, id, "function", gaps).await;
    let mark = |reason: &str, from: &str, to: &str| {
        let times = format!("2026-01-02T03:04:{from}0000006Z and 2026-01-02T03:04:{to}0000006Z");
        format!("--- octopus: lines are or may be missing ({reason}) between {times} ---")
    };
    let hole = mark("rotation", "05.00", "05.50");
    let later = mark("rotated_away", "07.00", "09.00");
    for (query, expected) in [
        (
            "?marks=true&limit=7&container=function",
            format!("a one\nb two\ne one\nf two\n{hole}\ng ONE\nh\ni\n"),
        ),
        ("?marks=true&after=3.2&limit=1", format!("{hole}\ng ONE\n")),
        ("?marks=true&after=3.2&limit=1&follow=true", format!("{hole}\ng ONE\n")),
        ("?marks=true&after=3.1&limit=1", "f two\n".to_owned()),
        ("?marks=true&after=3.3&limit=1", "h\n".to_owned()),
        ("?marks=true&grep=h", format!("{hole}\nh\n{later}\n")),
    ] {
        assert_eq!(read(&api, id, query, "text/plain").await.text(), expected, "{query}");
    }
    let story = format!("/api/v1/processes/{id}/story");
    let story = api.read_as(&story, "text/plain").await;
    assert_eq!(story.matches(&format!("f two\n{hole}\n")).count(), 1, "{story}");
}

#[tokio::test]
async fn the_end_of_a_log_that_outlives_its_chunks_can_be_searched() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    store(&database, id, 7, "function", 0, &["a one", "b two", "c one"]).await;
    sqlx::raw_sql(
        "insert into log_kept (function_name, process_id, data) select 'hello', process_id, data from log_chunk; delete from log_chunk",
    )
    .execute(&database.owner)
    .await
    .unwrap();
    for (query, lines, cursor) in [
        ("?grep=one", "ac", "0.3"),
        ("?grep=one&limit=1", "a", "0.1"),
        ("?grep=one&tail=1", "c", "0.3"),
        ("?since=2026-01-02T03:04:01Z", "bc", "0.3"),
        ("?grep=one&after=0.1", "c", "0.3"),
        ("?container=function", "abc", "0.3"),
        ("?container=function&grep=one&tail=1", "c", "0.3"),
        ("?container=side", "", "0.3"),
    ] {
        let answer = read(&api, id, query, "text/plain").await;
        let first: String = answer.text().lines().filter_map(|line| line.chars().next()).collect();
        assert_eq!(
            (first.as_str(), &answer.headers["octopus-cursor"]),
            (lines, &cursor.parse().unwrap()),
            "{query}"
        );
    }
}

/// Which of several containers it is of is known by its last line.
#[tokio::test]
async fn the_end_of_a_log_that_outlives_its_chunks_is_of_one_container() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    store(&database, id, 1, "side", 0, &["a", "b"]).await;
    store(&database, id, 2, "function", 2, &["c", "d"]).await;
    sqlx::raw_sql(
        "update log_stream s set last_at = c.last_at from log_chunk c where c.container = s.container;
         insert into log_kept (function_name, process_id, data) select 'hello', process_id, data from log_chunk where seq = 2;
         delete from log_chunk",
    )
    .execute(&database.owner)
    .await
    .unwrap();
    let shown = async |container: &str| {
        let query = format!("?container={container}");
        read(&api, id, &query, "text/plain").await.text()
    };
    assert_eq!(
        (shown("function").await.as_str(), shown("side").await.as_str()),
        ("c\nd\n", "")
    );
    sqlx::raw_sql("update log_stream set last_at = last_at + interval '1 second'")
        .execute(&database.owner)
        .await
        .unwrap();
    assert_eq!(shown("function").await, "", "nobody knows whose it is");
}

#[tokio::test]
async fn answers_are_compressed_where_that_is_accepted() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    let lines: Vec<String> = (0..500).map(|number| format!("line {number}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    store(&database, id, 1, "function", 0, &lines).await;
    let get = async |query: &str, accept: &str, encoding: &str| {
        let path = format!("/api/v1/processes/{id}/logs{query}");
        let request = api.request(Method::GET, &path, &api.viewer);
        send(request.header("accept", accept).header("accept-encoding", encoding)).await
    };
    let plain = get("", "text/plain", "identity").await;
    assert!(!plain.headers.contains_key("content-encoding"));
    let gzip = get("", "text/plain", "gzip").await;
    assert_eq!(gzip.headers["content-encoding"], "gzip");
    assert_eq!(gzip.headers["octopus-cursor"], "1.500");
    let mut text = Vec::new();
    GzDecoder::new(gzip.body.as_slice()).read_to_end(&mut text).unwrap();
    assert!(text == plain.body && gzip.body.len() < plain.body.len() / 3);
    let zstd = get("", "application/x-ndjson", "zstd").await;
    assert_eq!(zstd.headers["content-encoding"], "zstd");
    assert_eq!(zstd.body[..4], [0x28, 0xb5, 0x2f, 0xfd]);
    sqlx::query("update log_stream set seal = 'complete'")
        .execute(&database.owner)
        .await
        .unwrap();
    sqlx::query("select transition($1, 'gone', 'succeeded')")
        .bind(id)
        .execute(&database.manager)
        .await
        .unwrap();
    for accept in ["text/plain", "text/event-stream"] {
        let followed = get("?follow=true", accept, "gzip, zstd").await;
        assert!(!followed.headers.contains_key("content-encoding"), "{accept}");
        assert!(followed.body.len() >= plain.body.len());
    }
}
