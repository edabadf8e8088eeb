//! Every line, once, in order.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::functions::{PLAIN, WORK, small, task};
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

/// Puts the rows of logs back to what they were, under a manager that has read on.
async fn fall_back(stack: &Stack) {
    let to_standby = "begin;
                      delete from log_stream;
                      insert into log_stream select * from standby;
                      delete from log_chunk where seq > (select newest from standby_chunk);
                      commit;";
    sqlx::raw_sql(to_standby).execute(&stack.owner).await.unwrap();
}

/// As after a failover to a standby that lacks the newest commits: while a function prints, and when it prints nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn lines_that_a_database_has_lost_are_read_again() {
    let stack = Stack::start("logs-lost").await;
    let manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let steps = [
        "print", "1000", "sleep", "4", "print", "1000", "sleep", "4", "print", "1000", "sleep", "12",
    ];
    let process = stack.client.start("work", task(&steps)).await;
    let stored = async |lines: i64| {
        until("the lines to be stored", 60, async || {
            let shown = stack.client.process(process).await;
            (shown["log_streams"][0]["lines"] == lines).then_some(())
        })
        .await;
    };
    stored(1000).await;
    let standby = "create table standby as select * from log_stream;
                   create table standby_chunk as select max(seq) as newest from log_chunk;";
    sqlx::raw_sql(standby).execute(&stack.owner).await.unwrap();
    stored(2000).await;
    fall_back(&stack).await;
    stored(3000).await;
    let expected = numbered(1000).repeat(3);
    assert!(stack.client.log(process).await == expected.as_bytes());
    fall_back(&stack).await;
    let gone = stack.client.shows(process, "lifecycle", "gone", 120).await;
    let stream = &gone["log_streams"][0];
    assert_eq!(
        (&stream["seal"], &stream["lines"]),
        (&json!("complete"), &json!(3000)),
        "{gone}"
    );
    let log = stack.client.log(process).await;
    assert!(log == expected.as_bytes(), "{gone}");
    assert_eq!(stream["sha256"], json!(running_hash(&log)));
    assert!(manager.terminate().await);
}

/// What was printed while no manager ran is read as fast as the node gives it, which is without following it, and then it is followed.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_printed_while_nobody_read_is_caught_up_with() {
    const LINES: usize = 5000;
    let stack = Stack::start("logs-behind").await;
    let manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let count = LINES.to_string();
    let steps = [
        "say", "begin", "sleep", "10", "fill", &count, "sleep", "30", "say", "end",
    ];
    let process = stack.client.start("work", task(&steps)).await;
    let shown = until("the first line to be stored", 120, async || {
        let shown = stack.client.process(process).await;
        (shown["log_streams"][0]["lines"] == 1).then_some(shown)
    })
    .await;
    manager.kill().await;
    let (pods, name) = (stack.namespace.api::<Pod>(), shown["pods"][0]["name"].as_str().unwrap());
    let newest = LogParams {
        tail_lines: Some(1),
        timestamps: true,
        ..LogParams::default()
    };
    until("the last line to be old", 120, async || {
        let line = pods.logs(name, &newest).await.ok()?;
        let (at, line) = line.split_once(' ')?;
        let age = Utc::now() - at.parse::<DateTime<Utc>>().ok()?;
        (line.starts_with(&format!("{:08} ", LINES - 1)) && age > TimeDelta::seconds(3)).then_some(())
    })
    .await;
    let manager = stack.manager().await;
    until("it to be caught up with", 60, async || {
        let stored = &stack.client.process(process).await["log_streams"][0]["lines"];
        (*stored == LINES + 1).then_some(())
    })
    .await;
    assert_eq!(manager.metric("octopus_log_hurries_total").await, Some(1.0));
    let gone = stack.client.shows(process, "lifecycle", "gone", 120).await;
    let stream = &gone["log_streams"][0];
    assert_eq!(
        (&stream["seal"], &stream["lines"]),
        (&json!("complete"), &json!(LINES + 2)),
        "{gone}"
    );
    let fill: String = (0..LINES)
        .map(|number| format!("{number:08} {}\n", "x".repeat(990)))
        .collect();
    assert!(stack.client.log(process).await == format!("begin\n{fill}end\n").as_bytes());
}

/// A stream without a byte for a minute may be dead, so it is opened again.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_rests_for_long_goes_on_where_it_was() {
    const LINES: usize = 150;
    let stack = Stack::start("logs-resting").await;
    let manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let steps = ["print", &LINES.to_string(), "sleep", "75", "say", "end"];
    let process = stack.client.start("work", task(&steps)).await;
    let over = stack.client.over(process, 240).await;
    let stream = &over["log_streams"][0];
    assert_eq!(
        (&stream["seal"], &stream["lines"]),
        (&json!("complete"), &json!(LINES + 1)),
        "{over}"
    );
    let expected = format!("{}end\n", numbered(LINES));
    assert!(stack.client.log(process).await == expected.as_bytes(), "{over}");
    // Opened again it shows its newest lines first.
    let tails = manager.metric("octopus_log_tails_total").await;
    assert!(tails.is_some_and(|tails| tails >= 1.0), "{tails:?}");
}

/// What a poll finds is new lines behind the last stored one: few, and its newest lines reach back so far; or many.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_polled_is_read_from_its_end_and_exact() {
    let stack = Stack::start("logs-polled").await;
    let manager = stack.manager_with(&[("OCTOPUS_FOLLOWED_LOGS", "0")]).await;
    stack.client.build("work", WORK, small()).await;
    let bursts = [400, 5, 60, 300, 5];
    let counts = bursts.map(|count| count.to_string());
    let steps: Vec<&str> = counts.iter().flat_map(|count| ["fill", count, "sleep", "4"]).collect();
    let process = stack.client.start("work", task(&steps)).await;
    let gone = stack.client.shows(process, "lifecycle", "gone", 120).await;
    let stream = &gone["log_streams"][0];
    assert_eq!(
        (&stream["seal"], &stream["lines"]),
        (&json!("complete"), &json!(bursts.iter().sum::<usize>())),
        "{gone}"
    );
    let fill = |count| (0..count).map(|number| format!("{number:08} {}\n", "x".repeat(990)));
    let expected: String = bursts.into_iter().flat_map(fill).collect();
    assert!(stack.client.log(process).await == expected.as_bytes());
    let of = async |name| manager.metric(name).await.unwrap_or_default();
    let (tails, missed) = (
        of("octopus_log_tails_total").await,
        of("octopus_log_tails_missed_total").await,
    );
    assert!(missed >= 1.0 && tails - missed >= 5.0, "{tails} tails, {missed} missed");

    // Old kubelets never say that its container has ended.
    stack.client.build("plain", PLAIN, small()).await;
    let service = stack.client.start("plain", json!({"kind": "service"})).await;
    stack.client.shows(service, "state", "ready", 120).await;
    let kill = stack.client.kill(service, json!({})).await;
    stack.client.ended(kill, 60).await;
    let stream = stack.client.process(service).await["log_streams"][0].clone();
    assert_eq!(
        (&stream["seal"], &stream["reader"]),
        (&json!("complete"), &json!("poll")),
        "{stream}"
    );
}
