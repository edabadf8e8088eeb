//! Clients that fall silent in the middle of a transaction: what they hold is free again soon, and what they do not hold at once.

use std::time::Duration;

use octopus_shared::command::CommandKind;
use octopus_shared::db;
use octopus_shared::db::claim;
use octopus_tests::api::Api;
use octopus_tests::function::{build, claim as take, declare, manager, start};
use octopus_tests::postgres::Database;
use octopus_tests::stack::client::until;

#[tokio::test]
async fn a_transaction_that_was_left_alone_is_ended() {
    let database = Database::new().await;
    let pool = db::pool(&database.url, 2).unwrap();
    let mut silent = db::begin(&pool).await.unwrap();
    sqlx::query("lock table installation")
        .execute(&mut *silent)
        .await
        .unwrap();
    until("the lock to be free", 60, async || {
        let mut transaction = db::begin(&database.owner).await.unwrap();
        let locked = sqlx::query("lock table installation nowait");
        locked.execute(&mut *transaction).await.ok()
    })
    .await;
    assert!(silent.commit().await.is_err(), "it was ended, and not committed");
}

#[tokio::test]
async fn a_claim_that_a_dead_transaction_holds_delays_no_other() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    declare(&api, "hello").await;
    build(
        &database,
        &take(&database, instance, CommandKind::DeclareFunction).await,
    )
    .await;
    start(&api, "hello").await;
    let held = take(&database, instance, CommandKind::StartProcess).await;
    start(&api, "hello").await;
    take(&database, instance, CommandKind::StartProcess).await;
    let mut silent = db::begin(&database.owner).await.unwrap();
    sqlx::query("select from command_lease where seq = $1 for update")
        .bind(held.seq)
        .execute(&mut *silent)
        .await
        .unwrap();
    sqlx::query("update manager set lease_until = now() - interval '1 second'")
        .execute(&database.owner)
        .await
        .unwrap();
    let rescue = || tokio::time::timeout(Duration::from_secs(60), claim::rescue(&database.manager, "default"));
    assert_eq!(rescue().await.expect("nothing is waited for").unwrap().rescued, 1);
    silent.rollback().await.unwrap();
    assert_eq!(rescue().await.unwrap().unwrap().rescued, 1);
}
