//! Managers that divide the watch of one cluster, and one of them that dies.

use octopus_shared::shard;
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::Value;

use crate::functions::{WORK, small, task};

/// How many shards each living manager watches.
async fn shares(stack: &Stack) -> Vec<usize> {
    let shown = stack.client.get("/api/v1/clusters/default").await;
    let managers = shown["managers"].as_array().cloned().unwrap_or_default();
    let mut shares: Vec<usize> = managers
        .iter()
        .map(|manager| manager["shards"].as_array().map_or(0, Vec::len))
        .collect();
    shares.sort_unstable();
    shares
}

#[tokio::test(flavor = "multi_thread")]
async fn managers_divide_the_watch_and_inherit_it() {
    let stack = Stack::start("shards").await;
    let first = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    until("one to watch all", 60, async || {
        (shares(&stack).await == [12]).then_some(())
    })
    .await;

    // Their logs are read by the first one, then by two, then by what is left.
    let steps: Vec<String> = (0..8)
        .flat_map(|_| ["print", "50", "sleep", "5"])
        .map(str::to_owned)
        .collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let mut processes = Vec::new();
    for _ in 0..12 {
        processes.push(stack.client.start("work", task(&steps)).await);
    }
    let shards: std::collections::HashSet<i16> = processes.iter().map(|process| shard::of(*process)).collect();
    assert!(shards.len() > 1, "of one shard by chance: 1 in 12^11");
    for process in &processes {
        stack.client.shows(*process, "state", "running", 120).await;
    }
    let _second = stack.manager().await;
    until("two to share", 60, async || {
        (shares(&stack).await == [6, 6]).then_some(())
    })
    .await;
    first.kill().await;
    until("the second to have all", 60, async || {
        (shares(&stack).await == [12]).then_some(())
    })
    .await;

    let expected: String = (0..8)
        .flat_map(|_| (0..50).map(|number| format!("line {number}\n")))
        .collect();
    for process in processes {
        let gone = stack.client.shows(process, "lifecycle", "gone", 180).await;
        assert_eq!(gone["state"], "succeeded", "{gone}");
        assert_eq!(gone["log_streams"][0]["seal"], "complete", "{gone}");
        assert_eq!(String::from_utf8_lossy(&stack.client.log(process).await), expected);
        let events = stack.client.events(process).await;
        let states: Vec<&Value> = events.iter().map(|event| &event["state"]).collect();
        assert_eq!(
            states,
            ["pending", "starting", "running", "succeeded", "succeeded"],
            "{events:?}"
        );
    }
    assert!(stack.namespace.pods().await.is_empty());
}
