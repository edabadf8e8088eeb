//! What a caller that is dropped leaves behind.

use futures::poll;
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
        // By looks and not by a time, which is longer than a quick server needs.
        let mut beginning = Box::pin(db::begin(&pool));
        let mut is_begun = false;
        for _ in 0..rand::rng().random_range(1..40) {
            is_begun |= !is_begun && poll!(&mut beginning).is_ready();
            tokio::task::yield_now().await;
        }
        dropped += u32::from(!is_begun);
        drop(beginning);
        // Held while it is looked at: what was dropped before it had a connection may still get one, and give it back.
        let mut connection = pool.acquire().await.unwrap();
        let process: i32 = sqlx::query_scalar("select pg_backend_pid()")
            .fetch_one(&mut *connection)
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
