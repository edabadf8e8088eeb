use octopus_shared::db::report::{Seal, StreamCursor};

use super::*;

fn end_of(pod: &str, lines: i64) -> LogMessage {
    LogMessage::Seal {
        process_id: Uuid::nil(),
        key: StreamKey {
            pod_uid: pod.into(),
            container: "function".into(),
            restart: 0,
        },
        seal: Seal {
            gaps: Vec::new(),
            end: "seen".into(),
        },
        at: StreamCursor {
            lines,
            ..StreamCursor::default()
        },
    }
}

#[tokio::test]
async fn what_comes_later_of_a_stream_stays_behind_what_was_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    let (early, late, other) = (end_of("a", 1), end_of("a", 2), end_of("b", 1));
    let all = || vec![late.clone(), other.clone()];
    assert_eq!(spool.divided(all()), (all(), Vec::new()));
    spool.wait_for([&early].into_iter());
    assert_eq!(spool.divided(all()), (vec![other.clone()], vec![late.clone()]));
    spool.wait_for_none();
    assert_eq!(spool.divided(all()), (all(), Vec::new()));
}

#[tokio::test]
async fn a_spool_is_not_full_any_more_when_what_had_no_room_is_stored_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 1).unwrap();
    let (left, appended) = spool.append(vec![end_of("a", 1), end_of("a", 2)]).await;
    appended.unwrap();
    let is_full = || spool.level().full.load(Ordering::Relaxed);
    assert!(left.len() == 1 && is_full());
    spool.was_passed();
    assert!(!is_full());
}
