//! A function that takes too much of something ends alone and says why, while its neighbour goes on answering.

use k8s_openapi::api::core::v1::{Node, Service};
use kube::api::{Api, ListParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::functions::{HELLO, HOG, small, task};

/// A service, and a task that calls it again and again from inside of the cluster.
pub(crate) struct Neighbour {
    service: Uuid,
    caller: Uuid,
}

impl Neighbour {
    pub(crate) async fn start(stack: &Stack) -> Self {
        stack
            .client
            .build("hello", HELLO, json!({"stop_grace_seconds": 2}))
            .await;
        let mut spec = small();
        spec["calls_functions"] = json!(true);
        stack.client.build("caller", HOG, spec).await;
        let service = stack.client.start("hello", json!({"kind": "service"})).await;
        let ready = stack.client.shows(service, "state", "ready", 180).await;
        let url = format!("{}/v1/hello", ready["endpoint"].as_str().unwrap());
        let caller = stack.client.start("caller", task(&["call", &url])).await;
        let neighbour = Self { service, caller };
        neighbour.goes_on(stack).await;
        neighbour
    }

    async fn answers(&self, stack: &Stack) -> Vec<String> {
        let log = String::from_utf8(stack.client.log(self.caller).await).unwrap();
        log.lines().map(str::to_owned).collect()
    }

    /// Ten further answers come, and every answer until then is there and good.
    pub(crate) async fn goes_on(&self, stack: &Stack) {
        let before = self.answers(stack).await.len();
        let answers = until("ten further answers", 180, async || {
            let answers = self.answers(stack).await;
            (answers.len() >= before + 10).then_some(answers)
        })
        .await;
        // A Service that is new may take a moment until its node leads to its pod.
        let first = answers.iter().position(|answer| answer.ends_with(" 201")).unwrap();
        assert!(first < 50, "{answers:?}");
        for (number, answer) in answers.iter().enumerate().skip(first) {
            assert_eq!(*answer, format!("{number} 201"));
        }
        let service = stack.client.process(self.service).await;
        assert_eq!(service["state"], "ready", "{service}");
        let pods = service["pods"].as_array().unwrap();
        assert!(pods.len() == 1 && pods[0]["restart_count"] == 0, "{service}");
    }
}

/// Runs one hog to its end.
pub(crate) async fn ends(stack: &Stack, what: &str, resources: &Value) -> Value {
    let mut spec = task(&[what]);
    spec["resources"] = resources.clone();
    let process = stack.client.start("hog", spec).await;
    let gone = stack.client.shows(process, "lifecycle", "gone", 400).await;
    for stream in gone["log_streams"].as_array().unwrap() {
        assert!(stream["seal"].is_string(), "{gone}");
    }
    gone
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hog_ends_alone_and_says_why() {
    let stack = Stack::start("contained").await;
    let _manager = stack.manager().await;
    stack.client.build("hog", HOG, small()).await;
    let neighbour = Neighbour::start(&stack).await;
    for (what, resources, reason) in [
        ("memory", json!({}), "oom_killed"),
        ("processes", json!({"memory": "768Mi"}), "process_limit"),
        ("disk", json!({"memory": "512Mi"}), "evicted_scratch"),
    ] {
        let gone = ends(&stack, what, &resources).await;
        assert_eq!(
            (&gone["state"], &gone["reason"]),
            (&json!("failed"), &json!(reason)),
            "{what}: {gone}"
        );
        assert!(!gone["remedy"].as_str().unwrap().is_empty(), "{gone}");
        neighbour.goes_on(&stack).await;
    }
}

/// Addresses that no function may reach: what runs the cluster. Those of clouds' credentials lie outside of this machine,
/// and are left to `tests/it/policy.rs`.
async fn forbidden(stack: &Stack) -> Vec<String> {
    let services: Api<Service> = Api::namespaced(stack.namespace.admin.clone(), "default");
    let api = services.get("kubernetes").await.unwrap().spec.unwrap();
    let nodes: Api<Node> = Api::all(stack.namespace.admin.clone());
    let node = nodes.list(&ListParams::default()).await.unwrap().items.remove(0);
    let addresses = node.status.unwrap().addresses.unwrap();
    let node = addresses.iter().find(|address| address.type_ == "InternalIP").unwrap();
    vec![
        format!("{}:443", api.cluster_ip.unwrap()),
        format!("{}:6443", node.address),
        format!("{}:10250", node.address),
    ]
}

/// What the preflight says of the network is what a function finds.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_reaches_nothing_where_policies_hold() {
    let stack = Stack::start("around").await;
    let _manager = stack.manager().await;
    let (_, preflight) = stack.preflight(&[]).await;
    let cluster = stack.client.get("/api/v1/clusters/default").await;
    let enforced = cluster["policy_enforced"].as_bool().unwrap();
    assert_eq!(cluster["preflight"], preflight);

    stack
        .client
        .build("closed", HELLO, json!({"stop_grace_seconds": 2, "allow_from": []}))
        .await;
    stack.client.build("hog", HOG, small()).await;
    let closed = stack.client.start("closed", json!({"kind": "service"})).await;
    let ready = stack.client.shows(closed, "state", "ready", 180).await;
    let other = ready["endpoint"]
        .as_str()
        .unwrap()
        .trim_start_matches("http://")
        .to_owned();
    let mut addresses = forbidden(&stack).await;
    addresses.push(other);
    let mut arguments = vec!["around"];
    arguments.extend(addresses.iter().map(String::as_str));
    let process = stack.client.start("hog", task(&arguments)).await;
    stack.client.shows(process, "lifecycle", "gone", 180).await;
    let log = String::from_utf8(stack.client.log(process).await).unwrap();
    let reached: Vec<&str> = log.lines().filter_map(|line| line.strip_suffix(" reached")).collect();
    assert_eq!(log.lines().count(), addresses.len(), "{log}");
    if enforced {
        assert!(reached.is_empty(), "{log}");
        println!("a function reaches none of {addresses:?}");
    } else {
        // The other function answers: nothing but a policy stands between them.
        assert!(reached.contains(&addresses[addresses.len() - 1].as_str()), "{log}");
        println!("not enforced: a function reaches {reached:?}; the table is proven in tests/it/policy.rs");
    }
}
