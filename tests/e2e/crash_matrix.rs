//! A manager that dies at each place between a claim and its end, once, and the next one that finishes what it began.
//!
//! Each manager of the chain takes over from one that died, finishes its work, and dies itself at the next place.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use octopus_tests::stack::programs::Program;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::changes::settled;
use crate::functions::{PLAIN, WORK, small, task};
use crate::managers::runs;

/// Where it dies while it starts a service, changes it, and ends it. Nothing: it lives through that.
const ROUNDS: [(&str, &str, &str); 8] = [
    ("start-claimed", "change-claimed", "kill-claimed"),
    ("start-policy", "change-stored", "kill-stopping"),
    ("start-service", "change-policy", "kill-deployment"),
    ("start-created", "change-deployment", "kill-taken-away"),
    ("start-reported", "change-service", "kill-lowered"),
    ("", "change-made", "kill-deleted"),
    ("", "change-reported", "kill-empty"),
    ("", "scale-put", "kill-gone"),
];

struct Chain {
    stack: Stack,
    manager: Option<Program>,
}

impl Chain {
    /// The next manager, which dies at a place. It finds what the one before it left.
    async fn next(&mut self, place: &str) {
        if let Some(alive) = self.manager.take() {
            assert!(alive.terminate().await);
        }
        let failpoints = format!("{place}=return");
        let settings = [("FAILPOINTS", failpoints.as_str()), ("OCTOPUS_LEASE_SECONDS", "3")];
        let settings = if place.is_empty() {
            &settings[1..]
        } else {
            &settings[..]
        };
        self.manager = Some(self.stack.manager_with(settings).await);
    }

    /// Waits until the manager has died, where it is to.
    async fn dies(&mut self, place: &str) {
        if place.is_empty() {
            return;
        }
        let manager = self.manager.take().unwrap();
        assert!(
            manager.aborts().await,
            "the manager did not die at {place}: build the programs with --features octopus-manager/failpoints"
        );
    }

    async fn ask(&self, process: Uuid, what: &str, body: Value) -> Uuid {
        let path = format!("/api/v1/processes/{process}/{what}");
        let (status, command) = self.stack.client.send(Method::POST, &path, &body).await;
        assert_eq!(status, 202, "{command}");
        command["id"].as_str().unwrap().parse().unwrap()
    }

    async fn succeeded(&self, command: Uuid, place: &str) {
        let ended = self.stack.client.ended(command, 90).await;
        assert_eq!(ended["state"], "succeeded", "after {place}: {ended}");
    }
}

/// How many objects of processes there are.
async fn count<K>(stack: &Stack) -> usize
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let ours = ListParams::default().labels("octopus-process-manager/process");
    stack.namespace.api::<K>().list(&ours).await.unwrap().items.len()
}

/// The same of each kind: Deployments, ReplicaSets, Services, NetworkPolicies, Pods.
pub(crate) async fn left(stack: &Stack) -> [usize; 5] {
    [
        count::<Deployment>(stack).await,
        count::<ReplicaSet>(stack).await,
        count::<Service>(stack).await,
        count::<NetworkPolicy>(stack).await,
        count::<Pod>(stack).await,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_dies_anywhere_leaves_one_workload_of_what_runs_and_none_of_what_ended() {
    let stack = Stack::start("matrix").await;
    let builder = stack.manager().await;
    stack.client.build("plain", PLAIN, small()).await;
    let mut other = small();
    other["env"] = json!([{"name": "OTHER", "value": "1"}]);
    stack.client.build("plain", PLAIN, other).await;
    stack.client.build("work", WORK, small()).await;
    let mut chain = Chain {
        stack,
        manager: Some(builder),
    };

    for (start, change, kill) in ROUNDS {
        chain.next(start).await;
        let process = chain.stack.client.start("plain", json!({"kind": "service"})).await;
        chain.dies(start).await;

        // The next one finishes the start, and takes the change.
        chain.next(change).await;
        settled(&chain.stack, process, 1).await;
        let (what, body, event) = match change {
            "scale-put" => ("scale", json!({"replicas": 2}), "scale_requested"),
            "change-made" => ("restart", json!({}), "restart_requested"),
            _ => ("update", json!({"revision": 1}), "update_requested"),
        };
        let command = chain.ask(process, what, body).await;
        chain.dies(change).await;

        // The next one finishes the change, and takes the kill.
        chain.next(kill).await;
        chain.succeeded(command, change).await;
        let pods = if what == "scale" { 2 } else { 1 };
        let shown = settled(&chain.stack, process, pods).await;
        let wanted = if what == "update" { 1 } else { 2 };
        assert_eq!(shown["revision"], wanted, "after {change}: {shown}");
        let events = chain.stack.client.events(process).await;
        let told = events.iter().filter(|shown| shown["reason"] == event).count();
        assert_eq!(told, 1, "after {change}: {events:?}");
        assert_eq!(
            (
                count::<Deployment>(&chain.stack).await,
                count::<Service>(&chain.stack).await
            ),
            (1, 1),
            "after {change}"
        );
        let command = chain.ask(process, "kill", json!({})).await;
        chain.dies(kill).await;

        // The next one finishes the kill, and nothing is left of it.
        chain.next("").await;
        chain.succeeded(command, kill).await;
        let gone = chain.stack.client.process(process).await;
        assert_eq!(
            (&gone["lifecycle"], &gone["state"]),
            (&json!("gone"), &json!("killed")),
            "after {kill}: {gone}"
        );
        until("nothing to be left", 60, async || {
            (left(&chain.stack).await == [0; 5]).then_some(())
        })
        .await;
    }

    chain.next("start-pod").await;
    let process = chain.stack.client.start("work", task(&["say", "ran"])).await;
    chain.dies("start-pod").await;
    chain.next("").await;
    let gone = chain.stack.client.shows(process, "lifecycle", "gone", 90).await;
    assert_eq!(gone["state"], "succeeded", "{gone}");
    assert_eq!(runs(&chain.stack, process).await, (1, 1), "{gone}");
    // The task may be over before the lease of the one that died is.
    until("every command to be done", 60, async || {
        let waiting: i64 = sqlx::query_scalar(
            "select (select count(*) from command_ready) + (select count(*) from command_lease)
                  + (select count(*) from command where state <> 'succeeded')",
        )
        .fetch_one(&chain.stack.owner)
        .await
        .unwrap();
        (waiting == 0).then_some(())
    })
    .await;
}
