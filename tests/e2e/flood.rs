//! Functions that print much, and checking what is stored of it: with what is on record as missing it is all that was printed.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use octopus_tests::stack::Stack;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::functions::{small, task};
use crate::outages::soak;

/// What one stored line of a flood is.
pub(crate) enum Stored {
    Whole(usize),
    /// Its beginning is missing.
    End,
}

pub(crate) fn stored(line: &str) -> Stored {
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

/// Checks what is stored of a flood, line by line.
struct Account {
    ends: HashSet<Option<i64>>,
    cuts: HashSet<Option<i64>>,
    next: usize,
    missing: usize,
    place: Option<i64>,
}

impl Account {
    fn line(&mut self, line: &Value) {
        let at: DateTime<Utc> = line["at"].as_str().unwrap().parse().unwrap();
        let at = at.timestamp_nanos_opt();
        let next = self.next;
        match stored(line["line"].as_str().unwrap()) {
            Stored::Whole(number) => {
                assert!(number >= next, "{number} is there twice or out of order");
                let known = self.ends.contains(&at) || self.ends.contains(&self.place);
                assert!(number == next || known, "{next} to {number} are missing");
                if number > next {
                    println!("flood: {} lines missing before {at:?}", number - next);
                }
                self.missing += number - next;
                (self.next, self.place) = (number + 1, None);
            }
            Stored::End => {
                assert!(self.cuts.contains(&at), "half a line at {at:?}");
                self.place = at;
            }
        }
    }
}

/// Counts what is stored of a flood: every line that is not must be in a hole that is on record. Answers how many are missing.
pub(crate) async fn accounted(stack: &Stack, process: Uuid, printed: usize) -> usize {
    let gone = stack.client.shows(process, "lifecycle", "gone", 600).await;
    assert_eq!(gone["state"], "succeeded", "{gone}");
    let streams = gone["log_streams"].as_array().unwrap();
    assert_eq!(streams.len(), 1, "{gone}");
    let gaps = streams[0]["gaps"].as_array().unwrap();
    let end = |gap: &Value| gap["to"].as_i64();
    let mut account = Account {
        ends: gaps.iter().map(end).collect(),
        cuts: gaps.iter().filter(|gap| gap["cut"] == true).map(end).collect(),
        next: 0,
        missing: 0,
        place: None,
    };
    println!("flood: seal {}, gaps {}", streams[0]["seal"], streams[0]["gaps"]);
    let lines = |line: &Value| {
        if line["cursor"].is_string() {
            account.line(line);
        }
    };
    stack.client.log_lines(process, lines).await;
    let Account { ends, next, .. } = &account;
    assert!(
        *next == printed || ends.contains(&None),
        "all from {next} is missing: {gone}"
    );
    let missing = account.missing + printed - next;
    assert!(
        missing == 0 || streams[0]["seal"] == "gap",
        "{missing} lines are missing: {gone}"
    );
    let estimated: i64 = gaps.iter().filter_map(|gap| gap["estimated_bytes"].as_i64()).sum();
    println!("flood: {missing} of {printed} lines missing, {estimated} bytes by estimate");
    missing
}

pub(crate) async fn flood(stack: &Stack, lines: usize, rate: usize) -> Uuid {
    let arguments = ["flood", &lines.to_string(), &rate.to_string()];
    stack.client.start("talk", task(&arguments)).await
}

pub(crate) fn talker() -> Value {
    let mut spec = small();
    spec["resources"]["memory"] = json!("128Mi");
    // The log of a fast talker counts until the node has rotated it.
    spec["resources"]["ephemeral_storage"] = json!(if soak() { "4Gi" } else { "1Gi" });
    spec
}

/// Lines of a stream that are stored.
pub(crate) async fn lines_stored(stack: &Stack, process: Uuid) -> i64 {
    let shown = stack.client.process(process).await;
    shown["log_streams"][0]["lines"].as_i64().unwrap_or_default()
}
