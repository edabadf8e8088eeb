//! Functions that print much, or oddly: what is stored and what is on record as missing is all that was printed.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use octopus_tests::stack::Stack;
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

use crate::functions::{TALK, small, task};

/// What one stored line of a flood is.
enum Stored {
    Whole(usize),
    /// Its beginning is missing.
    End,
}

fn stored(line: &str) -> Stored {
    let filler = "x".repeat(190);
    match line.split_once(' ') {
        Some((number, rest)) if number.len() == 8 && rest == filler => Stored::Whole(number.parse().unwrap()),
        _ => {
            assert!(
                format!("00000000 {filler}").ends_with(line.trim_start_matches(|mark: char| mark.is_ascii_digit())),
                "neither a line nor the end of one: {line}"
            );
            Stored::End
        }
    }
}

/// Counts what is stored of a flood: every line that is not must be in a hole that is on record. Answers how many are missing.
async fn accounted(stack: &Stack, process: Uuid, printed: usize) -> usize {
    let gone = stack.client.shows(process, "lifecycle", "gone", 600).await;
    assert_eq!(gone["state"], "succeeded", "{gone}");
    let streams = gone["log_streams"].as_array().unwrap();
    assert_eq!(streams.len(), 1, "{gone}");
    let gaps = streams[0]["gaps"].as_array().unwrap();
    let ends: HashSet<Option<i64>> = gaps.iter().map(|gap| gap["to"].as_i64()).collect();
    let cuts: HashSet<Option<i64>> = gaps
        .iter()
        .filter(|gap| gap["cut"] == true)
        .map(|gap| gap["to"].as_i64())
        .collect();
    let (mut next, mut missing, mut place) = (0, 0, None);
    for line in stack.client.log_lines(process).await {
        let at: DateTime<Utc> = line["at"].as_str().unwrap().parse().unwrap();
        let at = at.timestamp_nanos_opt();
        match stored(line["line"].as_str().unwrap()) {
            Stored::Whole(number) => {
                assert!(number >= next, "{number} is there twice or out of order: {gone}");
                let known = ends.contains(&at) || ends.contains(&place);
                assert!(number == next || known, "{next} to {number} are missing: {gone}");
                if number > next {
                    println!("flood: {} lines missing before {at:?}", number - next);
                }
                missing += number - next;
                (next, place) = (number + 1, None);
            }
            Stored::End => {
                assert!(cuts.contains(&at), "half a line at {at:?}: {gone}");
                place = at;
            }
        }
    }
    assert!(
        next == printed || ends.contains(&None),
        "all from {next} is missing: {gone}"
    );
    missing += printed - next;
    assert!(
        missing == 0 || streams[0]["seal"] == "gap",
        "{missing} lines are missing: {gone}"
    );
    println!(
        "flood: {missing} of {printed} lines missing, seal {}, gaps {}",
        streams[0]["seal"], streams[0]["gaps"]
    );
    missing
}

async fn flood(stack: &Stack, lines: usize, rate: usize) -> Uuid {
    let arguments = ["flood", &lines.to_string(), &rate.to_string()];
    stack.client.start("talk", task(&arguments)).await
}

fn talker() -> Value {
    let mut spec = small();
    spec["resources"]["memory"] = json!("128Mi");
    // The log of a fast talker counts until the node has rotated it.
    spec["resources"]["ephemeral_storage"] = json!("1Gi");
    spec
}

/// The node rotates such logs several times, and cuts a line in two each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_is_stored_or_on_record_as_missing() {
    let stack = Stack::start("flood").await;
    let _manager = stack.manager().await;
    stack.client.build("talk", TALK, talker()).await;
    // Lines of 200 bytes: 12 s at 5 MB/s, and 20 MB at once.
    let floods: &[(usize, usize)] = match std::env::var_os("OCTOPUS_SOAK") {
        None => &[(300_000, 5_000_000), (100_000, 0)],
        Some(_) => &[(150_000, 500_000), (750_000, 5_000_000), (1_000_000, 20_000_000)],
    };
    for (lines, rate) in floods {
        let process = flood(&stack, *lines, *rate).await;
        accounted(&stack, process, *lines).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_printed_comes_back_byte_for_byte() {
    let stack = Stack::start("odd").await;
    let _manager = stack.manager().await;
    stack.client.build("talk", TALK, talker()).await;
    let process = stack.client.start("talk", task(&["odd"])).await;
    let gone = stack.client.shows(process, "lifecycle", "gone", 120).await;
    assert_eq!(
        (&gone["state"], &gone["log_streams"][0]["seal"]),
        (&json!("succeeded"), &json!("complete")),
        "{gone}"
    );
    let python = Command::new("python3")
        .args(["-c", TALK, "odd"])
        .output()
        .await
        .unwrap();
    let printed = python.stdout;
    let expected: Vec<&[u8]> = printed.split(|byte| *byte == b'\n').collect();
    let log = stack.client.log(process).await;
    let mut lines: Vec<&[u8]> = log.split(|byte| *byte == b'\n').collect();
    // Each line ends with a newline in a log, the last one too.
    assert_eq!(
        (lines.pop(), expected.last().copied()),
        (Some(b"".as_slice()), Some(b"no newline".as_slice()))
    );
    assert_eq!(lines.len(), expected.len());
    for (number, (line, expected)) in lines.iter().zip(&expected).enumerate() {
        let shown = String::from_utf8_lossy(&line[..line.len().min(100)]);
        assert!(
            line == expected,
            "line {number}, {} bytes and not {}: {shown}",
            line.len(),
            expected.len()
        );
    }
}
