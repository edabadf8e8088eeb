//! What ages out: commands by dropped days, with nothing that waits or is worked on in what is dropped.

use octopus_shared::command::CommandKind;
use octopus_shared::db::claim;
use octopus_tests::api::{Api, send};
use octopus_tests::function::{declare, manager};
use octopus_tests::postgres::Database;
use reqwest::Method;
use sqlx::AssertSqlSafe;

const KEEP_DAYS: i32 = 14;

async fn days(database: &Database) -> Vec<String> {
    sqlx::query_scalar(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'command'::regclass order by 1",
    )
    .fetch_all(&database.owner)
    .await
    .unwrap()
}

async fn run(database: &Database, statement: String) {
    sqlx::query(AssertSqlSafe(statement))
        .execute(&database.owner)
        .await
        .unwrap();
}

/// As if today's partition were of a day so long ago, and what is in it as old.
async fn age(database: &Database, by: i32) {
    let (today, then): (String, String) = sqlx::query_as(
        "select 'command' || to_char(now() at time zone 'utc', '_YYYYMMDD'),
                'command' || to_char((now() at time zone 'utc')::date - $1, '_YYYYMMDD')",
    )
    .bind(by)
    .fetch_one(&database.owner)
    .await
    .unwrap();
    run(database, format!("alter table {today} rename to {then}")).await;
    run(database, format!("alter table command detach partition {then}")).await;
    run(
        database,
        format!("update {then} set seq = seq - ({by}::bigint << 40), created_at = created_at - interval '{by} days'"),
    )
    .await;
    for queue in ["command_ready", "command_lease"] {
        run(database, format!("update {queue} set seq = seq - ({by}::bigint << 40)")).await;
    }
    run(
        database,
        format!("update idempotency set created_at = created_at - interval '{by} days'"),
    )
    .await;
    let first: String = sqlx::query_scalar("select (now() at time zone 'utc')::date - 1 || ''")
        .fetch_one(&database.owner)
        .await
        .unwrap();
    // The first partition has everything that came before; it makes room.
    let before = format!("command_{}", first.replace('-', ""));
    run(database, format!("alter table command detach partition {before}")).await;
    run(database, format!("drop table {before}")).await;
    run(
        database,
        format!(
            "do $$ begin execute format('alter table command attach partition {then} for values from (%L) to (%L)',
             day_begins((now() at time zone 'utc')::date - {by}), day_begins((now() at time zone 'utc')::date - {by} + 1)); end $$"
        ),
    )
    .await;
}

#[tokio::test]
async fn commands_of_days_long_ago_go_unless_something_of_them_is_open() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let command = declare(&api, "hello").await;
    let path = format!("/api/v1/commands/{}", command["id"].as_str().unwrap());
    let keyed = api.request(Method::DELETE, "/api/v1/functions/hello", &api.admin);
    send(keyed.header("Idempotency-Key", "once")).await.accepted();
    age(&database, KEEP_DAYS + 2).await;

    claim::maintain_partitions(&database.manager, KEEP_DAYS).await.unwrap();
    let kept = days(&database).await;
    assert_eq!(api.get(&path).await.status, 200, "it waits, whatever its age: {kept:?}");

    let instance = manager(&database).await;
    let held = claim::claim(&database.manager, instance, "default", &CommandKind::CLAIMED, 10)
        .await
        .unwrap();
    assert_eq!(held.len(), 2);
    claim::maintain_partitions(&database.manager, KEEP_DAYS).await.unwrap();
    assert_eq!(days(&database).await, kept, "it is worked on");

    for claim in &held {
        claim::finish(
            &database.manager,
            &[(claim.seq, claim.token, &claim::Outcome::Succeeded)],
        )
        .await
        .unwrap();
    }
    claim::maintain_partitions(&database.manager, KEEP_DAYS).await.unwrap();
    assert_eq!(days(&database).await.len(), kept.len() - 1);
    assert_eq!(api.get(&path).await.status, 404);
    let keys: i64 = sqlx::query_scalar("select count(*) from idempotency")
        .fetch_one(&database.owner)
        .await
        .unwrap();
    assert_eq!(keys, 0, "a key goes with its command");
    declare(&api, "hello").await;
}

#[tokio::test]
async fn without_managers_a_day_goes_on_and_no_command_falls_outside() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    age(&database, KEEP_DAYS + 2).await;
    // The sequence stands where nobody has moved it since.
    run(
        &database,
        format!(
            "select setval('command_seq', day_begins((now() at time zone 'utc')::date - {}))",
            KEEP_DAYS + 2
        ),
    )
    .await;
    declare(&api, "late").await;
    let outside: i64 = sqlx::query_scalar("select count(*) from command_default")
        .fetch_one(&database.owner)
        .await
        .unwrap();
    assert_eq!(outside, 0);
    let instance = manager(&database).await;
    let held = claim::claim(&database.manager, instance, "default", &CommandKind::CLAIMED, 10)
        .await
        .unwrap();
    claim::finish(
        &database.manager,
        &[(held[0].seq, held[0].token, &claim::Outcome::Succeeded)],
    )
    .await
    .unwrap();
    let before = days(&database).await.len();

    claim::maintain_partitions(&database.manager, KEEP_DAYS).await.unwrap();
    assert_eq!(
        days(&database).await.len(),
        before + 1,
        "today's is made, and what is young stays, whatever its partition's name"
    );
    declare(&api, "next").await;
    let today: i64 =
        sqlx::query_scalar("select count(*) from command where seq >= day_begins((now() at time zone 'utc')::date)")
            .fetch_one(&database.owner)
            .await
            .unwrap();
    assert_eq!(today, 1);
}

#[tokio::test]
async fn who_reads_and_who_drops_do_not_wait_for_each_other() {
    let database = Database::new().await;
    age(&database, KEEP_DAYS + 2).await;
    // Today's is made, and nothing dropped yet.
    claim::maintain_partitions(&database.manager, 10 * KEEP_DAYS)
        .await
        .unwrap();
    let before = days(&database).await.len();
    let mut reading = database.api.begin_with("begin").await.unwrap();
    // The first of the locks that every statement about commands takes, one after the other.
    sqlx::query("lock table only command in access share mode")
        .execute(&mut *reading)
        .await
        .unwrap();
    let manager = database.manager.clone();
    let dropping = tokio::spawn(async move { claim::maintain_partitions(&manager, KEEP_DAYS).await });
    let waiting = "select exists (select from pg_locks l join pg_database d on d.oid = l.database
                                   where d.datname = current_database() and not l.granted)";
    while !sqlx::query_scalar::<_, bool>(waiting)
        .fetch_one(&database.owner)
        .await
        .unwrap()
    {
        tokio::task::yield_now().await;
    }
    sqlx::query("set local lock_timeout = '500ms'")
        .execute(&mut *reading)
        .await
        .unwrap();
    sqlx::query("select from command").execute(&mut *reading).await.unwrap();
    reading.commit().await.unwrap();
    dropping.await.unwrap().unwrap();
    claim::maintain_partitions(&database.manager, KEEP_DAYS).await.unwrap();
    assert_eq!(days(&database).await.len(), before - 1);
}
