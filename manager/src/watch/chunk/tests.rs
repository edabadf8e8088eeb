use super::*;

fn line(nanos: i64, content: &str) -> Stamped {
    Stamped {
        at: DateTime::from_timestamp_nanos(nanos),
        content: content.into(),
        lost: 0,
        seam: None,
    }
}

fn cursor(stored: &[Stamped]) -> StreamCursor {
    let (mut cursor, mut batch) = (StreamCursor::default(), Batch::default());
    for line in stored {
        batch.push(&mut cursor, line);
    }
    batch.close(&mut cursor);
    cursor
}

#[test]
fn the_running_hash_goes_on_where_it_was_left() {
    let lines = [line(1, "a"), line(1, ""), line(2, "b\0")];
    let mut whole = StreamCursor {
        chain: Some(Vec::new()),
        ..StreamCursor::default()
    };
    for line in &lines {
        advance(&mut whole, line);
    }
    let first = Sha256::digest(b"a\n");
    let second = Sha256::digest([first.as_slice(), b"\n"].concat());
    let third = Sha256::digest([second.as_slice(), b"b\0\n"].concat());
    assert_eq!(whole.chain, Some(third.to_vec()));
    assert_eq!(cursor(&lines).chain, None, "its first lines were stored without");
}

/// Everything that is stored when a stream is opened again and shows `shown`, to its end.
fn passed(mut resume: Resume, shown: &[Stamped]) -> (Vec<String>, Vec<Gap>) {
    let (mut stored, mut gaps) = (Vec::new(), Vec::new());
    let mut take = |passed| match passed {
        Passed::Nothing => {}
        Passed::FartherBack { .. } => unreachable!("all of it is shown"),
        Passed::New(lines) => stored.extend(lines),
        Passed::AfterGap(lines, gap) => {
            gaps.push(gap);
            stored.extend(lines);
        }
    };
    for line in shown {
        take(resume.pass(line.clone()));
    }
    take(resume.give_up());
    (
        stored
            .into_iter()
            .map(|line| String::from_utf8(line.content).unwrap())
            .collect(),
        gaps,
    )
}

fn resumed(before: &[Stamped], shown: &[Stamped]) -> (Vec<String>, usize) {
    let (stored, gaps) = passed(Resume::at(&cursor(before)), shown);
    (stored, gaps.len())
}

#[test]
fn a_resumed_read_stores_each_line_once() {
    let all = [line(1, "a"), line(2, "b"), line(2, "b"), line(2, "c"), line(3, "d")];
    for stored in 0..=all.len() {
        let (rest, gaps) = resumed(&all[..stored], &all);
        let expected: Vec<_> = ["a", "b", "b", "c", "d"][stored..]
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!((rest, gaps), (expected, 0), "resumed after {stored}");
    }
}

#[test]
fn identical_lines_with_one_timestamp_are_counted() {
    let all = [line(5, "x"), line(5, "x"), line(5, "x")];
    assert_eq!(resumed(&all[..2], &all), (vec!["x".to_owned()], 0));
}

#[test]
fn a_line_with_an_earlier_time_after_the_anchor_is_new() {
    let all = [line(5, "a"), line(4, "out of order"), line(6, "b")];
    assert_eq!(
        resumed(&all[..1], &all),
        (vec!["out of order".to_owned(), "b".to_owned()], 0)
    );
    assert_eq!(
        resumed(&all[..2], &all),
        (vec!["b".to_owned()], 0),
        "the anchor comes after a later time"
    );
}

/// However many lines stand before it with times that are later: they are known to be stored.
#[test]
fn a_clock_that_was_set_back_neither_loses_nor_repeats_lines() {
    let before: Vec<_> = (0..5000).map(|number| line(1_000_000 + number, "before")).collect();
    let after: Vec<_> = (0..10).map(|number| line(number, "after")).collect();
    let all = [before, after].concat();
    for stored in [1, 4999, 5000, 5001, 5009, 5010] {
        let (rest, gaps) = resumed(&all[..stored], &all);
        let expected: Vec<_> = all[stored..]
            .iter()
            .map(|line| String::from_utf8(line.content.clone()).unwrap())
            .collect();
        assert_eq!((rest, gaps), (expected, 0), "resumed after {stored}");
    }
}

#[test]
fn a_missing_anchor_is_a_gap() {
    let (rest, gaps) = resumed(&[line(1, "a"), line(2, "lost to the rotation")], &[line(9, "z")]);
    assert_eq!((rest, gaps), (vec!["z".to_owned()], 1));
    let (rest, gaps) = resumed(&[line(2, "a")], &[line(2, "another"), line(9, "z")]);
    assert_eq!((rest, gaps), (vec!["z".to_owned()], 1), "same time, other line");
    let (stored, gaps) = passed(
        Resume::at(&cursor(&[line(1, "a")])),
        &[line(9, "he end"), line(10, "z")],
    );
    assert_eq!(stored, ["he end", "z"]);
    assert_eq!(
        (gaps[0].from, gaps[0].to, gaps[0].cut),
        (Some(1), Some(9), true),
        "its first line may lack its beginning"
    );
}

#[test]
fn a_search_does_not_go_on_for_ever() {
    let mut resume = Resume::at(&cursor(&[line(1, "a")]));
    for number in 0..SEARCH {
        let number = i64::try_from(number).unwrap();
        assert_eq!(resume.pass(line(9 + number, "z")), Passed::Nothing);
    }
    assert!(matches!(resume.pass(line(9999, "z")), Passed::AfterGap(lines, _) if lines.len() == SEARCH + 1));
    assert_eq!(resume.pass(line(10_000, "y")), Passed::New(vec![line(10_000, "y")]));
}

#[test]
fn a_search_holds_few_bytes() {
    let long = "x".repeat(1 << 20);
    let mut resume = Resume::at(&cursor(&[line(100, "latest"), line(1, "a")]));
    for number in 0..100 {
        assert_eq!(resume.pass(line(2 + number % 90, &long)), Passed::Nothing);
        assert!(resume.held_bytes <= HELD);
    }
    assert!(resume.has_missed());
    assert_eq!(resume.pass(line(1, "a")), Passed::Nothing);
    assert!(!resume.has_missed());
}

#[test]
fn the_next_file_goes_on_without_a_hole() {
    let before = cursor(&[line(1, "a"), line(2, "b")]);
    let next = |head, rest| {
        let (stored, gaps) = passed(
            Resume::in_next_file(&before, NextFile { head, rest }),
            &[line(4, "d"), line(5, "e")],
        );
        (stored.concat(), gaps.len())
    };
    assert_eq!(next(Some(4), None), ("de".to_owned(), 0));
    assert_eq!(next(None, None), ("de".to_owned(), 0));
    assert_eq!(next(Some(4), Some(line(3, "c"))), ("cde".to_owned(), 0));
    assert_eq!(next(Some(3), None), ("de".to_owned(), 1), "it was rotated again");
}

#[test]
fn half_a_line_is_the_last_one_only_before_an_empty_file() {
    let next = |head| NextFile {
        head,
        rest: Some(line(3, "c")),
    };
    let (mut empty, mut begun) = (next(None), next(Some(4)));
    assert_eq!(empty.last_line(), Some(line(3, "c")));
    assert_eq!(empty.last_line(), None, "once");
    assert_eq!(begun.last_line(), None);
    assert_eq!(begun, next(Some(4)), "its end comes with a later read");
}

/// What is stored when the newest lines are shown, and others after them, if they reach back far enough.
fn in_tail(before: &[Stamped], newest: &[Stamped], after: &[Stamped]) -> Option<Vec<Stamped>> {
    let mut resume = Resume::in_tail(&cursor(before), u32::try_from(newest.len()).unwrap());
    let mut stored = Vec::new();
    for line in newest.iter().chain(after) {
        match resume.pass(line.clone()) {
            Passed::Nothing => {}
            Passed::New(lines) => stored.extend(lines),
            Passed::AfterGap(..) => panic!("the newest lines say nothing of a hole"),
            Passed::FartherBack { .. } => return None,
        }
    }
    (!matches!(resume.give_up(), Passed::FartherBack { .. })).then_some(stored)
}

/// Whatever was stored, and however many of the newest lines are shown: what is stored then is all that is new, or nothing.
#[test]
fn the_newest_lines_are_enough_if_the_last_stored_one_is_among_them() {
    let times = [1, 2, 2, 3, 3, 3, 2, 4, 5, 5, 9, 9, 9, 9, 7];
    let is_late = |number| [6, 14].contains(&number);
    let content = |number| if is_late(number) { "late" } else { "x" };
    let all: Vec<_> = (times.iter().enumerate())
        .map(|(number, time)| line(*time, content(number)))
        .collect();
    let after = [line(10, "live"), line(10, "live")];
    let mut enough = 0;
    for stored in 1..=all.len() {
        for begin in 0..all.len() {
            let Some(new) = in_tail(&all[..stored], &all[begin..], &after) else {
                continue;
            };
            assert!(begin < stored, "stored {stored}, shown from {begin}");
            assert_eq!(
                new,
                [&all[stored..], &after].concat(),
                "stored {stored}, shown from {begin}"
            );
            enough += 1;
        }
    }
    assert!(enough > 50, "{enough}");
}

#[test]
fn newest_lines_without_the_last_stored_one_are_given_up_at_once() {
    let before = [line(1, "a"), line(5, "b")];
    let mut resume = Resume::in_tail(&cursor(&before), 3);
    assert_eq!(
        resume.pass(line(5, "b")),
        Passed::FartherBack { set_back: false },
        "another one may stand before it"
    );
    let mut resume = Resume::in_tail(&cursor(&before), 3);
    assert_eq!(resume.pass(line(3, "y")), Passed::Nothing);
    assert_eq!(resume.pass(line(5, "another")), Passed::Nothing);
    assert_eq!(
        resume.pass(line(6, "z")),
        Passed::FartherBack { set_back: true },
        "all have come"
    );
    let mut resume = Resume::in_tail(&cursor(&before), 3);
    assert_eq!(resume.pass(line(3, "y")), Passed::Nothing);
    assert_eq!(resume.give_up(), Passed::Nothing);
    assert_eq!(resume.abandon(), Passed::FartherBack { set_back: true });
}

/// A later read shows the second half of a line that was cut in two as a line of its own.
#[test]
fn a_line_that_was_cut_is_met_again_by_its_end() {
    let joined = line(3, "c").joined(&line(4, "d"));
    let stored = [line(1, "a"), joined];
    let shown = [line(4, "d"), line(5, "e")];
    assert_eq!(resumed(&stored, &shown), (vec!["e".to_owned()], 0));
}

#[test]
fn what_was_too_long_to_hold_is_on_record() {
    let mut batch = Batch::default();
    let long = Stamped {
        lost: 7,
        ..line(3, "the beginning")
    };
    batch.push(&mut StreamCursor::default(), &long);
    assert_eq!(
        batch.gaps,
        [Gap {
            from: Some(3),
            to: Some(3),
            reason: "line_too_long".into(),
            bytes: Some(7),
            ..Gap::default()
        }]
    );
}
