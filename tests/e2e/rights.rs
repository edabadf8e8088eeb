//! What the manager's credential cannot do, and what the manager leaves alone.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use serde_json::json;

use crate::functions::{HELLO, WORK, small, task};

fn forbidden<T>(what: &str, answer: Result<T, kube::Error>) {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => {}
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what} is allowed"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_managers_credential_reaches_nothing_else() {
    let stack = Stack::start("rights").await;
    let manager = stack.namespace.manager().await;
    let here = &stack.namespace.name;
    let list = ListParams::default();
    forbidden(
        "reading secrets",
        Api::<Secret>::namespaced(manager.clone(), here).list(&list).await,
    );
    forbidden(
        "reading a secret",
        Api::<Secret>::namespaced(manager.clone(), here).get("any").await,
    );
    forbidden(
        "reading config maps",
        Api::<ConfigMap>::namespaced(manager.clone(), here).list(&list).await,
    );
    forbidden(
        "pods elsewhere",
        Api::<Pod>::namespaced(manager.clone(), "default").list(&list).await,
    );
    forbidden("pods everywhere", Api::<Pod>::all(manager.clone()).list(&list).await);
    let deletion = DeleteParams::default();
    forbidden(
        "deleting elsewhere",
        Api::<Pod>::namespaced(manager.clone(), "kube-system")
            .delete("any", &deletion)
            .await,
    );
    for (verb, path) in [
        (
            "POST",
            format!("/api/v1/namespaces/{here}/pods/any/exec?command=id&container=function&stdout=true"),
        ),
        ("POST", format!("/api/v1/namespaces/{here}/pods/any/attach")),
        ("POST", format!("/api/v1/namespaces/{here}/pods/any/eviction")),
        (
            "POST",
            format!("/api/v1/namespaces/{here}/serviceaccounts/default/token"),
        ),
        (
            "POST",
            format!(
                "/api/v1/namespaces/{}/serviceaccounts/default/token",
                stack.namespace.managers
            ),
        ),
        ("GET", "/api/v1/nodes".to_owned()),
        ("GET", "/api/v1/nodes/cluster/proxy/pods".to_owned()),
    ] {
        let request = http::Request::builder()
            .method(verb)
            .uri(&path)
            .body(b"{}".to_vec())
            .unwrap();
        forbidden(
            &format!("{verb} {path}"),
            manager.request::<serde_json::Value>(request).await,
        );
    }
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "more"}, "subjects": [],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}
    }))
    .unwrap();
    let post = PostParams::default();
    forbidden(
        "escalating",
        Api::<RoleBinding>::namespaced(manager.clone(), here)
            .create(&post, &binding)
            .await,
    );
    let binding = ClusterRoleBinding {
        metadata: binding.metadata,
        role_ref: binding.role_ref,
        ..ClusterRoleBinding::default()
    };
    forbidden(
        "escalating everywhere",
        Api::<ClusterRoleBinding>::all(manager).create(&post, &binding).await,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_objects_are_left_alone() {
    let stack = Stack::start("foreign").await;
    let _manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    let process = stack.client.start("work", task(&["say", "ran"])).await;
    stack.client.shows(process, "lifecycle", "gone", 60).await;

    let foreign: Service = serde_json::from_value(json!({
        "metadata": {"name": "foreign", "labels": {
            "app.kubernetes.io/managed-by": "octopus-manager",
            "octopus-process-manager/installation": uuid::Uuid::new_v4().to_string(),
            "octopus-process-manager/process": process.to_string(),
        }},
        "spec": {"ports": [{"port": 80}]}
    }))
    .unwrap();
    let services = stack.namespace.api::<Service>();
    services.create(&PostParams::default(), &foreign).await.unwrap();
    // Ours by its label, but its process is gone: this one is removed, which shows that a pass has happened.
    let installation: uuid::Uuid = sqlx::query_scalar("select id from installation")
        .fetch_one(&stack.owner)
        .await
        .unwrap();
    let mut orphan = foreign.clone();
    orphan.metadata.name = Some("orphan".into());
    let labels = orphan.metadata.labels.as_mut().unwrap();
    labels.insert("octopus-process-manager/installation".into(), installation.to_string());
    services.create(&PostParams::default(), &orphan).await.unwrap();
    until("the orphan to be removed", 60, async || {
        services.get_opt("orphan").await.unwrap().is_none().then_some(())
    })
    .await;
    assert!(services.get_opt("foreign").await.unwrap().is_some());

    // An object that no row explains: the database may be the wrong one, so not even what is gone is removed.
    orphan.metadata.name = Some("stranger".into());
    let labels = orphan.metadata.labels.as_mut().unwrap();
    labels.insert(
        "octopus-process-manager/process".into(),
        uuid::Uuid::new_v4().to_string(),
    );
    services.create(&PostParams::default(), &orphan).await.unwrap();
    let halted = until("the reconciler to say that it is halted", 60, async || {
        stack.client.get("/api/v1/clusters/default").await["reconcile_halted"]
            .as_str()
            .map(str::to_owned)
    })
    .await;
    assert!(halted.contains("stranger"), "{halted}");
    assert!(services.get_opt("stranger").await.unwrap().is_some());

    // A person looks, and decides: then it goes, and nothing else does.
    let extra = |shown: &serde_json::Value| {
        let all = shown.as_array().unwrap();
        let extra = all.iter().filter(|one| one["what"] == "extra");
        extra.map(|one| one["name"].clone()).collect::<Vec<_>>()
    };
    let (clean, shown) = stack.diff(&[]).await;
    assert!(!clean && extra(&shown) == ["stranger"], "{shown}");
    assert!(
        services.get_opt("stranger").await.unwrap().is_some(),
        "it was only shown"
    );
    let (clean, shown) = stack.diff(&["--apply"]).await;
    assert!(clean && extra(&shown) == ["stranger"], "{shown}");
    assert!(services.get_opt("stranger").await.unwrap().is_none());
    assert!(services.get_opt("foreign").await.unwrap().is_some());
    assert_eq!(stack.diff(&[]).await, (true, json!([])));
    until("the reconciler to go on", 60, async || {
        let shown = stack.client.get("/api/v1/clusters/default").await;
        shown["reconcile_halted"].is_null().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_objects_somebody_removed_says_so() {
    let stack = Stack::start("vanished").await;
    let _manager = stack.manager().await;
    stack
        .client
        .build("hello", HELLO, json!({"stop_grace_seconds": 2}))
        .await;
    let process = stack.client.start("hello", json!({"kind": "service"})).await;
    let name = stack.client.shows(process, "state", "ready", 120).await["name"]
        .as_str()
        .unwrap()
        .to_owned();
    stack
        .namespace
        .api::<Deployment>()
        .delete(&name, &DeleteParams::background())
        .await
        .unwrap();
    let gone = stack.client.shows(process, "lifecycle", "gone", 90).await;
    assert_eq!(
        (&gone["state"], &gone["reason"]),
        (&json!("failed"), &json!("deleted_by_other")),
        "{gone}"
    );
}
