//! What a manager has spooled is filled into the hole behind which another one has read on.

use std::time::Duration;

use octopus_shared::db::report::{self, LogMessage, Replayed, Seal, Seam, StreamKey, Watch};
use octopus_shared::log::Gap;
use octopus_tests::api::Api;
use octopus_tests::function::{manager, service, watch};
use octopus_tests::postgres::Database;
use octopus_tests::printed::Writer;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::log_spool::{lines, replay, sealed, spooled};

/// A log that two managers have read.
struct Log {
    database: Database,
    api: Api,
    process: Uuid,
    /// The one that lost Postgres. It returns, and others watch the process.
    first: Writer,
    returned: Watch,
    /// The one that watches it now.
    other: Writer,
    watch: Watch,
}

impl Log {
    /// The first one stores so many lines, each a chunk, before it loses Postgres.
    async fn new(stored: usize) -> Self {
        let database = Database::new().await;
        let api = Api::start(&database).await;
        let instance = manager(&database).await;
        let watch = watch(&database, instance).await;
        let process = service(&database, &api, instance).await;
        let spools = |shards: &[i16]| Watch {
            spool: Some(Uuid::new_v4()),
            shards: shards.to_vec(),
            ..watch.clone()
        };
        let (returned, watch) = (spools(&[]), spools(&watch.shards));
        let mut first = Writer::new(&database.manager, &returned_at_first(&returned, &watch), process).await;
        for line in 0..stored {
            first.print(&lines(line..line + 1)).await;
        }
        let other = Writer::new(&database.manager, &watch, process).await;
        Self {
            database,
            api,
            process,
            first,
            returned,
            other,
            watch,
        }
    }

    /// The hole between two lines as the other one notes it.
    fn hole(&self, before: usize, after: Option<usize>) -> Gap {
        let time = |line: usize| lines(line..line + 1)[0].0.timestamp_nanos_opt();
        Gap {
            from: time(before),
            to: after.and_then(time),
            reason: "rotated_away".into(),
            cut: true,
            ..Gap::default()
        }
        .spooled_by(self.returned.spool.unwrap())
    }

    /// The other one goes on with these lines, behind a hole.
    async fn take(&mut self, before: usize, range: std::ops::Range<usize>) {
        let gap = self.hole(before, Some(range.start));
        self.other.print_after(vec![gap], &lines(range)).await;
    }

    /// The first one reads on into its spool.
    fn spool(&mut self, pieces: &[std::ops::Range<usize>]) -> Vec<LogMessage> {
        let mut messages = Vec::new();
        for piece in pieces {
            messages.push(spooled(&mut self.first, piece.clone()));
        }
        messages
    }

    async fn give(&self, messages: &[LogMessage]) -> Replayed {
        replay(&self.database, &self.returned, messages).await
    }

    async fn seal(&self, restart: i32, gaps: Vec<Gap>) {
        let key = StreamKey {
            pod_uid: format!("pod-of-{}", self.process),
            container: "function".into(),
            restart,
        };
        let seal = Seal {
            gaps,
            end: "unknown".into(),
        };
        let pool = &self.database.manager;
        assert!(report::seal_stream(pool, &self.watch, &key, &seal, 0).await.unwrap());
    }

    async fn merge(&self) -> usize {
        merge(&self.database, &self.watch).await
    }

    async fn read(&self, query: &str, accept: &str) -> String {
        let path = format!("/api/v1/processes/{}/{query}", self.process);
        self.api.read_as(&path, accept).await
    }

    async fn text(&self, query: &str) -> String {
        self.read(query, "text/plain").await
    }

    /// The cursor after each line.
    async fn cursors(&self) -> Vec<(String, String)> {
        let json = self.read("logs", "application/x-ndjson").await;
        let values = json.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let word = |value: &Value| value.as_str().map(str::to_owned);
        values
            .filter_map(|line| Some((word(&line["line"])?, word(&line["cursor"])?)))
            .collect()
    }

    async fn stream(&self, restart: usize) -> Value {
        let shown = self.api.read(&format!("/api/v1/processes/{}", self.process)).await;
        shown["log_streams"][restart].clone()
    }

    /// What the reader goes by: lines, bytes, the running hash.
    async fn reader(&self) -> (i64, i64, Vec<u8>) {
        sqlx::query_as("select lines, bytes, chain from log_stream where restart = 0")
            .fetch_one(&self.database.owner)
            .await
            .unwrap()
    }

    async fn numbers(&self) -> Vec<i64> {
        sqlx::query_scalar("select seq from log_chunk order by seq")
            .fetch_all(&self.database.owner)
            .await
            .unwrap()
    }
}

/// Before it lost Postgres the first one watched the process.
fn returned_at_first(returned: &Watch, watch: &Watch) -> Watch {
    Watch {
        shards: watch.shards.clone(),
        ..returned.clone()
    }
}

async fn merge(database: &Database, watch: &Watch) -> usize {
    let mut written = 0;
    for process in report::unmerged(&database.manager, watch).await.unwrap() {
        let step = report::merge_step(&database.manager, watch, &process, 0, Duration::ZERO).await;
        written += step.unwrap().written;
    }
    written
}

fn text(range: std::ops::Range<usize>) -> String {
    lines(range).into_iter().map(|(_, line)| line + "\n").collect()
}

fn counts(replayed: &Replayed) -> (i64, i64, usize, usize) {
    assert!(!replayed.missing, "{replayed:?}");
    (replayed.lines, replayed.filled, replayed.passed, replayed.others.len())
}

#[tokio::test]
async fn a_hole_is_filled_once_with_what_comes_back_and_readers_find_it_there() {
    let mut log = Log::new(3).await;
    log.take(2, 8..10).await;
    log.other.print(&lines(10..12)).await;
    assert_eq!(log.stream(0).await["gaps"][0].get("room"), None, "nobody needs to know");
    let (reader, given) = (log.reader().await, log.cursors().await);
    let messages = log.spool(&[3..6, 6..7, 7..11, 11..14]);
    // The manager dies before it takes note of what it has stored, again and again.
    assert_eq!(counts(&log.give(&messages[..1]).await), (3, 3, 0, 0));
    assert_eq!(counts(&log.give(&messages[..2]).await), (1, 1, 1, 0));
    let replayed = log.give(&messages).await;
    assert_eq!((replayed.lines, replayed.filled), (1, 1));
    assert_eq!(replayed.changed, [log.process].into());
    let numbers = log.numbers().await;
    // Neither does a manager wait for anything more of it, nor one that watches the process itself again.
    assert_eq!(counts(&log.give(&messages).await), (0, 0, 4, 0));
    let again = replay(&log.database, &log.watch, &messages).await;
    assert_eq!(counts(&again), (0, 0, 4, 0));

    let stream = log.stream(0).await;
    assert_eq!((&stream["lines"], &stream["gaps"]), (&json!(12), &json!([])));
    assert_eq!(stream["bytes"], text(0..12).len());
    assert_eq!((&stream["sha256"], &stream["seal"]), (&Value::Null, &Value::Null));
    assert_eq!(log.reader().await, reader, "whoever reads on is where it was");
    assert_eq!(log.numbers().await, numbers);
    log.other.print(&lines(12..13)).await;
    assert_eq!(log.text("logs").await, text(0..13));
    for (query, expected) in [
        ("logs?tail=7", 6..13),
        ("logs?limit=5", 0..5),
        ("logs?tail=9&limit=6", 4..10),
        ("logs?grep=line&limit=9", 0..9),
        ("logs?grep=line&tail=9", 4..13),
    ] {
        assert_eq!(log.text(query).await, text(expected), "{query}");
    }
    // Cursors from before and from now mean the same lines.
    let all = log.cursors().await;
    assert!(given.iter().all(|line| all.contains(line)), "{given:?} {all:?}");
    for (index, (line, cursor)) in all.iter().enumerate() {
        assert_eq!(line, &format!("line {index}"));
        assert_eq!(
            log.text(&format!("logs?after={cursor}")).await,
            text(index + 1..13),
            "{cursor}"
        );
        let query = format!("logs?after={cursor}&limit=2");
        assert_eq!(log.text(&query).await, text(index + 1..13.min(index + 3)), "{cursor}");
    }
    let story = log.read("story", "application/x-ndjson").await;
    let told = story.lines().filter_map(|line| {
        let value: Value = serde_json::from_str(line).unwrap();
        Some(value["line"]["line"].as_str()?.to_owned() + "\n")
    });
    assert_eq!(told.collect::<String>(), text(0..13));
    // However many holes there were before.
    sqlx::query("update log_chunk set seq = seq + (1::bigint << 40) where seq > 9")
        .execute(&log.database.owner)
        .await
        .unwrap();
    for (line, (_, cursor)) in log.cursors().await.iter().enumerate() {
        let query = format!("logs?after={cursor}&limit=3");
        assert_eq!(log.text(&query).await, text(line + 1..13.min(line + 4)), "{cursor}");
    }
}

#[tokio::test]
async fn a_hole_that_is_filled_in_part_begins_later() {
    let mut log = Log::new(3).await;
    log.take(2, 8..10).await;
    let messages = log.spool(&[3..5, 5..6, 6..8, 8..9]);
    log.give(&messages[..1]).await;
    let hole = log.hole(4, Some(8));
    assert_eq!(log.stream(0).await["gaps"], json!([hole]));
    // It stands where it is now.
    let json = log.read("logs", "application/x-ndjson").await;
    let shown = json.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap();
        value["line"].as_str().map_or("hole".to_owned(), str::to_owned)
    });
    let shown: Vec<_> = shown.collect();
    assert_eq!(shown[4..6], ["line 4", "hole"]);
    // What comes after lines that were lost is not put behind others.
    assert_eq!(log.give(&messages[2..]).await.lines, 0);
    assert_eq!(log.text("logs").await, text(0..5) + &text(8..10));
    assert_eq!(log.give(&messages[1..]).await.filled, 3);
    assert_eq!(log.text("logs").await, text(0..10));
    assert_eq!(log.stream(0).await["gaps"], json!([]));
}

#[tokio::test]
async fn a_rotation_that_was_noticed_late_is_on_record_when_the_hole_before_it_is_filled() {
    let mut log = Log::new(3).await;
    log.take(2, 8..10).await;
    log.seal(0, Vec::new()).await;
    // Lines 5 to 7 are lost to the node, as the first one finds when it has handed out what follows.
    let rotation = Gap {
        from: log.hole(4, None).from,
        to: log.hole(8, None).from,
        reason: "rotation".into(),
        cut: true,
        ..Gap::default()
    };
    let mut messages = log.spool(&[3..5, 8..9]);
    let late = log.first.chunk_after(vec![rotation.clone()], &lines(9..11));
    messages.push(LogMessage::Chunk(late));
    // The manager dies before it takes note of what it has stored.
    assert_eq!(counts(&log.give(&messages[..2]).await), (2, 2, 0, 0));
    for given in [&messages[1..], &messages, &messages] {
        assert_eq!(counts(&log.give(given).await), (0, 0, given.len(), 0));
        let stream = log.stream(0).await;
        assert_eq!(stream["gaps"], json!([rotation]));
        assert_eq!(
            (&stream["seal"], &stream["seal_reason"]),
            (&json!("gap"), &json!("rotation"))
        );
        assert_eq!(log.text("logs").await, text(0..5) + &text(8..10));
    }
}

#[tokio::test]
async fn what_was_spooled_behind_a_hole_can_be_filled_too() {
    let mut log = Log::new(3).await;
    let gap = log.hole(2, Some(8));
    // The other one has lost Postgres as well: its lines come out of its spool, some of them twice.
    let behind = [
        LogMessage::Chunk(log.other.chunk_after(vec![gap], &lines(8..9))),
        spooled(&mut log.other, 9..11),
    ];
    for messages in [&behind[..1], &behind] {
        replay(&log.database, &log.watch, messages).await;
    }
    let messages = log.spool(std::slice::from_ref(&(3..11)));
    assert_eq!(log.give(&messages).await.filled, 5);
    assert_eq!(log.text("logs").await, text(0..11));
    assert_eq!(log.stream(0).await["gaps"], json!([]));
}

#[tokio::test]
async fn a_log_grows_and_is_merged_while_it_is_filled() {
    let mut log = Log::new(40).await;
    log.take(39, 80..81).await;
    let pieces: Vec<_> = (40..85).map(|line| line..line + 1).collect();
    let messages = log.spool(&pieces);
    let Log {
        database,
        other,
        returned,
        watch,
        ..
    } = &mut log;
    let database = &*database;
    let writing = async {
        for line in 81..140 {
            other.print(&lines(line..line + 1)).await;
        }
    };
    let filling = async {
        for some in messages.chunks(4) {
            replay(database, returned, some).await;
        }
    };
    let merging = async {
        let mut merges = 0;
        for _ in 0..25 {
            merges += merge(database, watch).await;
        }
        merges
    };
    let ((), (), merges) = tokio::join!(writing, filling, merging);
    assert!(merges > 1, "{merges}");
    assert_eq!(log.text("logs").await, text(0..140));
    let stream = log.stream(0).await;
    assert_eq!((&stream["lines"], &stream["gaps"]), (&json!(140), &json!([])));
}

#[tokio::test]
async fn chunks_become_one_on_both_sides_of_a_hole_and_never_across_it() {
    let mut log = Log::new(20).await;
    log.take(19, 40..41).await;
    for line in 41..60 {
        log.other.print(&lines(line..line + 1)).await;
    }
    log.seal(0, Vec::new()).await;
    assert_eq!(log.merge().await, 2);
    let given = log.cursors().await;
    let sides = log.numbers().await;
    assert_eq!(sides.len(), 2);
    assert_eq!(report::unmerged(&log.database.manager, &log.watch).await.unwrap(), []);
    let pieces: Vec<_> = (20..41).map(|line| line..line + 1).collect();
    let messages = log.spool(&pieces);
    log.give(&messages[..8]).await;
    let unmerged = report::unmerged(&log.database.manager, &log.watch).await.unwrap();
    assert_eq!(
        (unmerged[0].lines, unmerged[0].filled),
        (48, 8),
        "it is looked at again"
    );
    assert_eq!(log.merge().await, 1);
    assert_eq!(log.numbers().await, [sides[0] + 8, sides[1]]);
    log.give(&messages[8..]).await;
    // A step that saw less than there is now marks nothing.
    let before = report::merge_step(&log.database.manager, &log.watch, &unmerged[0], 0, Duration::ZERO).await;
    assert_eq!(before.unwrap().written, 1);
    assert_eq!(
        report::unmerged(&log.database.manager, &log.watch).await.unwrap()[0].filled,
        20
    );
    log.merge().await;
    assert_eq!(report::unmerged(&log.database.manager, &log.watch).await.unwrap(), []);
    assert_eq!(log.numbers().await, [sides[0] + 20, sides[1]]);
    assert_eq!(log.text("logs").await, text(0..60));
    let all = log.cursors().await;
    assert!(given.iter().all(|line| all.contains(line)), "{given:?} {all:?}");
    assert_eq!(log.stream(0).await["seal"], "complete");
}

#[tokio::test]
async fn a_sealed_log_without_another_hole_is_complete() {
    for another in [false, true] {
        let mut log = Log::new(0).await;
        let mut earlier = log.hole(0, Some(1));
        earlier.reason = "rotation".into();
        log.first
            .print_after(another.then_some(earlier.clone()).into_iter().collect(), &lines(0..3))
            .await;
        log.other = Writer::new(&log.database.manager, &log.watch, log.process).await;
        log.take(2, 5..7).await;
        log.seal(0, Vec::new()).await;
        let stream = log.stream(0).await;
        let reason = json!(log.hole(0, None).reason);
        assert_eq!((&stream["seal"], &stream["seal_reason"]), (&json!("gap"), &reason));
        let mut messages = log.spool(&[3..6, 6..7]);
        messages.push(sealed(&messages[1]));
        assert_eq!(counts(&log.give(&messages).await), (2, 2, 2, 0));
        assert_eq!(log.text("logs").await, text(0..7));
        let stream = log.stream(0).await;
        let (seal, reason) = if another {
            (json!("gap"), json!("rotation"))
        } else {
            (json!("complete"), Value::Null)
        };
        assert_eq!((&stream["seal"], &stream["seal_reason"]), (&seal, &reason));
        assert_eq!(stream["seal_end"], "unknown", "that is what the one who sealed it saw");
        assert_eq!(stream["gaps"], if another { json!([earlier]) } else { json!([]) });
    }
}

#[tokio::test]
async fn the_end_of_a_log_that_only_one_manager_has_seen_is_filled_before_the_next_run() {
    let mut log = Log::new(3).await;
    // Its pod is gone, and somebody else has made another.
    let hole = log.hole(2, None);
    log.seal(0, vec![hole]).await;
    log.other.restart().await;
    log.other.print(&lines(10..12)).await;
    let mut messages = log.spool(&[3..6, 6..8]);
    messages.push(sealed(&messages[1]));
    assert_eq!(counts(&log.give(&messages[..2]).await), (5, 5, 0, 0));
    let stream = log.stream(0).await;
    assert_eq!(
        (&stream["seal"], &stream["gaps"]),
        (&json!("gap"), &json!([log.hole(7, None)]))
    );
    assert_eq!(stream["last_at"], json!(lines(7..8)[0].0));
    log.give(&messages).await;
    let stream = log.stream(0).await;
    assert_eq!(
        (&stream["seal"], &stream["seal_end"]),
        (&json!("complete"), &json!("seen"))
    );
    assert_eq!((&stream["lines"], &stream["gaps"]), (&json!(8), &json!([])));
    assert_eq!(log.text("logs").await, text(0..8) + &text(10..12));
    assert_eq!(log.give(&messages).await.lines, 0);
}

#[tokio::test]
async fn a_line_that_was_cut_gets_its_beginning() {
    for merged in [false, true] {
        let mut log = Log::new(3).await;
        let cut = lines(6..7)[0].0 + Duration::from_micros(500);
        let mut behind = vec![(cut, " 6".to_owned())];
        behind.extend(lines(7..9));
        let gap = log.hole(2, Some(6));
        log.other.print_after(vec![gap], &behind).await;
        if merged {
            log.other.print(&lines(9..10)).await;
            log.seal(0, Vec::new()).await;
            assert_eq!(log.merge().await, 2);
        }
        let given = log.cursors().await;
        let mut messages = log.spool(&[3..5, 5..8]);
        let LogMessage::Chunk(chunk) = &mut messages[1] else {
            panic!("a chunk")
        };
        chunk.seams = vec![Seam {
            line: 1,
            at: cut.timestamp_nanos_opt().unwrap(),
            offset: 4,
        }];
        assert_eq!(log.give(&messages).await.filled, 3);
        let end = if merged { 10 } else { 9 };
        assert_eq!(log.text("logs").await, text(0..end), "{merged}");
        let stream = log.stream(0).await;
        assert_eq!((&stream["lines"], &stream["gaps"]), (&json!(end), &json!([])));
        assert_eq!(stream["bytes"], text(0..end).len());
        let sizes: i64 = sqlx::query_scalar("select sum(size)::bigint from log_chunk")
            .fetch_one(&log.database.owner)
            .await
            .unwrap();
        assert_eq!(stream["bytes"], sizes);
        let all = log.cursors().await;
        for (line, cursor) in given {
            assert_eq!(all.iter().filter(|(_, other)| *other == cursor).count(), 1, "{line}");
        }
        assert_eq!(log.give(&messages).await.lines, 0);
        assert_eq!(log.text("logs").await, text(0..end));
    }
}

#[tokio::test]
async fn what_belongs_before_lines_that_were_dropped_is_dropped() {
    for (keep, stored, dropped) in [(10..12, 10..12, 5), (8..12, 3..12, 3)] {
        let mut log = Log::new(3).await;
        log.take(2, 8..10).await;
        log.other.print(&lines(10..12)).await;
        let messages = log.spool(&[3..6, 6..12]);
        let limit = |keep| text(keep).len() as i64;
        let (pool, watch, process) = (&log.database.manager, &log.watch, log.process);
        report::drop_oldest(pool, watch, process, limit(keep.clone()))
            .await
            .unwrap();
        let replayed = log.give(&messages).await;
        assert_eq!(replayed.filled, i64::try_from(stored.len() - keep.len()).unwrap());
        assert_eq!(log.text("logs").await, text(stored));
        let stream = log.stream(0).await;
        assert_eq!(stream["truncated"]["lines"], dropped, "{stream}");
        // And what was filled in is the next to go.
        report::drop_oldest(pool, watch, process, limit(keep.clone()))
            .await
            .unwrap();
        assert_eq!(log.text("logs").await, text(keep.clone()));
        let stream = log.stream(0).await;
        let left = stream["lines"].as_i64().unwrap() - stream["truncated"]["lines"].as_i64().unwrap();
        assert_eq!(left, i64::try_from(keep.len()).unwrap());
        log.seal(0, Vec::new()).await;
        assert_eq!(log.stream(0).await["seal"], "truncated");
    }
}
