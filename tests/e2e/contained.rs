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
async fn ends(stack: &Stack, what: &str, resources: &Value) -> Value {
    let mut spec = task(&[what]);
    spec["resources"] = resources.clone();
    let process = stack.client.start("hog", spec).await;
    let gone = stack.client.shows(process, "lifecycle", "gone", 400).await;
    for stream in gone["log_streams"].as_array().unwrap() {
        assert!(stream["seal"].is_string(), "{gone}");
    }
    gone
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
    ] {
        let gone = ends(&stack, what, &resources).await;
        assert_eq!(
            (&gone["state"], &gone["reason"]),
            (&json!("failed"), &json!(reason)),
            "{what}: {gone}"
        );
        assert!(!gone["remedy"].as_str().unwrap().is_empty(), "{gone}");
        neighbour.goes_on(&stack).await;
    }
}
