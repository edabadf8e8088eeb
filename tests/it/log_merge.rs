//! Small chunks become larger ones, and no reader notices.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use octopus_shared::db::report::{self, ReportError, Seal, StreamKey, Watch};
use octopus_shared::db::{CHANGE_CHANNEL, notify};
use octopus_tests::api::{Api, send};
use octopus_tests::function::{manager, service, watch};
use octopus_tests::postgres::Database;
use octopus_tests::printed::Writer;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

const AGE: Duration = Duration::from_secs(60);

fn at(index: usize) -> DateTime<Utc> {
    Utc::now() - TimeDelta::hours(1) + TimeDelta::milliseconds(i64::try_from(index).unwrap())
}

/// A service, and who watches it and writes its log.
async fn prepared() -> (Database, Api, Watch, Uuid, Writer) {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let watch = watch(&database, instance).await;
    let process = service(&database, &api, instance).await;
    let writer = Writer::new(&database.manager, &watch, process).await;
    (database, api, watch, process, writer)
}

/// Chunks of one to five lines that name their place in the log.
async fn print(writer: &mut Writer, printed: &mut usize, chunks: usize) {
    for chunk in 0..chunks {
        let lines: Vec<_> = (0..=chunk % 5)
            .map(|line| (at(*printed + line), format!("line {}", *printed + line)))
            .collect();
        writer.print(&lines).await;
        *printed += lines.len();
    }
}

/// All that can be merged at the moment; how many chunks that made.
async fn merge(database: &Database, watch: &Watch) -> usize {
    let mut written = 0;
    for process in report::unmerged(&database.manager, watch).await.unwrap() {
        written += report::merge_step(&database.manager, watch, &process, 0, AGE)
            .await
            .unwrap()
            .written;
    }
    written
}

async fn chunks(database: &Database) -> Vec<(i64, Option<Vec<i32>>)> {
    sqlx::query_as("select seq, parts from log_chunk order by seq")
        .fetch_all(&database.owner)
        .await
        .unwrap()
}

async fn read(api: &Api, process: Uuid, query: &str, accept: &str) -> String {
    let path = format!("/api/v1/processes/{process}/{query}");
    let answer = send(api.request(Method::GET, &path, &api.viewer).header("accept", accept)).await;
    assert_eq!(answer.status, 200, "{query}");
    answer.text()
}

fn lines(range: std::ops::Range<usize>) -> String {
    range.map(|line| format!("line {line}\n")).collect()
}

/// The lines of a story, with their times.
async fn told(api: &Api, process: Uuid) -> Vec<String> {
    let story = read(api, process, "story", "text/plain").await;
    story
        .lines()
        .filter(|line| line.contains(" line "))
        .map(str::to_owned)
        .collect()
}

async fn seal(database: &Database, watch: &Watch, process: Uuid) {
    for restart in 0..2 {
        let key = StreamKey {
            pod_uid: format!("pod-of-{process}"),
            container: "function".into(),
            restart,
        };
        let seal = Seal {
            gaps: Vec::new(),
            end: "seen".into(),
        };
        assert!(
            report::seal_stream(&database.manager, watch, &key, &seal, 0)
                .await
                .unwrap()
        );
    }
}

#[tokio::test]
async fn every_cursor_resumes_at_its_line_after_merging() {
    let (database, api, watch, process, mut writer) = prepared().await;
    let mut printed = 0;
    print(&mut writer, &mut printed, 23).await;
    writer.restart().await;
    print(&mut writer, &mut printed, 4).await;
    let json = read(&api, process, "logs", "application/x-ndjson").await;
    let cursors: Vec<String> = json
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["cursor"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(cursors.len(), printed);
    let story = told(&api, process).await;
    assert_eq!(story.len(), printed);
    assert_eq!(merge(&database, &watch).await, 1, "what another run has followed");
    assert_eq!(
        chunks(&database).await.iter().map(|chunk| chunk.0).collect::<Vec<_>>(),
        [23, 24, 25, 26, 27]
    );
    print(&mut writer, &mut printed, 30).await;
    assert_eq!(merge(&database, &watch).await, 1, "many of one that goes on");
    seal(&database, &watch, process).await;
    merge(&database, &watch).await;
    assert_eq!(
        chunks(&database).await.iter().map(|chunk| chunk.0).collect::<Vec<_>>(),
        [23, 57]
    );
    assert_eq!(report::unmerged(&database.manager, &watch).await.unwrap(), []);

    assert_eq!(read(&api, process, "logs", "text/plain").await, lines(0..printed));
    assert!(
        read(&api, process, "logs", "application/x-ndjson")
            .await
            .starts_with(&json),
        "the cursors are the same"
    );
    assert!(told(&api, process).await.starts_with(&story));
    for (index, cursor) in cursors.iter().enumerate() {
        for (query, expected) in [
            (format!("after={cursor}"), index + 1..printed),
            (format!("after={cursor}&limit=3"), index + 1..index + 4),
            (format!("after={cursor}&limit=3&grep=line"), index + 1..index + 4),
            (format!("tail={}", printed - index), index..printed),
            (format!("tail={}&grep=line", printed - index), index..printed),
            (format!("tail={}&limit=2", printed - index), index..index + 2),
        ] {
            let text = read(&api, process, &format!("logs?{query}"), "text/plain").await;
            assert_eq!(text, lines(expected), "{query}");
        }
    }
    let grep = read(&api, process, "logs?grep=line%205&limit=2", "text/plain").await;
    assert_eq!(grep, "line 5\nline 50\n");
}

#[tokio::test]
async fn merging_while_a_follower_reads_neither_loses_nor_repeats_a_line() {
    let (database, api, watch, process, mut writer) = prepared().await;
    let mut printed = 0;
    let writing = async {
        let mut merges = 0;
        for _ in 0..30 {
            print(&mut writer, &mut printed, 10).await;
            notify(&database.manager, CHANGE_CHANNEL, &process.to_string())
                .await
                .unwrap();
            merges += merge(&database, &watch).await;
        }
        (merges, printed)
    };
    let reading = async {
        let (mut seen, mut last) = (Vec::new(), None::<String>);
        let path = format!("/api/v1/processes/{process}/logs");
        while seen.len() < 900 {
            let mut events = api.events(&path, last.as_deref()).await;
            for _ in 0..37 {
                if seen.len() < 900 {
                    let event = events.next().await.unwrap();
                    seen.push(event.json()["line"].as_str().unwrap().to_owned());
                    last = event.id;
                }
            }
        }
        seen
    };
    let ((merges, printed), seen) = tokio::join!(writing, reading);
    assert_eq!(seen, (0..900).map(|line| format!("line {line}")).collect::<Vec<_>>());
    assert!(merges > 10 && printed == 900, "{merges} merges of {printed} lines");
}

#[tokio::test]
async fn a_stale_watch_merges_nothing_and_a_repeated_write_meets_what_was_merged() {
    let (database, api, watch, process, mut writer) = prepared().await;
    let batch: Vec<_> = (0..20)
        .map(|line| writer.chunk(&[(at(line), format!("line {line}"))]))
        .collect();
    report::append_chunks(&database.manager, &watch, &batch).await.unwrap();
    let before = chunks(&database).await;
    let unmerged = report::unmerged(&database.manager, &watch).await.unwrap();
    let stale = Watch {
        token: watch.token - 1,
        ..watch.clone()
    };
    let refused = report::merge_step(&database.manager, &stale, &unmerged[0], 0, AGE).await;
    assert!(matches!(refused, Err(ReportError::Fenced)), "{refused:?}");
    assert_eq!(chunks(&database).await, before);
    let young = report::merge_step(&database.manager, &watch, &unmerged[0], 0, Duration::from_hours(2))
        .await
        .unwrap();
    assert_eq!((young.written, young.more), (0, true));

    assert_eq!(merge(&database, &watch).await, 1);
    assert_eq!(chunks(&database).await, [(20, Some(vec![1; 20]))]);
    // Its answer was lost, so it is sent again.
    report::append_chunks(&database.manager, &watch, &batch).await.unwrap();
    assert_eq!(chunks(&database).await.len(), 1);
    assert_eq!(read(&api, process, "logs", "text/plain").await, lines(0..20));
    let shown = api.read(&format!("/api/v1/processes/{process}")).await;
    assert_eq!(shown["log_streams"][0]["lines"], 20, "{shown}");
}

/// What a node with such a clock has printed is never older.
#[tokio::test]
async fn a_clock_that_is_years_ahead_keeps_nothing_from_being_merged() {
    let (database, api, watch, process, mut writer) = prepared().await;
    let ahead = chrono::Utc::now() + chrono::TimeDelta::days(1000);
    for line in 0..20 {
        writer.print(&[(ahead, format!("line {line}"))]).await;
    }
    let unmerged = report::unmerged(&database.manager, &watch).await.unwrap();
    let merged = report::merge_step(&database.manager, &watch, &unmerged[0], 0, AGE)
        .await
        .unwrap();
    assert_eq!((merged.written, merged.more), (1, false));
    assert_eq!(read(&api, process, "logs", "text/plain").await, lines(0..20));
}

/// Drops what is stored of a log, with a day of long ago.
async fn age(database: &Database, process: Uuid, day: u8) {
    let move_and_drop = format!(
        "set role octopus_owner;
         create table log_chunk_2020010{day} partition of log_chunk for values from ('2020-01-0{day}') to ('2020-01-0{}');
         reset role;
         update log_chunk set day = '2020-01-0{day}' where process_id = '{process}'; select maintain_partitions(14)",
        day + 1
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(move_and_drop))
        .execute(&database.owner)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_end_that_is_kept_is_of_the_newest_run() {
    let (database, api, watch, first, mut writer) = prepared().await;
    writer.print(&[(at(0), "first".into())]).await;
    let started = api
        .post("/api/v1/functions/hello/processes", &json!({"kind": "service"}))
        .await;
    let second: Uuid = started.accepted()["process_id"].as_str().unwrap().parse().unwrap();
    Writer::new(&database.manager, &watch, second)
        .await
        .print(&[(at(1), "second".into())])
        .await;
    let kept = async || {
        let kept: Uuid = sqlx::query_scalar("select process_id from log_kept")
            .fetch_one(&database.owner)
            .await
            .unwrap();
        kept
    };
    age(&database, first, 1).await;
    assert_eq!(kept().await, first);
    // Readers go on by the numbers of chunks.
    let numbers = report::last_seqs(&database.manager, &[first]).await.unwrap();
    assert_eq!(numbers, [(first, 1)]);
    age(&database, second, 2).await;
    assert_eq!(kept().await, second);
    // The first one went on for longer.
    writer.print(&[(at(2), "first again".into())]).await;
    age(&database, first, 3).await;
    assert_eq!(kept().await, second);
    assert_eq!(read(&api, second, "logs", "text/plain").await, "second\n");
}

#[tokio::test]
async fn chunks_of_the_previous_release_are_read_merged_and_kept() {
    let (database, api, watch, process, mut writer) = prepared().await;
    for index in 0..20 {
        let mut chunk = writer.chunk(&[(at(index), format!("line {index}"))]);
        if index % 2 == 0 {
            chunk.text.data.clear();
            octopus_shared::log::push_line(&mut chunk.text.data, at(index), format!("line {index}").as_bytes());
            chunk.text.encoding = octopus_shared::log::PLAIN;
        }
        report::append_chunks(&database.manager, &watch, &[chunk])
            .await
            .unwrap();
    }
    sqlx::query("update log_chunk set size = null where encoding = 0")
        .execute(&database.owner)
        .await
        .unwrap();
    assert_eq!(read(&api, process, "logs", "text/plain").await, lines(0..20));
    assert_eq!(merge(&database, &watch).await, 1);
    assert_eq!(read(&api, process, "logs?after=7.1", "text/plain").await, lines(7..20));
    // The number that an earlier release would give next.
    let next: i64 = sqlx::query_scalar("select max(seq) from log_chunk")
        .fetch_one(&database.owner)
        .await
        .unwrap();
    assert_eq!(next, 20);
    age(&database, process, 1).await;
    assert_eq!(chunks(&database).await, []);
    assert_eq!(read(&api, process, "logs?tail=5", "text/plain").await, lines(15..20));
}

/// As a manager asks when it has taken over a log whose file has changed.
#[tokio::test]
async fn the_last_line_before_a_time_is_known_though_the_one_after_it_is_stored() {
    let (database, _api, watch, process, mut writer) = prepared().await;
    let begin = Utc::now() - TimeDelta::hours(1);
    let nanoseconds = |line: i64| (begin + TimeDelta::milliseconds(line)).timestamp_nanos_opt().unwrap();
    // Five chunks, and in two of them a line of another file that is later than the next one of this.
    for order in [[0, 1, 2], [3, 6, 4], [5, 7, 8], [9, 10, 11], [12, 13, 14]] {
        let lines = order.map(|line| (begin + TimeDelta::milliseconds(line), format!("line {line}")));
        writer.print(&lines).await;
    }
    writer.restart().await;
    let key = StreamKey {
        pod_uid: format!("pod-of-{process}"),
        container: "function".into(),
        restart: 0,
    };
    for merges in [false, true] {
        if merges {
            seal(&database, &watch, process).await;
            assert_eq!(merge(&database, &watch).await, 1);
        }
        for (before, last) in [(0, None), (1, Some(0)), (5, Some(4)), (9, Some(8)), (100, Some(14))] {
            let found = report::last_line_before(&database.manager, process, &key, nanoseconds(before)).await;
            assert_eq!(found.unwrap(), last.map(nanoseconds), "{before}");
        }
    }
    let other = StreamKey { restart: 1, ..key };
    let found = report::last_line_before(&database.manager, process, &other, nanoseconds(100)).await;
    assert_eq!(found.unwrap(), None, "another run's");
}
