//! Who watches what of a cluster: the shards of its processes, divided among the managers whose lease goes on.

use sqlx::PgPool;
use uuid::Uuid;

use crate::db::report::Watch;
use crate::shard::{self, Division};

/// How the shards of a cluster are divided at the moment.
///
/// # Errors
/// When Postgres is away.
pub async fn division(pool: &PgPool, instance: Uuid, cluster: &str) -> Result<Division, sqlx::Error> {
    let row = sqlx::query!(
        r#"with live as (select w.instance, w.shards from watch_lease w join manager m using (instance)
                          where w.cluster = $1 and m.lease_until > now()),
                held as (select instance, unnest(shards) as shard from live)
           select (select count(*) from live where instance <> $2) as "others!",
                  exists (select from live where instance = $2) as "takes_part!",
                  array(select shard from held where instance = $2 order by shard) as "held!",
                  array(select s::smallint from generate_series(0, $3::integer - 1) s
                         where s not in (select shard from held) order by s) as "free!""#,
        cluster,
        instance,
        i32::from(shard::COUNT)
    )
    .fetch_one(pool)
    .await?;
    Ok(Division {
        managers: 1 + usize::try_from(row.others).unwrap_or_default(),
        takes_part: row.takes_part,
        held: row.held,
        free: row.free,
    })
}

/// Takes part no more: what this manager held is free.
///
/// # Errors
/// When Postgres is away.
pub async fn leave(pool: &PgPool, instance: Uuid, cluster: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from watch_lease where cluster = $1 and instance = $2",
        cluster,
        instance
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Takes part, gives up the shards that are not among `wanted`, and takes those that are, as far as no live manager has them.
/// Answers the right to all that is held now, which may be nothing, by a new token: what was begun under the one before writes
/// nothing more. None: our lease has ended.
///
/// # Errors
/// When Postgres is away.
pub async fn divide(
    pool: &PgPool,
    instance: Uuid,
    cluster: &str,
    wanted: &[i16],
) -> Result<Option<Watch>, sqlx::Error> {
    let mut transaction = crate::db::begin(pool).await?;
    // One at a time, and what follows sees what the one before has done.
    sqlx::query!("select pg_advisory_xact_lock(hashtext('watch ' || $1))", cluster)
        .execute(&mut *transaction)
        .await?;
    // Waits for what the dead ones are still writing.
    sqlx::query!(
        "delete from watch_lease w where w.cluster = $1
            and (w.instance = $2 or not exists (select from manager m where m.instance = w.instance and m.lease_until > now()))",
        cluster,
        instance
    )
    .execute(&mut *transaction)
    .await?;
    let held = sqlx::query!(
        r#"insert into watch_lease (cluster, instance, shards, token)
           select $1, $2,
                  array(select s from unnest($3::smallint[]) s
                         where not exists (select from watch_lease w where w.cluster = $1 and s = any(w.shards)) order by s),
                  nextval('fencing_token')
            where exists (select from manager m where m.instance = $2 and m.lease_until > now())
           returning shards, token"#,
        cluster,
        instance,
        wanted
    )
    .fetch_optional(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(held.map(|row| Watch {
        cluster: cluster.to_owned(),
        shards: row.shards,
        token: row.token,
        spool: None,
    }))
}
