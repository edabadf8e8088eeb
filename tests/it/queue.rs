//! Deadlines of commands, and failed ones that are put back into the queue.

use octopus_shared::command::CommandKind;
use octopus_shared::db::claim::{self, Claim, Outcome};
use octopus_shared::db::report;
use octopus_tests::api::Api;
use octopus_tests::function::{build, claim as take, declare, finish, manager, service};
use octopus_tests::postgres::Database;
use serde_json::{Value, json};

async fn command(api: &Api, id: &Value) -> Value {
    api.read(&format!("/api/v1/commands/{}", id.as_str().unwrap())).await
}

async fn requeue(api: &Api, id: &Value) -> octopus_tests::api::Answer {
    api.post(
        &format!("/api/v1/commands/{}/requeue", id.as_str().unwrap()),
        &json!({}),
    )
    .await
}

async fn fail(database: &Database, claimed: &Claim) {
    let outcome = Outcome::Failed {
        reason: "rejected_by_cluster".into(),
        message: "no".into(),
        remedy: "do".into(),
    };
    assert!(finish(&database.manager, claimed, &outcome).await.unwrap());
}

/// Lets the time of every deadline pass.
async fn pass(database: &Database) {
    sqlx::query("update command_ready set deadline = now() - interval '1 second' where deadline is not null")
        .execute(&database.owner)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_nobody_begins_in_time_fails() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let late = api
        .put(
            "/api/v1/functions/late?deadline_seconds=60",
            &json!({"source": "print(1)"}),
        )
        .await
        .accepted();
    let started = api
        .post(
            "/api/v1/functions/late/processes?deadline_seconds=60",
            &json!({"kind": "task"}),
        )
        .await
        .accepted();
    assert!(started["deadline"].as_str().unwrap() > started["created_at"].as_str().unwrap());
    assert_eq!(declare(&api, "patient").await["deadline"], Value::Null);
    assert!(
        claim::expire(&database.manager).await.unwrap().is_empty(),
        "there is time"
    );

    pass(&database).await;
    let begun = claim::claim(&database.manager, instance, "default", &CommandKind::CLAIMED, 10)
        .await
        .unwrap();
    assert_eq!(begun.len(), 1, "what is too late is not begun: {begun:?}");
    assert_eq!(begun[0].function_name.as_deref(), Some("patient"));
    let expired = claim::expire(&database.manager).await.unwrap();
    for id in [&late["id"], &started["id"], &started["process_id"]] {
        assert!(expired.iter().any(|expired| json!(expired) == *id), "{id} {expired:?}");
    }
    assert!(claim::expire(&database.manager).await.unwrap().is_empty());
    for id in [&late["id"], &started["id"]] {
        let ended = command(&api, id).await;
        let reasons = ["command_deadline_exceeded", "image_build_failed"];
        assert_eq!(ended["state"], "failed");
        assert!(reasons.contains(&ended["reason"].as_str().unwrap()), "{ended}");
        assert!(!ended["remedy"].as_str().unwrap().is_empty());
    }
    let process = api
        .read(&format!(
            "/api/v1/processes/{}",
            started["process_id"].as_str().unwrap()
        ))
        .await;
    assert_eq!(
        (&process["lifecycle"], &process["state"]),
        (&json!("gone"), &json!("failed"))
    );
}

#[tokio::test]
async fn what_is_begun_in_time_may_take_its_time() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let process = service(&database, &api, instance).await;
    let path = format!("/api/v1/processes/{process}/restart?deadline_seconds=1");
    let restart = api.post(&path, &json!({})).await.accepted();
    let claimed = take(&database, instance, CommandKind::RestartProcess).await;
    assert!(
        claim::give_back(&database.manager, &claimed, std::time::Duration::ZERO, true)
            .await
            .unwrap()
    );
    pass(&database).await;
    assert!(claim::expire(&database.manager).await.unwrap().is_empty());
    assert_eq!(command(&api, &restart["id"]).await["state"], "waiting");
    take(&database, instance, CommandKind::RestartProcess).await;
}

#[tokio::test]
async fn a_deadline_belongs_to_what_can_be_late() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let process = service(&database, &api, instance).await;
    for (path, status, field) in [
        (
            format!("processes/{process}/kill?deadline_seconds=5"),
            422,
            "deadline_seconds",
        ),
        (
            format!("processes/{process}/restart?deadline_seconds=0"),
            422,
            "deadline_seconds",
        ),
        (
            format!("processes/{process}/restart?deadline_seconds=604801"),
            422,
            "deadline_seconds",
        ),
        (
            format!("processes/{process}/restart?deadline_seconds=soon"),
            400,
            "deadline_seconds",
        ),
    ] {
        let refused = api.post(&format!("/api/v1/{path}"), &json!({})).await;
        assert_eq!(refused.status.as_u16(), status, "{path}: {}", refused.text());
        assert_eq!(refused.fields(), [field], "{path}: {}", refused.text());
    }
    // Another deadline is another request.
    let ask = async |seconds: &str| {
        let path = format!("/api/v1/processes/{process}/restart?deadline_seconds={seconds}");
        let request = api
            .request(reqwest::Method::POST, &path, &api.admin)
            .header("idempotency-key", "one");
        octopus_tests::api::send(request).await
    };
    let first = ask("60").await.accepted();
    assert_eq!(ask("60").await.accepted()["id"], first["id"]);
    assert_eq!(ask("61").await.problem(), "idempotency-key-reused");
}

#[tokio::test]
async fn a_failed_change_is_carried_out_again_and_its_failure_is_kept() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let process = service(&database, &api, instance).await;
    let scale = api
        .post(&format!("/api/v1/processes/{process}/scale"), &json!({"replicas": 2}))
        .await
        .accepted();
    assert_eq!(
        requeue(&api, &scale["id"]).await.problem(),
        "conflict",
        "it has not failed"
    );
    fail(&database, &take(&database, instance, CommandKind::ScaleProcess).await).await;
    assert_eq!(command(&api, &scale["id"]).await["failures"], Value::Null);

    let asked = requeue(&api, &scale["id"]).await.accepted();
    assert_eq!(
        (&asked["kind"], &asked["state"], &asked["target_command"]),
        (&json!("requeue_command"), &json!("succeeded"), &scale["id"])
    );
    let again = command(&api, &scale["id"]).await;
    assert_eq!((&again["state"], &again["reason"]), (&json!("waiting"), &Value::Null));
    let kept = &again["failures"][0];
    assert_eq!(
        (&kept["reason"], &kept["message"], &kept["remedy"], &kept["requeued_by"]),
        (
            &json!("rejected_by_cluster"),
            &json!("no"),
            &json!("do"),
            &asked["requested_by"]
        )
    );
    let claimed = take(&database, instance, CommandKind::ScaleProcess).await;
    assert_eq!((json!(claimed.id), claimed.attempts), (scale["id"].clone(), 0));
    finish(&database.manager, &claimed, &Outcome::Succeeded).await.unwrap();
    let done = command(&api, &scale["id"]).await;
    assert_eq!(
        (&done["state"], &done["failures"]),
        (&json!("succeeded"), &again["failures"])
    );
    assert_eq!(requeue(&api, &scale["id"]).await.problem(), "conflict");
}

#[tokio::test]
async fn a_change_does_not_overtake_a_later_one_by_being_put_back() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let process = service(&database, &api, instance).await;
    let scale = async |replicas: i32| {
        let path = format!("/api/v1/processes/{process}/scale");
        api.post(&path, &json!({ "replicas": replicas })).await.accepted()["id"].clone()
    };
    let (first, second) = (scale(2).await, scale(3).await);
    fail(&database, &take(&database, instance, CommandKind::ScaleProcess).await).await;
    // The later one still waits: the first goes back before it.
    requeue(&api, &first).await.accepted();
    let claimed = take(&database, instance, CommandKind::ScaleProcess).await;
    assert_eq!(json!(claimed.id), first);
    fail(&database, &claimed).await;
    let claimed = take(&database, instance, CommandKind::ScaleProcess).await;
    assert_eq!(json!(claimed.id), second);
    for step in ["begun", "done"] {
        let refused = requeue(&api, &first).await;
        assert_eq!(
            (refused.status.as_u16(), refused.problem().as_str()),
            (409, "conflict"),
            "{step}"
        );
        assert!(refused.json()["remedy"].as_str().unwrap().contains("anew"), "{step}");
        finish(&database.manager, &claimed, &Outcome::Succeeded).await.unwrap();
    }
}

#[tokio::test]
async fn a_failed_build_is_made_again_and_a_failed_start_is_over() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let declared = declare(&api, "hello").await;
    let started = octopus_tests::function::start(&api, "hello").await;
    let building = take(&database, instance, CommandKind::DeclareFunction).await;
    let why = ("registry_or_index_unreachable", "away", "wait");
    let revision = building.revision_id.unwrap();
    report::build_failed(&database.manager, &building, revision, why, "log")
        .await
        .unwrap();
    fail(&database, &building).await;

    let refused = requeue(&api, &started["id"]).await;
    assert_eq!(refused.problem(), "conflict");
    assert!(refused.json()["remedy"].as_str().unwrap().contains("Start another"));
    requeue(&api, &declared["id"]).await.accepted();
    let shown = api.read("/api/v1/functions/hello").await;
    assert_eq!(shown["revisions"][0]["build_state"], "pending", "{shown}");
    build(
        &database,
        &take(&database, instance, CommandKind::DeclareFunction).await,
    )
    .await;
    assert_eq!(command(&api, &declared["id"]).await["state"], "succeeded");
    // What starts now finds the image.
    octopus_tests::function::start(&api, "hello").await;
    take(&database, instance, CommandKind::StartProcess).await;
}

#[tokio::test]
async fn an_unknown_command_cannot_be_put_back_and_a_viewer_may_not() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let nobody = json!(uuid::Uuid::nil());
    assert_eq!(requeue(&api, &nobody).await.problem(), "not-found");
    let path = format!("/api/v1/commands/{}/requeue", uuid::Uuid::nil());
    let viewer = octopus_tests::api::send(api.request(reqwest::Method::POST, &path, &api.viewer)).await;
    assert_eq!(viewer.problem(), "forbidden");
}
