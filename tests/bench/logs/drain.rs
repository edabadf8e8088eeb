//! Logs that are there already, read from their beginning as fast as the kubelet gives them: by a manager that stores them, and
//! by a bare client that drops them. Of one that follows them the API server passes each line on by itself; one that does not gets
//! them in large pieces. So there are two bare clients.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::{AsyncReadExt as _, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, LogParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::json;
use uuid::Uuid;

use crate::spread;

const PAIRS: usize = 7;
const LINE: usize = 200;

/// Prints so many lines in twenty seconds, and rests. Whoever goes on reading where it was asks for the last second again.
const SOURCE: &str = "import os, sys, time
count = int(sys.argv[1])
for begin in range(0, count, count // 20):
    lines = b''.join(b'%08d %s\\n' % (number, b'x' * 190) for number in range(begin, min(count, begin + count // 20)))
    while lines:
        lines = lines[os.write(1, lines):]
    time.sleep(1)
time.sleep(3600)
";

/// One log that its node does not rotate (`scripts/bench.sh` sees to that), and fifty smaller ones.
pub(crate) async fn run(stack: &Stack) {
    let small = json!({
        "stop_grace_seconds": 2,
        "resources": {"cpu_request": "2m", "cpu": "1", "memory": "64Mi", "ephemeral_storage": "256Mi"},
    });
    let manager = stack.manager().await;
    stack.client.build("full", SOURCE, small).await;
    assert!(manager.terminate().await, "the manager ends cleanly");
    for (number, lines) in [(1, 216_000), (50, 18_000)] {
        measure(stack, number, lines).await;
    }
}

async fn measure(stack: &Stack, number: usize, lines: usize) {
    let manager = stack.manager().await;
    let spec = json!({"kind": "task", "args": [lines.to_string()]});
    let mut processes = Vec::new();
    for _ in 0..number {
        processes.push(stack.client.start("full", spec.clone()).await);
    }
    all_stored(stack, &processes, lines).await;
    assert!(manager.terminate().await, "the manager ends cleanly");

    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = |took: Duration| (number * lines * LINE) as f64 / 1e6 / took.as_secs_f64();
    let (mut following, mut draining) = (Vec::new(), Vec::new());
    for pair in 1..=PAIRS {
        let (took, sizes) = bare(stack, &processes, None).await;
        assert!(sizes.values().all(|bytes| *bytes > lines * LINE), "{sizes:?}");
        let drains = rate(took);
        let follows = rate(bare(stack, &processes, Some(sizes)).await.0);
        let product = rate(product(stack, &processes, lines).await);
        println!(
            "{number} logs read at once, pair {pair}: manager {product:.1} MB/s, bare client that follows {follows:.1} MB/s, one that \
             does not {drains:.1} MB/s"
        );
        following.push(product / follows);
        draining.push(product / drains);
    }
    println!(
        "{number} logs of {:.1} MB read at once and stored: ratio to a bare client that follows and drops them {}, to one that does not \
         follow {} (median of {PAIRS} rounds, least to most)",
        (lines * LINE) as f64 / 1e6,
        spread(following),
        spread(draining)
    );
    let manager = stack.manager().await;
    for process in processes {
        let kill = stack.client.kill(process, json!({"force": true})).await;
        stack.client.ended(kill, 120).await;
    }
    assert!(manager.terminate().await, "the manager ends cleanly");
}

/// Waits until each log is stored.
async fn all_stored(stack: &Stack, processes: &[Uuid], lines: usize) {
    until("the logs to be stored", 300, async || {
        let stored: i64 =
            sqlx::query_scalar("select count(*) from log_stream where process_id = any($1) and lines >= $2")
                .bind(processes)
                .bind(i64::try_from(lines).expect("few"))
                .fetch_one(&stack.owner)
                .await
                .expect("Postgres answers");
        (usize::try_from(stored).is_ok_and(|stored| stored == processes.len())).then_some(())
    })
    .await;
}

/// From the first log that a manager begins to read to the commit of the last chunk.
async fn product(stack: &Stack, processes: &[Uuid], lines: usize) -> Duration {
    for forgets in [
        "delete from log_chunk where process_id = any($1)",
        "delete from log_stream where process_id = any($1)",
    ] {
        sqlx::query(forgets)
            .bind(processes)
            .execute(&stack.owner)
            .await
            .expect("forgotten");
    }
    let manager = stack.manager().await;
    all_stored(stack, processes, lines).await;
    let seconds: f64 = sqlx::query_scalar(
        "select extract(epoch from (select max(pg_xact_commit_timestamp(xmin)) from log_chunk where process_id = any($1))
                                   - min(created_at))::float8
           from log_stream where process_id = any($1)",
    )
    .bind(processes)
    .fetch_one(&stack.owner)
    .await
    .expect("times");
    assert!(manager.terminate().await, "the manager ends cleanly");
    Duration::from_secs_f64(seconds)
}

/// Reads all logs at once: to the end of what is there, or following them until so many bytes of each have come. Answers how many came.
async fn bare(
    stack: &Stack,
    processes: &[Uuid],
    follows: Option<HashMap<String, usize>>,
) -> (Duration, HashMap<String, usize>) {
    let pods: Api<Pod> = Api::namespaced(stack.namespace.manager().await, &stack.namespace.name);
    let listed = pods.list(&ListParams::default()).await.expect("listed");
    let names: Vec<String> = listed.items.into_iter().filter_map(|pod| pod.metadata.name).collect();
    assert_eq!(names.len(), processes.len());
    let began = Instant::now();
    let sizes = stream::iter(names)
        .map(|name| {
            let until = follows.as_ref().map(|sizes| sizes[&name]);
            drain(&pods, name, until)
        })
        .buffer_unordered(processes.len())
        .collect()
        .await;
    (began.elapsed(), sizes)
}

async fn drain(pods: &Api<Pod>, name: String, until: Option<usize>) -> (String, usize) {
    let all = LogParams {
        timestamps: true,
        follow: until.is_some(),
        ..LogParams::default()
    };
    let mut log = Box::pin(pods.log_stream(&name, &all).await.expect("a log"));
    let (mut buffer, mut bytes) = (vec![0; 64 << 10], 0);
    while until.is_none_or(|until| bytes < until) {
        match log.read(&mut buffer).await.expect("it goes on") {
            0 => break,
            read => bytes += read,
        }
    }
    (name, bytes)
}
