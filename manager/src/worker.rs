//! The claim loop: claims in batches as long as there is room, carries out, reports.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use octopus_shared::command::CommandKind;
use octopus_shared::db::claim::{self, Claim, Looks, Outcome};
use octopus_shared::db::{self, COMMAND_CHANNEL};
use sqlx::postgres::PgListener;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::batch::Write;
use crate::commands;
use crate::context::Context;
use crate::session::jittered;

/// Commands in one claim at most.
const BATCH: usize = 100;
/// A task's end is followed by a look for others this much later: those that end meanwhile share it.
const GATHER: Duration = Duration::from_millis(3);

/// Starts under way for each creation that the cluster may be asked for at once: while some are created others are read and
/// reported, and neither the cluster nor Postgres waits for the other.
const AHEAD: u32 = 8;

/// For one rescue.
const RESCUE_LIMIT: Duration = Duration::from_secs(5);
/// How long a claim whose connection broke may still be under way in Postgres.
const DOUBT: Duration = Duration::from_secs(10);

/// Orders of the commands that are being carried out here.
type Held = Arc<Mutex<HashSet<i64>>>;

/// Kinds that share room. A lane of its own keeps kills from waiting behind builds.
struct Lane {
    /// None: all but kills, of what managers died with several times.
    kinds: Option<&'static [CommandKind]>,
    room: Arc<Semaphore>,
    /// One of its commands has ended since its last look: no command of another lane waits for that.
    freed: Arc<AtomicBool>,
    looks: Looks,
    /// Whether nothing can be done about them while the API server is away: then they wait unclaimed.
    needs_cluster: bool,
}

impl Lane {
    fn new(kinds: &'static [CommandKind], room: u32) -> Self {
        Self {
            kinds: Some(kinds),
            room: Arc::new(Semaphore::new(room as usize)),
            freed: Arc::default(),
            looks: Looks::default(),
            needs_cluster: kinds != [CommandKind::DeclareFunction],
        }
    }

    /// Commands that may be what managers die of: one at a time, so that no other is taken for it.
    fn suspects(calls: &Calls) -> Self {
        Self {
            kinds: None,
            room: Arc::new(Semaphore::new(1)),
            freed: calls.suspects.clone(),
            looks: Looks::default(),
            needs_cluster: true,
        }
    }

    async fn claim(&mut self, context: &Context, instance: Uuid, limit: usize) -> Result<Vec<Claim>, sqlx::Error> {
        let (pool, cluster) = (&context.pool, context.config.cluster.as_str());
        let limit = i64::try_from(limit).unwrap_or(1);
        match self.kinds {
            Some(kinds) => self.looks.claim(pool, instance, cluster, kinds, limit).await,
            None => Ok(claim::claim_suspect(pool, instance, cluster)
                .await?
                .into_iter()
                .collect()),
        }
    }

    /// How long what its last look left out may still wait. None: it left nothing out, or there is no room for it.
    fn wait(&self) -> Option<Duration> {
        let due = self.looks.due().filter(|_| self.room.available_permits() > 0)?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Whether something may have become claimable that was not called for.
    fn is_due(&self) -> bool {
        self.freed.swap(false, Ordering::AcqRel) || self.wait() == Some(Duration::ZERO)
    }
}

/// What ends the loop's wait.
#[derive(Default)]
struct Calls {
    /// Something new waits, or may wait: every lane looks.
    wake: Notify,
    /// A command has ended: its lane looks.
    freed: Notify,
    /// What managers died with several times waits.
    suspects: Arc<AtomicBool>,
}

/// Claims and carries out until `drain`, then waits for what is under way; `over` ends that too.
pub async fn run(context: &Arc<Context>, instance: Uuid, drain: &CancellationToken, over: &CancellationToken) {
    let calls = Arc::new(Calls::default());
    let mut lanes = [
        Lane::new(
            &[CommandKind::KillProcess, CommandKind::DeleteFunction],
            context.config.kills,
        ),
        Lane::new(
            &[
                CommandKind::StartProcess,
                CommandKind::RetryProcess,
                CommandKind::RestartProcess,
                CommandKind::UpdateProcess,
                CommandKind::ScaleProcess,
            ],
            context.config.starts * AHEAD,
        ),
        Lane::new(&[CommandKind::DeclareFunction], context.config.builds),
        Lane::suspects(&calls),
    ];
    let tasks = TaskTracker::new();
    let listening = tokio::spawn(listen(context.clone(), calls.clone(), over.clone()));
    let poll = Duration::from_secs(context.config.poll_seconds);
    let looking = tokio::spawn(look(context.clone(), calls.clone(), poll));
    let held = Held::default();
    let (mut doubt, mut all) = (None, true);
    while !drain.is_cancelled() && !over.is_cancelled() {
        // Interest is registered before looking, so that nothing that arrives meanwhile is missed.
        let woken = calls.wake.notified();
        let more = tokio::select! {
            more = async {
                settle(context, instance, &held, &mut doubt).await?;
                step(context, instance, &mut lanes, all, &held, &calls, &tasks, over).await
            } => more,
            () = over.cancelled() => break,
        };
        match more {
            Ok(true) => continue,
            Ok(false) => all = false,
            Err(error) => {
                tracing::warn!(error = %error, "claiming failed");
                doubt = Some(Instant::now() + DOUBT);
                all = true;
            }
        }
        tokio::select! {
            () = woken => all = true,
            // One look for a crowd of ends.
            () = calls.freed.notified() => sleep(GATHER).await,
            () = due(&lanes) => {}
            () = sleep(jittered(poll)), if doubt.is_some() => {}
            () = drain.cancelled() => {}
            () = over.cancelled() => {}
        }
    }
    tasks.close();
    tokio::select! { () = tasks.wait() => {}, () = over.cancelled() => {} }
    listening.abort();
    looking.abort();
}

/// Until what the last look of some lane left out is due; for ever when none left anything out.
async fn due(lanes: &[Lane]) {
    match lanes.iter().filter_map(Lane::wait).min() {
        Some(wait) => sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Gives back what was claimed by a claim whose answer was lost, again and again until no such claim can be under way.
async fn settle(
    context: &Context,
    instance: Uuid,
    held: &Held,
    doubt: &mut Option<Instant>,
) -> Result<(), sqlx::Error> {
    let Some(until) = *doubt else { return Ok(()) };
    let known: Vec<i64> = held
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .copied()
        .collect();
    let given = claim::give_up(&context.pool, instance, &known).await?;
    if given > 0 {
        tracing::warn!(commands = given, "gave back what was claimed without our hearing of it");
    }
    if Instant::now() > until {
        *doubt = None;
    }
    Ok(())
}

/// Claims one batch for each lane, or for those alone that are due, and starts carrying it out. Answers whether there may be
/// more, and room for it.
#[expect(clippy::too_many_arguments, reason = "the state of one loop")]
async fn step(
    context: &Arc<Context>,
    instance: Uuid,
    lanes: &mut [Lane],
    all: bool,
    held: &Held,
    calls: &Arc<Calls>,
    tasks: &TaskTracker,
    over: &CancellationToken,
) -> Result<bool, sqlx::Error> {
    let mut more = false;
    for lane in lanes {
        let is_due = lane.is_due();
        let free = lane.room.available_permits();
        let looks = is_due || all && lane.kinds.is_some();
        if !looks || free == 0 || lane.needs_cluster && !context.health.cluster() {
            continue;
        }
        let batch = lane.claim(context, instance, free.min(BATCH)).await?;
        more |= batch.len() == BATCH && free > BATCH;
        for claim in batch {
            let Ok(permit) = lane.room.clone().acquire_owned().await else {
                continue;
            };
            let (context, calls, over) = (context.clone(), calls.clone(), over.clone());
            let freed = lane.freed.clone();
            let held = held.clone();
            held.lock().unwrap_or_else(PoisonError::into_inner).insert(claim.seq);
            tasks.spawn(async move {
                tokio::select! { () = carry_out(&context, &claim) => {}, () = over.cancelled() => {} }
                held.lock().unwrap_or_else(PoisonError::into_inner).remove(&claim.seq);
                drop(permit);
                // There is room again, and the key of the command is free. Starts wait for images.
                freed.store(true, Ordering::Release);
                if claim.kind == CommandKind::DeclareFunction {
                    calls.wake.notify_one();
                } else {
                    calls.freed.notify_one();
                }
            });
        }
    }
    Ok(more)
}

#[tracing::instrument(skip_all, fields(command.id = %claim.id, command.kind = claim.kind.as_str(), trace_parent = claim.trace_parent))]
async fn carry_out(context: &Context, claim: &Claim) {
    let waited = (chrono::Utc::now() - claim.created_at).to_std().unwrap_or_default();
    metrics::histogram!("octopus_command_wait_seconds", "kind" => claim.kind.as_str()).record(waited);
    context.announce(claim);
    let result = commands::carry_out(context, claim).await;
    let written = store(context, claim, &result).await;
    match (&result, written) {
        (commands::Ending::Later { why, .. }, true) => tracing::info!(why, "to be tried again"),
        (commands::Ending::Done(outcome), true) => tracing::info!(?outcome, "command ended"),
        _ => tracing::warn!("another manager has taken this command over"),
    }
    metrics::counter!("octopus_commands_total", "kind" => claim.kind.as_str(), "ending" => result.name()).increment(1);
    context.announce(claim);
}

/// The end of one command.
pub(crate) struct End {
    seq: i64,
    token: i64,
    outcome: Outcome,
}

impl Write for End {
    const WHAT: &'static str = "ends of commands";

    fn seq(&self) -> i64 {
        self.seq
    }

    async fn store(pool: &sqlx::PgPool, batch: &[Self]) -> Result<Vec<i64>, sqlx::Error> {
        let ended: Vec<_> = batch.iter().map(|end| (end.seq, end.token, &end.outcome)).collect();
        claim::finish(pool, &ended).await
    }
}

/// Stores how a command ended, however long that takes: nobody else can end it while our lease lasts. False: our lease
/// has ended, and the command is another manager's.
async fn store(context: &Context, claim: &Claim, ending: &commands::Ending) -> bool {
    let (delay, failed) = match ending {
        commands::Ending::Done(outcome) => {
            let end = End {
                seq: claim.seq,
                token: claim.token,
                outcome: outcome.clone(),
            };
            return context.ends.write(end).await;
        }
        commands::Ending::Later { delay, failed, .. } => (*delay, *failed),
    };
    loop {
        match claim::give_back(&context.pool, claim, jittered(delay), failed).await {
            Ok(written) => return written,
            Err(error) => tracing::warn!(error = %error, "the end of a command is not stored yet"),
        }
        sleep(jittered(Duration::from_millis(500))).await;
    }
}

/// Looks again and again whether something waits, since a call may be lost, or is to be rescued. While nothing does, that is
/// all that is asked of Postgres.
async fn look(context: Arc<Context>, calls: Arc<Calls>, every: Duration) {
    loop {
        match claim::look(&context.pool, &context.config.cluster).await {
            Ok(seen) => {
                if seen.waits {
                    calls.wake.notify_one();
                }
                if seen.suspects {
                    calls.suspects.store(true, Ordering::Release);
                    calls.freed.notify_one();
                }
                // Whoever holds a row of these back does not hold the looks back.
                if seen.late && timeout(RESCUE_LIMIT, rescue(&context, &calls)).await.is_err() {
                    tracing::warn!("somebody holds lost commands; they are tried again");
                }
            }
            Err(error) => tracing::warn!(error = %error, "looking for commands failed"),
        }
        sleep(jittered(every)).await;
    }
}

/// Takes back what managers held whose lease has ended, and fails what nobody began in time.
async fn rescue(context: &Context, calls: &Calls) {
    match claim::rescue(&context.pool, &context.config.cluster).await {
        Ok(found) => {
            found.expired.into_iter().for_each(|id| context.changes.announce(id));
            if found.rescued > 0 {
                tracing::warn!(found.rescued, "took back commands of a manager whose lease has ended");
                metrics::counter!("octopus_commands_rescued_total").increment(found.rescued);
                calls.wake.notify_one();
            }
        }
        Err(error) => tracing::warn!(error = %error, "looking for lost commands failed"),
    }
}

/// Wakes the loop when an API process announces work, and after every reconnect: what was announced meanwhile is lost.
async fn listen(context: Arc<Context>, calls: Arc<Calls>, over: CancellationToken) {
    while !over.is_cancelled() {
        let listener = async {
            let mut listener = PgListener::connect_with(&context.pool).await?;
            listener.listen(COMMAND_CHANNEL).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        match listener.await {
            Ok(mut listener) => loop {
                calls.wake.notify_one();
                match db::hear(&mut listener).await {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            },
            Err(error) => tracing::debug!(error = %error, "listening failed"),
        }
        tokio::select! { () = over.cancelled() => {}, () = sleep(jittered(Duration::from_secs(1))) => {} }
    }
}
