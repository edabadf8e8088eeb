//! Logs while Postgres is away: nodes rotate them away, and a manager keeps them on its own disk.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use octopus_tests::stack::containers::{on_node, scratch};
use octopus_tests::stack::link::{Line, Link};
use octopus_tests::stack::programs::Program;
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use crate::flood::{Stored, accounted, flood, stored, talker};
use crate::functions::TALK;

/// 30 MB, of which a node keeps 10 in the file that can be read.
const LINES: usize = 150_000;
const BYTES_PER_SECOND: usize = 500_000;

pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = scratch().join(format!("{name}-{}", Uuid::new_v4().simple()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) async fn spooling(stack: &Stack, folder: &Path, settings: &[(&str, &str)]) -> Program {
    let folder = folder.to_str().unwrap();
    let settings = [&[("OCTOPUS_SPOOL_DIR", folder)], settings].concat();
    stack.manager_with(&settings).await
}

/// Bytes that wait, as readiness says.
async fn spooled(manager: &Program) -> Option<u64> {
    let (_, text) = manager.readiness().await?;
    let shown: Value = serde_json::from_str(&text).ok()?;
    shown["spool"]["bytes"].as_u64()
}

pub(crate) async fn has_begun(stack: &Stack, process: Uuid) {
    until("the first lines", 120, async || {
        (stack.client.process(process).await["log_streams"][0]["lines"].as_i64()? > 0).then_some(())
    })
    .await;
}

async fn pod(stack: &Stack) -> Option<Pod> {
    let names = stack.namespace.pods().await;
    stack.namespace.api::<Pod>().get_opt(names.first()?).await.unwrap()
}

/// Waits until the node has rotated the log of the only pod twice more: what was printed from now until the first time,
/// which is answered, can no longer be read from it.
async fn rotated_twice(stack: &Stack) -> RangeInclusive<DateTime<Utc>> {
    let begin = Utc::now();
    let uid = pod(stack).await.unwrap().metadata.uid.unwrap();
    // The time is in the name of each rotated file; packing one keeps it, and the newest are never removed.
    let newest = format!("ls /var/log/pods/*{uid}/*/ | grep -o '[0-9]*-[0-9]*' | sort -u | tail -n 1");
    let newest = async || on_node(stack.shared, &["sh", "-c", &newest]).await;
    let Some(before) = newest().await else {
        // The node is not ours to look into.
        sleep(Duration::from_secs(50)).await;
        return begin..=begin + Duration::from_secs(20);
    };
    let another = async |before: Vec<u8>| {
        until("the log to be rotated", 180, async || {
            newest().await.filter(|found| *found != before)
        })
        .await
    };
    let first = another(before).await;
    let end = Utc::now();
    another(first).await;
    begin..=end
}

/// What is missing is on record, and what only a spool can have had is there: how much of it a busy node has lost by
/// itself is said.
async fn is_kept(stack: &Stack, process: Uuid, away: RangeInclusive<DateTime<Utc>>) {
    let missing = accounted(stack, process, LINES).await;
    let (mut before, mut kept, mut after) = (0, 0, None);
    let see = |line: &Value| {
        let Some(Stored::Whole(number)) = line["line"].as_str().map(stored) else {
            return;
        };
        let at: DateTime<Utc> = line["at"].as_str().unwrap().parse().unwrap();
        if at < *away.start() {
            before = number + 1;
        } else if away.contains(&at) {
            kept += 1;
        } else {
            after.get_or_insert(number);
        }
    };
    stack.client.log_lines(process, see).await;
    let printed = after.unwrap_or(LINES) - before;
    println!("spool: {missing} of {LINES} lines missing, {kept} of {printed} kept while Postgres was away");
    assert!(kept * 2 > printed, "{kept} of {printed} lines");
}

/// One after another: each prints as fast as a small node passes on.
#[tokio::test(flavor = "multi_thread")]
async fn logs_outlive_an_outage_of_postgres() {
    a_log_goes_on_while_postgres_is_away().await;
    what_a_killed_manager_has_spooled_is_stored_by_the_next().await;
    what_another_manager_reads_on_without_is_filled_in().await;
}

async fn a_log_goes_on_while_postgres_is_away() {
    let (stack, links) = Stack::linked("spool").await;
    let folder = folder("spool");
    let manager = spooling(&stack, &folder, &[]).await;
    stack.client.build("talk", TALK, talker()).await;
    let process = flood(&stack, LINES, BYTES_PER_SECOND).await;
    has_begun(&stack, process).await;
    links.postgres.link.set(Line::Silent);
    let away = rotated_twice(&stack).await;
    let waits = spooled(&manager).await.unwrap();
    assert!(waits > 0, "nothing was spooled");
    println!("spool: {waits} bytes");
    links.postgres.link.set(Line::Open);
    until("the spool to be empty", 180, async || {
        (spooled(&manager).await? == 0).then_some(())
    })
    .await;
    assert_eq!(manager.metric("octopus_spool_bytes").await, Some(0.0));
    is_kept(&stack, process, away).await;
}

async fn what_a_killed_manager_has_spooled_is_stored_by_the_next() {
    let (stack, links) = Stack::linked("spool-killed").await;
    let folder = folder("spool-killed");
    let manager = spooling(&stack, &folder, &[]).await;
    stack.client.build("talk", TALK, talker()).await;
    let process = flood(&stack, LINES, BYTES_PER_SECOND).await;
    has_begun(&stack, process).await;
    links.postgres.stop().await;
    let away = rotated_twice(&stack).await;
    until("the end of the log to be spooled", 300, async || {
        let files = std::fs::read_dir(&folder).unwrap().filter_map(|entry| {
            let path = entry.unwrap().path();
            path.extension()
                .is_some_and(|kind| kind == "spool")
                .then(|| std::fs::read(path).unwrap())
        });
        files
            .into_iter()
            .any(|bytes| bytes.windows(8).any(|words| words == b"{\"Seal\":"))
            .then_some(())
    })
    .await;
    manager.kill().await;
    links.postgres.start().await;

    // The function has ended, and its log is not stored: its pod stays.
    let stored = until("Postgres to answer", 30, async || {
        let streams = "select count(*), coalesce(sum(lines), 0)::bigint, count(seal) from log_stream";
        let found: (i64, i64, i64) = sqlx::query_as(streams).fetch_one(&stack.owner).await.ok()?;
        Some(found)
    })
    .await;
    assert!(stored.0 == 1 && stored.1 < LINES as i64 && stored.2 == 0, "{stored:?}");
    let phase = pod(&stack).await.and_then(|pod| pod.status?.phase);
    assert_eq!(phase.as_deref(), Some("Succeeded"));

    let manager = spooling(&stack, &folder, &[]).await;
    is_kept(&stack, process, away).await;
    until("the pod to be removed", 180, async || {
        stack.namespace.pods().await.is_empty().then_some(())
    })
    .await;
    assert_eq!(spooled(&manager).await, Some(0));
}

async fn what_another_manager_reads_on_without_is_filled_in() {
    let stack = Stack::start("spool-taken").await;
    // Postgres is away for the first manager alone.
    let url = stack.database_of_managers("");
    let mut url = reqwest::Url::parse(&url).unwrap();
    url.set_path(reqwest::Url::parse(&stack.database_url).unwrap().path());
    let link = Link::to(url.port().unwrap()).await;
    url.set_port(Some(link.port)).unwrap();
    let folder = folder("spool-taken");
    let first = spooling(&stack, &folder, &[("DATABASE_URL", url.as_str())]).await;
    stack.client.build("talk", TALK, talker()).await;
    let process = flood(&stack, LINES, BYTES_PER_SECOND).await;
    has_begun(&stack, process).await;
    link.set(Line::Cut);
    let away = rotated_twice(&stack).await;
    let id = std::fs::read_to_string(folder.join("id")).unwrap();
    assert!(spooled(&first).await.unwrap() > 0, "nothing was spooled");

    let other = self::folder("spool-other");
    let _second = spooling(&stack, &other, &[]).await;
    let reason = format!("spooled by {id}");
    let stream = async || stack.client.process(process).await["log_streams"][0].clone();
    until("the other one to read on", 180, async || {
        let gaps = stream().await["gaps"].as_array()?.clone();
        gaps.iter().any(|gap| gap["reason"] == json!(reason)).then_some(())
    })
    .await;
    let sealed = until("the other one to read to the end", 300, async || {
        let stream = stream().await;
        stream["seal"].is_string().then_some(stream)
    })
    .await;
    assert_eq!(sealed["seal"], "gap", "{sealed}");
    // It comes back with lines that are stored, and lines that are not: each is stored once, and where it belongs.
    link.set(Line::Open);
    until("its spool to be empty", 180, async || {
        (spooled(&first).await? == 0).then_some(())
    })
    .await;
    is_kept(&stack, process, away).await;
    let whole = stream().await;
    assert!(whole["lines"].as_i64() > sealed["lines"].as_i64(), "{sealed} {whole}");
    let left = whole["gaps"].as_array().unwrap().len();
    assert_eq!(whole["seal"], if left == 0 { "complete" } else { "gap" }, "{whole}");
}
