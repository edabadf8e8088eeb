//! Two clusters on one database: each has its own commands, and one that is away does not hinder the other.

use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use octopus_tests::stack::link::Line;
use octopus_tests::stack::namespace::Namespace;
use serde_json::json;

use crate::functions::{WORK, small, task};

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_to_the_cluster_that_they_name_and_one_that_is_away_holds_up_none_of_the_other() {
    // The links are between the first cluster and its manager.
    let (stack, links) = Stack::linked("clusters").await;
    let other = Namespace::create(
        &stack.shared.kubeconfig,
        &uuid::Uuid::new_v4().simple().to_string()[..8],
    )
    .await;
    let kubeconfig = other.kubeconfig.display().to_string();
    let first = stack.manager().await;
    let _second = stack
        .manager_with(&[
            ("OCTOPUS_CLUSTER", "other"),
            ("KUBECONFIG", &kubeconfig),
            ("OCTOPUS_NAMESPACE", &other.name),
            ("OCTOPUS_BUILD_NAMESPACE", &other.builds),
        ])
        .await;
    let mut there = small();
    there["cluster"] = json!("other");
    stack.client.build("here", WORK, small()).await;
    stack.client.build("there", WORK, there).await;
    let here = stack.client.start("here", task(&["say", "ran", "sleep", "600"])).await;
    let there = stack.client.start("there", task(&["say", "ran", "sleep", "600"])).await;
    stack.client.shows(here, "state", "running", 60).await;
    stack.client.shows(there, "state", "running", 60).await;
    for (namespace, function) in [(&stack.namespace, "here"), (&other, "there")] {
        let pods = namespace.pods().await;
        assert!(pods.len() == 1 && pods[0].starts_with(function), "{function}: {pods:?}");
    }

    links.cluster.set(Line::Cut);
    until("the first cluster to be shown as away", 30, async || {
        let shown = stack.client.get("/api/v1/clusters/default").await;
        (shown["reachable"] == false).then_some(())
    })
    .await;
    assert!(first.readiness().await.is_some_and(|(ready, _)| !ready));
    assert_eq!(stack.client.get("/api/v1/clusters/other").await["reachable"], true);
    let waits = stack.client.start("here", task(&["say", "ran"])).await;
    // A start and a kill of the other one pass by.
    let ran = stack.client.start("there", task(&["say", "ran"])).await;
    let gone = stack.client.shows(ran, "lifecycle", "gone", 60).await;
    assert_eq!(gone["state"], "succeeded", "{gone}");
    let kill = stack.client.kill(there, json!({})).await;
    assert_eq!(stack.client.ended(kill, 60).await["state"], "succeeded");
    let shown = stack.client.process(waits).await;
    assert_eq!(
        (
            &shown["lifecycle"],
            &shown["waiting_for"]["what"],
            &shown["waiting_for"]["cluster"]
        ),
        (&json!("requested"), &json!("cluster"), &json!("default")),
        "{shown}"
    );

    links.cluster.set(Line::Open);
    let gone = stack.client.shows(waits, "lifecycle", "gone", 60).await;
    assert_eq!(gone["state"], "succeeded", "{gone}");
    assert_eq!(stack.client.process(here).await["state"], "running");
    let kill = stack.client.kill(here, json!({})).await;
    assert_eq!(stack.client.ended(kill, 60).await["state"], "succeeded");
    assert!(stack.namespace.pods().await.is_empty() && other.pods().await.is_empty());
}
