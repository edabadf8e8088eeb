//! A node that is given to a pod of a higher priority.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::json;

use crate::functions::{WORK, small, task};

/// More than half of the processors of a node, in thousandths.
async fn most_of_a_node(stack: &Stack) -> String {
    let nodes: Api<Node> = Api::all(stack.namespace.admin.clone());
    let nodes = nodes.list(&ListParams::default()).await.unwrap();
    let status = nodes.items[0].status.as_ref().unwrap();
    let processors = &status.allocatable.as_ref().unwrap()["cpu"].0;
    let thousandths: u32 = match processors.strip_suffix('m') {
        Some(thousandths) => thousandths.parse().unwrap(),
        None => processors.parse::<u32>().unwrap() * 1000,
    };
    format!("{}m", thousandths * 6 / 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_preempted_says_for_whom() {
    let stack = Stack::alone("preempted").await;
    let _manager = stack.manager().await;
    let most = most_of_a_node(&stack).await;
    let mut settings = small();
    settings["resources"]["cpu_request"] = json!(most);
    settings["resources"]["cpu"] = json!(most);
    stack.client.build("work", WORK, settings).await;
    let process = stack.client.start("work", task(&["say", "here", "sleep", "600"])).await;
    until("its line to be stored", 120, async || {
        let shown = stack.client.process(process).await;
        (shown["log_streams"][0]["lines"] == 1).then_some(())
    })
    .await;
    let pods = stack.namespace.api::<Pod>();
    let ours = pods.get(&stack.namespace.pods().await[0]).await.unwrap();
    let image = &ours.spec.unwrap().containers[0].image;

    let name = format!("preempting-{}", stack.namespace.name);
    let classes: Api<PriorityClass> = Api::all(stack.namespace.admin.clone());
    let class = serde_json::from_value(json!({"metadata": {"name": name}, "value": 1000})).unwrap();
    classes.create(&PostParams::default(), &class).await.unwrap();
    let resources = json!({"cpu": most, "memory": "16Mi"});
    let preempting: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "priorityClassName": name,
            "restartPolicy": "Never",
            "containers": [{
                "name": "preempting", "image": image, "command": ["true"],
                "resources": {"requests": resources, "limits": resources},
            }],
        },
    }))
    .unwrap();
    pods.create(&PostParams::default(), &preempting).await.unwrap();

    let gone = stack.client.shows(process, "lifecycle", "gone", 120).await;
    pods.delete(&name, &DeleteParams::default()).await.unwrap();
    classes.delete(&name, &DeleteParams::default()).await.unwrap();
    assert_eq!(
        (&gone["state"], &gone["reason"]),
        (&json!("failed"), &json!("preempted")),
        "{gone}"
    );
    let words = gone["message"].as_str().unwrap();
    assert!(words.contains(&name) || words.contains("higher priority"), "{gone}");
    assert_eq!(stack.client.log(process).await, b"here\n");
}
