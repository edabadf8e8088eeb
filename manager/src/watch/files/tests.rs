use super::*;

const SECOND: i64 = 1_000_000_000;

fn busy() -> Files {
    let mut files = Files::default();
    files.entered(10);
    for at in 10..100 {
        files.read(at, LEAST / 50);
    }
    files
}

#[test]
fn what_may_have_been_rotated_away_before_anybody_read_is_on_record() {
    const MIB: i64 = 1 << 20;
    // Began at 100 s. When the first line came, reading began, and the last line came; and how many megabytes.
    let run = |first: i64, attached: i64, until: i64, mib: i64| Unread {
        began: 100 * SECOND,
        first: first * SECOND,
        attached: attached * SECOND,
        until: until * SECOND,
        bytes: mib * MIB,
        over: false,
    };
    let gap = before_first(run(120, 125, 140, 10)).unwrap().unwrap();
    assert_eq!(
        (gap.from, gap.to, gap.cut, gap.estimated_bytes),
        (None, Some(120 * SECOND), true, Some(10 * MIB))
    );
    for (run, why) in [
        (run(100, 105, 140, 30), "it has printed from its beginning on"),
        (run(101, 102, 140, 900), "the second in which it began is not over"),
        (run(103, 109, 140, 300), "the file that was there took longer"),
        (run(120, 125, 140, 9), "so little is not rotated"),
    ] {
        assert_eq!(before_first(run), Some(None), "{why}");
    }
    let early = run(120, 125, 129, 10);
    assert_eq!(before_first(early), None, "more will tell");
    assert!(before_first(Unread { over: true, ..early }).unwrap().is_some());
    let moment = run(120, 125, 121, 10);
    assert_eq!(
        before_first(Unread { over: true, ..moment }),
        None,
        "a moment says nothing"
    );
}

#[test]
fn a_stream_is_in_the_newest_file_until_another_one_is_seen() {
    let mut files = Files::default();
    assert!(!files.is_current(100), "nobody knows");
    files.looked(100);
    assert!(files.is_current(100) && !files.is_current(300));
    files.looked(300);
    assert!(!files.is_current(300), "the stream has not come to it");
    files.entered(300);
    assert!(files.is_current(300));
}

#[test]
fn a_little_log_is_not_asked_about() {
    let mut files = Files::default();
    files.entered(10);
    files.read(10, 100);
    files.opened(200);
    assert!(!files.may_have_changed());
    assert!(busy().may_have_changed());
    files.opened(i64::MAX);
    assert!(files.may_have_changed(), "it was opened in the middle of a long log");
}

#[test]
fn a_change_of_files_that_was_not_seen_is_on_record() {
    let mut files = busy();
    files.looked(200);
    assert!(files.may_have_changed(), "the stream is still in the old one");
    assert_eq!(files.unproven(false), None, "not there yet");
    files.read(150, 1);
    assert_eq!(files.unproven(false), None, "not there yet");
    files.read(200, 1);
    let gap = files.unproven(false).unwrap();
    assert_eq!(
        (gap.from, gap.to, gap.reason.as_str(), gap.cut),
        (Some(150), Some(200), "rotation", true)
    );
    files.looked(200);
    assert_eq!(files.unproven(true), None, "it is the same file");
    files.looked(300);
    assert!(files.unproven(true).is_some(), "nothing more comes");
    files.looked(400);
    files.read(400 + SKEW, 1);
    assert_eq!(files.unproven(false), None, "a line of the old file may be so late");
    files.read(400 + LATE, 1);
    assert!(files.unproven(false).is_some(), "it has gone by");
}

#[test]
fn a_change_of_files_that_was_seen_or_during_a_rest_is_none() {
    let mut files = busy();
    files.looked(200);
    files.entered(200);
    assert_eq!(files.unproven(true), None);
    files.read(200, 1);
    files.read(200 + REST, 1);
    files.looked(200 + REST);
    assert_eq!(files.unproven(true), None);
    files.read(200 + 2 * REST - 1, 1);
    files.looked(200 + 2 * REST - 1);
    assert!(files.unproven(true).is_some(), "not long enough");
}

#[test]
fn the_first_head_of_a_resumed_stream_is_no_change() {
    let mut files = Files::default();
    files.read(300, LEAST);
    files.looked(200);
    assert_eq!(files.unproven(true), None);
    files.looked(400);
    assert!(files.unproven(true).is_some());
}

#[test]
fn a_change_of_files_that_a_reader_did_not_live_to_put_on_record_is_put_there_by_the_next() {
    let mut files = busy();
    assert_eq!(files.proven(), Some(10));
    files.looked(200);
    assert_eq!(files.proven(), Some(10), "it is doubtful");
    files.read(200, 1);
    assert!(files.unproven(false).is_some());
    assert_eq!(files.proven(), Some(200));
    files.looked(300);
    files.looked(400);
    assert_eq!(files.proven(), Some(200));

    let resumed = |last| {
        let mut files = Files::resumed(Some(10), Some(last));
        assert!(!files.begins(200));
        files.looked(200);
        files
    };
    // It had come past the change.
    let gap = resumed(200 + LATE).unproven(false).unwrap();
    assert_eq!((gap.from, gap.to), (Some(10), Some(200)));
    // Postgres knows the last line before it.
    let mut files = resumed(200 + LATE);
    assert_eq!(files.forgotten(false), Some(200));
    files.recalled(190);
    assert_eq!(files.unproven(false).unwrap().from, Some(190));
    assert_eq!(files.forgotten(true), None);
    // And has read much since.
    let mut files = resumed(150);
    for at in 0..=2 * i64::try_from(RECENT).unwrap() {
        files.read(200 + LATE + at, 1);
    }
    assert_eq!(files.forgotten(false), None, "it was the last one");
    let gap = files.unproven(false).unwrap();
    assert_eq!((gap.from, gap.to), (Some(150), Some(200)));
    // It had not.
    let mut files = resumed(150);
    assert_eq!((files.forgotten(false), files.unproven(false)), (None, None));
    files.entered(200);
    assert_eq!((files.unproven(true), files.proven()), (None, Some(200)));
    // It goes on in the same file.
    let mut files = Files::resumed(Some(10), Some(150));
    files.looked(10);
    assert_eq!((files.unproven(true), files.proven()), (None, Some(10)));
    let mut unknown = Files::resumed(None, Some(150));
    unknown.looked(200);
    assert_eq!((unknown.unproven(true), unknown.proven()), (None, Some(200)));
}

#[test]
fn files_are_known_by_their_heads() {
    let mut files = Files::default();
    assert!(!files.begins(1), "nothing is known");
    files.entered(10);
    files.looked(50);
    assert!(files.begins(10) && files.begins(50) && !files.begins(30));
    for head in 100..200 {
        files.looked(head);
    }
    assert!(files.begins(199) && !files.begins(10), "few are remembered");
}

#[test]
fn a_follower_that_lags_behind_may_pass_over_a_file() {
    let mut files = busy();
    files.looked(200);
    assert!(files.follows(200));
    files.looked(300);
    assert!(files.follows(200) && !files.follows(300));
    files.entered(200);
    assert!(files.follows(300));
    files.read(300, 1);
    assert!(files.unproven(false).is_some());
    files.looked(400);
    assert!(files.follows(400), "it has gone on without being seen");
}

#[test]
fn files_that_were_passed_over_are_one_hole_however_the_stream_goes_on() {
    let (one, two, three) = (SECOND, 12 * SECOND, 23 * SECOND);
    let skipped = |looks: [bool; 2]| {
        let mut files = busy();
        files.looked(one);
        files.looked(two);
        for (before, heads) in looks.into_iter().zip([three, three + 11 * SECOND]) {
            if before {
                files.looked(heads);
            }
        }
        files
    };
    let hole = |gap: Gap| (gap.from, gap.to, gap.reason, gap.cut);
    let expected = (Some(99), Some(three), "rotated_away".to_owned(), true);
    // The stream goes on with a line of its own, known as the beginning of a file, or not yet.
    for looks in [[true, false], [true, true], [false, false]] {
        let mut files = skipped(looks);
        files.read(three, 1);
        assert_eq!(hole(files.unproven(false).unwrap()), expected);
        files.looked(three);
        assert_eq!(files.unproven(false), None, "it is on record, and was no rest");
        assert!(files.is_current(three) || looks[1]);
    }
    // It goes on with the end of a line.
    let mut files = skipped([true, false]);
    assert!(!files.follows(three));
    files.passed_over(three);
    files.read(three + SECOND, 1);
    assert_eq!(files.unproven(true), None);
    assert!(files.is_current(three));
}

#[test]
fn who_was_stopped_for_longer_than_a_file_lasts_does_not_know_what_was_between() {
    let mut files = busy();
    files.blinded();
    files.read(40 * SECOND, 1);
    files.looked(40 * SECOND);
    let gap = files.unproven(false).unwrap();
    assert_eq!((gap.to, gap.reason.as_str()), (Some(40 * SECOND), "rotated_away"));
    let mut files = busy();
    files.blinded();
    files.looked(10);
    files.looked(200);
    assert!(files.follows(200), "it was the same file still");
    let mut files = busy();
    files.blinded();
    files.looked(200);
    assert!(!files.follows(200));
}

#[test]
fn lines_of_the_old_file_may_be_later_than_those_of_the_new_one() {
    let mut files = busy();
    files.looked(200);
    files.read(200 + LATE / 2, 1);
    assert_eq!(files.unproven(false), None);
    files.looked(12 * SECOND);
    assert!(!files.follows(12 * SECOND), "the file that begins at 200 comes first");
    assert!(files.follows(200));
}

#[test]
fn the_next_file_is_another_one_and_follows_at_once() {
    let mut files = Files::default();
    assert!(!files.is_next(None), "nothing was read");
    let last = 100 * SECOND;
    for at in last - 50..=last {
        files.read(at, 1);
    }
    assert!(files.is_next(None), "nothing is in it yet");
    assert!(files.is_next(Some(last + 1)) && files.is_next(Some(last + 9 * SECOND)));
    assert!(files.is_next(Some(last - 1000)), "both are written to for a moment");
    assert!(!files.is_next(Some(last - 10)), "it is this one");
    assert!(!files.is_next(Some(last - SECOND)), "it is this one");
    assert!(!files.is_next(Some(last + 12 * SECOND)), "there may be one in between");
}

#[test]
fn a_file_that_is_shown_from_its_beginning_again_is_known_by_its_lines() {
    let mut files = busy();
    // Two files were passed over. Of this one more is shown than is remembered.
    let head = 40 * SECOND;
    for number in 0..i64::try_from(RECENT).unwrap() + 100 {
        assert!(!files.shows_again(head + number * 10_000), "{number}");
        files.read(head + number * 10_000, 1);
    }
    assert!(!files.recent.contains(&head));
    assert!(files.shows_again(head), "a line after a while is remembered for longer");
    assert!(!files.shows_again(head + 1), "a clock that was set back");
    let last = *files.recent.back().unwrap();
    assert!(!files.shows_again(last), "two lines at once");
    assert!(!files.shows_again(last - SKEW), "two streams of a container");
}

/// Seen on a busy node, whose runtime did not begin a new file: the follower showed all that it had been asked for once more.
#[test]
fn what_a_stream_shows_from_a_time_on_is_shown_again_from_there() {
    let last = 100 * SECOND;
    let mut files = Files::resumed(Some(40 * SECOND), Some(last));
    // It was opened from a time on, before the last stored line.
    let first = last - 2 * SECOND;
    files.began(first);
    for number in 0..i64::try_from(RECENT).unwrap() + 100 {
        assert!(number == 0 || !files.shows_again(first + number * 400_000), "{number}");
        files.read(first + number * 400_000, 200);
    }
    assert!(!files.recent.contains(&first) && !files.sparse.contains(&first));
    assert!(files.shows_again(first));
    files.began(first + SECOND);
    assert!(!files.shows_again(first), "another stream, which begins elsewhere");
}

#[test]
fn the_beginning_of_the_next_file_is_not_shown_again_though_lines_of_the_old_one_were_later() {
    let mut files = busy();
    files.looked(200);
    files.read(200 + 2 * SKEW, 1);
    assert!(!files.shows_again(200));
    files.entered(200);
    files.read(200, 1);
    files.read(200 + 2 * SKEW, 1);
    assert!(files.shows_again(200));
}
