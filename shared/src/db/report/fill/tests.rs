use proptest::prelude::any;
use proptest::proptest;
use serde_json::json;

use super::*;
use crate::db::report::{Seam, number};
use crate::log::chained;

const SPOOL: Uuid = Uuid::from_u128(7);

/// What one manager has read of a stream: lines of a letter each, printed a millisecond apart.
struct Reader(StreamCursor);

impl Reader {
    fn new() -> Self {
        Self(StreamCursor {
            chain: Some(Vec::new()),
            ..StreamCursor::default()
        })
    }

    /// The same from where it is.
    fn again(&self) -> Self {
        Self(self.0.clone())
    }

    fn read(&mut self, letters: &str) -> Chunk {
        let lines: Vec<_> = letters
            .chars()
            .map(|letter| (i64::from(u32::from(letter)) * 1_000_000, letter.to_string()))
            .collect();
        self.read_lines(&lines)
    }

    fn read_lines(&mut self, lines: &[(i64, String)]) -> Chunk {
        let before = self.0.clone();
        let mut text = Packer::default();
        for (time, line) in lines {
            text.push(DateTime::from_timestamp_nanos(*time), line.as_bytes());
            let cursor = &mut self.0;
            cursor.time = Some(*time);
            cursor.chain = cursor.chain.take().map(|chain| chained(&chain, line.as_bytes()));
            cursor.lines += 1;
            cursor.bytes += line.len() as i64 + 1;
        }
        let at = DateTime::from_timestamp_nanos(lines[0].0);
        Chunk {
            process_id: Uuid::nil(),
            seq: 0,
            day: at.date_naive(),
            key: StreamKey {
                pod_uid: "pod".into(),
                container: "function".into(),
                restart: 0,
            },
            lines: lines.len() as i32,
            first_at: at,
            last_at: DateTime::from_timestamp_nanos(lines[lines.len() - 1].0),
            size: (self.0.bytes - before.bytes) as i32,
            text: text.finish(),
            before,
            cursor: self.0.clone(),
            gaps: Vec::new(),
            seams: Vec::new(),
            head: None,
        }
    }
}

fn time(letter: char) -> Option<i64> {
    Some(i64::from(u32::from(letter)) * 1_000_000)
}

fn hole(from: char, to: Option<char>) -> Gap {
    Gap {
        from: time(from),
        to: to.and_then(time),
        reason: "rotated_away".into(),
        cut: true,
        ..Gap::default()
    }
    .spooled_by(SPOOL)
}

/// Holes of a stream on which another manager read on with a chunk.
fn holes(mut chunk: Chunk, gap: Gap) -> Holes {
    chunk.gaps = vec![gap];
    let mut last = 5;
    number(&mut last, &mut chunk);
    let mut holes = Holes::new(stored(&chunk.gaps, Room::before(&chunk)).unwrap());
    holes.bounded(0, chunk.seq);
    holes
}

/// `abc`, then a manager read `defghij` into its spool, and another one went on with `hij` after a hole.
fn taken() -> (Reader, Holes) {
    let mut first = Reader::new();
    first.read("abc");
    let mut other = first.again();
    (first, holes(other.read("hij"), hole('c', Some('h'))))
}

/// What was filled in: the numbers and the lines of each chunk.
fn filled(holes: &Holes) -> Vec<(i64, String)> {
    let lines = |chunk: &Chunk| {
        let text = Text::decode(chunk.text.encoding, chunk.text.data.clone()).unwrap();
        let lines: Vec<_> = text
            .lines()
            .map(|line| String::from_utf8_lossy(line.content).into_owned())
            .collect();
        assert_eq!(lines.len() as i32, chunk.lines);
        assert_eq!(
            chunk.size as usize,
            lines.iter().map(|line| line.len() + 1).sum::<usize>()
        );
        lines.concat()
    };
    holes.chunks.iter().map(|chunk| (chunk.seq, lines(chunk))).collect()
}

/// Which holes are left: the time of the line before each, as a letter, and whether it may be filled.
fn left(holes: &Holes) -> Vec<(char, bool)> {
    let gaps = holes.gaps.iter().map(|gap| {
        let from = gap["from"].as_i64().unwrap() / 1_000_000;
        (char::from(u8::try_from(from).unwrap()), gap.get("room").is_some())
    });
    gaps.collect()
}

#[test]
fn a_hole_is_filled_up_to_the_line_after_it_in_whatever_pieces() {
    for (pieces, chunks, lines, holes_left) in [
        (vec!["defg"], vec![(6, "defg")], vec![4], vec![('g', true)]),
        (vec!["defghij"], vec![(6, "defg")], vec![4], vec![]),
        (vec!["defghijk"], vec![(6, "defg")], vec![4], vec![]),
        (vec!["de", "fgh"], vec![(6, "de"), (7, "fg")], vec![2, 2], vec![]),
        (vec!["defg", "hijk"], vec![(6, "defg")], vec![4, 0], vec![]),
        (vec!["d", "e"], vec![(6, "d"), (7, "e")], vec![1, 1], vec![('e', true)]),
    ] {
        let (mut first, mut holes) = taken();
        for (piece, lines) in pieces.iter().zip(lines) {
            let chunk = first.read(piece);
            assert_eq!(holes.fill(&chunk), Some(Filled { lines, join: None }), "{pieces:?}");
            // A manager that died before it took note of that comes with it again.
            assert_eq!(holes.fill(&chunk), None, "{pieces:?}");
        }
        let chunks: Vec<_> = chunks.into_iter().map(|(seq, lines)| (seq, lines.to_owned())).collect();
        assert_eq!((filled(&holes), left(&holes)), (chunks, holes_left), "{pieces:?}");
    }
}

proptest! {
    #[test]
    fn every_line_comes_once_and_in_its_place(
        stored in 0..4_usize,
        missed in 0..9_usize,
        read in 1..9_usize,
        pieces in proptest::collection::vec((1..5_usize, any::<bool>()), 1..20),
    ) {
        // Many say the same, none at the same time.
        let line = |number: usize| (number as i64 * 1_000_000, (number % 2).to_string());
        let lines = |range: std::ops::Range<usize>| range.map(line).collect::<Vec<_>>();
        let mut first = Reader::new();
        if stored > 0 {
            first.read_lines(&lines(0..stored));
        }
        let behind = stored + missed;
        let mut holes = holes(first.again().read_lines(&lines(behind..behind + read)), hole('c', Some('h')));
        let mut next = stored;
        for (length, again) in pieces {
            let piece = first.read_lines(&lines(next..next + length));
            holes.fill(&piece);
            if again {
                assert_eq!(holes.fill(&piece), None);
            }
            next += length;
        }
        let filled: Vec<_> = holes.chunks.iter().flat_map(|chunk| {
            let text = Text::decode(chunk.text.encoding, chunk.text.data.clone()).unwrap();
            text.lines().map(|line| line.at.timestamp_nanos_opt().unwrap() / 1_000_000).collect::<Vec<_>>()
        }).collect();
        let expected: Vec<_> = (stored..next.min(behind)).map(|number| number as i64).collect();
        assert_eq!(filled, expected);
        assert_eq!(holes.gaps.is_empty(), next > behind);
        let numbers: Vec<_> = holes.chunks.iter().map(|chunk| chunk.seq).collect();
        assert_eq!(numbers, (6..).take(numbers.len()).collect::<Vec<_>>());
    }
}

#[test]
fn what_does_not_follow_what_is_there_fills_nothing() {
    let (mut first, mut holes) = taken();
    let mut other = Reader::new();
    assert_eq!(holes.fill(&other.read("abc")), None, "what is before it");
    assert_eq!(
        holes.fill(&other.read("xyz")),
        Some(Filled { lines: 3, join: None }),
        "nobody knows better"
    );
    let (stored, mut holes) = taken();
    let mut behind = stored.again().read("hij");
    behind.gaps = vec![hole('c', Some('h'))];
    assert_eq!(holes.fill(&behind), None, "what it is before");
    let (mut torn, mut holes) = taken();
    torn.read("d");
    assert_eq!(holes.fill(&torn.read("efg")), None, "lines before it were lost");
    // Of a chunk of which another manager has stored the beginning.
    let mut more = first.again();
    more.read("de");
    let mut holes = self::holes(more.read("hij"), hole('e', Some('h')));
    assert_eq!(holes.fill(&first.read("defgh")), Some(Filled { lines: 2, join: None }));
    assert_eq!(filled(&holes), [(6, "fg".to_owned())]);
}

#[test]
fn a_line_that_the_rotation_cut_is_whole_again() {
    let (first, _) = taken();
    let line = |time: i64, content: &str| (time * 1_000_000, content.to_owned());
    for (before, seam, joined) in [(vec!["d"], 1, true), (vec![], 0, true), (vec!["d"], 0, false)] {
        let mut other = first.again();
        let mut holes = holes(
            other.read_lines(&[line(107, " end"), line(108, "next")]),
            hole('c', Some('k')),
        );
        let mut lines: Vec<_> = before.iter().map(|content| line(105, content)).collect();
        lines.extend([line(106, "begin end"), line(108, "next")]);
        let mut chunk = first.again().read_lines(&lines);
        chunk.seams = vec![Seam {
            line: seam,
            at: 107_000_000,
            offset: 5,
        }];
        let join = holes.fill(&chunk).unwrap().join;
        if joined {
            let join = join.unwrap();
            let (seq, content) = (6 + (1 << 20), b"begin end".to_vec());
            assert_eq!((join.seq, &join.content, join.begun), (seq, &content, 5));
            assert_eq!(left(&holes).len(), 1, "until it is done");
            holes.joined(&join);
            assert_eq!((left(&holes), holes.begun), (vec![], 5));
        } else {
            // What cannot be told apart stays on record, and no line after it is stored twice.
            assert_eq!((join, left(&holes)), (None, vec![('i', false)]));
        }
        assert_eq!(holes.lines(), before.len() as i64);
    }
}

#[test]
fn equal_lines_of_one_time_and_late_ones_end_no_hole_too_early_or_too_late() {
    let line = |content: &str| (105_000_000, content.to_owned());
    let (first, _) = taken();
    for (others, spooled, stored) in [
        (vec![line("x"), line("y")], vec![line("x"), line("x"), line("y")], 1),
        (vec![line("x"), line("x")], vec![line("x"), line("x")], 0),
        (vec![line("x")], vec![line("x"), line("y")], 0),
    ] {
        let mut holes = holes(first.again().read_lines(&others), hole('c', Some('i')));
        let filled = holes.fill(&first.again().read_lines(&spooled)).unwrap();
        assert_eq!((filled.lines, left(&holes)), (stored, vec![]), "{spooled:?}");
    }
    // The line after the hole does not come, but much later ones do.
    let mut holes = holes(first.again().read_lines(&[line("x")]), hole('c', Some('i')));
    let late = [line("y"), (1_200_000_000, "z".to_owned())];
    assert_eq!(holes.fill(&first.again().read_lines(&late)).unwrap().lines, 1);
    assert_eq!(left(&holes), [('i', false)]);
}

#[test]
fn nothing_is_stored_before_what_was_dropped_or_without_a_number() {
    let newest = 6 + (1 << 20);
    for (dropped, last, fits) in [
        (0, newest, true),
        (5, newest, true),
        (6, newest, false),
        (newest, newest + 9, false),
        (0, newest - 1, false),
    ] {
        let (mut first, mut holes) = taken();
        holes.bounded(dropped, last);
        assert_eq!(holes.fill(&first.read("de")).is_some(), fits, "{dropped} {last}");
    }
    let (mut first, mut holes) = taken();
    holes.gaps[0]["room"]["next"] = json!(newest - 1);
    assert!(holes.fill(&first.read("d")).is_some(), "the last number");
    assert!(holes.fill(&first.read("e")).is_none());
    // Releases before had no room, and later ones may mean something else by it.
    for room in [None, Some(json!({"later": "releases"}))] {
        let (mut first, mut holes) = taken();
        let gap = holes.gaps[0].as_object_mut().unwrap();
        gap.remove("room");
        gap.extend(room.map(|room| ("room".to_owned(), room)));
        assert!(holes.fill(&first.read("d")).is_none());
    }
}

#[test]
fn a_hole_gets_smaller_and_those_within_it_are_kept() {
    let (mut first, mut holes) = taken();
    holes.gaps[0]["estimated_bytes"] = json!(1000);
    let rotation = |to| Gap {
        from: time('d'),
        to: time(to),
        reason: "rotation".into(),
        ..Gap::default()
    };
    let mut chunk = first.read("de");
    chunk.gaps = vec![rotation('e')];
    holes.fill(&chunk);
    let shown = |holes: &Holes| {
        let gaps = holes
            .gaps
            .iter()
            .map(|gap| (gap["reason"].clone(), gap["from"].as_i64()));
        gaps.collect::<Vec<_>>()
    };
    let spooled = json!(format!("spooled by {SPOOL}"));
    assert_eq!(shown(&holes), [(json!("rotation"), time('d')), (spooled, time('e'))]);
    assert_eq!(holes.gaps[1]["estimated_bytes"], 600, "three of five milliseconds");
    assert_eq!(holes.gaps[1]["to"].as_i64(), time('h'));
    // The one before the line that both have stays, those after it are for the other manager to find.
    let mut chunk = first.read("fghi");
    chunk.gaps = vec![rotation('h'), rotation('i')];
    holes.fill(&chunk);
    let to: Vec<_> = holes.gaps.iter().map(|gap| gap["to"].as_i64()).collect();
    assert_eq!(to, [time('e'), time('h')]);
}

/// The other manager went on with the newest file. Whether this one missed the end of the file before is not known, if it stopped
/// before it saw that there was a newer one.
#[test]
fn a_change_of_files_that_nobody_saw_is_left_of_a_hole() {
    let closed = |head, pieces: &[&str]| {
        let (mut first, mut holes) = taken();
        for letters in pieces {
            let mut chunk = first.read(letters);
            chunk.head = head;
            holes.fill(&chunk);
        }
        let gaps = holes.gaps.iter();
        gaps.map(|gap| (gap["reason"].clone(), gap["from"].as_i64(), gap["to"].as_i64()))
            .collect::<Vec<_>>()
    };
    let unseen = vec![(json!("rotation"), time('g'), time('h'))];
    assert_eq!(closed(time('a'), &["defghi"]), unseen);
    assert_eq!(closed(time('a'), &["defg", "hi"]), unseen);
    assert_eq!(closed(time('h'), &["defghi"]), [], "it was seen");
    assert_eq!(closed(None, &["defghi"]), [], "so little is not rotated");
    assert_eq!(unseen_after(REST), None, "nothing was printed meanwhile");
    assert!(unseen_after(REST - 1).is_some());
}

fn unseen_after(rest: i64) -> Option<Gap> {
    unseen(Some(0), Some(1), Some(1 + rest))
}

#[test]
fn the_end_of_a_stream_is_filled_and_ended_by_who_has_seen_it() {
    let mut first = Reader::new();
    first.read("abc");
    let room = Room {
        next: 6,
        last: 9,
        after: first.0.clone(),
        until: Vec::new(),
    };
    let mut holes = Holes::new(stored(&[hole('c', None)], Some(room)).unwrap());
    let seal = Seal {
        gaps: Vec::new(),
        end: "seen".into(),
    };
    let early = first.0.clone();
    assert_eq!(holes.fill(&first.read("def")).unwrap().lines, 3);
    assert!(!holes.end(&seal, &early), "lines before it are not there");
    assert!(holes.end(&seal, &first.0));
    assert_eq!((left(&holes), holes.end.as_deref()), (vec![], Some("seen")));
    assert!(!holes.end(&seal, &first.0), "once");
    // Where lines follow, the hole is not the end.
    let (first, mut holes) = taken();
    assert!(!holes.end(&seal, &first.0));
}

#[test]
fn numbers_leave_room_before_what_follows_a_hole_and_nowhere_else() {
    let (mut first, _) = taken();
    let mut last = 5;
    let mut chunk = first.read("d");
    number(&mut last, &mut chunk);
    assert_eq!((chunk.seq, Room::before(&chunk)), (6, None));
    chunk.gaps = vec![hole('c', Some('d'))];
    assert_eq!(Room::before(&chunk), None, "its number has left none");
    number(&mut last, &mut chunk);
    let room = Room::before(&chunk).unwrap();
    assert_eq!((room.next, room.last, chunk.seq), (7, chunk.seq - 1, 7 + (1 << 20)));
    assert_eq!(room.after, chunk.before);
    let stored = stored(&chunk.gaps, Some(room.clone())).unwrap();
    let hole: Hole = serde_json::from_value(stored[0].clone()).unwrap();
    assert_eq!((hole.gap, hole.room), (chunk.gaps[0].clone(), Some(room)));
}

#[test]
fn a_hole_that_was_summed_with_others_is_not_noted_again() {
    let sum = json!({"from": 1, "to": 21, "reason": "log_limit"});
    let rotation = |to| Gap {
        to: Some(to),
        reason: "rotation".into(),
        ..Gap::default()
    };
    let mut holes = Holes::new(json!([sum]));
    holes.note(&[rotation(20), rotation(21)]);
    assert_eq!((holes.gaps.len(), holes.is_changed), (1, false));
    holes.note(&[rotation(22)]);
    assert_eq!((holes.gaps.len(), holes.is_changed), (2, true));
}
