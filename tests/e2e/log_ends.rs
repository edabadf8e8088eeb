//! Logs of containers that end in all ways: byte for byte, or with a hole that is on record.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use futures::{AsyncBufReadExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, LogParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use crate::flood::{accounted, talker};
use crate::functions::{TALK, WORK, small, task};
use crate::logs::numbered;
use crate::outages::soak;

/// Ten a second, more than are waited for.
const TICKS: usize = 6000;

/// A task that prints lines, of which some are stored, and a bare client that follows it too.
struct Ticking {
    process: Uuid,
    pod: String,
    seen: Arc<AtomicUsize>,
    follows: JoinHandle<()>,
}

async fn ticking(stack: &Stack) -> Ticking {
    let process = stack
        .client
        .start("talk", task(&["tick", &TICKS.to_string(), "10"]))
        .await;
    let shown = until("some lines", 60, async || {
        let shown = stack.client.process(process).await;
        (shown["log_streams"][0]["lines"].as_i64()? > 5).then_some(shown)
    })
    .await;
    let pod = shown["pods"][0]["name"].as_str().unwrap().to_owned();
    let pods: Api<Pod> = Api::namespaced(stack.namespace.manager().await, &stack.namespace.name);
    let follow = LogParams {
        follow: true,
        ..LogParams::default()
    };
    let mut lines = pods.log_stream(&pod, &follow).await.unwrap().lines();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let follows = tokio::spawn(async move {
        while let Some(Ok(line)) = lines.next().await {
            // The node says in the stream when it cannot go on.
            if line.starts_with("line ") {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    until("the bare client to see some", 60, async || {
        (seen.load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;
    Ticking {
        process,
        pod,
        seen,
        follows,
    }
}

/// What is stored is what was printed up to some line, and the seal says how it ended: what it calls complete has no line less than
/// the bare client saw.
async fn ends_somewhere(stack: &Stack, ticking: Ticking, reason: &str) -> Value {
    let Ticking {
        process, seen, follows, ..
    } = ticking;
    // Who is in a hurry does not wait for the seal.
    let gone = until("the end and the seal", 120, async || {
        let shown = stack.client.process(process).await;
        let is_over = shown["lifecycle"] == "gone" && shown["log_streams"][0]["seal"].is_string();
        is_over.then_some(shown)
    })
    .await;
    let stream = &gone["log_streams"][0];
    let lines = usize::try_from(stream["lines"].as_i64().unwrap()).unwrap();
    // Old kubelets do not always end a stream.
    let _ = timeout(Duration::from_secs(5), follows).await;
    let seen = seen.load(Ordering::Relaxed);
    println!(
        "ends: {lines} lines, {seen} seen, {}, {}",
        stream["seal"], stream["gaps"]
    );
    assert!((6..TICKS).contains(&lines), "{gone}");
    if stream["seal"] == "complete" {
        assert!(lines >= seen, "{seen} lines were printed at least: {gone}");
    } else {
        assert_eq!(stream["seal"], "gap", "{gone}");
        assert_eq!(stream["seal_reason"], reason, "{gone}");
    }
    assert_eq!(stack.client.log(process).await, numbered(lines).as_bytes(), "{gone}");
    gone
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_lines_and_an_end_at_once() {
    let stack = Stack::start("ends").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let process = stack.client.start("work", task(&["print", "10000"])).await;
    let gone = stack.client.shows(process, "lifecycle", "gone", 120).await;
    assert_eq!(gone["log_streams"][0]["seal"], "complete", "{gone}");
    assert!(stack.client.log(process).await == numbered(10_000).as_bytes(), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_without_grace_one_by_force_and_a_pod_that_somebody_deletes() {
    let stack = Stack::start("ends-early").await;
    let _manager = stack.manager().await;
    stack.client.build("talk", TALK, small()).await;
    let (killed, forced, deleted) = tokio::join!(ticking(&stack), ticking(&stack), ticking(&stack));
    let kills = [
        (&killed, json!({"grace_seconds": 0})),
        (&forced, json!({"force": true})),
    ];
    let kills = join_all(kills.map(|(ticking, how)| stack.client.kill(ticking.process, how))).await;
    let pods = stack.namespace.api::<Pod>();
    let at_once = DeleteParams::default().grace_period(0);
    pods.delete(&deleted.pod, &at_once).await.unwrap();
    for kill in kills {
        assert_eq!(stack.client.ended(kill, 120).await["state"], "succeeded");
    }
    ends_somewhere(&stack, killed, "killed_early").await;
    ends_somewhere(&stack, forced, "killed_early").await;
    let gone = ends_somewhere(&stack, deleted, "pod_gone").await;
    assert_eq!(gone["reason"], "deleted_by_other", "{gone}");
}

/// Each run of a container is a stream of its own, and its log is read after it has gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_started_again_and_again() {
    // The kubelet waits 10 s, 20 s, 40 s and so on before a start.
    let runs = if soak() { 6 } else { 3 };
    let stack = Stack::start("ends-again").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let arguments = ["print", "1000", "exit", "3"];
    let crashing = json!({"kind": "service", "args": arguments});
    let process = stack.client.start("work", crashing).await;
    let shown = until("all runs to be stored", 600, async || {
        let shown = stack.client.process(process).await;
        let streams = shown["log_streams"].as_array()?;
        let sealed = streams.iter().filter(|stream| stream["seal"].is_string()).count();
        (sealed >= runs).then_some(shown)
    })
    .await;
    for (run, stream) in shown["log_streams"].as_array().unwrap()[..runs].iter().enumerate() {
        assert_eq!(
            (&stream["restart"], &stream["seal"], &stream["lines"]),
            (&json!(run), &json!("complete"), &json!(1000)),
            "{shown}"
        );
    }
    let log = stack.client.log(process).await;
    assert!(log.starts_with(numbered(1000).repeat(runs).as_bytes()), "{shown}");
    let kill = stack.client.kill(process, json!({})).await;
    assert_eq!(stack.client.ended(kill, 120).await["state"], "succeeded");
}

/// The node begins a new file while the container rests, and the container ends without another line: nothing is in the file that can
/// be read. A node may lose the end of the file before, when it does that before all was read: then it is a gap, and else it is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_rotated_before_its_end_has_no_hole_there() {
    // Twelve megabytes: nodes rotate at ten, and look every ten seconds.
    const LINES: i64 = 12_000;
    let stack = Stack::start("ends-rotated").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let arguments = ["fill", &LINES.to_string(), "sleep", "25"];
    let process = stack.client.start("work", task(&arguments)).await;
    let gone = stack.client.shows(process, "lifecycle", "gone", 180).await;
    let stream = &gone["log_streams"][0];
    let is_whole = stream["lines"] == LINES;
    println!("rotated: {} of {LINES} lines, gaps {}", stream["lines"], stream["gaps"]);
    assert_eq!(stream["seal"], if is_whole { "complete" } else { "gap" }, "{gone}");
}

/// The manager dies before the first line, and the node rotates the first ones away before the next manager comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_that_nobody_read_is_on_record() {
    // A minute of them: a busy node rotates late, and never when their container has ended.
    const LINES: usize = 600_000;
    let stack = Stack::start("ends-unread").await;
    let manager = stack.manager().await;
    stack.client.build("talk", TALK, talker()).await;
    let arguments = ["flood", &LINES.to_string(), "2000000", "8"];
    let process = stack.client.start("talk", task(&arguments)).await;
    let shown = until("its log to be opened", 120, async || {
        let shown = stack.client.process(process).await;
        shown["log_streams"][0].is_object().then_some(shown)
    })
    .await;
    manager.kill().await;
    let shown_lines = &shown["log_streams"][0]["lines"];
    assert_eq!(*shown_lines, 0, "the manager died too late: {shown}");
    let (pods, name) = (stack.namespace.api::<Pod>(), shown["pods"][0]["name"].as_str().unwrap());
    let first = LogParams {
        limit_bytes: Some(8),
        ..LogParams::default()
    };
    until("the first line to be rotated away", 60, async || {
        let first = pods.logs(name, &first).await.ok()?;
        first.parse::<usize>().is_ok_and(|number| number > 0).then_some(())
    })
    .await;
    let _manager = stack.manager().await;
    let missing = accounted(&stack, process, LINES).await;
    assert!(missing > 0);
}

/// Runs of ten lines, a few seconds each, of which the next one follows.
async fn crashing(stack: &Stack) -> Uuid {
    stack.client.build("work", WORK, small()).await;
    let arguments = ["print", "10", "sleep", "5", "exit", "3"];
    let crashing = json!({"kind": "service", "args": arguments});
    stack.client.start("work", crashing).await
}

/// The first streams of a process, once they are sealed.
async fn sealed(stack: &Stack, process: Uuid, number: usize) -> Vec<Value> {
    until("the first runs to be sealed", 180, async || {
        let shown = stack.client.process(process).await;
        let streams = shown["log_streams"].as_array()?;
        let first = streams.get(..number)?;
        first
            .iter()
            .all(|stream| stream["seal"].is_string())
            .then(|| first.to_vec())
    })
    .await
}

/// The reader of a log whose container has ended is held up for so long that the next run is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_read_late_is_the_one_of_its_own_run() {
    let stack = Stack::start("ends-late").await;
    let _manager = stack.manager_with(&[("FAILPOINTS", "log-ended=return(4000)")]).await;
    let process = crashing(&stack).await;
    for stream in sealed(&stack, process, 2).await {
        assert_eq!(
            (&stream["seal"], &stream["lines"]),
            (&json!("complete"), &json!(10)),
            "{stream}"
        );
    }
    assert!(
        stack
            .client
            .log(process)
            .await
            .starts_with(numbered(10).repeat(2).as_bytes())
    );
}

/// A run ends, the next one comes and ends, and no manager looks: then the node gives the log of the second as the current one
/// and as the previous one.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_saw_end_gets_no_line_of_the_next() {
    let stack = Stack::start("ends-unseen").await;
    let manager = stack.manager().await;
    let process = crashing(&stack).await;
    let shown = until("the lines of the first run", 120, async || {
        let shown = stack.client.process(process).await;
        (shown["log_streams"][0]["lines"] == 10).then_some(shown)
    })
    .await;
    manager.kill().await;
    let pods = stack.namespace.api::<Pod>();
    let name = shown["pods"][0]["name"].as_str().unwrap();
    until("the end of the second run", 120, async || {
        let status = pods.get_status(name).await.ok()?.status?;
        let container = status.container_statuses?.into_iter().next()?;
        (container.restart_count == 1 && container.state?.waiting.is_some()).then_some(())
    })
    .await;
    let _manager = stack.manager().await;
    let streams = sealed(&stack, process, 2).await;
    let of = |stream: &Value| {
        (
            stream["restart"].clone(),
            stream["seal"].clone(),
            stream["lines"].clone(),
        )
    };
    assert_eq!(of(&streams[0]), (json!(0), json!("gap"), json!(10)), "{}", streams[0]);
    assert_eq!(
        of(&streams[1]),
        (json!(1), json!("complete"), json!(10)),
        "{}",
        streams[1]
    );
}
