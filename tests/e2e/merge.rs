//! Small chunks of a log become one while managers run, and nobody who reads it notices.

use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::Value;

use crate::functions::{TALK, small, task};

/// Of a log that is merged, at least: so many chunks there are before it ends.
const CHUNKS: i64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_few_lines_becomes_one_chunk_and_its_cursors_stay_good() {
    let stack = Stack::start("merge").await;
    let manager = stack.manager().await;
    stack.client.build("talk", TALK, small()).await;
    let process = stack.client.start("talk", task(&["tick", "1000", "2"])).await;
    let chunks = async || -> (i64, i64) {
        let counted = "select count(*), count(distinct day) from log_chunk where process_id = $1";
        sqlx::query_as(counted)
            .bind(process)
            .fetch_one(&stack.owner)
            .await
            .unwrap()
    };
    let lines = async || {
        let mut lines: Vec<Value> = Vec::new();
        let keep = |shown: &Value| lines.extend(shown["cursor"].is_string().then(|| shown.clone()));
        stack.client.log_lines(process, keep).await;
        lines
    };
    // A busy node shows many lines at once, and they are one chunk then.
    until("some chunks of its log", 300, async || {
        (chunks().await.0 >= CHUNKS).then_some(())
    })
    .await;
    stack.client.kill(process, Value::Null).await;
    let gone = until("its log to be sealed", 180, async || {
        let shown = stack.client.process(process).await;
        shown["log_streams"][0]["seal"].is_string().then_some(shown)
    })
    .await;
    assert_eq!(gone["log_streams"][0]["seal"], "complete", "{gone}");
    let read = lines().await;
    assert_eq!(gone["log_streams"][0]["lines"], read.len(), "{gone}");
    // Chunks are left alone for a minute, and looked at every half a minute.
    until("its chunks to be merged", 180, async || {
        // Those of two days stay apart.
        let (chunks, days) = chunks().await;
        (chunks == days).then_some(())
    })
    .await;
    assert_eq!(lines().await, read);
    for (line, shown) in read.iter().enumerate() {
        assert_eq!(shown["line"], format!("line {line}"));
        let after = shown["cursor"].as_str().unwrap();
        let path = format!("/api/v1/processes/{process}/logs?after={after}");
        let rest = stack.client.get_text(&path).await;
        let expected: String = (line + 1..read.len()).map(|line| format!("line {line}\n")).collect();
        assert_eq!(rest, expected, "after line {line}");
    }
    // Not one by one.
    let merges = manager.metric("octopus_log_merges_total").await;
    assert!(
        merges.is_some_and(|merges| merges >= 1.0 && merges < CHUNKS as f64),
        "{merges:?}"
    );
}
