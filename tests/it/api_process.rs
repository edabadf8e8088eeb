//! Functions and processes: declared, started, read, killed, cancelled, deleted.

use octopus_shared::command::CommandKind;
use octopus_tests::api::{Api, send};
use octopus_tests::function::{build, claim, declare, manager, process, start};
use octopus_tests::postgres::Database;
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn a_declared_function_can_be_started_and_read_at_once() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let declared = declare(&api, "hello").await;
    assert_eq!(
        (&declared["kind"], &declared["revision"]),
        (&json!("declare_function"), &json!(1))
    );
    let started = start(&api, "hello").await;
    let id = started["process_id"].as_str().unwrap();
    assert_eq!(started["process"]["id"], id);
    let read = api.read(&format!("/api/v1/processes/{id}")).await;
    assert_eq!(read, started["process"]);
    assert_eq!(
        (&read["lifecycle"], &read["state"]),
        (&json!("requested"), &json!("pending"))
    );
    assert_eq!(read["reason"], "waiting_for_image");

    declare(&api, "hello").await;
    let function = api.read("/api/v1/functions/hello").await;
    let numbers: Vec<_> = function["revisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["number"].as_i64().unwrap())
        .collect();
    assert_eq!(numbers, [2, 1]);
    let older = api
        .post(
            "/api/v1/functions/hello/processes",
            &json!({"kind": "task", "revision": 1}),
        )
        .await
        .accepted();
    assert_eq!(older["revision"], 1);
}

/// The statement that stores a command answers with it, and makes up the rows that it cannot see yet.
#[tokio::test]
async fn a_202_is_what_a_read_shows() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let same = async |accepted: &Value| {
        let command = api
            .read(&format!("/api/v1/commands/{}", accepted["id"].as_str().unwrap()))
            .await;
        let mut answered = accepted.clone();
        if let Some(process) = answered.as_object_mut().unwrap().remove("process") {
            let id = process["id"].as_str().unwrap();
            assert_eq!(api.read(&format!("/api/v1/processes/{id}")).await, process);
        }
        assert_eq!(command, answered);
    };
    let task = json!({"kind": "task", "args": ["a"], "env": [{"name": "A", "value": "b"}], "timeout_seconds": 5, "retries": 2});
    let start = async |spec: &Value, query: &str| {
        let path = format!("/api/v1/functions/hello/processes{query}");
        let accepted = api.post(&path, spec).await.accepted();
        same(&accepted).await;
        accepted["process_id"].as_str().unwrap().to_owned()
    };
    same(&declare(&api, "hello").await).await;
    start(&task, "").await;
    let manager = manager(&database).await;
    let claimed = claim(&database, manager, CommandKind::DeclareFunction).await;
    start(&json!({"kind": "service"}), "?deadline_seconds=60").await;
    build(&database, &claimed).await;
    let (service, other) = (start(&json!({"kind": "service"}), "").await, start(&task, "").await);
    for (path, body) in [
        (format!("processes/{service}/scale"), json!({"replicas": 2})),
        (format!("processes/{service}/restart"), json!({})),
        (format!("processes/{service}/update"), json!({})),
        (format!("processes/{service}/kill"), json!({"grace_seconds": 1})),
        // Behind the first one.
        (format!("processes/{service}/kill"), json!({})),
        (format!("processes/{other}/kill"), json!({"force": true})),
    ] {
        same(&api.post(&format!("/api/v1/{path}"), &body).await.accepted()).await;
    }
    let last = api.post("/api/v1/functions/hello/processes", &task).await.accepted();
    let cancel = format!("/api/v1/commands/{}/cancel", last["id"].as_str().unwrap());
    same(&api.post(&cancel, &json!({})).await.accepted()).await;
    let delete = api.request(Method::DELETE, "/api/v1/functions/hello", &api.admin);
    same(&send(delete).await.accepted()).await;
}

#[tokio::test]
async fn a_revision_shows_its_build() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let manager = manager(&database).await;
    declare(&api, "hello").await;
    assert_eq!(
        api.get("/api/v1/functions/hello/revisions/1/build-log").await.text(),
        ""
    );
    let claimed = claim(&database, manager, CommandKind::DeclareFunction).await;
    build(&database, &claimed).await;
    let revision = api.read("/api/v1/functions/hello").await["revisions"][0].clone();
    assert_eq!(revision["build_state"], "ready");
    assert_eq!(revision["image"], format!("octopus/hello@sha256:{}", "1".repeat(64)));
    assert_eq!(revision["config"], json!({"functions": []}));
    assert_eq!(
        api.get("/api/v1/functions/hello/revisions/1/build-log").await.text(),
        "built\n"
    );
    assert_eq!(api.read("/api/v1/functions").await["items"][0]["build_state"], "ready");
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    for name in ["a", "b", "c"] {
        declare(&api, name).await;
        for _ in 0..3 {
            start(&api, name).await;
        }
    }
    let ids = |page: &serde_json::Value| -> Vec<String> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = ids(&api.read("/api/v1/processes").await);
    assert_eq!(all.len(), 9);
    let (mut paged, mut next) = (Vec::new(), String::new());
    loop {
        let page = api.read(&format!("/api/v1/processes?limit=4{next}")).await;
        paged.extend(ids(&page));
        match page["next"].as_str() {
            Some(after) => next = format!("&after={after}"),
            None => break,
        }
    }
    assert_eq!(paged, all);
    assert_eq!(
        ids(&api
            .read("/api/v1/processes?function=b&kind=task&state=pending&live=true")
            .await)
        .len(),
        3
    );
    assert_eq!(ids(&api.read("/api/v1/processes?kind=service").await).len(), 0);
    assert_eq!(ids(&api.read("/api/v1/processes?cluster=elsewhere").await).len(), 0);
    let page = api.read("/api/v1/functions?limit=2").await;
    assert_eq!(
        (page["items"].as_array().unwrap().len(), &page["next"]),
        (2, &json!("b"))
    );
    assert_eq!(
        api.read("/api/v1/functions?limit=2&after=b").await["items"][0]["name"],
        "c"
    );
}

#[tokio::test]
async fn a_kill_is_seen_at_once() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    let killed = api
        .post(&format!("/api/v1/processes/{id}/kill"), &json!({"grace_seconds": 5}))
        .await
        .accepted();
    assert_eq!(
        (&killed["kind"], &killed["process_id"]),
        (&json!("kill_process"), &json!(id))
    );
    assert_eq!(api.read(&format!("/api/v1/processes/{id}")).await["desired"], "killed");
    let refused = api
        .post(&format!("/api/v1/processes/{id}/kill"), &json!({"grace_seconds": 3601}))
        .await;
    assert_eq!(refused.fields(), ["grace_seconds"]);
    let unknown = api
        .post(&format!("/api/v1/processes/{}/kill", uuid::Uuid::new_v4()), &json!({}))
        .await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.problem().as_str()),
        (404, "not-found")
    );
}

#[tokio::test]
async fn a_command_can_be_cancelled_until_it_is_claimed() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    declare(&api, "hello").await;
    let started = start(&api, "hello").await;
    let address = format!("/api/v1/commands/{}", started["id"].as_str().unwrap());
    let cancelled = api.post(&format!("{address}/cancel"), &json!({})).await.accepted();
    assert_eq!(
        (&cancelled["state"], &cancelled["target_command"]),
        (&json!("succeeded"), &started["id"])
    );
    assert_eq!(api.read(&address).await["state"], "cancelled");
    let process = api
        .read(&format!(
            "/api/v1/processes/{}",
            started["process_id"].as_str().unwrap()
        ))
        .await;
    assert_eq!(
        (&process["lifecycle"], &process["state"], &process["reason"]),
        (&json!("gone"), &json!("killed"), &json!("cancelled"))
    );

    let manager = manager(&database).await;
    let claimed = claim(&database, manager, CommandKind::DeclareFunction).await;
    let refused = api
        .post(&format!("/api/v1/commands/{}/cancel", claimed.id), &json!({}))
        .await;
    assert_eq!((refused.status.as_u16(), refused.problem().as_str()), (409, "conflict"));
    assert_eq!(
        api.read(&format!("/api/v1/commands/{}", claimed.id)).await["state"],
        "running"
    );
}

#[tokio::test]
async fn a_deleted_function_is_forgotten_and_its_processes_end() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    let request = api.request(reqwest::Method::DELETE, "/api/v1/functions/hello", &api.admin);
    octopus_tests::api::send(request).await.accepted();
    assert_eq!(api.get("/api/v1/functions/hello").await.status, 404);
    assert_eq!(api.read("/api/v1/functions").await["items"], json!([]));
    let start = api
        .post("/api/v1/functions/hello/processes", &json!({"kind": "task"}))
        .await;
    assert_eq!(start.status, 404);
    assert_eq!(api.read(&format!("/api/v1/processes/{id}")).await["desired"], "killed");
    declare(&api, "hello").await;
    assert_eq!(api.read("/api/v1/functions/hello").await["revisions"][0]["number"], 2);
}

#[tokio::test]
async fn a_manifest_is_yaml_once_it_is_made() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    let address = format!("/api/v1/processes/{id}/manifest");
    let early = api.get(&address).await;
    assert_eq!((early.status.as_u16(), early.problem().as_str()), (409, "conflict"));
    let objects = json!([{"kind": "Deployment", "spec": {"replicas": 1}}, {"kind": "Service"}]);
    sqlx::query("update process set manifest = $1 where id = $2")
        .bind(objects)
        .bind(id)
        .execute(&database.owner)
        .await
        .unwrap();
    let answer = api.get(&address).await;
    assert_eq!(answer.headers["content-type"], "application/yaml");
    assert_eq!(
        answer.text(),
        "kind: Deployment\nspec:\n  replicas: 1\n---\nkind: Service\n"
    );
}
