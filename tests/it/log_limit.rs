//! Logs that are longer than they may be: the oldest lines go, and everybody is told.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use octopus_shared::db::report::{self, ReportError, Seal, StreamKey, Watch};
use octopus_shared::db::{CHANGE_CHANNEL, notify};
use octopus_shared::log::Gap;
use octopus_tests::api::Api;
use octopus_tests::function::{manager, service, watch};
use octopus_tests::postgres::Database;
use octopus_tests::printed::{Writer, opened};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api_story::becomes;

/// Bytes of one line: `line 00`.
const LINE: i64 = 8;

struct Log {
    database: Database,
    api: Api,
    watch: Watch,
    process: Uuid,
    writer: Writer,
    begins: DateTime<Utc>,
    printed: usize,
}

impl Log {
    async fn new() -> Self {
        let database = Database::new().await;
        let api = Api::start(&database).await;
        let instance = manager(&database).await;
        let watch = watch(&database, instance).await;
        let process = service(&database, &api, instance).await;
        let writer = Writer::new(&database.manager, &watch, process).await;
        let begins = "2026-01-02T03:04:00Z".parse().unwrap();
        Self {
            database,
            api,
            watch,
            process,
            writer,
            begins,
            printed: 0,
        }
    }

    /// Chunks of four lines.
    async fn print(&mut self, chunks: usize) {
        for _ in 0..chunks {
            self.print_after(Vec::new()).await;
        }
    }

    /// One after holes.
    async fn print_after(&mut self, gaps: Vec<Gap>) {
        let lines: Vec<_> = (self.printed..self.printed + 4)
            .map(|line| (self.begins + TimeDelta::seconds(line as i64), format!("line {line:02}")))
            .collect();
        self.writer.print_after(gaps, &lines).await;
        self.printed += 4;
    }

    fn key(&self, restart: i32) -> StreamKey {
        StreamKey {
            pod_uid: format!("pod-of-{}", self.process),
            container: "function".into(),
            restart,
        }
    }

    async fn keep(&self, lines: i64) -> report::Dropped {
        report::drop_oldest(&self.database.manager, &self.watch, self.process, lines * LINE)
            .await
            .unwrap()
    }

    async fn merge(&self) {
        for process in report::unmerged(&self.database.manager, &self.watch).await.unwrap() {
            report::merge_step(&self.database.manager, &self.watch, &process, 0, Duration::ZERO)
                .await
                .unwrap();
        }
    }

    async fn read(&self, query: &str, accept: &str) -> String {
        let path = format!("/api/v1/processes/{}/{query}", self.process);
        self.api.read_as(&path, accept).await
    }

    /// The lines of an answer in NDJSON by their numbers; what was dropped as `[lines]`.
    async fn short(&self, query: &str) -> String {
        let json = self.read(query, "application/x-ndjson").await;
        let short = json.lines().filter_map(|line| {
            let value: Value = serde_json::from_str(line).unwrap();
            let printed = value["line"].as_str().or(value["line"]["line"].as_str());
            // In a story each thing has a name.
            let dropped = &value["truncated"];
            let dropped = dropped["lines"].as_i64().or(dropped["truncated"]["lines"].as_i64());
            printed
                .map(|line| line.trim_start_matches("line ").to_owned())
                .or_else(|| Some(format!("[{}]", dropped?)))
        });
        short.collect::<Vec<_>>().join(" ")
    }

    async fn stream(&self, restart: usize) -> Value {
        let shown = self.api.read(&format!("/api/v1/processes/{}", self.process)).await;
        shown["log_streams"][restart].clone()
    }

    async fn seal(&self, restart: i32) {
        let key = self.key(restart);
        let seal = Seal {
            gaps: Vec::new(),
            end: "seen".into(),
        };
        let pool = &self.database.manager;
        assert!(report::seal_stream(pool, &self.watch, &key, &seal, 0).await.unwrap());
    }
}

fn numbers(range: std::ops::Range<usize>) -> String {
    range.map(|line| format!("{line:02}")).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn the_oldest_lines_go_and_are_counted_where_they_stood() {
    let mut log = Log::new().await;
    log.print(10).await;
    let nothing = |lines: i64| report::Dropped {
        left: Some(lines * LINE),
        ..report::Dropped::default()
    };
    assert_eq!(log.keep(40).await, nothing(40), "it is not longer");
    let unmerged = report::unmerged(&log.database.manager, &log.watch).await.unwrap();
    assert_eq!((unmerged[0].lines, unmerged[0].bytes), (40, 40 * LINE));
    // A chunk goes as a whole.
    let dropped = log.keep(31).await;
    let expected = report::Dropped {
        lines: 12,
        bytes: 12 * LINE,
        left: Some(28 * LINE),
    };
    assert_eq!(dropped, expected);
    assert_eq!(log.keep(31).await, nothing(28), "it is short enough");
    let unmerged = report::unmerged(&log.database.manager, &log.watch).await.unwrap();
    assert_eq!(unmerged[0].bytes, 28 * LINE);

    let rest = numbers(12..40);
    for (query, expected) in [
        ("logs", format!("[12] {rest}")),
        ("logs?after=1.2", format!("[12] {rest}")),
        // Whoever has read all but the end of what went is told; whoever has read all of it is not.
        ("logs?after=3.3", format!("[12] {rest}")),
        ("logs?after=3.4", rest.clone()),
        ("logs?after=4.1", numbers(13..40)),
        ("logs?tail=3", numbers(37..40)),
        ("logs?tail=28", rest.clone()),
        ("logs?tail=29", format!("[12] {rest}")),
        ("logs?limit=2", format!("[12] {}", numbers(12..14))),
        ("logs?after=2.4&limit=5", format!("[12] {}", numbers(12..17))),
        ("logs?grep=39", "[12] 39".to_owned()),
        ("logs?since=2026-01-02T03:04:12Z", rest.clone()),
        ("logs?since=2026-01-02T03:04:11Z&limit=1", "[12] 12".to_owned()),
        ("logs?container=side", String::new()),
        ("story?limit=1000", format!("[12] {rest}")),
    ] {
        assert_eq!(log.short(query).await, expected, "{query}");
    }
    let text = log.read("logs", "text/plain").await;
    assert!(text.starts_with("line 12\n") && text.ends_with("line 39\n"), "{text}");
    let mark =
        "--- octopus: 12 lines were dropped (log_limit, 96 bytes), the latest of 2026-01-02T03:04:11.000000000Z ---\n";
    assert_eq!(log.read("logs?marks=true", "text/plain").await, format!("{mark}{text}"));
    let story = log.read("story", "text/plain").await;
    assert_eq!(story.matches(mark).count(), 1, "{story}");

    let stream = log.stream(0).await;
    let truncated = json!({"lines": 12, "bytes": 96, "last_at": "2026-01-02T03:04:11Z"});
    assert_eq!(
        (&stream["lines"], &stream["seal"], &stream["truncated"]),
        (&json!(40), &Value::Null, &truncated)
    );
    log.seal(0).await;
    let stream = log.stream(0).await;
    assert_eq!(
        (&stream["seal"], &stream["seal_reason"]),
        (&json!("truncated"), &json!("log_limit"))
    );
    log.merge().await;
    for (query, expected) in [
        ("logs?after=3.3", format!("[12] {rest}")),
        ("logs?after=3.4", rest.clone()),
        ("logs?after=5.2", numbers(18..40)),
    ] {
        assert_eq!(log.short(query).await, expected, "{query}, merged");
    }
    // What is printed next has the next number, and the newest chunk stays whatever its size.
    log.writer.restart().await;
    log.print(1).await;
    assert_eq!(log.keep(1).await.lines, 28);
    assert_eq!(log.short("logs").await, format!("[40] {}", numbers(40..44)));
    log.seal(1).await;
    assert_eq!(log.stream(1).await["seal"], "complete");
    assert_eq!(log.stream(0).await["truncated"]["lines"], 40);
}

#[tokio::test]
async fn a_sealed_log_that_loses_lines_later_says_so() {
    let mut log = Log::new().await;
    log.print(2).await;
    log.seal(0).await;
    log.merge().await;
    assert_eq!(log.stream(0).await["seal"], "complete");
    assert_eq!(report::unmerged(&log.database.manager, &log.watch).await.unwrap(), []);
    log.writer.restart().await;
    log.print(2).await;
    let unmerged = report::unmerged(&log.database.manager, &log.watch).await.unwrap();
    assert_eq!(unmerged[0].bytes, 16 * LINE, "the earlier run counts too");
    log.keep(8).await;
    assert_eq!(log.stream(0).await["seal"], "truncated");
    assert_eq!(log.short("logs").await, format!("[8] {}", numbers(8..16)));
}

#[tokio::test]
async fn a_follower_that_lags_is_told_once_what_it_has_missed() {
    let mut log = Log::new().await;
    log.print(3).await;
    let path = format!("/api/v1/processes/{}/logs", log.process);
    let mut follower = log.api.events(&path, None).await;
    let mut last = None;
    for line in 0..12 {
        let event = follower.next().await.unwrap();
        assert_eq!(event.json()["line"], format!("line {line:02}"));
        last = event.id;
    }
    log.print(5).await;
    log.keep(12).await;
    notify(&log.database.manager, CHANGE_CHANNEL, &log.process.to_string())
        .await
        .unwrap();
    let mut resumed = log.api.events(&path, last.as_deref()).await;
    // Some of them may have been read in time: then those who follow get them, and are told once of the others.
    for follower in [&mut resumed, &mut follower] {
        let (mut next, mut told) = (12, 0);
        while next < 32 {
            let event = follower.next().await.unwrap();
            if event.event == "truncated" {
                assert_eq!((&event.json()["truncated"]["lines"], &event.id), (&json!(20), &None));
                (next, told) = (20, told + 1);
            } else {
                assert_eq!(event.json()["line"], format!("line {next:02}"));
                next += 1;
            }
        }
        assert!(told <= 1, "{told}");
    }
}

/// A log that has a hole with each new file of its node, and is dropped as fast as it grows.
#[tokio::test]
async fn holes_among_lines_that_were_dropped_are_summed() {
    let mut log = Log::new().await;
    let begins = log.begins;
    let second = |line: i64| (begins + TimeDelta::seconds(line)).timestamp_nanos_opt();
    let hole = |line: i64| Gap {
        from: second(line - 1),
        to: second(line),
        reason: "rotation".into(),
        estimated_bytes: Some(line),
        ..Gap::default()
    };
    let holes: Vec<_> = (1..6).map(|chunk| hole(4 * chunk)).collect();
    log.print(1).await;
    for hole in &holes {
        log.print_after(vec![hole.clone()]).await;
    }
    let key = log.key(0);
    let missed = async || {
        opened(&log.database.manager, &log.watch, log.process, &key)
            .await
            .missed
    };
    assert_eq!(missed().await, 5_000_000_000);
    log.keep(16).await;
    // The line behind the second hole is the first that is left.
    let shown = async || log.stream(0).await["gaps"].clone();
    assert_eq!(shown().await, json!(&holes), "one needs not be summed");
    log.keep(8).await;
    let sum = Gap {
        to: second(12),
        reason: "log_limit".into(),
        estimated_bytes: Some(4 + 8 + 12),
        ..hole(4)
    };
    assert_eq!(shown().await, json!([sum, holes[3], holes[4]]));
    assert_eq!(missed().await, 5_000_000_000, "the time of each of them");
    log.keep(4).await;
    let sum = Gap {
        to: second(16),
        estimated_bytes: Some(4 + 8 + 12 + 16),
        ..sum
    };
    assert_eq!(shown().await, json!([sum, holes[4]]), "summed again");
    assert_eq!(missed().await, 5_000_000_000);
    assert_eq!(log.short("logs").await, format!("[20] {}", numbers(20..24)));
    let text = log.read("logs?marks=true", "text/plain").await;
    assert!(
        text.contains("missing (rotation, about 20 bytes)") && !text.contains("about 40 bytes"),
        "{text}"
    );
}

/// Its limit has taken the beginning of a log and its age the rest: a story that is read or followed says so.
#[tokio::test]
async fn a_story_of_which_no_line_is_left_says_what_was_dropped() {
    let mut log = Log::new().await;
    log.print(3).await;
    log.seal(0).await;
    log.keep(0).await;
    sqlx::raw_sql("delete from log_chunk")
        .execute(&log.database.owner)
        .await
        .unwrap();
    becomes(&log.database, log.process, "gone", "failed", None, 0).await;
    let read = log.read("story", "application/x-ndjson").await;
    let followed = log.read("story?follow=true", "application/x-ndjson").await;
    let end = followed.strip_prefix(&read).expect("the same, and an end");
    let end: Value = serde_json::from_str(end).unwrap();
    assert_eq!(end["end"]["complete"], false);
    assert_eq!(log.short("story").await, "[8]");
}

#[tokio::test]
async fn a_stale_watch_drops_nothing() {
    let mut log = Log::new().await;
    log.print(3).await;
    let stale = Watch {
        token: log.watch.token - 1,
        ..log.watch.clone()
    };
    let refused = report::drop_oldest(&log.database.manager, &stale, log.process, 1).await;
    assert!(matches!(refused, Err(ReportError::Fenced)), "{refused:?}");
    assert_eq!(log.short("logs").await, numbers(0..12));
}
