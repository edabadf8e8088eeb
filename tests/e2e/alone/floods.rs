//! Floods of log, and lines as long as the files that a node keeps.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use futures::{AsyncBufReadExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::json;
use tokio::process::Command;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::contained::{Neighbour, ends};
use crate::flood::{Stored, WHOLE, accounted, flood, lines_stored, stored, talker};
use crate::functions::{HOG, TALK, small, task};
use crate::logs::numbered;
use crate::outages::soak;

/// The node rotates such logs several times, and cuts a line in two each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_is_stored_or_on_record_as_missing() {
    let stack = Stack::alone("flood").await;
    let _manager = stack.manager_with(&[WHOLE]).await;
    stack.client.build("talk", TALK, talker()).await;
    // Lines of 200 bytes; 0: at once.
    let floods: &[(usize, usize)] = if soak() {
        // Often, since a node loses nothing at most rotations.
        &[
            &[(150_000, 500_000); 5][..],
            &[(1_500_000, 5_000_000); 2],
            &[(6_000_000, 20_000_000)],
        ]
        .concat()
    } else {
        &[(10_000, 500_000), (300_000, 5_000_000), (100_000, 0)]
    };
    // Beyond this rate the account alone is promised: a client that drops what it reads may miss less.
    const STEADY: usize = 5_000_000;
    let mut by_rate = BTreeMap::new();
    for (lines, rate) in floods {
        let process = flood(&stack, *lines, *rate).await;
        // Two, since what a node loses at a rotation is another thing for each of its readers.
        let beside = if soak() {
            vec![bare(&stack, process).await, bare(&stack, process).await]
        } else {
            Vec::new()
        };
        let missing = accounted(&stack, process, *lines).await;
        let beside = join_all(beside).await.into_iter().map(Result::unwrap);
        let beside: Vec<_> = beside.map(|(read, again)| (lines - read, again)).collect();
        println!(
            "flood: {rate} bytes a second: {missing} of {lines} lines missing; for bare clients beside it, with those that came again: {beside:?}"
        );
        let (missed, missed_beside, printed) = by_rate.entry(rate).or_insert((0, 0, 0));
        *missed += missing;
        *missed_beside += beside.iter().map(|(missed, _)| missed).sum::<usize>() / beside.len().max(1);
        *printed += lines;
    }
    for (rate, (missed, beside, printed)) in by_rate.into_iter().filter(|(rate, _)| soak() && **rate <= STEADY) {
        // One client may be luckier than another, and not again and again.
        assert!(
            missed <= beside.max(printed / 1000),
            "{rate} bytes a second: {missed} and {beside} of {printed}"
        );
    }
}

/// A client that follows the log of a process's pod, as far as the node gives it in one go. Answers how many lines came to it, and how many
/// came again.
async fn bare(stack: &Stack, process: Uuid) -> JoinHandle<(usize, usize)> {
    let pods: Api<Pod> = Api::namespaced(stack.namespace.manager().await, &stack.namespace.name);
    let name = until("the pod", 60, async || {
        let shown = stack.client.process(process).await;
        shown["pods"][0]["name"].as_str().map(str::to_owned)
    })
    .await;
    let follow = LogParams {
        follow: true,
        ..LogParams::default()
    };
    let log = until("its log", 120, async || pods.log_stream(&name, &follow).await.ok()).await;
    let mut lines = log.lines();
    tokio::spawn(async move {
        let (mut seen, mut read, mut again) = (Vec::new(), 0, 0);
        while let Some(Ok(line)) = lines.next().await {
            let number = line.split_once(' ').filter(|_| line.len() == 199);
            let Some(number) = number.and_then(|(number, _)| number.parse::<usize>().ok()) else {
                continue;
            };
            seen.resize(seen.len().max(number + 1), false);
            if std::mem::replace(&mut seen[number], true) {
                again += 1;
            } else {
                read += 1;
            }
        }
        (read, again)
    })
}

/// At 20 MB/s a node rotates away what nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_misses_while_it_is_stopped_is_on_record() {
    let stack = Stack::alone("flood-stop").await;
    let manager = stack.manager_with(&[WHOLE]).await;
    stack.client.build("talk", TALK, talker()).await;
    let (seconds, stopped) = if soak() { (60, 25) } else { (6, 3) };
    let lines = seconds * 100_000;
    let process = flood(&stack, lines, 20_000_000).await;
    until("the flood to be read", 60, async || {
        (lines_stored(&stack, process).await > 0).then_some(())
    })
    .await;
    // The second time it was left for a faster stream a moment ago, and stays: a node that lags shows a file twice.
    for _ in 0..if soak() { 2 } else { 1 } {
        manager.signal("STOP").await;
        tokio::time::sleep(Duration::from_secs(stopped)).await;
        manager.signal("CONT").await;
        let stored = lines_stored(&stack, process).await;
        until("it to read on", 60, async || {
            (lines_stored(&stack, process).await > stored).then_some(())
        })
        .await;
    }
    accounted(&stack, process, lines).await;
    let metrics = manager.metrics().await.unwrap();
    let counted = metrics.lines().filter(|line| line.starts_with("octopus_log_"));
    println!("flood: {}", counted.collect::<Vec<_>>().join(", "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_delays_nobody_else() {
    let stack = Stack::alone("flood-fair").await;
    let _manager = stack.manager_with(&[("OCTOPUS_LOG_BYTES_PER_SECOND", "500000")]).await;
    stack.client.build("talk", TALK, talker()).await;
    // Twenty seconds of reading each, and more when the machine is slow.
    const LINES: usize = 50_000;
    let floods = [flood(&stack, LINES, 0).await, flood(&stack, LINES, 0).await];
    for process in floods {
        until("a flood to be read", 60, async || {
            (lines_stored(&stack, process).await > 0).then_some(())
        })
        .await;
    }
    let quiet = stack.client.start("talk", task(&["tick", "20", "10"])).await;
    let gone = stack.client.over(quiet, 60).await;
    assert_eq!(gone["log_streams"][0]["seal"], "complete", "{gone}");
    for process in floods {
        let stored = lines_stored(&stack, process).await;
        assert!(stored < LINES as i64, "the floods were over before");
    }
    assert_eq!(stack.client.log(quiet).await, numbered(20).as_bytes());
    for process in floods {
        accounted(&stack, process, LINES).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_log_that_is_too_long_the_newest_lines_are_kept() {
    const LINES: usize = 25_000;
    const LIMIT: i64 = 1_000_000;
    let stack = Stack::alone("flood-limit").await;
    let limit = LIMIT.to_string();
    let _manager = stack.manager_with(&[("OCTOPUS_LOG_BYTES_PER_PROCESS", &limit)]).await;
    stack.client.build("talk", TALK, talker()).await;
    let process = flood(&stack, LINES, 1_000_000).await;
    let gone = stack.client.over(process, 120).await;
    assert_eq!(gone["state"], "succeeded", "it was not ended for talking: {gone}");
    let stream = until("the log to be short enough", 60, async || {
        let stream = stack.client.process(process).await["log_streams"][0].clone();
        let dropped = stream["truncated"]["bytes"].as_i64().unwrap_or_default();
        (stream["bytes"].as_i64().unwrap() - dropped <= LIMIT).then_some(stream)
    })
    .await;
    assert_eq!(
        (&stream["seal"], &stream["lines"]),
        (&json!("truncated"), &json!(LINES))
    );
    let dropped = usize::try_from(stream["truncated"]["lines"].as_i64().unwrap()).unwrap();
    assert_eq!(stream["truncated"]["bytes"], json!(dropped * 200));
    let (mut next, mut marks) = (dropped, Vec::new());
    stack
        .client
        .log_lines(process, |line| match line["line"].as_str() {
            Some(printed) => {
                assert!(
                    matches!(stored(printed), Stored::Whole(number) if number == next),
                    "{next}: {line}"
                );
                next += 1;
            }
            None if line["truncated"].is_object() => marks.push(line["truncated"]["lines"].clone()),
            None => {}
        })
        .await;
    assert_eq!((next, marks), (LINES, vec![json!(dropped)]));
}

/// The node cuts the log of a function that floods it, and ends the function when it is faster than that.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_is_contained() {
    let stack = Stack::alone("flood").await;
    let _manager = stack.manager().await;
    stack.client.build("hog", HOG, small()).await;
    let neighbour = Neighbour::start(&stack).await;
    let gone = ends(&stack, "log", &json!({"memory": "128Mi"})).await;
    match gone["state"].as_str().unwrap() {
        "succeeded" => {}
        _ => assert_eq!(gone["reason"], "evicted_log_volume", "{gone}"),
    }
    neighbour.goes_on(&stack).await;
}

/// A line of 10 MB fills the file that a node keeps of a log.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_printed_comes_back_byte_for_byte() {
    let stack = Stack::alone("odd").await;
    let _manager = stack.manager().await;
    stack.client.build("talk", TALK, talker()).await;
    let process = stack.client.start("talk", task(&["odd"])).await;
    let gone = stack.client.over(process, 120).await;
    assert_eq!(
        (&gone["state"], &gone["log_streams"][0]["seal"]),
        (&json!("succeeded"), &json!("complete")),
        "{gone}"
    );
    let python = Command::new("python3")
        .args(["-c", TALK, "odd"])
        .output()
        .await
        .unwrap();
    let printed = python.stdout;
    let expected: Vec<&[u8]> = printed.split(|byte| *byte == b'\n').collect();
    let log = stack.client.log(process).await;
    let mut lines: Vec<&[u8]> = log.split(|byte| *byte == b'\n').collect();
    // Each line ends with a newline in a log, the last one too.
    assert_eq!(
        (lines.pop(), expected.last().copied()),
        (Some(b"".as_slice()), Some(b"no newline".as_slice()))
    );
    for (number, (line, expected)) in lines.iter().zip(&expected).enumerate() {
        let shown = String::from_utf8_lossy(&line[..line.len().min(100)]);
        assert!(
            line == expected,
            "line {number}, {} bytes and not {}: {shown}",
            line.len(),
            expected.len()
        );
    }
    assert_eq!(lines.len(), expected.len());
}
