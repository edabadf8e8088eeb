//! One key, one command.

use octopus_tests::api::{Answer, Api, send};
use octopus_tests::function::{declare, process};
use octopus_tests::postgres::Database;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

async fn start(api: &Api, key: &str, body: &Value) -> Answer {
    let request = api.request(Method::POST, "/api/v1/functions/hello/processes", &api.admin);
    send(request.header("idempotency-key", key).json(body)).await
}

async fn count(database: &Database, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&database.owner).await.unwrap()
}

#[tokio::test]
async fn the_same_request_has_the_same_answer_and_another_one_conflicts() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    declare(&api, "hello").await;
    let first = start(&api, "k", &json!({"kind": "task"})).await;
    let again = start(&api, "k", &json!({"kind": "task"})).await;
    assert_eq!(first.accepted(), again.accepted());
    assert_eq!(first.headers["location"], again.headers["location"]);
    assert!(!first.headers.contains_key("idempotency-replayed") && again.headers["idempotency-replayed"] == "true");
    let other = start(&api, "k", &json!({"kind": "service"})).await;
    assert_eq!(
        (other.status.as_u16(), other.problem().as_str()),
        (409, "idempotency-key-reused")
    );
    // Another caller's keys are its own.
    let theirs = api.request(Method::POST, "/api/v1/functions/hello/processes", &api.operator);
    let theirs = send(theirs.header("idempotency-key", "k").json(&json!({"kind": "task"})))
        .await
        .accepted();
    assert_ne!(theirs["id"], first.json()["id"]);
    assert_eq!(count(&database, "select count(*) from process").await, 2);
}

#[tokio::test]
async fn twenty_at_once_make_one_command() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    declare(&api, "hello").await;
    let answers = futures::future::join_all((0..20).map(|_| start_task(&api))).await;
    let ids: std::collections::HashSet<_> = answers
        .iter()
        .map(|answer| answer.accepted()["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(count(&database, "select count(*) from process").await, 1);

    // A deletion finds the function once; its twins are answered like it.
    let delete = || {
        send(
            api.request(Method::DELETE, "/api/v1/functions/hello", &api.admin)
                .header("idempotency-key", "d"),
        )
    };
    let answers = futures::future::join_all((0..20).map(|_| delete())).await;
    let ids: std::collections::HashSet<_> = answers
        .iter()
        .map(|answer| answer.accepted()["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 1);
}

async fn start_task(api: &Api) -> Answer {
    start(api, "one", &json!({"kind": "task"})).await
}

#[tokio::test]
async fn a_form_is_known_by_its_parts_and_not_by_its_boundary() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let put = |source: &'static str| {
        let form = Form::new().part("source", Part::bytes(source.as_bytes()));
        send(
            api.request(Method::PUT, "/api/v1/functions/f", &api.admin)
                .header("idempotency-key", "k")
                .multipart(form),
        )
    };
    let (first, again) = (put("print(1)").await.accepted(), put("print(1)").await.accepted());
    assert_eq!(first["id"], again["id"]);
    assert_eq!(put("print(2)").await.status, 409);
    assert_eq!(count(&database, "select count(*) from revision").await, 1);
}

#[tokio::test]
async fn a_key_of_another_address_conflicts_and_a_bad_one_is_named() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    let kill = |key: String| {
        let request = api.request(Method::POST, &format!("/api/v1/processes/{id}/kill"), &api.admin);
        send(request.header("idempotency-key", key))
    };
    start(&api, "k", &json!({"kind": "task"})).await.accepted();
    assert_eq!(kill("k".into()).await.status, 409);
    for bad in ["", "with space", &"x".repeat(256)] {
        let answer = kill(bad.to_owned()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.fields()),
            (400, vec!["Idempotency-Key".to_owned()]),
            "{bad}"
        );
    }
    kill("x".repeat(255)).await.accepted();
}
