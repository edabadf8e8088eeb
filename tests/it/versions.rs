//! Rows and managers of other releases: what a manager does not know waits for one that does and says so, the rest is done.

use octopus_shared::command::CommandKind;
use octopus_shared::db::claim;
use octopus_tests::api::Api;
use octopus_tests::function::{build, claim as take, declare, manager};
use octopus_tests::postgres::Database;
use serde_json::{Value, json};
use uuid::Uuid;

/// A living manager of another release, as far as its row says.
async fn other_release(database: &Database, version: &str, kinds: Value) {
    sqlx::query(
        "insert into manager (instance, cluster, version, host, kinds, lease_until)
         values (gen_random_uuid(), 'default', $1, 'test', $2, now() + interval '1 hour')",
    )
    .bind(version)
    .bind(kinds)
    .execute(&database.owner)
    .await
    .unwrap();
}

/// A command as a newer API stores it, in a newer schema whose trigger knows it.
async fn newer_command(database: &Database, kind: &str, version: i16) -> Uuid {
    let id = Uuid::now_v7();
    let mut transaction = octopus_shared::db::begin(&database.owner).await.unwrap();
    sqlx::query("alter table command disable trigger user")
        .execute(&mut *transaction)
        .await
        .unwrap();
    sqlx::query(
        "with made as (
             insert into command (id, cluster, kind, version, requested_by) values ($1, 'default', $2, $3, 'test') returning *
         )
         insert into command_ready (seq, cluster, kind, version, key, priority)
         select seq, cluster, kind, version, 'newer:' || seq, 0 from made",
    )
    .bind(id)
    .bind(kind)
    .bind(version)
    .execute(&mut *transaction)
    .await
    .unwrap();
    sqlx::query("alter table command enable trigger user")
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    id
}

#[tokio::test]
async fn what_only_a_newer_manager_knows_waits_for_it_and_the_rest_is_done() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let newer = [
        newer_command(&database, "hibernate_process", 1).await,
        newer_command(&database, "start_process", 2).await,
    ];
    let declared = declare(&api, "hello").await;
    let taken = claim::claim(&database.manager, instance, "default", &CommandKind::CLAIMED, 10)
        .await
        .unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(json!(taken[0].id), declared["id"]);
    build(&database, &taken[0]).await;
    let shown = async |id: Uuid| api.read(&format!("/api/v1/commands/{id}")).await;
    for id in newer {
        let waits = shown(id).await;
        assert_eq!(
            (&waits["state"], &waits["waiting_for"]["what"]),
            (&json!("waiting"), &json!("manager")),
            "{waits}"
        );
    }
    assert_eq!(shown(newer[0]).await["kind"], "hibernate_process");
    let cluster = api.read("/api/v1/clusters/default").await;
    assert_eq!(cluster["queue"]["waiting"], 2, "{cluster}");

    other_release(&database, "9.0.0", json!({"hibernate_process": 1, "start_process": 2})).await;
    for id in newer {
        let waits = shown(id).await;
        assert_eq!(waits["waiting_for"], Value::Null, "{waits}");
    }
    let left = claim::claim(&database.manager, instance, "default", &CommandKind::CLAIMED, 10).await;
    assert!(left.unwrap().is_empty());
}

#[tokio::test]
async fn what_an_older_manager_does_not_know_waits_for_one_that_does() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    other_release(&database, "0.0.1", json!({"declare_function": 0, "kill_process": 1})).await;
    let declared = declare(&api, "hello").await;
    assert_eq!(declared["waiting_for"]["what"], "manager", "{declared}");
    let instance = manager(&database).await;
    let path = format!("/api/v1/commands/{}", declared["id"].as_str().unwrap());
    assert_eq!(api.read(&path).await["waiting_for"], Value::Null);
    build(
        &database,
        &take(&database, instance, CommandKind::DeclareFunction).await,
    )
    .await;
    assert_eq!(api.read(&path).await["state"], "succeeded");
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_given_back_and_what_is_held_stays() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    declare(&api, "one").await;
    let held = take(&database, instance, CommandKind::DeclareFunction).await;
    declare(&api, "two").await;
    // Nobody hears of it.
    let lost = take(&database, instance, CommandKind::DeclareFunction).await;
    let given = claim::give_up(&database.manager, instance, &[held.seq]).await.unwrap();
    assert_eq!(given, 1);
    let again = take(&database, instance, CommandKind::DeclareFunction).await;
    assert_eq!(again.seq, lost.seq);
    assert!(again.token > lost.token);
    build(&database, &held).await;
}

#[tokio::test]
async fn a_schema_that_is_too_old_is_named() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let readiness = async || {
        let answer = reqwest::get(format!("{}/readyz", api.url)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(readiness().await.0, 200);
    sqlx::query(
        "update _sqlx_migrations set success = false where version = (select max(version) from _sqlx_migrations)",
    )
    .execute(&database.owner)
    .await
    .unwrap();
    let (status, text) = readiness().await;
    assert_eq!(status, 503);
    assert!(
        text.contains("octopus-api migrate") && text.contains("this release needs"),
        "{text}"
    );
}
