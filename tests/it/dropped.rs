//! What a caller that is dropped leaves behind.

use std::time::Duration;

use octopus_shared::db;
use octopus_tests::postgres::Database;
use rand::RngExt;
use sqlx::postgres::PgPoolOptions;

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_dropped_on_its_way_leaves_no_connection_in_it() {
    let database = Database::empty().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&database.url)
        .await
        .unwrap();
    let mut dropped = 0;
    for _ in 0..300 {
        let patience = Duration::from_micros(rand::rng().random_range(0..1500));
        dropped += u32::from(tokio::time::timeout(patience, db::begin(&pool)).await.is_err());
        let process: i32 = sqlx::query_scalar("select pg_backend_pid()")
            .fetch_one(&pool)
            .await
            .unwrap();
        let state: String = sqlx::query_scalar("select state from pg_stat_activity where pid = $1")
            .bind(process)
            .fetch_one(&database.owner)
            .await
            .unwrap();
        assert!(!state.contains("transaction"), "{state}");
    }
    assert!(dropped > 10, "{dropped}");
}
