//! Pods that are accepted and never run, so that the work of a node is not measured: while this holds no node takes any, and the
//! namespace has room for all of them.

use k8s_openapi::api::core::v1::{Node, ResourceQuota};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use octopus_tests::stack::Stack;
use serde_json::{Value, json};

/// A task for such a cluster.
pub(super) fn task() -> Value {
    json!({"kind": "task", "args": ["0"], "resources": {"cpu_request": "1m", "cpu": "20m", "memory": "16Mi"}})
}

/// From now on nodes take no new pods, and the namespace's quota is gone.
pub(super) async fn close(stack: &Stack) {
    stack
        .namespace
        .api::<ResourceQuota>()
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .expect("the quota is removed");
    unschedulable(stack, true).await;
}

/// Nodes take pods again.
pub(super) async fn open(stack: &Stack) {
    unschedulable(stack, false).await;
}

async fn unschedulable(stack: &Stack, value: bool) {
    let nodes: Api<Node> = Api::all(stack.namespace.admin.clone());
    let listed = nodes.list(&ListParams::default()).await.expect("the nodes");
    for node in listed {
        let patch = Patch::Merge(json!({"spec": {"unschedulable": value}}));
        nodes
            .patch(&node.name_any(), &PatchParams::default(), &patch)
            .await
            .expect("patched");
    }
}
