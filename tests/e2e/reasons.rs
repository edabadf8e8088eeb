//! Why a process is in its state, provoked on the cluster: what the tests of other things do not meet.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use octopus_shared::reason;
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::functions::{WORK, small, task};

/// So long a task waits for its image here, of each kind.
const SHORT: [(&str, &str); 2] = [
    ("OCTOPUS_IMAGE_NOT_FOUND_SECONDS", "1"),
    ("OCTOPUS_IMAGE_PULL_SECONDS", "1"),
];

/// What was shown of a process, in order: state and reason, without those that need none.
async fn reasons(stack: &Stack, process: Uuid) -> Vec<(String, String)> {
    let events = stack.client.events(process).await;
    let told = events.iter().filter_map(|event| {
        let [state, reason] = ["state", "reason"].map(|field| event[field].as_str().map(str::to_owned));
        Some((state?, reason?))
    });
    told.collect()
}

/// A task that fails for its image, and for one reason alone however its node puts it.
async fn fails_for_its_image(stack: &Stack, why: &str, words: &str) -> Uuid {
    let process = stack.client.start("work", task(&["say", "ran"])).await;
    let failed = stack.client.shows(process, "state", "failed", 120).await;
    assert_eq!(failed["reason"], why, "{failed}");
    assert!(failed["message"].as_str().unwrap().contains(words), "{failed}");
    assert!(
        failed["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()),
        "{failed}"
    );
    process
}

/// What nodes are told to pull, for those that are created from now on.
async fn image(stack: &Stack, repository: &str, digest: &str) {
    sqlx::query("update image set repository = $1, digest = $2")
        .bind(repository)
        .bind(digest)
        .execute(&stack.owner)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_come_is_named_and_fails_its_task() {
    let stack = Stack::start("reasons-image").await;
    let manager = stack.manager_with(&SHORT).await;
    // An image that the node does not have.
    let source = format!("# {}\n{WORK}", stack.namespace.name);
    stack.client.build("work", &source, small()).await;
    let (repository, digest): (String, String) = sqlx::query_as("select repository, digest from image")
        .fetch_one(&stack.owner)
        .await
        .unwrap();

    image(&stack, &repository, &format!("sha256:{}", "0".repeat(64))).await;
    let mut failed = vec![fails_for_its_image(&stack, "image_not_found", "not found").await];
    image(&stack, "Not/A/Name", &digest).await;
    failed.push(fails_for_its_image(&stack, "invalid_image_name", "Not/A/Name").await);
    image(&stack, &repository, &digest).await;
    manager.kill().await;

    let nobody = [SHORT[0], SHORT[1], ("OCTOPUS_REGISTRY_PULL", "127.0.0.1:1")];
    let manager = stack.manager_with(&nobody).await;
    failed.push(fails_for_its_image(&stack, "image_pull_failed", "connection refused").await);
    manager.kill().await;

    let refused = json!({"auths": {&stack.shared.registry_pull: {"auth": BASE64_STANDARD.encode("nobody:wrong")}}});
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "wrong"}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": refused.to_string()},
    }))
    .unwrap();
    let secrets = stack.namespace.api::<Secret>();
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    let stranger = [SHORT[0], SHORT[1], ("OCTOPUS_REGISTRY_PULL_SECRET", "wrong")];
    let _manager = stack.manager_with(&stranger).await;
    failed.push(fails_for_its_image(&stack, "image_pull_unauthorized", "401 Unauthorized").await);

    // A service is wanted for as long as nobody ends it: it starts by itself when its image can be had.
    let service = stack
        .client
        .start("work", json!({"kind": "service", "args": ["sleep", "600"]}))
        .await;
    stack
        .client
        .shows(service, "reason", "image_pull_unauthorized", 60)
        .await;
    secrets
        .delete("wrong", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    let running = stack.client.shows(service, "state", "running", 180).await;
    assert_eq!(running["reason"], Value::Null, "{running}");
    let kill = stack.client.kill(service, json!({})).await;
    stack.client.ended(kill, 60).await;

    for process in failed {
        let gone = stack.client.shows(process, "lifecycle", "gone", 120).await;
        let why = gone["reason"].as_str().unwrap().to_owned();
        let mut shown = reasons(&stack, process).await;
        shown.dedup();
        let expected = ["failing", "failed"].map(|state| (state.to_owned(), why.clone()));
        assert_eq!(shown, expected, "{gone}");
    }
    assert!(stack.namespace.pods().await.is_empty());
}

/// A task shows how it ended.
async fn ends(stack: &Stack, steps: &[&str], state: &str, why: Option<&str>, code: i32, words: &str) {
    let process = stack.client.start("work", task(steps)).await;
    let gone = stack.client.shows(process, "lifecycle", "gone", 120).await;
    assert_eq!(
        (&gone["state"], &gone["reason"], &gone["exit_code"]),
        (&json!(state), &json!(why), &json!(code)),
        "{gone}"
    );
    assert!(gone["message"].as_str().unwrap_or_default().contains(words), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_task_ends_is_named() {
    let stack = Stack::start("reasons-ends").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    tokio::join!(
        ends(&stack, &["exit", "0"], "succeeded", None, 0, ""),
        ends(&stack, &["exit", "3"], "failed", Some("exit_code"), 3, "exit code 3"),
        ends(&stack, &["signal", "11"], "failed", Some("signal"), 139, "signal 11"),
    );
    // The node has two cores or a few, and nobody's quota is asked for more than it has.
    let mut greedy = small();
    greedy["resources"]["cpu_request"] = json!("60");
    greedy["resources"]["cpu"] = json!("60");
    stack.client.build("greedy", WORK, greedy).await;
    let waits = stack.client.start("greedy", task(&["say", "ran"])).await;
    let shown = stack.client.shows(waits, "reason", reason::UNSCHEDULABLE.id, 60).await;
    assert_eq!(shown["state"], "starting", "{shown}");
    assert!(
        shown["message"].as_str().unwrap().contains("Insufficient cpu"),
        "{shown}"
    );
    let kill = stack.client.kill(waits, json!({})).await;
    stack.client.ended(kill, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_or_cannot_start_again_and_again_says_why() {
    let stack = Stack::start("reasons-again").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let crashing = json!({"kind": "service", "args": ["say", "its last words", "exit", "3"]});
    let service = stack.client.start("work", crashing).await;
    let shown = stack.client.shows(service, "reason", "crash_loop", 120).await;
    assert_eq!(
        (&shown["state"], &shown["exit_code"], &shown["message"]),
        (
            &json!("failing"),
            &json!(3),
            &json!("the last run: it ended with exit code 3")
        ),
        "{shown}"
    );

    // What no function can ask for: a command that is not in its image.
    let deployments = stack.namespace.api::<Deployment>();
    let found = deployments.list(&ListParams::default()).await.unwrap();
    let name = found.items[0].metadata.name.clone().unwrap();
    let command =
        json!([{"op": "replace", "path": "/spec/template/spec/containers/0/command", "value": ["/no/such/program"]}]);
    let patch = Patch::Json::<()>(serde_json::from_value(command).unwrap());
    deployments.patch(&name, &PatchParams::default(), &patch).await.unwrap();
    let shown = stack.client.shows(service, "reason", "start_error", 120).await;
    assert_eq!(shown["state"], "failing", "{shown}");
    assert!(
        shown["message"].as_str().unwrap().contains("/no/such/program"),
        "{shown}"
    );
    // It waits for longer and longer between two tries, and the reason stays.
    until("another try", 120, async || {
        let shown = stack.client.process(service).await;
        let pods = shown["pods"].as_array()?;
        let tried = pods
            .iter()
            .any(|pod| pod["reason"] == "start_error" && pod["restart_count"].as_i64() >= Some(2));
        tried.then_some(())
    })
    .await;
    let shown = reasons(&stack, service).await;
    let last: Vec<&str> = shown.iter().rev().map(|(_, reason)| reason.as_str()).take(1).collect();
    assert_eq!(last, ["start_error"], "{shown:?}");
    let kill = stack.client.kill(service, json!({})).await;
    stack.client.ended(kill, 60).await;
}
