//! What is lost and what is late: claims of managers that died, and commands that nobody begins.

use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use crate::command::CommandKind;
use crate::reason;

/// A command that so many managers died with may be what kills them: each of them takes one such at a time ([`claim_suspect`]), so
/// that no other is taken for it. The migrations say the same number.
///
/// [`claim_suspect`]: super::claim_suspect
pub const SUSPECT: i32 = 3;
/// A command is taken over this often from managers that died with it; after that it is what kills them.
pub const MAX_RESCUES: i32 = 8;

/// What one cheap look at the queue of a cluster saw.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// A command waits whose time has come; whether it can be claimed is another question.
    pub waits: bool,
    /// There is something for [`rescue`].
    pub late: bool,
    /// There is something for [`claim_suspect`](super::claim_suspect), or will be.
    pub suspects: bool,
}

/// Whether there is anything to claim or to rescue: a single statement, for who asks again and again.
///
/// # Errors
/// When Postgres is away.
pub async fn look(pool: &PgPool, cluster: &str) -> Result<Seen, sqlx::Error> {
    sqlx::query_as!(
        Seen,
        r#"select exists (
                    select from command_ready where cluster = $1 and waits_for is null and run_at <= now()) as "waits!",
                  exists (
                    select from command_lease l join manager m on m.instance = l.instance
                     where l.cluster = $1 and m.lease_until <= now())
               or exists (select from command_ready where deadline <= now()) as "late!",
                  exists (
                    select from command_ready where cluster = $1 and rescues >= 3
                       and kind not in ('kill_process', 'delete_function')) as "suspects!""#,
        cluster
    )
    .fetch_one(pool)
    .await
}

/// Takes back what managers whose lease has ended still held. A command that was rescued too often fails instead: a start
/// then kills its process, since nobody knows how far it came, and a build fails its revision. A change of a service leaves
/// it as it is. A kill is rescued for ever.
/// What nobody has begun by its deadline fails in the same transaction.
///
/// # Errors
/// When Postgres is away.
pub async fn rescue(pool: &PgPool, cluster: &str) -> Result<Rescued, sqlx::Error> {
    let mut transaction = crate::db::begin(pool).await?;
    let rescued = sqlx::query!(
        // What a transaction of the dead one still holds is taken back when Postgres has ended that.
        "with held as (
             select l.seq from command_lease l join manager m on m.instance = l.instance
              where l.cluster = $1 and m.lease_until <= now()
                and (l.rescues < $2 or l.kind in ('kill_process', 'delete_function'))
                for update of l skip locked
         ), lost as (
             delete from command_lease l using held where l.seq = held.seq returning l.*
         )
         insert into command_ready (seq, cluster, kind, version, key, priority, attempts, rescues)
         select seq, cluster, kind, version, key, priority, attempts, rescues + 1 from lost",
        cluster,
        MAX_RESCUES
    )
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    let message = format!("{} managers ended while they carried it out", MAX_RESCUES + 1);
    let dead = sqlx::query!(
        "with held as (
             select l.seq from command_lease l join manager m on m.instance = l.instance
              where l.cluster = $1 and m.lease_until <= now()
                and l.rescues >= $2 and l.kind not in ('kill_process', 'delete_function')
                for update of l skip locked
         ), lost as (
             delete from command_lease l using held where l.seq = held.seq returning l.seq
         )
         update command c set state = 'failed', reason = $3, message = $4, remedy = $5, finished_at = now()
           from lost where c.seq = lost.seq and c.state = 'waiting'
         returning c.kind, c.process_id, c.revision_id",
        cluster,
        MAX_RESCUES,
        reason::RESCUED_TOO_OFTEN.id,
        message,
        reason::RESCUED_TOO_OFTEN.remedy
    )
    .fetch_all(&mut *transaction)
    .await?;
    for command in dead {
        if command.kind == CommandKind::StartProcess.as_str() || command.kind == CommandKind::RetryProcess.as_str() {
            sqlx::query!(
                "insert into command (id, kind, process_id, requested_by) values ($1, 'kill_process', $2, 'octopus-manager')",
                Uuid::now_v7(),
                command.process_id
            )
            .execute(&mut *transaction)
            .await?;
        } else if let Some(revision) = command
            .revision_id
            .filter(|_| command.kind == CommandKind::DeclareFunction.as_str())
        {
            let why = reason::RESCUED_TOO_OFTEN;
            sqlx::query!(
                "select fail_revision($1, $2, $3, $4, null)",
                revision,
                why.id,
                message,
                why.remedy
            )
            .execute(&mut *transaction)
            .await?;
        }
    }
    let expired = expire(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Rescued { rescued, expired })
}

/// What a look for lost and late commands found.
#[derive(Clone, Debug, Default)]
pub struct Rescued {
    /// How many were taken back from managers that died.
    pub rescued: u64,
    /// Commands that failed because nobody had begun them, and the processes that ended with them.
    pub expired: Vec<Uuid>,
}

/// Fails commands, of any cluster, that nobody has begun by their deadline. Answers them and the processes that end with them.
///
/// # Errors
/// When Postgres is away.
pub async fn expire(executor: impl PgExecutor<'_>) -> Result<Vec<Uuid>, sqlx::Error> {
    let why = reason::COMMAND_DEADLINE_EXCEEDED;
    sqlx::query_scalar!(
        r#"select expired as "expired!" from expire_commands($1, $2, $3) as expired"#,
        why.id,
        "nobody had begun it by the deadline that it was given",
        why.remedy
    )
    .fetch_all(executor)
    .await
}
