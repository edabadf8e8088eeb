//! Who reaches a function, from where, and at which address.

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ResourceQuota};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::functions::HELLO;

/// Posts until it is answered, for some seconds: URL SECONDS.
const CLIENT: &str = "
import sys, time, urllib.request
ends = time.monotonic() + float(sys.argv[2])
request = urllib.request.Request(sys.argv[1], b'{\"name\": \"you\"}', {'Content-Type': 'application/json'})
while True:
    try:
        print(urllib.request.urlopen(request, timeout=3).status)
        break
    except OSError as error:
        if time.monotonic() > ends:
            sys.exit(str(error))
        time.sleep(0.3)
";

/// Whether a pod of a namespace of its own, with these labels, is answered at a URL.
async fn is_answered(stack: &Stack, labels: Value, url: &str, seconds: u32) -> bool {
    let admin = &stack.namespace.admin;
    let name = format!("client-{}", &Uuid::new_v4().simple().to_string()[..8]);
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "client"},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": false,
            "containers": [{
                "name": "client", "image": format!("{}/base/python:cp311", stack.shared.registry_pull),
                "command": ["python3", "-c", CLIENT, url, seconds.to_string()],
            }],
        },
    }))
    .unwrap();
    let pods: Api<Pod> = Api::namespaced(admin.clone(), &name);
    until("the service account of a new namespace", 60, async || {
        pods.create(&PostParams::default(), &pod).await.ok()
    })
    .await;
    let phase = until("the client to end", 180, async || {
        let phase = pods.get("client").await.unwrap().status?.phase?;
        matches!(phase.as_str(), "Succeeded" | "Failed").then_some(phase)
    })
    .await;
    namespaces.delete(&name, &DeleteParams::default()).await.unwrap();
    phase == "Succeeded"
}

async fn policies(stack: &Stack) -> Vec<NetworkPolicy> {
    let ours = ListParams::default().labels("octopus-process-manager/process");
    stack.namespace.api::<NetworkPolicy>().list(&ours).await.unwrap().items
}

async fn kill(stack: &Stack, process: Uuid) {
    let kill = stack.client.kill(process, json!({})).await;
    assert_eq!(stack.client.ended(kill, 180).await["state"], "succeeded");
    assert!(policies(stack).await.is_empty());
}

fn hello(settings: &Value) -> Value {
    let mut spec = json!({"stop_grace_seconds": 2});
    spec.as_object_mut()
        .unwrap()
        .extend(settings.as_object().unwrap().clone());
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_called_at_its_endpoint_by_those_who_may() {
    let stack = Stack::start("reach").await;
    let _manager = stack.manager().await;
    stack.client.build("hello", HELLO, hello(&json!({}))).await;
    let process = stack.client.start("hello", json!({"kind": "service"})).await;
    let ready = stack.client.shows(process, "state", "ready", 180).await;
    let url = format!("{}/v1/hello", ready["endpoint"].as_str().unwrap());

    let made = policies(&stack).await;
    assert_eq!(made.len(), 1);
    let table = made[0].metadata.annotations.as_ref().unwrap()["octopus-process-manager/reach"].clone();
    assert!(
        table.contains("octopus-process-manager/caller=true -> this process, tcp/5000: allowed"),
        "{table}"
    );
    let path = format!("/api/v1/processes/{process}/manifest");
    let manifest = stack.client.send(reqwest::Method::GET, &path, &Value::Null).await.1;
    assert!(
        manifest
            .to_string()
            .contains("anything else -> this process, all ports: refused"),
        "{manifest}"
    );

    let caller = json!({"octopus-process-manager/caller": "true"});
    assert!(is_answered(&stack, caller, &url, 30).await, "octopus_server's place");
    match is_answered(&stack, json!({}), &url, 5).await {
        false => println!("a stranger is not answered: NetworkPolicy is enforced"),
        true => println!(
            "a stranger is answered: NetworkPolicy is not enforced here; the table is proven in tests/it/policy.rs"
        ),
    }
    kill(&stack, process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_exposed_as_the_operator_allows() {
    let stack = Stack::start("expose").await;
    let client = &stack.client;
    let manager = stack.manager().await;
    let open = json!({"expose": "node_port", "allow_from": [{"cidr": "0.0.0.0/0"}]});
    client.build("outside", HELLO, hello(&open)).await;
    let refused = client.start("outside", json!({"kind": "service"})).await;
    let refused = client.shows(refused, "lifecycle", "gone", 180).await;
    assert_eq!(refused["reason"], "expose_not_offered", "{refused}");
    assert!(
        refused["message"].as_str().unwrap().contains("OCTOPUS_NODE_ADDRESS"),
        "{refused}"
    );
    assert!(manager.terminate().await);

    let nodes: Api<Node> = Api::all(stack.namespace.admin.clone());
    let node = nodes.list(&ListParams::default()).await.unwrap().items.remove(0);
    let addresses = node.status.unwrap().addresses.unwrap();
    let address = addresses.iter().find(|address| address.type_ == "InternalIP").unwrap();
    let _manager = stack
        .manager_with(&[
            ("OCTOPUS_NODE_ADDRESS", &address.address),
            ("OCTOPUS_INGRESS_URL", "https://functions.test"),
            ("OCTOPUS_INGRESS_NAMESPACE_LABELS", "name=ingress"),
        ])
        .await;
    let process = client.start("outside", json!({"kind": "service"})).await;
    client.shows(process, "reason", "quota_exceeded", 180).await;
    let quotas = stack.namespace.api::<ResourceQuota>();
    let allow = Patch::Merge(json!({"spec": {"hard": {"services.nodeports": "10"}}}));
    quotas
        .patch(&stack.namespace.name, &PatchParams::default(), &allow)
        .await
        .unwrap();
    let ready = client.shows(process, "state", "ready", 180).await;
    let endpoint = ready["endpoint"].as_str().unwrap();
    assert!(
        endpoint.starts_with(&format!("http://{}:3", address.address)),
        "{endpoint}"
    );
    assert!(is_answered(&stack, json!({}), &format!("{endpoint}/v1/hello"), 30).await);
    kill(&stack, process).await;

    client.build("named", HELLO, hello(&json!({"expose": "ingress"}))).await;
    let process = client.start("named", json!({"kind": "service"})).await;
    let ready = client.shows(process, "state", "ready", 180).await;
    let host = format!("{}.functions.test", ready["name"].as_str().unwrap());
    assert_eq!(ready["endpoint"], format!("https://{host}"));
    let ingresses = stack.namespace.api::<Ingress>();
    let made = ingresses
        .get(ready["name"].as_str().unwrap())
        .await
        .unwrap()
        .spec
        .unwrap();
    assert_eq!(made.rules.unwrap()[0].host.as_deref(), Some(host.as_str()));
    kill(&stack, process).await;
    assert!(ingresses.list(&ListParams::default()).await.unwrap().items.is_empty());
}
