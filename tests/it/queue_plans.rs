//! Plans that are made on empty tables have to fit whatever the tables hold later.

use octopus_shared::db::{self, view};
use octopus_tests::function::manager;
use octopus_tests::postgres::Database;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

/// More pages than a batch of fifty touches, of 20,000 that wait: some twenty for each command, and what was claimed and is still in
/// the index. A scan of a table touches its hundreds of pages for each of them.
const PAGES: i64 = 5000;

async fn run(connection: &mut PgConnection, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(connection)
        .await
        .unwrap();
}

async fn pages(connection: &mut PgConnection, query: &str) -> i64 {
    let explain = format!("explain (analyze, buffers, format json) {query}");
    let plan: Value = sqlx::query_scalar(AssertSqlSafe(explain))
        .fetch_one(connection)
        .await
        .unwrap();
    let count = |what: &str| plan[0]["Plan"][what].as_i64().unwrap();
    count("Shared Hit Blocks") + count("Shared Read Blocks")
}

/// Adds 20,000 commands that wait.
async fn fill(connection: &mut PgConnection) {
    run(
        connection,
        "set session_replication_role = replica;
         with added as (
             insert into command (id, cluster, kind, requested_by)
             select gen_random_uuid(), 'default', 'kill_process', 'test' from generate_series(1, 20000) returning *
         )
         insert into command_ready (seq, cluster, kind, version, key, priority)
         select seq, cluster, kind, version, 'kill:' || id, 0 from added;
         set session_replication_role = origin",
    )
    .await;
}

#[tokio::test]
async fn plans_that_were_made_on_empty_tables_fit_full_ones() {
    let database = Database::new().await;
    let instance = manager(&database).await;
    let claim =
        format!("select * from claim_commands('{instance}', 'default', array['kill_process'], 1::smallint, 0, 50)");
    let finish = "select finish_commands(array(select seq from command_lease order by seq),
                                         array(select token from command_lease order by seq),
                                         array_fill('succeeded'::text, array[50]), array_fill(null::text, array[50]),
                                         array_fill(null::text, array[50]), array_fill(null::text, array[50]))";
    let mut connection = database.owner.acquire().await.unwrap();
    let mut tables = vec!["command_ready".to_owned(), "command_lease".to_owned()];
    let days = "select inhrelid::regclass::text from pg_inherits where inhparent = 'command'::regclass";
    tables.extend(
        sqlx::query_scalar::<_, String>(days)
            .fetch_all(&mut *connection)
            .await
            .unwrap(),
    );
    for table in tables {
        // Known to be empty, which is worse than not known at all; and nothing makes the plans anew.
        run(
            &mut connection,
            &format!("alter table {table} set (autovacuum_enabled = off)"),
        )
        .await;
        run(&mut connection, &format!("vacuum analyze {table}")).await;
    }
    pages(&mut connection, &claim).await;
    pages(&mut connection, finish).await;
    fill(&mut connection).await;
    for _ in 0..300 {
        let claimed = pages(&mut connection, &claim).await;
        let finished = pages(&mut connection, finish).await;
        assert!(claimed < PAGES && finished < PAGES, "{claimed} and {finished} pages");
    }
    let left: i64 = sqlx::query_scalar("select count(*) from command_ready")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    assert_eq!(left, 5_000, "each batch was claimed and ended");
}

#[tokio::test]
async fn one_command_is_found_among_many_that_the_planner_does_not_know_of() {
    let database = Database::new().await;
    fill(&mut database.owner.acquire().await.unwrap()).await;
    let mut transaction = db::begin(&database.owner).await.unwrap();
    let newest: Uuid = sqlx::query_scalar("select id from command order by seq desc limit 1")
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    let read = "select coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint from pg_stat_xact_user_tables
                 where relname like 'command%'";
    let before: i64 = sqlx::query_scalar(read).fetch_one(&mut *transaction).await.unwrap();
    let command = view::command(&mut *transaction, newest).await.unwrap().unwrap();
    let after: i64 = sqlx::query_scalar(read).fetch_one(&mut *transaction).await.unwrap();
    assert_eq!(command.id, newest);
    assert!((1..20).contains(&(after - before)), "{} rows were read", after - before);
}
