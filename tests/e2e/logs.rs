//! Every line, once, in order.

use octopus_tests::stack::Stack;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::functions::{WORK, small, task};
use crate::outages::soak;

pub(crate) fn numbered(count: usize) -> String {
    (0..count).map(|number| format!("line {number}\n")).collect()
}

/// The hash of a log as its reader makes it.
pub(crate) fn running_hash(log: &[u8]) -> String {
    let lines = log.split_inclusive(|byte| *byte == b'\n');
    let hash = lines.fold(Vec::new(), |before, line| {
        Sha256::digest([&before, line].concat()).to_vec()
    });
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_print_a_thousand_lines_each_at_once() {
    let stack = Stack::start("logs").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let mut processes = Vec::new();
    for _ in 0..if soak() { 50 } else { 20 } {
        processes.push(stack.client.start("work", task(&["print", "1000"])).await);
    }
    let expected = numbered(1000);
    for process in processes {
        let gone = stack.client.shows(process, "lifecycle", "gone", 120).await;
        assert_eq!(gone["state"], "succeeded", "{gone}");
        let stream = &gone["log_streams"][0];
        assert_eq!(
            (&stream["seal"], &stream["lines"]),
            (&json!("complete"), &json!(1000)),
            "{gone}"
        );
        let log = stack.client.log(process).await;
        assert!(
            log == expected.as_bytes(),
            "the log of {process} is not what was printed"
        );
        assert_eq!(stream["sha256"], json!(running_hash(&log)));
    }
}
