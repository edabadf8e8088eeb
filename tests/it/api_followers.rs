//! Many followers of one process, counted by Postgres: its load does not rise with their number.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use futures::future::join_all;
use octopus_api::state::App;
use octopus_shared::db::{CHANGE_CHANNEL, notify};
use octopus_tests::api::Api;
use octopus_tests::function::process;
use octopus_tests::postgres::Database;
use octopus_tests::sse::Events;
use octopus_tests::stack::client::until;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::api_logs::{end, store};

const MANY: usize = 1000;
const CHUNKS: i64 = 20;

/// Statements that the API has asked this database for so far.
async fn statements(database: &Database) -> i64 {
    sqlx::query_scalar(
        "select coalesce(sum(calls), 0)::bigint from pg_stat_statements
          where dbid = (select oid from pg_database where datname = current_database()) and userid = 'octopus_api'::regrole",
    )
    .fetch_one(&database.owner)
    .await
    .unwrap()
}

async fn listening(database: &Database) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen %'",
    )
    .fetch_one(&database.owner)
    .await
    .unwrap()
}

async fn follow(router: &Router, process: Uuid, token: &str) -> Events {
    let request = Request::get(format!("/api/v1/processes/{process}/logs"))
        .header("authorization", format!("Bearer {token}"))
        .header("accept", "text/event-stream");
    let answer = router
        .clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    Events::of(answer.into_body().into_data_stream())
}

/// Stores a line, and waits until each follower has it.
async fn print(database: &Database, process: Uuid, seq: i64, followers: &mut [Events]) {
    store(database, process, seq, &[seq.to_string()]).await;
    notify(&database.manager, CHANGE_CHANNEL, &process.to_string())
        .await
        .unwrap();
    let seen = join_all(followers.iter_mut().map(Events::next)).await;
    assert!(
        seen.into_iter()
            .all(|event| event.unwrap().json()["line"].as_str() == Some(&seq.to_string())),
        "line {seq}"
    );
}

/// Statements that lines cost while so many follow, and their end.
async fn cost(database: &Database, router: &Router, process: Uuid, token: &str, number: usize) -> (i64, i64) {
    let mut followers = join_all((0..number).map(|_| follow(router, process, token))).await;
    // Once a line has come, each follows, and nothing of its beginning is counted.
    print(database, process, 1, &mut followers).await;
    let before = statements(database).await;
    for seq in 2..2 + CHUNKS {
        print(database, process, seq, &mut followers).await;
    }
    let lines = statements(database).await - before;
    end(database, process, json!([])).await;
    notify(&database.manager, CHANGE_CHANNEL, &process.to_string())
        .await
        .unwrap();
    let ends = join_all(followers.iter_mut().map(Events::next)).await;
    assert!(ends.into_iter().all(|event| event.unwrap().event == "end"));
    (lines, statements(database).await - before - lines)
}

/// The API, in this process.
async fn served(database: &Database) -> (Router, CancellationToken, JoinHandle<()>) {
    let stopping = CancellationToken::new();
    let app = App::new(database.api.clone(), stopping.clone()).unwrap();
    let listens = tokio::spawn(app.changes.listen(database.url.clone(), stopping.clone()));
    let router = octopus_api::routes::router(app);
    until("the API to listen", 10, async || {
        (listening(database).await == 1).then_some(())
    })
    .await;
    (router, stopping, listens)
}

async fn migrate(database: &Database) {
    let mut owner = database.owner.acquire().await.unwrap();
    octopus_api::admin::migrate::migrate(&mut owner).await.unwrap();
}

/// Postgres dies under them, more than once, and what is printed as soon as it is back may be announced to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn followers_that_wait_outlive_postgres() {
    let (database, server) = Database::apart().await;
    migrate(&database).await;
    let api = Api::start(&database).await;
    let (id, token) = (process(&api).await, api.viewer.clone());
    api.stop().await;
    let (router, stopping, listens) = served(&database).await;
    let mut followers = join_all((0..20).map(|_| follow(&router, id, &token))).await;
    print(&database, id, 1, &mut followers).await;
    for seq in 2..=4 {
        server.stop().await;
        // Each of the three looks that are made meanwhile fails.
        let silent = join_all(
            followers
                .iter_mut()
                .map(|events| events.is_silent(Duration::from_secs(3))),
        )
        .await;
        assert!(silent.into_iter().all(|silent| silent), "somebody was told something");
        server.start().await;
        print(&database, id, seq, &mut followers).await;
    }
    end(&database, id, json!([])).await;
    let ends = join_all(followers.iter_mut().map(Events::next)).await;
    assert!(ends.into_iter().all(|event| event.unwrap().event == "end"));
    stopping.cancel();
    listens.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_load_of_the_database_does_not_rise_with_the_number_of_followers() {
    let (database, _server) = Database::apart().await;
    migrate(&database).await;
    sqlx::raw_sql("create extension pg_stat_statements")
        .execute(&database.owner)
        .await
        .unwrap();
    let api = Api::start(&database).await;
    let (first, second, third) = (process(&api).await, process(&api).await, process(&api).await);
    let token = api.viewer.clone();
    api.stop().await;

    let (router, stopping, listens) = served(&database).await;
    let (one, end_of_one) = cost(&database, &router, first, &token, 1).await;
    let (many, end_of_many) = cost(&database, &router, second, &token, MANY).await;
    println!(
        "{CHUNKS} lines: {one} statements for one follower, {many} for {MANY}; their end: {end_of_one}, {end_of_many}"
    );
    assert!(one >= CHUNKS, "{one} statements for {CHUNKS} lines are not all");
    // A look each second or two is made beside those that are announced, and the many take longer.
    assert!(many <= one * 2, "{many} statements for {MANY} followers, {one} for one");
    assert!(
        end_of_many <= end_of_one * 2 + 4,
        "{end_of_many} statements, {end_of_one} for one"
    );
    assert_eq!(listening(&database).await, 1, "one connection listens for all");

    let mut followers = join_all((0..3).map(|_| follow(&router, third, &token))).await;
    print(&database, third, 1, &mut followers).await;
    drop(followers);
    until("nobody to look any more", 30, async || {
        let before = statements(&database).await;
        // Longer than the time after which a look is made without an announcement.
        tokio::time::sleep(Duration::from_secs(3)).await;
        (statements(&database).await == before).then_some(())
    })
    .await;
    stopping.cancel();
    listens.await.unwrap();
}
