use chrono::DateTime;
use octopus_shared::db::report::{Chunk, Seal, Seam, StreamCursor, StreamKey};
use octopus_shared::log::{Gap, Packer};
use uuid::Uuid;

use super::*;

fn key() -> StreamKey {
    StreamKey {
        pod_uid: "pod".into(),
        container: "function".into(),
        restart: 2,
    }
}

/// A chunk of one line of so many bytes that do not pack.
fn chunk(number: i64, bytes: usize) -> LogMessage {
    let at = DateTime::from_timestamp_nanos(1_767_323_045_000_000_006 + number);
    let mut noise = vec![0_u8; bytes];
    rand::fill(&mut noise[..]);
    let mut text = Packer::default();
    text.push(at, &noise);
    let cursor = |lines| StreamCursor {
        first: None,
        time: at.timestamp_nanos_opt(),
        latest: None,
        count: 1,
        hash: Some(vec![0, 255, 7]),
        chain: None,
        lines,
        bytes: lines,
    };
    LogMessage::Chunk(Chunk {
        process_id: Uuid::from_u128(7),
        seq: 0,
        day: at.date_naive(),
        key: key(),
        lines: 1,
        first_at: at,
        last_at: at,
        size: 1,
        text: text.finish(),
        before: cursor(number),
        cursor: cursor(number + 1),
        gaps: vec![Gap {
            from: None,
            to: at.timestamp_nanos_opt(),
            reason: "rotation".into(),
            cut: true,
            bytes: None,
            estimated_bytes: None,
        }],
        seams: vec![Seam {
            line: 0,
            at: 7,
            offset: 1,
        }],
        head: Some(3),
    })
}

fn seal() -> LogMessage {
    LogMessage::Seal {
        process_id: Uuid::from_u128(7),
        key: key(),
        seal: Seal {
            gaps: Vec::new(),
            end: "inferred".into(),
        },
        at: StreamCursor::default(),
    }
}

fn append(files: &mut Files, messages: &[LogMessage]) {
    let mut messages = messages.to_vec();
    files.append(&mut messages, u64::MAX).unwrap();
    assert!(messages.is_empty());
}

/// Everything, in order, in as many steps as it takes; nothing is left.
fn all(files: &mut Files) -> Vec<LogMessage> {
    let mut all = Vec::new();
    while !files.is_empty() {
        let (messages, _) = files.front().unwrap();
        all.extend(messages);
        files.done().unwrap();
    }
    assert_eq!(files.bytes(), 0);
    all
}

fn spool_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn messages_come_back_in_order_whoever_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    // Several files.
    let mut written: Vec<_> = (0..12).map(|number| chunk(number, 1 << 20)).collect();
    let mut files = Files::open(folder.path()).unwrap();
    for message in &written {
        append(&mut files, std::slice::from_ref(message));
    }
    assert!(spool_files(folder.path()).len() > 2);
    // The manager dies with some of it done with, and some of it read and not done with.
    let (first, _) = files.front().unwrap();
    files.done().unwrap();
    files.front().unwrap();
    drop(files);
    let mut files = Files::open(folder.path()).unwrap();
    append(&mut files, &[seal()]);
    written.push(seal());
    let again = all(&mut files);
    assert!(written.ends_with(&again), "in order");
    assert!(first.len() + again.len() >= written.len(), "nothing is lost");
    assert!(spool_files(folder.path()).is_empty());
    // It goes on after it was empty.
    append(&mut files, &written);
    assert_eq!(all(&mut files), written);
}

#[test]
fn what_was_torn_ends_its_file_and_no_other() {
    let written = [chunk(0, 100), chunk(1, 100), seal()];
    let folder = tempfile::tempdir().unwrap();
    append(&mut Files::open(folder.path()).unwrap(), &written[..2]);
    let path = spool_files(folder.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    let mut length = Vec::new();
    record::encode(&mut length, &written[0]);
    let first = length.len();
    for torn in 0..whole.len() {
        fs::write(&path, &whole[..torn]).unwrap();
        let mut files = Files::open(folder.path()).unwrap();
        append(&mut files, &written[2..]);
        let read = all(&mut files);
        let kept = usize::from(torn >= first);
        assert_eq!(read, [&written[..kept], &written[2..]].concat(), "{torn}");
    }
    // And bytes that are not those that were written.
    for wrong in 0..first {
        let mut bytes = whole.clone();
        bytes[wrong] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(all(&mut Files::open(folder.path()).unwrap()), [], "{wrong}");
    }
}

#[test]
fn a_full_spool_takes_no_more_and_one_message_always_fits() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Files::open(folder.path()).unwrap();
    let mut messages: Vec<_> = (0..4).map(|number| chunk(number, 1000)).collect();
    let written = messages.clone();
    files.append(&mut messages, 10).unwrap();
    assert_eq!(messages, written[1..], "the first one, whatever its size");
    let one = files.bytes();
    files.append(&mut messages, 2 * one + one / 2).unwrap();
    assert_eq!(messages, written[3..]);
    files.append(&mut messages, one / 2).unwrap();
    assert_eq!(messages, written[3..]);
    assert_eq!(files.bytes(), 3 * one);
    assert_eq!(all(&mut files), written[..3]);
}
