//! A manager that is newer than the schema says what has to be done, and goes on when it is.

use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;

use crate::functions::{WORK, small};

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_waits_for_its_schema_and_says_so() {
    let stack = Stack::start("schema").await;
    let newest = async |applied: bool| {
        let set =
            "update _sqlx_migrations set success = $1 where version = (select max(version) from _sqlx_migrations)";
        sqlx::query(set).bind(applied).execute(&stack.owner).await.unwrap();
    };
    newest(false).await;
    let manager = stack.manager().await;
    until("readiness to name the remedy", 30, async || {
        let (ready, text) = manager.readiness().await?;
        (!ready && text.contains("run `octopus-api migrate`")).then_some(())
    })
    .await;
    let command = stack.client.declare("work", WORK, small()).await;
    let shown = stack.client.get(&format!("/api/v1/commands/{command}")).await;
    assert_eq!(shown["waiting_for"]["what"], "manager", "{shown}");
    newest(true).await;
    assert_eq!(stack.client.ended(command, 60).await["state"], "succeeded");
}
