use proptest::prelude::*;

use super::*;

const NODE: &str = "2026-01-02T03:04:05.000000006Z";
const LATER: &str = "2026-01-02T03:04:05.100000000Z";
const EARLIER: &str = "2026-01-02T03:04:05.000000005Z";
const PAST: &str = "2026-01-02T03:04:03.000000000Z";

fn raw(bytes: impl AsRef<[u8]>) -> Raw {
    Raw {
        bytes: bytes.as_ref().to_vec(),
        lost: 0,
    }
}

fn raws(lines: &[&[u8]]) -> Vec<Raw> {
    lines.iter().map(raw).collect()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A line as a kubelet of 1.20 sends it: a timestamp before each part of what the runtime had split.
fn sent(content: &[u8]) -> Vec<u8> {
    let mut line = Vec::new();
    for part in content.chunks(PART) {
        line.extend_from_slice(format!("{NODE} ").as_bytes());
        line.extend_from_slice(part);
    }
    line
}

fn no_seam(_: DateTime<Utc>) -> bool {
    false
}

#[test]
fn lines_are_cut_at_newlines_only() {
    let mut splitter = Splitter::default();
    assert_eq!(splitter.push(b"one\ntw"), raws(&[b"one"]));
    assert!(splitter.push(b"").is_empty());
    assert_eq!(splitter.push(b"o\n\n\r\xff\n"), raws(&[b"two", b"", b"\r\xff"]));
    assert_eq!(splitter.rest(), None);
}

#[test]
fn a_rest_is_kept_for_the_end() {
    let mut splitter = Splitter::default();
    assert!(splitter.push(b"no newline").is_empty());
    assert_eq!(splitter.rest(), Some(&raw("no newline")));
}

#[test]
fn what_is_too_long_to_hold_is_counted() {
    let mut splitter = Splitter::default();
    let mut lines = Vec::new();
    for _ in 0..5 {
        lines.extend(splitter.push(&vec![b'x'; 4 << 20]));
    }
    lines.extend(splitter.push(b"end\nnext\n"));
    assert_eq!(lines.len(), 2);
    assert_eq!((lines[0].bytes.len(), lines[0].lost), (MAX_LINE, (4 << 20) + 3));
    assert_eq!(lines[1], raw("next"));
}

#[test]
fn bytes_are_what_was_printed() {
    for content in [
        b"".as_slice(),
        b" ",
        b"\0 NUL",
        b"\xff\xfe no UTF-8",
        b"\x1b[31mred\x1b[0m",
        b"10%\r20%\r",
        b"2026-01-02T03:04:05Z says a function",
        b"2026-01-02T03:04:05.123456Z says Python",
    ] {
        let line = [NODE.as_bytes(), b" ", content].concat();
        let parsed = Stamped::parse(&raw(line), no_seam).unwrap();
        assert_eq!((parsed.at, parsed.content.as_slice()), (at(NODE), content));
    }
    for own in [
        "failed to create fsnotify watcher: too many open files",
        "",
        "2026-01-02",
    ] {
        assert_eq!(Stamped::parse(&raw(own), no_seam), None, "{own}");
    }
}

#[test]
fn timestamps_of_the_parts_of_a_long_line_are_taken_out() {
    for length in [PART - 1, PART, PART + 1, 2 * PART, 100 << 10, 10 << 20] {
        let content: Vec<u8> = (0..length).map(|index| b"0123456789 -:TZ."[index % 16]).collect();
        let parsed = Stamped::parse(&raw(sent(&content)), no_seam).unwrap();
        assert!(parsed.content == content, "{length} bytes are not what was printed");
        assert_eq!(parsed.seam, None);
        // Kubelets from 1.26 on write one timestamp only.
        let newer = [NODE.as_bytes(), b" ", &content].concat();
        assert!(Stamped::parse(&raw(newer), no_seam).unwrap().content == content);
    }
}

#[test]
fn a_line_that_the_rotation_cut_is_whole_again() {
    // The new file may be written to a little before the old one is closed.
    for seam in [LATER, EARLIER] {
        let line = raw(format!("{NODE} one {seam} two"));
        assert_eq!(Stamped::doubtful(&line), [at(seam)]);
        let parsed = Stamped::parse(&line, |found| found == at(seam)).unwrap();
        assert_eq!(parsed.content, b"one two");
        assert_eq!((parsed.at, parsed.anchor()), (at(NODE), (at(seam), b"two".as_slice())));
        let kept = Stamped::parse(&line, no_seam).unwrap();
        assert_eq!(kept.content, format!("one {seam} two").into_bytes());
        assert_eq!(kept.anchor().0, at(NODE));
    }
}

/// What containerd 1.7 and a kubelet of 1.20 made of a flood: the last line of a file, and the first one of the next.
#[test]
fn the_cut_of_a_real_node_is_found() {
    let (first, second) = ("x".repeat(190), "x".repeat(32));
    let sent = format!("2026-11-25T01:35:34.713995854Z 57889 {first}2026-11-25T01:35:34.713612636Z {second}");
    let head = at("2026-11-25T01:35:34.713612636Z");
    let parsed = Stamped::parse(&raw(sent), |found| found == head).unwrap();
    assert_eq!(parsed.content, format!("57889 {first}{second}").into_bytes());
}

#[test]
fn a_long_line_may_be_cut_as_well() {
    let content = vec![b'x'; 3 * PART];
    let mut line = sent(&content[..PART + 100]);
    line.extend_from_slice(format!("{LATER} ").as_bytes());
    line.extend_from_slice(&content[PART + 100..2 * PART + 100]);
    line.extend_from_slice(format!("{LATER} ").as_bytes());
    line.extend_from_slice(&content[2 * PART + 100..]);
    let parsed = Stamped::parse(&raw(line), |found| found == at(LATER)).unwrap();
    assert!(parsed.content == content);
    assert_eq!(parsed.seam, Some((at(LATER), PART + 100)));
}

#[test]
fn a_function_may_print_what_looks_like_a_timestamp_of_the_node() {
    // What is long past was never the node's, nor what stands at the beginning of a line.
    for own in [format!("since {PAST} nothing"), format!("{LATER} began")] {
        let line = raw(format!("{NODE} {own}"));
        assert!(Stamped::doubtful(&line).is_empty(), "{own}");
        assert_eq!(Stamped::parse(&line, |_| true).unwrap().content, own.into_bytes());
    }
    let content = [vec![b'x'; PART], format!("{PAST} ").into_bytes()].concat();
    let line = [format!("{NODE} ").into_bytes(), content.clone()].concat();
    assert!(Stamped::parse(&raw(line), |_| true).unwrap().content == content);
    for almost in [
        "2026-01-02T03:04:05.1Z ",
        "2026-01-02 03:04:05.100000000Z ",
        "2026-01-02T03:04:05.100000000Z",
        "2026-01-02T03:04:05.100000000Z\t",
        "2026-13-02T03:04:05.100000000Z ",
    ] {
        assert!(
            Stamped::doubtful(&raw(format!("{NODE} {almost}"))).is_empty(),
            "{almost}"
        );
    }
}

#[test]
fn two_halves_from_two_streams_make_one_line() {
    let first = Stamped::parse(&raw(format!("{NODE} one ")), no_seam).unwrap();
    let second = Stamped::parse(&raw(format!("{LATER} two")), no_seam).unwrap();
    let line = first.joined(&second);
    assert_eq!((line.at, line.content.as_slice()), (at(NODE), b"one two".as_slice()));
    assert_eq!(line.anchor(), (at(LATER), b"two".as_slice()));
    let half = line.second_half();
    assert_eq!(
        (half.at, half.content.as_slice(), half.seam),
        (at(LATER), b"two".as_slice(), None)
    );
}

proptest! {
    /// However the bytes arrive, and whatever they are, the lines are the same.
    #[test]
    fn lines_do_not_depend_on_how_they_arrive(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20),
                                               cut in 1usize..50) {
        let lines: Vec<Vec<u8>> = lines
            .into_iter()
            .map(|line| line.into_iter().filter(|byte| *byte != b'\n').collect())
            .collect();
        let all: Vec<u8> = lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
        let mut splitter = Splitter::default();
        let got: Vec<Raw> = all.chunks(cut).flat_map(|bytes| splitter.push(bytes)).collect();
        prop_assert_eq!(got, lines.iter().map(raw).collect::<Vec<_>>());
        prop_assert_eq!(splitter.rest(), None);
    }

    /// No bytes make it fail.
    #[test]
    fn hostile_bytes_are_lines_or_none(bytes in prop::collection::vec(prop_oneof![
        Just(NODE.as_bytes().to_vec()), Just(LATER.as_bytes().to_vec()), Just(b" ".to_vec()),
        Just(vec![b'x'; PART - 31]), prop::collection::vec(any::<u8>(), 0..40),
    ], 0..8), seam in any::<bool>()) {
        let line = raw(bytes.concat());
        if let Some(parsed) = Stamped::parse(&line, |_| seam) {
            prop_assert!(parsed.content.len() < line.bytes.len());
            prop_assert!(parsed.anchor().1.len() <= parsed.content.len());
        }
        Stamped::doubtful(&line);
    }
}
