//! Restart, update and scale: what is accepted, what becomes of the row, and who may change it.

use octopus_shared::command::CommandKind;
use octopus_shared::db::claim::{self, Claim, Outcome};
use octopus_shared::db::report::{self, Change, ReportError};
use octopus_shared::reason;
use octopus_tests::api::Api;
use octopus_tests::function::{claim as take, finish, manager, process as task, service};
use octopus_tests::postgres::Database;
use serde_json::{Value, json};
use uuid::Uuid;

async fn ask(api: &Api, process: Uuid, what: &str, body: Value) -> Value {
    api.post(&format!("/api/v1/processes/{process}/{what}"), &body)
        .await
        .accepted()
}

async fn next(database: &Database, instance: Uuid) -> Option<Claim> {
    claim::claim(&database.manager, instance, "default", &CommandKind::CLAIMED, 100)
        .await
        .unwrap()
        .pop()
}

#[tokio::test]
async fn changes_of_one_service_are_carried_out_one_at_a_time_and_in_order() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let process = service(&database, &api, instance).await;
    let restart = ask(&api, process, "restart", json!({})).await;
    let scale = ask(&api, process, "scale", json!({"replicas": 3})).await;
    let update = ask(&api, process, "update", json!({"revision": 1})).await;
    let kinds = [&restart, &scale, &update].map(|command| command["kind"].clone());
    assert_eq!(kinds, ["restart_process", "scale_process", "update_process"]);
    assert_eq!((&update["function"], &update["revision"]), (&json!("hello"), &json!(1)));
    assert_eq!(scale["waiting_for"]["command"], restart["id"]);

    for expected in [&restart, &scale, &update] {
        let claimed = next(&database, instance).await.unwrap();
        assert_eq!(expected["id"], json!(claimed.id));
        assert!(
            next(&database, instance).await.is_none(),
            "no other of the same process is taken meanwhile"
        );
        finish(&database.manager, &claimed, &Outcome::Succeeded).await.unwrap();
    }
    // A kill waits behind none of them.
    ask(&api, process, "restart", json!({})).await;
    next(&database, instance).await.unwrap();
    ask(&api, process, "kill", json!({})).await;
    assert_eq!(next(&database, instance).await.unwrap().kind, CommandKind::KillProcess);
}

#[tokio::test]
async fn a_change_is_stored_once_with_its_event_and_by_its_holder_only() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let process = service(&database, &api, instance).await;
    let path = format!("/api/v1/processes/{process}");
    let events = async || {
        api.read(&format!("{path}/events")).await["items"]
            .as_array()
            .unwrap()
            .clone()
    };
    let pool = &database.manager;

    ask(&api, process, "scale", json!({"replicas": 0})).await;
    let claimed = next(&database, instance).await.unwrap();
    assert_eq!(api.read(&path).await["replicas"], 1, "not before it is carried out");
    let stale = Claim {
        token: claimed.token - 1,
        ..claimed.clone()
    };
    let why = (reason::SCALE_REQUESTED, "0 pods instead of 1");
    let before = events().await.len();
    assert!(matches!(
        report::change(pool, &stale, process, &Change::Replicas(0), why).await,
        Err(ReportError::Fenced)
    ));
    assert_eq!(events().await.len(), before);
    // Twice: the second one finds it done.
    for _ in 0..2 {
        assert!(
            report::change(pool, &claimed, process, &Change::Replicas(0), why)
                .await
                .unwrap()
        );
    }
    report::scaled(pool, &claimed, process).await.unwrap();
    let shown = api.read(&path).await;
    assert_eq!(
        (&shown["replicas"], &shown["state"], &shown["reason"]),
        (&json!(0), &json!("pending"), &json!("scaled_to_zero"))
    );
    let told: Vec<_> = events().await.split_off(before);
    let told: Vec<_> = told.iter().map(|event| (&event["reason"], &event["message"])).collect();
    assert_eq!(
        told,
        [
            (&json!("scale_requested"), &json!("0 pods instead of 1")),
            (&json!("scaled_to_zero"), &json!("no pod of it is wanted"))
        ]
    );
    let manifest = api.get(&format!("{path}/manifest")).await.text();
    assert!(manifest.contains("replicas: 0"), "{manifest}");
    finish(pool, &claimed, &Outcome::Succeeded).await.unwrap();

    let restart = ask(&api, process, "restart", json!({})).await;
    let claimed = next(&database, instance).await.unwrap();
    let change = Change::Restart(claimed.created_at);
    let why = (reason::RESTART_REQUESTED, "new pods");
    for _ in 0..2 {
        assert!(report::change(pool, &claimed, process, &change, why).await.unwrap());
    }
    assert_eq!(api.read(&path).await["restarted_at"], restart["created_at"]);
    let row = report::process(pool, process).await.unwrap();
    assert!(row.wish().starts_with("1/"), "{}", row.wish());

    ask(&api, process, "kill", json!({})).await;
    assert!(
        !report::change(pool, &claimed, process, &Change::Replicas(2), why)
            .await
            .unwrap(),
        "it was asked to end"
    );
    assert_eq!(api.read(&path).await["replicas"], 0);
}

#[tokio::test]
async fn an_update_waits_for_its_image_and_fails_alone_when_there_will_be_none() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let process = service(&database, &api, instance).await;
    let declared = api
        .put("/api/v1/functions/hello", &json!({"source": "print('other')"}))
        .await
        .accepted();
    let update = ask(&api, process, "update", json!({})).await;
    assert_eq!(update["revision"], declared["revision"]);
    let path = format!("/api/v1/commands/{}", update["id"].as_str().unwrap());
    assert_eq!(update["waiting_for"]["what"], "image");

    let building = take(&database, instance, CommandKind::DeclareFunction).await;
    assert!(next(&database, instance).await.is_none());
    let revision = building.revision_id.unwrap();
    let why = ("unknown_package", "no such package", "spell it right");
    report::build_failed(&database.manager, &building, revision, why, "")
        .await
        .unwrap();
    let failed = api.read(&path).await;
    assert_eq!(
        (&failed["state"], &failed["reason"], &failed["message"]),
        (
            &json!("failed"),
            &json!("image_build_failed"),
            &json!("no such package")
        )
    );
    let shown = api.read(&format!("/api/v1/processes/{process}")).await;
    assert_eq!(
        (&shown["lifecycle"], &shown["state"], &shown["revision"]),
        (&json!("created"), &json!("starting"), &json!(1)),
        "the service runs on as it was"
    );
    let again = api
        .post(&format!("/api/v1/processes/{process}/update"), &json!({"revision": 2}))
        .await;
    assert_eq!((again.status.as_u16(), again.problem().as_str()), (409, "conflict"));
    assert_eq!(again.json()["remedy"], "spell it right");
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused_with_what_to_do() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let task = task(&api).await;
    take(&database, instance, CommandKind::DeclareFunction).await;
    let other = Database::new().await;
    let other_api = Api::start(&other).await;
    let other_instance = manager(&other).await;
    let service = service(&other, &other_api, other_instance).await;
    let changes = [
        ("restart", json!({})),
        ("update", json!({})),
        ("scale", json!({"replicas": 2})),
    ];
    for (what, body) in &changes {
        let refused = api.post(&format!("/api/v1/processes/{task}/{what}"), body).await;
        assert_eq!((refused.status.as_u16(), refused.problem().as_str()), (409, "conflict"));
        let remedy = refused.json()["remedy"].as_str().unwrap().to_owned();
        assert!(remedy.contains("/functions/hello/processes"), "{remedy}");
        let unknown = api
            .post(&format!("/api/v1/processes/{}/{what}", Uuid::nil()), body)
            .await;
        assert_eq!(
            (unknown.status.as_u16(), unknown.problem().as_str()),
            (404, "not-found")
        );
    }
    for (what, body, status) in [
        ("scale", json!({"replicas": 101}), 422),
        ("scale", json!({"replicas": -1}), 422),
        ("scale", json!({}), 422),
        ("scale", json!({"replicas": 1, "grace": 1}), 422),
        ("update", json!({"revision": 2}), 404),
        ("update", json!({"revision": "x"}), 422),
        ("restart", json!({"replicas": 1}), 422),
    ] {
        let refused = other_api
            .post(&format!("/api/v1/processes/{service}/{what}"), &body)
            .await;
        assert_eq!(refused.status.as_u16(), status, "{what} {body}: {}", refused.text());
    }
    ask(&other_api, service, "kill", json!({})).await;
    for (what, body) in &changes {
        let refused = other_api
            .post(&format!("/api/v1/processes/{service}/{what}"), body)
            .await;
        assert_eq!((refused.status.as_u16(), refused.problem().as_str()), (409, "conflict"));
        assert!(refused.json()["detail"].as_str().unwrap().contains("being ended"));
    }
    let stored: i64 =
        sqlx::query_scalar("select count(*) from command where kind like '%e_process' and kind <> 'kill_process'")
            .fetch_one(&database.owner)
            .await
            .unwrap();
    assert_eq!(stored, 0);
}

#[tokio::test]
async fn a_kill_ends_the_changes_that_wait() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let process = service(&database, &api, instance).await;
    let scale = ask(&api, process, "scale", json!({"replicas": 2})).await;
    ask(&api, process, "kill", json!({})).await;
    let kill = take(&database, instance, CommandKind::KillProcess).await;
    let verdict = octopus_shared::pod::Verdict::plain(octopus_shared::process::ProcessState::Killed);
    report::gone(&database.manager, &kill, process, &verdict).await.unwrap();
    let scale = api
        .read(&format!("/api/v1/commands/{}", scale["id"].as_str().unwrap()))
        .await;
    assert_eq!(
        (&scale["state"], &scale["reason"]),
        (&json!("cancelled"), &json!("kill_requested"))
    );
}

#[tokio::test]
async fn kinds_and_versions_that_a_manager_does_not_know_wait_and_say_so() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let process = service(&database, &api, instance).await;
    // As the release before registers, and claims.
    let old = [
        CommandKind::DeclareFunction,
        CommandKind::DeleteFunction,
        CommandKind::StartProcess,
        CommandKind::RetryProcess,
        CommandKind::KillProcess,
    ];
    sqlx::query("update manager set kinds = kinds - array['restart_process', 'update_process', 'scale_process']")
        .execute(&database.owner)
        .await
        .unwrap();
    let old_claims = async || {
        claim::claim(&database.manager, instance, "default", &old, 100)
            .await
            .unwrap()
    };
    let restart = ask(&api, process, "restart", json!({})).await;
    assert_eq!(restart["waiting_for"]["what"], "manager", "{restart}");
    assert!(old_claims().await.is_empty());
    // What both know is done meanwhile.
    let kill = ask(&api, process, "kill", json!({})).await;
    assert_eq!(json!(old_claims().await.pop().unwrap().id), kill["id"]);

    // A payload of a later release.
    let later = Uuid::now_v7();
    sqlx::query("insert into command (id, cluster, kind, version, function_name, revision_id, payload, requested_by)
                 select $1, cluster, kind, 2, 'later', gen_random_uuid(), payload, requested_by from command where kind = 'declare_function'")
        .bind(later)
        .execute(&database.owner)
        .await
        .unwrap();
    assert!(old_claims().await.is_empty());
    let shown = api.read(&format!("/api/v1/commands/{later}")).await;
    assert_eq!(
        (&shown["state"], &shown["waiting_for"]["what"]),
        (&json!("waiting"), &json!("manager"))
    );
    // The newer manager takes it.
    sqlx::query("update manager set kinds = kinds || '{\"declare_function\": 2}'")
        .execute(&database.owner)
        .await
        .unwrap();
    let shown = api.read(&format!("/api/v1/commands/{later}")).await;
    assert_eq!(shown["waiting_for"], Value::Null);
}
