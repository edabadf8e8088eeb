//! Managers of an empty database, and of a backup, on a cluster where services run: none is touched, and the cluster's row says
//! why. With the right database again everything goes on.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use reqwest::Url;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::functions::{PLAIN, small};
use crate::outages::soak;

/// Another database on the same server.
fn beside(stack: &Stack, name: &str) -> String {
    let mut url = Url::parse(&stack.database_url).unwrap();
    url.set_path(name);
    url.into()
}

async fn sql(url: &str, statement: String) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap();
}

/// Copies the database as it is, which nobody may use meanwhile.
async fn back_up(stack: &Stack, copy: &str) {
    let url = Url::parse(&stack.database_url).unwrap();
    let name = url.path().trim_start_matches('/');
    let server = beside(stack, "postgres");
    sql(&server, format!("alter database {name} with allow_connections false")).await;
    until("nobody to be connected", 30, async || {
        let mut connection = PgConnection::connect(&server).await.unwrap();
        let end = format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'");
        sqlx::raw_sql(AssertSqlSafe(end))
            .execute(&mut connection)
            .await
            .unwrap();
        let copy = format!("create database {copy} template {name}");
        sqlx::raw_sql(AssertSqlSafe(copy)).execute(&mut connection).await.ok()
    })
    .await;
    sql(&server, format!("alter database {name} with allow_connections true")).await;
    stack.client.ready().await;
}

/// Each pod: name, uid, how often its container was started, and its labels' and annotations' version.
async fn pods(stack: &Stack) -> Vec<(String, String, i32)> {
    let pods = stack.namespace.api::<Pod>().list(&ListParams::default()).await.unwrap();
    let mut pods: Vec<_> = pods
        .items
        .into_iter()
        .map(|pod| {
            let restarts = pod
                .status
                .and_then(|status| status.container_statuses)
                .unwrap_or_default();
            let restarts = restarts.iter().map(|status| status.restart_count).sum();
            (pod.metadata.name.unwrap(), pod.metadata.uid.unwrap(), restarts)
        })
        .collect();
    pods.sort();
    pods
}

/// Waits until a manager of a database has halted, and then for two more passes of it.
async fn halts(stack: &Stack, manager: usize, database: &str, why: &str) {
    let url = beside(stack, database);
    until(&format!("the cluster's row of {database} to say why"), 60, async || {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let said: Option<String> = sqlx::query_scalar("select reconcile_halted from cluster")
            .fetch_optional(&mut connection)
            .await
            .unwrap()
            .flatten();
        said.filter(|said| said.contains(why))
    })
    .await;
    until("two more passes", 60, async || {
        let log = std::fs::read_to_string(stack.logs().join(format!("manager-{manager}"))).unwrap();
        (log.matches("reconciling is halted").count() >= 3).then_some(())
    })
    .await;
}

/// Services that a small node starts at once.
const AT_ONCE: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_database_touches_nothing_and_says_why() {
    let services = if soak() { 50 } else { 5 };
    let (stack, _links) = Stack::linked("wrong-database").await;
    let manager = stack.manager().await;
    stack.client.build("plain", PLAIN, small()).await;
    back_up(&stack, "backup").await;
    let mut processes: Vec<Uuid> = Vec::new();
    for begun in (0..services).step_by(AT_ONCE) {
        for _ in 0..AT_ONCE {
            processes.push(stack.client.start("plain", json!({"kind": "service"})).await);
        }
        for process in &processes[begun..] {
            stack.client.shows(*process, "state", "ready", 300).await;
        }
    }
    let before = pods(&stack).await;
    assert_eq!(before.len(), services);
    assert!(manager.terminate().await);

    sql(&beside(&stack, "postgres"), "create database empty".into()).await;
    let mut empty = PgConnection::connect(&beside(&stack, "empty")).await.unwrap();
    octopus_api::admin::migrate::migrate(&mut empty).await.unwrap();
    let wrong = async |database: &str| {
        let url = stack.database_of_managers(database);
        stack.manager_with(&[("DATABASE_URL", &url)]).await
    };
    let managers = (wrong("backup").await, wrong("empty").await);
    // Numbered as they were started, after the token and the first one.
    halts(&stack, 2, "backup", "have no row in this database").await;
    halts(&stack, 3, "empty", "belong to another database").await;
    assert_eq!(pods(&stack).await, before);
    assert!(managers.0.terminate().await && managers.1.terminate().await);

    let right = stack.manager().await;
    until("the right one to watch", 30, async || {
        right.readiness().await.filter(|(ready, _)| *ready)
    })
    .await;
    for process in &processes {
        let shown = stack.client.process(*process).await;
        assert_eq!(shown["state"], "ready", "{shown}");
    }
    until("everything to be as it is wanted", 30, async || {
        stack.diff(&[]).await.0.then_some(())
    })
    .await;
    assert_eq!(pods(&stack).await, before);
    let halted: Option<String> = sqlx::query_scalar("select reconcile_halted from cluster")
        .fetch_one(&stack.owner)
        .await
        .unwrap();
    assert_eq!(halted, None);
    let kill = stack.client.kill(processes[0], json!({})).await;
    assert_eq!(stack.client.ended(kill, 120).await["state"], "succeeded");
}
