//! What `octopus-manager preflight` finds out about the real cluster, and what it says when something is missing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::{Value, json};

/// Status, what was found, and the remedy, by check.
type Findings = BTreeMap<String, [String; 3]>;

fn by_check(preflight: &Value) -> Findings {
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
    let findings = preflight["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|finding| {
            let told = ["status", "found", "remedy"].map(|field| text(finding, field));
            (text(finding, "check"), told)
        })
        .collect()
}

/// The manager's role in the function namespace, under the name that this test's copy has.
async fn role(stack: &Stack) -> (Api<Role>, String) {
    let roles = stack.namespace.api::<Role>();
    let listed = roles.list(&ListParams::default()).await.unwrap();
    let name = listed.items[0].metadata.name.clone().unwrap();
    (roles, name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_looked_at_from_outside_and_from_inside() {
    let stack = Stack::start("preflight").await;
    let (good, printed) = stack.preflight(&[]).await;
    let found = by_check(&printed);
    assert!(good, "{found:#?}");
    let checks = [
        "clock",
        "database",
        "forbidden_rights",
        "gpu",
        "inotify",
        "network_policy",
        "pod_security",
        "process_limit",
        "quota",
        "registry_pull",
        "registry_push",
        "rights",
        "version",
    ];
    assert!(found.keys().map(String::as_str).eq(checks), "{found:#?}");
    for check in [
        "database",
        "version",
        "rights",
        "forbidden_rights",
        "registry_push",
        "registry_pull",
        "clock",
        "quota",
    ] {
        assert_eq!(found[check][0], "ok", "{check}: {:?}", found[check]);
    }
    // The node lets a pod have 512, of which some are the pod's own.
    assert!(found["process_limit"][1].contains("stopped at 5"), "{found:#?}");
    assert_eq!(found["gpu"][0], "warning", "{found:#?}");
    assert!(found["gpu"][1].contains("Insufficient nvidia.com/gpu"), "{found:#?}");
    for (check, [status, _, remedy]) in &found {
        assert_eq!(status == "ok", remedy.is_empty(), "{check}: {remedy}");
    }

    // The API shows the same.
    let shown = stack.client.get("/api/v1/clusters/default").await;
    assert_eq!(shown["preflight"], printed);
    let enforced = match found["network_policy"][0].as_str() {
        "ok" => true,
        "warning" => {
            println!("NetworkPolicy is not enforced here");
            assert!(found["network_policy"][1].starts_with("not enforced"), "{found:#?}");
            false
        }
        other => panic!("{other}: {found:#?}"),
    };
    assert_eq!(shown["policy_enforced"], enforced);

    // It leaves nothing behind.
    let ours = ListParams::default().labels("octopus-process-manager/purpose=preflight");
    until("its pods to be gone", 60, async || {
        let pods = stack.namespace.api::<Pod>().list(&ours).await.unwrap();
        let policies = stack.namespace.api::<NetworkPolicy>().list(&ours).await.unwrap();
        (pods.items.is_empty() && policies.items.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_too_much_is_named_with_its_remedy() {
    let stack = Stack::start("preflight-faults").await;
    let here = &stack.namespace.name;
    // One right less, one right more, and a quota that is used up.
    let (roles, name) = role(&stack).await;
    let mut less = roles.get(&name).await.unwrap();
    less.metadata.managed_fields = None;
    for rule in less.rules.iter_mut().flatten() {
        if rule
            .resources
            .as_ref()
            .is_some_and(|resources| resources.contains(&"services".to_owned()))
        {
            rule.verbs.retain(|verb| verb != "delete");
        }
    }
    roles.replace(&name, &PostParams::default(), &less).await.unwrap();
    let more: Role = serde_json::from_value(json!({
        "metadata": {"name": "more"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}],
    }))
    .unwrap();
    roles.create(&PostParams::default(), &more).await.unwrap();
    let managers = &stack.namespace.managers;
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "more"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "more"},
        "subjects": [{"kind": "ServiceAccount", "name": managers, "namespace": managers}],
    }))
    .unwrap();
    let bindings = stack.namespace.api::<RoleBinding>();
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    let quotas = stack.namespace.api::<ResourceQuota>();
    let quota = quotas.list(&ListParams::default()).await.unwrap().items[0]
        .metadata
        .name
        .clone()
        .unwrap();
    let none = Patch::Merge(json!({"spec": {"hard": {"pods": "1"}}}));
    quotas.patch(&quota, &PatchParams::default(), &none).await.unwrap();

    // RBAC and quotas take a moment until every part of the API server knows them.
    let found = until("the preflight to see all of it", 120, async || {
        let (good, printed) = stack.preflight(&[]).await;
        let found = by_check(&printed);
        assert!(!good, "{found:#?}");
        (found["rights"][0] == "error" && found["forbidden_rights"][0] == "error").then_some(found)
    })
    .await;
    assert_eq!(found["rights"][1], format!("missing: delete services in {here}"));
    assert!(found["rights"][2].contains("kubectl apply -k k8s"), "{found:#?}");
    assert_eq!(
        found["forbidden_rights"][1],
        format!("the manager may list secrets in {here}")
    );
    // There is room for one pod only: what the second one would have shown is not guessed.
    assert_eq!(found["network_policy"][0], "unknown", "{found:#?}");
    assert!(found["network_policy"][1].contains("exceeded quota"), "{found:#?}");
    let shown = stack.client.get("/api/v1/clusters/default").await;
    assert_eq!(shown["policy_enforced"], Value::Null);

    // Mended, it is well again.
    bindings.delete("more", &DeleteParams::default()).await.unwrap();
    for rule in less.rules.iter_mut().flatten() {
        if rule
            .resources
            .as_ref()
            .is_some_and(|resources| resources.contains(&"services".to_owned()))
        {
            rule.verbs.push("delete".into());
        }
    }
    less.metadata.resource_version = None;
    roles.replace(&name, &PostParams::default(), &less).await.unwrap();
    let room = Patch::Merge(json!({"spec": {"hard": {"pods": "100"}}}));
    quotas.patch(&quota, &PatchParams::default(), &room).await.unwrap();
    until("the preflight to find no error", 120, async || {
        stack.preflight(&[]).await.0.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_and_a_cluster_that_are_away_are_told_apart() {
    let stack = Stack::start("preflight-away").await;
    let (good, printed) = stack
        .preflight(&[("OCTOPUS_REGISTRY_PUSH", "http://127.0.0.1:1")])
        .await;
    let found = by_check(&printed);
    assert!(!good, "{found:#?}");
    assert_eq!(found["registry_push"][0], "error", "{found:#?}");
    assert_eq!(found["rights"][0], "ok", "{found:#?}");
    assert_eq!(found["network_policy"][0], "unknown", "{found:#?}");
    let (good, printed) = stack.preflight(&[("KUBECONFIG", "/nowhere")]).await;
    let found = by_check(&printed);
    assert!(
        !good && found["version"][0] == "error" && found["version"][2].contains("login"),
        "{found:#?}"
    );
    let (good, printed) = stack.preflight(&[("OCTOPUS_REGISTRY_PULL", "127.0.0.1:1")]).await;
    let found = by_check(&printed);
    assert!(!good && found["registry_pull"][0] == "error", "{found:#?}");
    assert_eq!(found["registry_push"][0], "ok", "{found:#?}");
}
