//! Kills, a restart of the manager beside many running processes, and its memory with many more.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::{StreamExt, pin_mut, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use octopus_tests::stack::programs::Program;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{idle_node, quantile, resident_kib};

/// Kills whose latency is measured, one after another.
const KILLS: usize = 40;
/// Tasks that end by themselves, one after another.
const ENDS: usize = 40;
/// Processes that run while the manager is restarted.
const RUNNING: usize = 200;
/// Processes whose pods no node takes.
const MANY: [usize; 3] = [500, 1000, 2000];

/// Sleeps until it is told to end, or prints a line and ends.
const SOURCE: &str = "import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print('up', flush=True)
time.sleep(float(sys.argv[1]))
";

/// What waits for nothing but the manager: the deletion of a pod that has ended, and kills.
pub(super) async fn run_ends(stack: &Stack) {
    let manager = prepared(stack).await;
    ends(stack).await;
    kills(stack, &manager).await;
    assert!(manager.terminate().await, "the manager ends cleanly");
}

/// Many processes at once.
pub(super) async fn run_many(stack: &Stack) {
    let manager = prepared(stack).await;
    assert!(manager.terminate().await, "the manager ends cleanly");
    restart(stack).await;
    memory(stack).await;
}

async fn prepared(stack: &Stack) -> Program {
    let manager = stack.manager().await;
    let small = json!({
        "stop_grace_seconds": 2,
        "resources": {"cpu_request": "2m", "cpu": "1", "memory": "64Mi", "ephemeral_storage": "64Mi"},
    });
    stack.client.build("rest", SOURCE, small).await;
    manager
}

fn task(seconds: &str) -> Value {
    json!({"kind": "task", "args": [seconds]})
}

pub(super) async fn start_all(stack: &Stack, number: usize, spec: &Value) -> Vec<Uuid> {
    stream::iter(0..number)
        .map(|_| async {
            let path = "/api/v1/functions/rest/processes";
            let command = stack.client.insist(Method::POST, path, spec).await;
            let id = command["process"]["id"]
                .as_str()
                .and_then(|id| Uuid::parse_str(id).ok());
            id.expect("an id")
        })
        .buffer_unordered(16)
        .collect()
        .await
}

/// The container's end, as its kubelet saw it in the status, to the deletion of its pod: the log is read to its end and sealed
/// between them.
async fn ends(stack: &Stack) {
    let pods = stack.namespace.api::<Pod>();
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let watching = tokio::spawn(async move {
        let changes = watcher(pods, watcher::Config::default()).touched_objects();
        pin_mut!(changes);
        let mut ended: HashMap<String, Instant> = HashMap::new();
        let mut deleted = std::collections::HashSet::new();
        while let Some(Ok(pod)) = changes.next().await {
            let uid = pod.uid().unwrap_or_default();
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            if phase == Some("Succeeded") {
                ended.entry(uid.clone()).or_insert_with(Instant::now);
            }
            if pod.metadata.deletion_timestamp.is_some()
                && let Some(since) = ended.get(&uid)
                && deleted.insert(uid)
                && sender.send(since.elapsed()).is_err()
            {
                return;
            }
        }
    });
    let mut waits = Vec::new();
    for _ in 0..ENDS {
        let process = stack.client.start("rest", task("0")).await;
        stack.client.shows(process, "lifecycle", "gone", 60).await;
        waits.extend(seen.recv().await);
    }
    watching.abort();
    waits.sort_unstable();
    println!(
        "end of a container seen -> deletion of its pod seen: p50 {:.0?}, p99 {:.0?} ({ENDS} tasks, one after another)",
        quantile(&waits, 0.5),
        quantile(&waits, 0.99)
    );
}

/// A kill, one after another, each while the manager has nothing to do.
async fn kills(stack: &Stack, manager: &Program) {
    let mut waits = Vec::new();
    for _ in 0..KILLS {
        let process = stack.client.start("rest", task("600")).await;
        until("the line", 60, async || {
            (!stack.client.log(process).await.is_empty()).then_some(())
        })
        .await;
        let started = Instant::now();
        let kill = stack.client.kill(process, json!({})).await;
        stack.client.ended(kill, 60).await;
        waits.push(started.elapsed());
    }
    waits.sort_unstable();
    println!(
        "kill stored -> its first request to the API server: p50 {:.1?}, p99 {:.1?} ({KILLS} kills, one after another)",
        measured(manager, "octopus_kill_request_wait_seconds", "0.5").await,
        measured(manager, "octopus_kill_request_wait_seconds", "0.99").await,
    );
    println!(
        "kill asked for -> nothing left of it: p50 {:.1?}, p99 {:.1?}",
        quantile(&waits, 0.5),
        quantile(&waits, 0.99)
    );
}

/// A quantile of what the manager measures in seconds.
pub(super) async fn measured(manager: &Program, name: &str, share: &str) -> Duration {
    let series = format!("{name}{{quantile=\"{share}\"}}");
    Duration::from_secs_f64(manager.metric(&series).await.expect("the manager measures it"))
}

/// Whether the manager has begun to read so many logs.
pub(super) async fn reads_logs(manager: &Program, many: usize) -> bool {
    let attached = manager.metric("octopus_logs_attached_total").await;
    attached.is_some_and(|attached| attached >= many as f64)
}

/// What a restarted manager needs until it has looked at each pod and reads each log, and whether it touched any.
async fn restart(stack: &Stack) {
    let room = [("OCTOPUS_FOLLOWED_LOGS", "100")];
    let first = stack.manager_with(&room).await;
    let processes = start_all(stack, RUNNING, &task("3600")).await;
    for process in &processes {
        stack.client.shows(*process, "state", "running", 900).await;
    }
    until("each log to be read", 120, async || {
        reads_logs(&first, RUNNING).await.then_some(())
    })
    .await;
    assert!(first.terminate().await, "the manager ends cleanly");
    let before = versions(stack).await;

    let started = Instant::now();
    let next = stack.manager_with(&room).await;
    until("each log to be read again", 120, async || {
        reads_logs(&next, RUNNING).await.then_some(())
    })
    .await;
    let took = started.elapsed();
    assert_eq!(versions(stack).await, before, "no pod was touched");
    println!("restart of the manager with {RUNNING} running processes -> all adopted, each log read again: {took:.1?}");
    clear(stack, &processes).await;
    assert!(next.terminate().await, "the manager ends cleanly");
}

async fn versions(stack: &Stack) -> HashMap<String, Option<String>> {
    let pods = stack.namespace.api::<Pod>();
    let pods = pods.list(&ListParams::default()).await.expect("listed");
    pods.into_iter()
        .map(|pod| (pod.name_any(), pod.resource_version()))
        .collect()
}

/// Removes all pods by hand, which is quicker than many kills, and waits until their processes are gone.
async fn clear(stack: &Stack, processes: &[Uuid]) {
    let deletion = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    let pods = stack.namespace.api::<Pod>();
    pods.delete_collection(&deletion, &ListParams::default())
        .await
        .expect("deleted");
    for process in processes {
        stack.client.shows(*process, "lifecycle", "gone", 600).await;
    }
}

/// Resident memory of a manager that watches ever more processes, and of one that is started beside all of them.
async fn memory(stack: &Stack) {
    idle_node::close(stack).await;
    let manager = stack.manager().await;
    let mut started = Vec::new();
    let mut figures = Vec::new();
    for many in MANY {
        let since: DateTime<Utc> = Utc::now();
        started.extend(start_all(stack, many - started.len(), &idle_node::task()).await);
        until("all to be seen", 600, async || {
            let seen: i64 = sqlx::query_scalar("select count(*) from pod where gone_at is null")
                .fetch_one(&stack.owner)
                .await
                .expect("Postgres answers");
            (usize::try_from(seen).is_ok_and(|seen| seen >= many)).then_some(())
        })
        .await;
        figures.push(format!(
            "{:.0} MiB with {many} ({:.0} s)",
            resident_kib(manager.id()) / 1024.0,
            (Utc::now() - since).as_seconds_f64()
        ));
    }
    assert!(manager.terminate().await, "the manager ends cleanly");
    let next = stack.manager().await;
    until("it to watch", 60, async || {
        let shown = stack.client.get("/api/v1/clusters/default").await;
        (shown["managers"][0]["shards"].as_array().map(Vec::len) == Some(12)).then_some(())
    })
    .await;
    println!(
        "resident memory of the manager: {}; started anew beside all of them: {:.0} MiB",
        figures.join(", "),
        resident_kib(next.id()) / 1024.0
    );
    next.kill().await;
    idle_node::open(stack).await;
}
