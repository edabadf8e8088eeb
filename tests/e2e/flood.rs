//! Functions that print much, and checking what is stored of it: with what is on record as missing it is all that was printed.

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

/// Nothing of the longest log is dropped for its length.
pub(crate) const WHOLE: (&str, &str) = ("OCTOPUS_LOG_BYTES_PER_PROCESS", "2000000000");

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
    holes: Vec<Hole>,
    next: usize,
    missing: usize,
    /// The time of the last line.
    last: Option<i64>,
    /// The last line was one whose beginning is missing: so many others may be missing before the next one, in that hole.
    after_end: usize,
}

/// A hole that is on record.
struct Hole {
    from: Option<i64>,
    to: Option<i64>,
    cut: bool,
    estimated_bytes: Option<usize>,
}

impl Account {
    /// Holes that reach from the last stored line, or from before it, to a time or to the end.
    fn reaching(&self, to: Option<i64>) -> impl Iterator<Item = &Hole> {
        let begins = |from: Option<i64>| self.last.is_none_or(|last| from.is_some_and(|from| from <= last));
        self.holes.iter().filter(move |hole| hole.to == to && begins(hole.from))
    }

    fn line(&mut self, line: &Value) {
        let at: DateTime<Utc> = line["at"].as_str().unwrap().parse().unwrap();
        let at = at.timestamp_nanos_opt();
        let (next, last) = (self.next, self.last);
        match stored(line["line"].as_str().unwrap()) {
            Stored::Whole(number) => {
                assert!(number >= next, "{number} is there twice or out of order");
                let known = number - next <= self.after_end || self.reaching(at).next().is_some();
                assert!(known, "{next} to {number} are missing between {last:?} and {at:?}");
                if number > next {
                    println!("flood: {} lines missing before {at:?}", number - next);
                }
                self.missing += number - next;
                (self.next, self.after_end) = (number + 1, 0);
            }
            Stored::End => {
                let hole = self.reaching(at).find(|hole| hole.cut);
                assert!(hole.is_some(), "half a line at {at:?} after {last:?}");
                // Floods come in pieces, so an estimate may be far off.
                let estimated = hole.and_then(|hole| hole.estimated_bytes);
                self.after_end = estimated.map_or(usize::MAX, |bytes| 4 * bytes / 200 + 1000);
            }
        }
        self.last = at;
    }
}

/// Counts what is stored of a flood: every line that is not must be in a hole that is on record. Answers how many are missing.
pub(crate) async fn accounted(stack: &Stack, process: Uuid, printed: usize) -> usize {
    let gone = stack.client.over(process, 600).await;
    assert_eq!(gone["state"], "succeeded", "{gone}");
    let streams = gone["log_streams"].as_array().unwrap();
    assert_eq!(streams.len(), 1, "{gone}");
    let gaps = streams[0]["gaps"].as_array().unwrap();
    let holes = gaps.iter().map(|gap| Hole {
        from: gap["from"].as_i64(),
        to: gap["to"].as_i64(),
        cut: gap["cut"] == true,
        estimated_bytes: gap["estimated_bytes"].as_u64().map(|bytes| bytes as usize),
    });
    let mut account = Account {
        holes: holes.collect(),
        next: 0,
        missing: 0,
        last: None,
        after_end: 0,
    };
    println!("flood: seal {}, gaps {}", streams[0]["seal"], streams[0]["gaps"]);
    let lines = |line: &Value| {
        if line["cursor"].is_string() {
            account.line(line);
        }
    };
    stack.client.log_lines(process, lines).await;
    let next = account.next;
    assert!(
        next == printed || account.reaching(None).next().is_some(),
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
