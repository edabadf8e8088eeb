//! Who of a cluster's managers watches which shards: never two of them one, and soon none nobody's.

use std::time::Duration;

use octopus_shared::db::claim;
use octopus_shared::db::report::{self, ReportError, Watch};
use octopus_shared::shard;
use octopus_tests::function::manager;
use octopus_tests::postgres::Database;
use sqlx::PgPool;
use uuid::Uuid;

/// A manager looks, and changes what it holds where that is not its part.
async fn look(pool: &PgPool, instance: Uuid) -> Option<Watch> {
    let division = claim::division(pool, instance, "default").await.unwrap();
    let wanted = division.wanted()?;
    claim::divide(pool, instance, "default", &wanted).await.unwrap()
}

async fn held(pool: &PgPool, instance: Uuid) -> Vec<i16> {
    claim::division(pool, instance, "default").await.unwrap().held
}

async fn may_write(pool: &PgPool, watch: &Watch) -> bool {
    match report::mark_missing(pool, watch, &[]).await {
        Ok(_) => true,
        Err(ReportError::Fenced) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn managers_share_a_cluster_and_inherit_from_the_dead() {
    let database = Database::new().await;
    let pool = &database.manager;
    let first = manager(&database).await;
    let alone = look(pool, first).await.unwrap();
    assert_eq!(alone.shards, (0..shard::COUNT).collect::<Vec<_>>());
    assert!(look(pool, first).await.is_none(), "it has all");

    // One that lives and does not reach the cluster takes no part.
    let second = manager(&database).await;
    assert!(look(pool, first).await.is_none(), "nobody else takes part");
    assert!(
        look(pool, second).await.unwrap().shards.is_empty(),
        "nothing is free yet"
    );
    assert!(may_write(pool, &alone).await);
    let half = look(pool, first).await.unwrap();
    assert_eq!(half.shards, [0, 1, 2, 3, 4, 5]);
    assert!(!may_write(pool, &alone).await, "what was begun with more shards");
    assert_eq!(look(pool, second).await.unwrap().shards, [6, 7, 8, 9, 10, 11]);
    assert!(may_write(pool, &half).await);
    assert!(look(pool, second).await.is_none(), "it has its part");

    // The second one does not reach the cluster any more.
    claim::leave(pool, second, "default").await.unwrap();
    assert_eq!(look(pool, first).await.unwrap().shards.len(), 12);
    assert!(look(pool, second).await.unwrap().shards.is_empty());
    let half = look(pool, first).await.unwrap();
    assert_eq!(look(pool, second).await.unwrap().shards.len(), 6);

    // A third one that does not live: its lease ended before it looked.
    let dead = Uuid::new_v4();
    claim::register(pool, dead, "default", "test", Duration::ZERO)
        .await
        .unwrap();
    assert!(look(pool, dead).await.is_none());
    assert_eq!(
        claim::divide(pool, dead, "default", &[0])
            .await
            .unwrap()
            .map(|watch| watch.shards),
        None
    );

    claim::sign_off(pool, first).await.unwrap();
    assert_eq!(look(pool, second).await.unwrap().shards.len(), 12);
    assert!(!may_write(pool, &half).await, "another one has its shards");
    assert!(held(pool, first).await.is_empty());
}

#[tokio::test]
async fn two_that_want_the_same_do_not_both_get_it() {
    let database = Database::new().await;
    let pool = &database.manager;
    let managers = [
        manager(&database).await,
        manager(&database).await,
        manager(&database).await,
    ];
    let all: Vec<i16> = (0..shard::COUNT).collect();
    for _ in 0..10 {
        let asked = managers.map(|instance| claim::divide(pool, instance, "default", &all));
        for answer in futures::future::join_all(asked).await {
            answer.unwrap();
        }
        let mut given: Vec<i16> = Vec::new();
        for instance in managers {
            given.extend(held(pool, instance).await);
        }
        given.sort_unstable();
        assert_eq!(given, all);
    }
}
