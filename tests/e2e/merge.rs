//! Small chunks of a log become one while managers run, and nobody who reads it notices.

use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::Value;

use crate::functions::{WORK, small, task};

/// Lines, each in a chunk of its own.
const LINES: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_few_lines_becomes_one_chunk_and_its_cursors_stay_good() {
    let stack = Stack::start("merge").await;
    let manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let names: Vec<String> = (0..LINES).map(|line| format!("line {line}")).collect();
    let steps: Vec<&str> = names.iter().flat_map(|name| ["say", name, "sleep", "0.4"]).collect();
    let process = stack.client.start("work", task(&steps)).await;
    stack.client.shows(process, "lifecycle", "gone", 120).await;
    let chunks = async || -> i64 {
        let counted = sqlx::query_scalar("select count(*) from log_chunk where process_id = $1").bind(process);
        counted.fetch_one(&stack.owner).await.unwrap()
    };
    let before = chunks().await;
    assert!(before > 5, "{before} chunks");
    let lines = async || {
        let mut lines: Vec<Value> = Vec::new();
        let keep = |shown: &Value| lines.extend(shown["cursor"].is_string().then(|| shown.clone()));
        stack.client.log_lines(process, keep).await;
        lines
    };
    let read = lines().await;
    // Chunks are left alone for a minute, and looked at every half a minute.
    until("its chunks to be merged", 180, async || {
        (chunks().await == 1).then_some(())
    })
    .await;
    assert_eq!(lines().await.len(), LINES);
    for (line, shown) in read.iter().enumerate() {
        assert_eq!(shown["line"], names[line]);
        let after = shown["cursor"].as_str().unwrap();
        let path = format!("/api/v1/processes/{process}/logs?after={after}");
        let rest = stack.client.get_text(&path).await;
        let expected: String = names[line + 1..].iter().map(|name| format!("{name}\n")).collect();
        assert_eq!(rest, expected, "after line {line}");
    }
    let metrics = manager.metrics().await;
    assert!(metrics.contains("octopus_log_merges_total 1\n"), "{metrics}");
}
