//! A function that takes too much of something ends alone and says why, while its neighbour goes on answering.

use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::functions::{HELLO, HOG, small, task};

/// A service, and a task that calls it again and again from inside of the cluster.
struct Neighbour {
    service: Uuid,
    caller: Uuid,
}

impl Neighbour {
    async fn start(stack: &Stack) -> Self {
        stack
            .client
            .build("hello", HELLO, json!({"stop_grace_seconds": 2}))
            .await;
        let mut spec = small();
        spec["calls_functions"] = json!(true);
        stack.client.build("caller", HOG, spec).await;
        let service = stack.client.start("hello", json!({"kind": "service"})).await;
        let ready = stack.client.shows(service, "state", "ready", 180).await;
        let url = format!("{}/v1/hello", ready["endpoint"].as_str().unwrap());
        let caller = stack.client.start("caller", task(&["call", &url])).await;
        let neighbour = Self { service, caller };
        neighbour.goes_on(stack).await;
        neighbour
    }

    async fn answers(&self, stack: &Stack) -> Vec<String> {
        let log = String::from_utf8(stack.client.log(self.caller).await).unwrap();
        log.lines().map(str::to_owned).collect()
    }

    /// Ten further answers come, and every answer until then is there and good.
    async fn goes_on(&self, stack: &Stack) {
        let before = self.answers(stack).await.len();
        let answers = until("ten further answers", 180, async || {
            let answers = self.answers(stack).await;
            (answers.len() >= before + 10).then_some(answers)
        })
        .await;
        // A Service that is new may take a moment until its node leads to its pod.
        let first = answers.iter().position(|answer| answer.ends_with(" 201")).unwrap();
        assert!(first < 50, "{answers:?}");
        for (number, answer) in answers.iter().enumerate().skip(first) {
            assert_eq!(*answer, format!("{number} 201"));
        }
        let service = stack.client.process(self.service).await;
        assert_eq!(service["state"], "ready", "{service}");
        let pods = service["pods"].as_array().unwrap();
        assert!(pods.len() == 1 && pods[0]["restart_count"] == 0, "{service}");
    }
}

/// Runs one hog to its end.
async fn ends(stack: &Stack, what: &str, resources: &Value) -> (Uuid, Value) {
    let mut spec = task(&[what]);
    spec["resources"] = resources.clone();
    let process = stack.client.start("hog", spec).await;
    let gone = stack.client.shows(process, "lifecycle", "gone", 400).await;
    for stream in gone["log_streams"].as_array().unwrap() {
        assert!(stream["seal"].is_string(), "{gone}");
    }
    (process, gone)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hog_ends_alone_and_says_why() {
    let stack = Stack::start("contained").await;
    let _manager = stack.manager().await;
    stack.client.build("hog", HOG, small()).await;
    let neighbour = Neighbour::start(&stack).await;
    for (what, resources, reason) in [
        ("memory", json!({}), "oom_killed"),
        ("processes", json!({"memory": "768Mi"}), "process_limit"),
        ("disk", json!({"memory": "512Mi"}), "evicted_scratch"),
    ] {
        let (_, gone) = ends(&stack, what, &resources).await;
        assert_eq!(
            (&gone["state"], &gone["reason"]),
            (&json!("failed"), &json!(reason)),
            "{what}: {gone}"
        );
        assert!(!gone["remedy"].as_str().unwrap().is_empty(), "{gone}");
        neighbour.goes_on(&stack).await;
    }
}

/// Some 40 MB, of which the node rotates away what is not read in time. Lines come whole and in order, and what is missing
/// is on record: as a gap, or as the reason of a seal that is not complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_is_stored_or_on_record_as_missing() {
    let stack = Stack::start("flood").await;
    let _manager = stack.manager().await;
    stack.client.build("hog", HOG, small()).await;
    let neighbour = Neighbour::start(&stack).await;
    let (process, gone) = ends(&stack, "log", &json!({})).await;
    assert!(
        gone["state"] == "succeeded" || gone["reason"] == "evicted_log_volume",
        "{gone}"
    );
    let log = String::from_utf8(stack.client.log(process).await).unwrap();
    let numbers: Vec<usize> = log
        .lines()
        .map(|line| line.split_once(" xxx").unwrap().0.parse().unwrap())
        .collect();
    assert!(
        numbers.is_sorted_by(|one, next| one < next),
        "a line twice, or out of order"
    );
    let streams = gone["log_streams"].as_array().unwrap();
    let whole = streams
        .iter()
        .all(|stream| stream["seal"] == "complete" && stream["gaps"].as_array().is_none_or(Vec::is_empty));
    let missing = numbers.last().unwrap() + 1 - numbers.len();
    assert!(missing == 0 || !whole, "{missing} lines are missing: {gone}");
    neighbour.goes_on(&stack).await;
}
