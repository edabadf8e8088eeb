//! What a manager has spooled is stored once, in order, and only where it belongs.

use chrono::{DateTime, TimeDelta, Utc};
use octopus_shared::db::report::{self, Chunk, LogMessage, Replayed, ReportError, Seal, StreamKey, Watch};
use octopus_shared::log::Gap;
use octopus_tests::api::Api;
use octopus_tests::function::{manager, service, watch};
use octopus_tests::postgres::Database;
use octopus_tests::printed::{Writer, opened};
use uuid::Uuid;

/// Lines that name their place in the log.
pub(crate) fn lines(range: std::ops::Range<usize>) -> Vec<(DateTime<Utc>, String)> {
    let begin = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    range
        .map(|line| {
            (
                begin + TimeDelta::milliseconds(i64::try_from(line).unwrap()),
                format!("line {line}"),
            )
        })
        .collect()
}

pub(crate) fn spooled(writer: &mut Writer, range: std::ops::Range<usize>) -> LogMessage {
    LogMessage::Chunk(Chunk {
        seq: 0,
        ..writer.chunk(&lines(range))
    })
}

pub(crate) fn sealed(last: &LogMessage) -> LogMessage {
    let LogMessage::Chunk(chunk) = last else {
        panic!("a chunk")
    };
    LogMessage::Seal {
        process_id: chunk.process_id,
        key: chunk.key.clone(),
        seal: Seal {
            gaps: Vec::new(),
            end: "seen".into(),
        },
        at: chunk.cursor.clone(),
    }
}

pub(crate) async fn replay(database: &Database, watch: &Watch, messages: &[LogMessage]) -> Replayed {
    report::replay(&database.manager, watch, messages).await.unwrap()
}

/// The stored lines in order, and what the stream's row says: lines, whether it is sealed, the spool.
async fn stored(database: &Database) -> (Vec<String>, (i64, bool, Option<Uuid>)) {
    let chunks: Vec<(i16, Vec<u8>)> = sqlx::query_as("select encoding, data from log_chunk order by seq")
        .fetch_all(&database.owner)
        .await
        .unwrap();
    let texts = chunks
        .into_iter()
        .map(|(encoding, data)| octopus_shared::log::Text::decode(encoding, data).unwrap());
    let lines = texts
        .flat_map(|text| {
            text.lines()
                .map(|line| String::from_utf8(line.content.to_vec()).unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    let row = sqlx::query_as("select lines, seal is not null, spool from log_stream");
    (lines, row.fetch_one(&database.owner).await.unwrap())
}

pub(crate) fn names(count: usize) -> Vec<String> {
    lines(0..count).into_iter().map(|(_, line)| line).collect()
}

/// A manager with a spool that watches everything, and the process that it watches.
async fn prepared() -> (Database, Watch, Uuid) {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let mut watch = watch(&database, instance).await;
    let process = service(&database, &api, instance).await;
    watch.spool = Some(Uuid::new_v4());
    (database, watch, process)
}

/// The stream of a [`Writer`].
fn first_run(process: Uuid) -> StreamKey {
    StreamKey {
        pod_uid: format!("pod-of-{process}"),
        container: "function".into(),
        restart: 0,
    }
}

#[tokio::test]
async fn the_time_of_the_holes_on_record_is_known_to_the_next_reader() {
    let (database, watch, process) = prepared().await;
    let mut writer = Writer::new(&database.manager, &watch, process).await;
    let key = first_run(process);
    let missed = async || opened(&database.manager, &watch, process, &key).await.missed;
    writer.print(&lines(0..1)).await;
    assert_eq!(missed().await, 0);
    // A beginning that nobody read has no time; a clock that was set back gives none.
    for (line, (from, to), known) in [
        (1, (Some(10), Some(17)), 7),
        (2, (None, Some(5)), 7),
        (3, (Some(20), Some(4)), 7),
    ] {
        let hole = Gap {
            from,
            to,
            reason: "rotation".into(),
            ..Gap::default()
        };
        writer.print_after(vec![hole], &lines(line..line + 1)).await;
        assert_eq!(missed().await, known, "{from:?} to {to:?}");
    }
    let two = [(20, 30), (30, 35)].map(|(from, to)| Gap {
        from: Some(from),
        to: Some(to),
        ..Gap::default()
    });
    writer.print_after(two.into(), &lines(4..5)).await;
    assert_eq!(missed().await, 22);
}

/// A container was started again and again while no manager was there: its node has the logs of the last two runs.
#[tokio::test]
async fn runs_that_nobody_read_are_on_record() {
    let (database, watch, process) = prepared().await;
    let mut writer = Writer::new(&database.manager, &watch, process).await;
    writer.print(&lines(0..1)).await;
    let run = |restart| StreamKey {
        restart,
        ..first_run(process)
    };
    let stored = async || {
        let rows: Vec<(i32, Option<String>, Option<String>, serde_json::Value)> =
            sqlx::query_as("select restart, seal, seal_reason, gaps from log_stream order by restart")
                .fetch_all(&database.owner)
                .await
                .unwrap();
        rows.into_iter()
            .map(|(restart, seal, why, gaps)| (restart, seal.zip(why), gaps.as_array().unwrap().len()))
            .collect::<Vec<_>>()
    };
    let (open, unread) = (None, Some(("gap".to_owned(), "restarted".to_owned())));
    for restart in [4, 3] {
        opened(&database.manager, &watch, process, &run(restart)).await;
    }
    let expected = vec![
        (0, open.clone(), 0),
        (1, unread.clone(), 1),
        (2, unread.clone(), 1),
        (3, open.clone(), 0),
        (4, open.clone(), 0),
    ];
    assert_eq!(stored().await, expected);
    opened(&database.manager, &watch, process, &run(4)).await;
    opened(&database.manager, &watch, process, &run(5)).await;
    assert_eq!(stored().await.len(), 6);
    // Of very many the newest.
    opened(&database.manager, &watch, process, &run(1000)).await;
    let all = stored().await;
    assert_eq!(
        (all.len(), &all[6], &all[106]),
        (107, &(899, unread, 1), &(1000, open, 0))
    );
}

#[tokio::test]
async fn the_newest_file_of_which_nothing_is_doubtful_is_known_to_the_next_reader() {
    let (database, watch, process) = prepared().await;
    let mut writer = Writer::new(&database.manager, &watch, process).await;
    let key = first_run(process);
    let stored = async || opened(&database.manager, &watch, process, &key).await.head;
    assert_eq!(stored().await, None);
    for (line, head, known) in [(0, Some(7), 7), (1, None, 7), (2, Some(8), 8)] {
        let mut chunk = writer.chunk(&lines(line..line + 1));
        chunk.head = head;
        report::append_chunks(&database.manager, &watch, &[chunk])
            .await
            .unwrap();
        assert_eq!(stored().await, Some(known));
    }
    let mut message = spooled(&mut writer, 3..4);
    if let LogMessage::Chunk(chunk) = &mut message {
        chunk.head = Some(9);
    }
    replay(&database, &watch, &[message]).await;
    assert_eq!(stored().await, Some(9));
}

#[tokio::test]
async fn messages_are_stored_once_however_often_they_are_replayed() {
    let (database, watch, process) = prepared().await;
    let mut writer = Writer::new(&database.manager, &watch, process).await;
    writer.print(&lines(0..2)).await;
    let mut messages = vec![
        spooled(&mut writer, 2..5),
        spooled(&mut writer, 5..6),
        spooled(&mut writer, 6..9),
    ];
    messages.push(sealed(&messages[2]));
    // A part of them, then all: the manager died in between.
    let first = replay(&database, &watch, &messages[..2]).await;
    assert_eq!((first.lines, first.passed, first.sealed), (4, 0, 0));
    let again = replay(&database, &watch, &messages).await;
    assert_eq!(
        (again.lines, again.passed, again.sealed, again.missing),
        (3, 2, 1, false)
    );
    assert_eq!(again.changed, [process].into());
    let whole = (names(9), (9, true, watch.spool));
    assert_eq!(stored(&database).await, whole);
    let nothing = replay(&database, &watch, &messages).await;
    assert_eq!((nothing.lines, nothing.passed, nothing.sealed), (0, 4, 0));
    assert_eq!(stored(&database).await, whole);
}

#[tokio::test]
async fn what_another_manager_has_stored_meanwhile_is_passed_over_to_the_line() {
    let (database, watch, process) = prepared().await;
    let mut away = Writer::new(&database.manager, &watch, process).await;
    let mut other = Writer::new(&database.manager, &watch, process).await;
    let messages = [
        spooled(&mut away, 0..4),
        spooled(&mut away, 4..8),
        spooled(&mut away, 8..10),
    ];
    other.print(&lines(0..6)).await;
    let replayed = replay(&database, &watch, &messages).await;
    assert_eq!((replayed.lines, replayed.passed), (4, 1));
    assert_eq!(stored(&database).await, (names(10), (10, false, watch.spool)));
}

/// Postgres went over to a standby that did not have the newest commits.
#[tokio::test]
async fn lines_behind_others_that_are_not_stored_any_more_are_read_again() {
    let (database, watch, process) = prepared().await;
    let mut writer = Writer::new(&database.manager, &watch, process).await;
    let append = async |chunks: &[Chunk]| report::append_chunks(&database.manager, &watch, chunks).await;
    let [first, lost, behind] = [0..2, 2..4, 4..6].map(|range| writer.chunk(&lines(range)));
    append(std::slice::from_ref(&first)).await.unwrap();
    let refused = append(std::slice::from_ref(&behind)).await;
    assert!(matches!(refused, Err(ReportError::Fenced)), "{refused:?}");
    let LogMessage::Seal { key, seal, at, .. } = sealed(&LogMessage::Chunk(lost.clone())) else {
        panic!("a seal")
    };
    let refused = report::seal_stream(&database.manager, &watch, &key, &seal, at.lines).await;
    assert!(matches!(refused, Err(ReportError::Fenced)), "{refused:?}");
    assert_eq!(stored(&database).await, (names(2), (2, false, watch.spool)));
    append(&[first, lost, behind.clone()]).await.unwrap();
    let all = (names(6), (6, false, watch.spool));
    assert_eq!(stored(&database).await, all);

    // A number that is another chunk's.
    let next = writer.chunk(&lines(6..7));
    let taken = Chunk {
        seq: behind.seq,
        ..next.clone()
    };
    let refused = append(&[taken]).await;
    assert!(matches!(refused, Err(ReportError::Database(_))), "{refused:?}");
    assert_eq!(stored(&database).await, all);
    append(&[next]).await.unwrap();
    assert_eq!(stored(&database).await.0, names(7));

    let next = writer.chunk(&lines(7..8));
    sqlx::raw_sql("delete from log_stream")
        .execute(&database.owner)
        .await
        .unwrap();
    let refused = append(std::slice::from_ref(&next)).await;
    assert!(matches!(refused, Err(ReportError::Fenced)), "{refused:?}");
    let nobodys = Chunk {
        process_id: Uuid::new_v4(),
        ..next
    };
    append(&[nobodys]).await.unwrap();
}

#[tokio::test]
async fn lines_are_never_put_behind_a_hole() {
    let (database, watch, process) = prepared().await;
    let mut writer = Writer::new(&database.manager, &watch, process).await;
    let torn = spooled(&mut writer, 0..3);
    let behind = spooled(&mut writer, 3..5);
    let end = sealed(&behind);
    let replayed = replay(&database, &watch, &[behind, end]).await;
    assert_eq!((replayed.lines, replayed.passed, replayed.sealed), (0, 2, 0));
    assert!(replayed.missing, "whoever reads on has to begin again");
    assert_eq!(stored(&database).await, (Vec::new(), (0, false, watch.spool)));
    replay(&database, &watch, &[torn]).await;
    // Another manager found them rotated away, and has read on: as many lines, but others.
    let mut away = Writer::new(&database.manager, &watch, process).await;
    let mut other = Writer::new(&database.manager, &watch, process).await;
    let missed = [spooled(&mut away, 3..7), spooled(&mut away, 7..9)];
    other.print(&lines(7..9)).await;
    let replayed = replay(&database, &watch, &missed).await;
    assert_eq!((replayed.lines, replayed.passed), (0, 2));
    let (stored, (count, ..)) = stored(&database).await;
    assert_eq!(count, 5);
    assert_eq!(stored, [&names(9)[..3], &names(9)[7..]].concat());
}

#[tokio::test]
async fn only_who_watches_a_stream_stores_what_is_spooled_of_it() {
    let (database, watch, process) = prepared().await;
    let mut writer = Writer::new(&database.manager, &watch, process).await;
    let messages = [spooled(&mut writer, 0..2), spooled(&mut writer, 2..4)];
    let of_others = Watch {
        shards: Vec::new(),
        ..watch.clone()
    };
    let replayed = replay(&database, &of_others, &messages).await;
    assert_eq!((replayed.lines, replayed.others), (0, vec![0, 1]));
    let stale = Watch {
        token: watch.token - 1,
        ..watch.clone()
    };
    let refused = report::replay(&database.manager, &stale, &messages).await;
    assert!(matches!(refused, Err(ReportError::Fenced)), "{refused:?}");
    assert_eq!(stored(&database).await.0, Vec::<String>::new());
    // Who reads on knows who may have more; whoever spooled it need not be told.
    let key = messages[0].key();
    let by = async |watch: &Watch| opened(&database.manager, watch, process, key).await.spooled_by;
    assert_eq!(by(&watch).await, None);
    let next = Watch {
        spool: Some(Uuid::new_v4()),
        ..watch.clone()
    };
    assert_eq!(by(&next).await, watch.spool);
    replay(&database, &watch, &messages).await;
    assert_eq!(stored(&database).await.0, names(4));
}
