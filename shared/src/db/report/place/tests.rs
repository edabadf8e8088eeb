use chrono::DateTime;
use uuid::Uuid;

use super::*;
use crate::db::report::{Seal, StreamKey};

const LINES: [&str; 5] = ["a", "b", "b", "c", "d"];

/// The cursor after so many lines.
fn after(lines: usize) -> StreamCursor {
    let printed = &LINES[..lines];
    StreamCursor {
        first: None,
        time: printed.last().map(|_| lines as i64),
        latest: None,
        count: i32::from(lines > 0),
        hash: None,
        chain: Some(
            printed
                .iter()
                .fold(Vec::new(), |chain, line| chained(&chain, line.as_bytes())),
        ),
        lines: lines as i64,
        bytes: 2 * lines as i64,
    }
}

fn chunk(from: usize, to: usize) -> Chunk {
    let mut text = Packer::default();
    let at = |line: usize| DateTime::from_timestamp_nanos(line as i64 + 1);
    for (line, content) in LINES.iter().enumerate().take(to).skip(from) {
        text.push(at(line), content.as_bytes());
    }
    Chunk {
        process_id: Uuid::nil(),
        seq: 0,
        day: at(0).date_naive(),
        key: StreamKey {
            pod_uid: "pod".into(),
            container: "function".into(),
            restart: 0,
        },
        lines: (to - from) as i32,
        first_at: at(from),
        last_at: at(to - 1),
        size: 2 * (to - from) as i32,
        text: text.finish(),
        before: after(from),
        cursor: after(to),
        gaps: Vec::new(),
        seams: Vec::new(),
        head: None,
    }
}

fn seal(lines: usize) -> LogMessage {
    let seal = Seal {
        gaps: Vec::new(),
        end: "seen".into(),
    };
    let Chunk { process_id, key, .. } = chunk(0, 1);
    let at = after(lines);
    LogMessage::Seal {
        process_id,
        key,
        seal,
        at,
    }
}

#[test]
fn a_message_is_stored_where_the_stream_is_and_nowhere_else() {
    let spooled = || LogMessage::Chunk(chunk(1, 4));
    assert_eq!(place(&after(1), &spooled()), Place::Next);
    // Another manager has stored a part of it, or all of it and more.
    assert_eq!(place(&after(2), &spooled()), Place::Within(1));
    assert_eq!(place(&after(3), &spooled()), Place::Within(2));
    assert_eq!(place(&after(4), &spooled()), Place::Passed);
    assert_eq!(place(&after(5), &spooled()), Place::Passed);
    // Lines before it are not there.
    assert_eq!(place(&after(0), &spooled()), Place::Missing);
    // As many lines, but others: another manager read on after a hole.
    for lines in 1..4 {
        let mut other = after(lines);
        other.chain = Some(chained(&[], b"other"));
        assert_eq!(place(&other, &spooled()), Place::Passed, "{lines}");
    }
    assert_eq!(place(&after(5), &seal(5)), Place::Next);
    assert_eq!(place(&after(4), &seal(5)), Place::Missing);
}

#[test]
fn a_stream_without_a_running_hash_is_known_by_its_last_line() {
    let without = |cursor: StreamCursor| StreamCursor { chain: None, ..cursor };
    let mut spooled = chunk(2, 4);
    spooled.before = without(spooled.before);
    let mut stored = without(after(2));
    assert_eq!(place(&stored, &LogMessage::Chunk(spooled.clone())), Place::Next);
    stored.time = Some(7);
    assert_eq!(place(&stored, &LogMessage::Chunk(spooled)), Place::Passed);
}

#[test]
fn what_is_left_of_a_chunk_is_what_was_not_stored() {
    let gap = |to| Gap {
        to: Some(to),
        ..Gap::default()
    };
    let mut whole = chunk(1, 5);
    whole.gaps = vec![gap(2), gap(4)];
    let mut rest = chunk(3, 5);
    rest.gaps = vec![gap(4)];
    assert_eq!(part_of(&whole, 2..usize::MAX, &after(3)), rest);
}
