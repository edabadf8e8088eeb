//! Row -> lease: how managers take commands, hold them and give them back.
//!
//! A claim belongs to a manager instance and lasts as long as that instance's own lease, judged by Postgres's clock only.
//! Each claim has a fencing token that no other claim ever had.

mod look;
mod rescue;
mod take;
mod watch;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::postgres::types::PgInterval;
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

pub use self::look::Looks;
pub use self::rescue::{MAX_RESCUES, Rescued, SUSPECT, Seen, expire, look, rescue};
pub use self::take::{claim, claim_suspect};
pub use self::watch::{divide, division, leave};
use crate::command::{CommandKind, VERSION};

/// A command that is ours until our lease ends.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Order of the command.
    pub seq: i64,
    /// Its public name.
    pub id: Uuid,
    /// Fencing token of this claim.
    pub token: i64,
    /// What to do.
    pub kind: CommandKind,
    /// The function it is about.
    pub function_name: Option<String>,
    /// The revision it makes or runs.
    pub revision_id: Option<Uuid>,
    /// The process it makes or ends.
    pub process_id: Option<Uuid>,
    /// What else the kind needs.
    pub payload: Value,
    /// Failed attempts before this one.
    pub attempts: i32,
    /// Trace context of the request.
    pub trace_parent: Option<String>,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was carried out.
    Succeeded,
    /// It cannot be carried out.
    Failed {
        /// Stable id of why.
        reason: String,
        /// The same for people.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// Somebody asked for the opposite meanwhile.
    Cancelled {
        /// Stable id of why.
        reason: String,
    },
}

impl Outcome {
    fn state(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    fn reason(&self) -> Option<&String> {
        match self {
            Self::Succeeded => None,
            Self::Failed { reason, .. } | Self::Cancelled { reason } => Some(reason),
        }
    }

    fn message(&self) -> Option<&String> {
        match self {
            Self::Failed { message, .. } => Some(message),
            Self::Succeeded | Self::Cancelled { .. } => None,
        }
    }

    fn remedy(&self) -> Option<&String> {
        match self {
            Self::Failed { remedy, .. } => Some(remedy),
            Self::Succeeded | Self::Cancelled { .. } => None,
        }
    }
}

/// Registers a manager and gives it a lease.
///
/// # Errors
/// When Postgres is away.
pub async fn register(
    pool: &PgPool,
    instance: Uuid,
    cluster: &str,
    host: &str,
    lease: Duration,
) -> Result<(), sqlx::Error> {
    let kinds: Value = CommandKind::CLAIMED
        .iter()
        .map(|kind| (kind.as_str().to_owned(), json!(VERSION)))
        .collect();
    sqlx::query!(
        "insert into manager (instance, cluster, version, host, kinds, lease_until) values ($1, $2, $3, $4, $5, now() + $6)",
        instance,
        cluster,
        env!("CARGO_PKG_VERSION"),
        host,
        kinds,
        interval(lease)
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Says which spool a manager holds, and ends the leases of those that held it before: they are dead, for only one process at a
/// time can hold it. Answers how many.
///
/// # Errors
/// When Postgres is away; those leases then end by themselves.
pub async fn succeed(pool: &PgPool, instance: Uuid, spool: Uuid) -> Result<u64, sqlx::Error> {
    let ended = sqlx::query!(
        "with heir as (update manager set spool = $2 where instance = $1)
         update manager set lease_until = now() where spool = $2 and instance <> $1 and lease_until > now()",
        instance,
        spool
    )
    .execute(pool)
    .await?;
    Ok(ended.rows_affected())
}

/// Extends a lease that has not ended. False: it has, and everything it held belongs to others.
///
/// # Errors
/// When Postgres is away.
pub async fn beat(pool: &PgPool, instance: Uuid, lease: Duration) -> Result<bool, sqlx::Error> {
    let beaten = sqlx::query!(
        "update manager set beat_at = now(), lease_until = now() + $2
          where instance = $1 and lease_until > now() and stopped_at is null",
        instance,
        interval(lease)
    )
    .execute(pool)
    .await?;
    Ok(beaten.rows_affected() == 1)
}

/// Says goodbye: gives every claim back at once and ends the lease, so that nobody has to wait for it.
///
/// # Errors
/// When Postgres is away; the lease then ends by itself.
pub async fn sign_off(pool: &PgPool, instance: Uuid) -> Result<(), sqlx::Error> {
    let mut transaction = crate::db::begin(pool).await?;
    sqlx::query!(
        "update manager set lease_until = now(), stopped_at = now() where instance = $1",
        instance
    )
    .execute(&mut *transaction)
    .await?;
    give_up(&mut *transaction, instance, &[]).await?;
    transaction.commit().await
}

/// Gives back whatever an instance has claimed but `held`: a claim whose answer was lost may have been stored, and nobody
/// would carry it out. Not while another claim of the instance is under way. Answers how many.
///
/// # Errors
/// When Postgres is away.
pub async fn give_up(executor: impl PgExecutor<'_>, instance: Uuid, held: &[i64]) -> Result<u64, sqlx::Error> {
    let given = sqlx::query!(
        "with given as (delete from command_lease where instance = $1 and seq <> all($2) returning *)
         insert into command_ready (seq, cluster, kind, version, key, priority, attempts, rescues)
         select seq, cluster, kind, version, key, priority, attempts, rescues from given",
        instance,
        held
    )
    .execute(executor)
    .await?;
    Ok(given.rows_affected())
}

/// Ends commands, each by its order and the token of its claim, in one statement (`finish_commands` of the migrations).
/// Answers those whose claim was still ours; of the others nothing was written.
///
/// # Errors
/// When Postgres is away.
pub async fn finish(pool: &PgPool, ended: &[(i64, i64, &Outcome)]) -> Result<Vec<i64>, sqlx::Error> {
    // Postgres' text holds no NUL, and a message may repeat anything that a cluster or a function said.
    let text = |text: &str| text.replace('\0', "\u{fffd}");
    let words = |pick: fn(&Outcome) -> Option<&String>| -> Vec<Option<String>> {
        let picked = ended.iter().map(|(_, _, outcome)| pick(outcome));
        picked.map(|word| word.map(|word| text(word))).collect()
    };
    let states: Vec<String> = ended.iter().map(|(_, _, outcome)| outcome.state().to_owned()).collect();
    sqlx::query_scalar!(
        r#"select ended as "ended!" from finish_commands($1, $2, $3, $4, $5, $6) as ended"#,
        &ended.iter().map(|(seq, ..)| *seq).collect::<Vec<_>>(),
        &ended.iter().map(|(_, token, _)| *token).collect::<Vec<_>>(),
        &states,
        &words(Outcome::reason) as &[Option<String>],
        &words(Outcome::message) as &[Option<String>],
        &words(Outcome::remedy) as &[Option<String>],
    )
    .fetch_all(pool)
    .await
}

/// Gives a command back, to be tried again after `delay`. `failed` counts it as an attempt. A build that did not fail is as one
/// that nobody has begun: its deadline counts again. False: it was not ours.
///
/// # Errors
/// When Postgres is away.
pub async fn give_back(pool: &PgPool, claim: &Claim, delay: Duration, failed: bool) -> Result<bool, sqlx::Error> {
    let given = sqlx::query!(
        "with ours as (delete from command_lease where seq = $1 and token = $2 returning *)
         insert into command_ready (seq, cluster, kind, version, key, priority, run_at, attempts, rescues, deadline)
         select o.seq, o.cluster, o.kind, o.version, o.key, o.priority, now() + $3, o.attempts + $4, o.rescues,
                case when o.kind = 'declare_function' and $4 = 0
                     then c.created_at + make_interval(secs => c.deadline_seconds) end
           from ours o join command c on c.seq = o.seq",
        claim.seq,
        claim.token,
        interval(delay),
        i32::from(failed)
    )
    .execute(pool)
    .await?;
    Ok(given.rows_affected() == 1)
}

/// Makes the partitions of the coming days and drops those older than `keep_days`, one table after the other.
///
/// # Errors
/// When Postgres is away; the next call mends it.
pub async fn maintain_partitions(pool: &PgPool, keep_days: i32) -> Result<(), sqlx::Error> {
    for parent in ["command", "process_event", "log_chunk"] {
        sqlx::query!("select maintain_partitions($1, $2)", keep_days, parent)
            .execute(pool)
            .await?;
    }
    Ok(())
}

/// The installation's id, the label of every object.
///
/// # Errors
/// When Postgres is away or was not migrated.
pub async fn installation(pool: &PgPool) -> Result<(Uuid, DateTime<Utc>), sqlx::Error> {
    let row = sqlx::query!("select id, created_at from installation")
        .fetch_one(pool)
        .await?;
    Ok((row.id, row.created_at))
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}
