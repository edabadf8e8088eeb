//! A manager that dies in the middle of its work.

use std::time::Duration;

use octopus_tests::stack::Stack;
use rand::RngExt;
use tokio::time::sleep;

use crate::functions::{WORK, small, task};
use crate::logs::numbered;
use crate::managers::runs;

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_killed_during_fifty_starts_leaves_nothing_twice_and_nothing_over() {
    let stack = Stack::start("crash").await;
    let manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let mut processes = Vec::new();
    for _ in 0..50 {
        processes.push(stack.client.start("work", task(&["say", "ran", "print", "100"])).await);
    }
    // At a random moment, which is the point: not a wait for something.
    let moment = Duration::from_millis(rand::rng().random_range(0..4000));
    sleep(moment).await;
    manager.kill().await;
    let _next = stack.manager().await;

    let expected = format!("ran\n{}", numbered(100));
    for process in processes {
        let gone = stack.client.shows(process, "lifecycle", "gone", 180).await;
        assert_eq!(gone["state"], "succeeded", "killed after {moment:?}: {gone}");
        assert_eq!(runs(&stack, process).await, (1, 1), "killed after {moment:?}: {gone}");
        let stream = &gone["log_streams"][0];
        if stream["seal"] == "complete" {
            assert!(
                stack.client.log(process).await == expected.as_bytes(),
                "killed after {moment:?}: log of {process}"
            );
        } else {
            assert!(stream["gaps"].as_array().is_some_and(|gaps| !gaps.is_empty()), "{gone}");
        }
    }
    assert!(stack.namespace.pods().await.is_empty());
}
