//! The example of octopus_server's own handler, on a real Postgres.

#[path = "../../shared/examples/octopus_server_handler.rs"]
#[expect(dead_code, reason = "its main is what `cargo run --example` starts")]
mod example;

use octopus_tests::api::Api;
use octopus_tests::function::declare;
use octopus_tests::postgres::Database;

#[tokio::test]
async fn octopus_server_can_start_a_process_without_an_http_call() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    declare(&api, "translate").await;
    let started = example::enable(&database.api, "translate", "request-1").await.unwrap();
    let again = example::enable(&database.api, "translate", "request-1").await.unwrap();
    assert_eq!(
        started.summary.id, again.summary.id,
        "a repeated request starts nothing"
    );
    assert_eq!(started.summary.requested_by, "octopus_server");
    let seen = api.read(&format!("/api/v1/processes/{}", started.summary.id)).await;
    assert_eq!(seen["kind"], "service");
    let error = example::enable(&database.api, "unknown", "request-2")
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "404 there is no function unknown");
}
