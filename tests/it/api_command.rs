//! Long polls: woken, not polled.

use std::time::{Duration, Instant};

use octopus_shared::command::CommandKind;
use octopus_shared::db::claim::Outcome;
use octopus_shared::db::{CHANGE_CHANNEL, COMMAND_CHANNEL, notify};
use octopus_tests::api::Api;
use octopus_tests::function::{claim, declare, finish, manager};
use octopus_tests::postgres::Database;
use serde_json::json;
use sqlx::postgres::PgListener;

#[tokio::test]
async fn a_long_poll_ends_when_its_command_does() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let mut took = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        declare(&api, name).await;
        let claimed = claim(&database, instance, CommandKind::DeclareFunction).await;
        let address = format!("/api/v1/commands/{}?wait=20", claimed.id);
        let ending = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let outcome = Outcome::Failed {
                reason: "r".into(),
                message: "m".into(),
                remedy: "do".into(),
            };
            finish(&database.manager, &claimed, &outcome).await.unwrap();
            let ended = Instant::now();
            notify(&database.manager, CHANGE_CHANNEL, &claimed.id.to_string())
                .await
                .unwrap();
            ended
        };
        let reading = async { (api.read(&address).await, Instant::now()) };
        let (ended, (command, answered)) = tokio::join!(ending, reading);
        assert_eq!(
            (&command["state"], &command["reason"], &command["remedy"]),
            (&json!("failed"), &json!("r"), &json!("do"))
        );
        took.push(answered - ended);
    }
    took.sort();
    assert!(
        took[2] < Duration::from_millis(300),
        "half of them took {:?}: polled, not woken",
        took[2]
    );
}

#[tokio::test]
async fn a_long_poll_ends_without_an_announcement_and_without_an_end() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    declare(&api, "a").await;
    let claimed = claim(&database, instance, CommandKind::DeclareFunction).await;
    let address = format!("/api/v1/commands/{}", claimed.id);
    let started = Instant::now();
    assert_eq!(api.read(&format!("{address}?wait=1")).await["state"], "running");
    assert!(started.elapsed() >= Duration::from_secs(1));
    let silent = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        finish(&database.manager, &claimed, &Outcome::Succeeded).await.unwrap();
    };
    let address = format!("{address}?wait=20");
    let ((), command) = tokio::join!(silent, api.read(&address));
    assert_eq!(command["state"], "succeeded");
    assert!(started.elapsed() < Duration::from_secs(10), "the fallback polls");
}

#[tokio::test]
async fn a_stored_command_is_announced_to_managers() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let mut listener = PgListener::connect(&database.url).await.unwrap();
    listener.listen(COMMAND_CHANNEL).await.unwrap();
    let started = Instant::now();
    declare(&api, "a").await;
    let heard = tokio::time::timeout(Duration::from_secs(5), listener.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(heard.payload(), "default");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_long_poll_survives_the_loss_of_the_listening_connection() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    declare(&api, "a").await;
    let claimed = claim(&database, instance, CommandKind::DeclareFunction).await;
    let cut = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let query = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                      where datname = current_database() and pid <> pg_backend_pid() and query ilike 'listen%'";
        let ended: i64 = sqlx::query_scalar(query).fetch_one(&database.owner).await.unwrap();
        assert_eq!(ended, 1);
        finish(&database.manager, &claimed, &Outcome::Succeeded).await.unwrap();
    };
    let address = format!("/api/v1/commands/{}?wait=20", claimed.id);
    let ((), command) = tokio::join!(cut, api.read(&address));
    assert_eq!(command["state"], "succeeded");
}

#[tokio::test]
async fn stopping_ends_long_polls_and_streams() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let declared = declare(&api, "a").await;
    let mut feed = api.events("/api/v1/events", None).await;
    feed.next().await.unwrap();
    let address = format!("/api/v1/commands/{}?wait=60", declared["id"].as_str().unwrap());
    let request = api.request(reqwest::Method::GET, &address, &api.viewer);
    let polling = tokio::spawn(octopus_tests::api::send(request));
    tokio::time::sleep(Duration::from_millis(300)).await;
    tokio::time::timeout(Duration::from_secs(5), api.stop()).await.unwrap();
    assert_eq!(polling.await.unwrap().json()["state"], "waiting");
    assert_eq!(feed.next().await, None);
}
