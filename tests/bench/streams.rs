//! Memory of a manager with many logs that are followed and rest. So many pods are not run: they are real objects of the API
//! server whose status says that they run, and a proxy before it answers for the nodes that would have their logs.

use chrono::Utc;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::json;

use super::processes::{reads_logs, start_all};
use super::{idle_node, resident_kib};

const STREAMS: usize = 500;

pub(super) async fn run() {
    let (stack, faulty) = Stack::faulty("streams").await;
    faulty.answer_logs();
    let manager = stack.manager_with(&[("OCTOPUS_FOLLOWED_LOGS", "500")]).await;
    stack.client.build("rest", "print('never runs')\n", json!({})).await;
    idle_node::close(&stack).await;
    start_all(&stack, STREAMS, &idle_node::task()).await;
    until("all pods to be there", 300, async || {
        (stack.namespace.pods().await.len() >= STREAMS).then_some(())
    })
    .await;
    let without = resident_kib(manager.id()) / 1024.0;
    let pods = stack.namespace.api::<Pod>();
    let listed = pods.list(&ListParams::default()).await.expect("listed");
    stream::iter(listed.items)
        .map(|pod| {
            let pods = pods.clone();
            async move {
                let status = running(&pod);
                pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status))
                    .await
                    .expect("patched");
            }
        })
        .buffer_unordered(16)
        .count()
        .await;
    until("each log to be followed", 300, async || {
        reads_logs(&manager, STREAMS).await.then_some(())
    })
    .await;
    let lines = until("a line of each to be stored", 120, async || {
        let lines: i64 =
            sqlx::query_scalar("select coalesce(sum(lines), 0)::bigint from log_stream where reader = 'follow'")
                .fetch_one(&stack.owner)
                .await
                .expect("Postgres answers");
        (usize::try_from(lines).is_ok_and(|lines| lines >= STREAMS)).then_some(lines)
    })
    .await;
    println!(
        "resident memory of the manager with {STREAMS} followed logs that rest: {:.0} MiB ({without:.0} MiB with as many pods that \
         wait, {lines} lines stored; to the API server without TLS)",
        resident_kib(manager.id()) / 1024.0
    );
    idle_node::open(&stack).await;
}

fn running(pod: &Pod) -> serde_json::Value {
    let container = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.containers.first())
        .expect("a container");
    let now = Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    json!({"status": {
        "phase": "Running",
        "startTime": now,
        "containerStatuses": [{
            "name": container.name, "image": container.image, "imageID": "", "restartCount": 0, "ready": true, "started": true,
            "state": {"running": {"startedAt": now}},
        }],
    }})
}
