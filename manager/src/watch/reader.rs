//! One run of one container -> chunks, byte for byte, to its end.
//!
//! The end of a stream says nothing: an API server ends it cleanly when its link to the kubelet dies. A log is complete
//! when the container has ended and a further read of all that the node has adds nothing.

mod ending;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::Utc;
use k8s_openapi::api::core::v1::Pod;
use octopus_shared::db::report::{self, Opened, StreamKey};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::Watching;
use super::chunk::nanoseconds;
use super::progress::{Progress, STATUS_WITHIN};
use super::run::{Run, began, may_run_again, run_of};
use super::share::Share;
use super::stream::{Mode, Read, Span};
use super::writer::Said;
use crate::cluster::ClusterError;
use crate::session::jittered;

/// Between two reads of a log that is not followed.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Between the two silent reads from which the end of a container is inferred.
const INFER_AFTER: Duration = Duration::from_secs(2);
/// A node ends a container within this time after its grace, even when it has much to do.
const KILLED_WITHIN: Duration = Duration::from_secs(30);
/// The status of a container that has ended says so within this time.
const END_WITHIN: Duration = Duration::from_secs(2);
/// A node that could not follow another log is not asked again before.
const FULL_FOR: Duration = Duration::from_secs(30);
/// Postgres takes how a log is read within this time, or is told later; and says what is stored, or is not asked again.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// How a run was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its pod was just seen to run it, for a moment.
    Begun,
    /// The same, for a while.
    Running,
    /// Its pod was just seen to have run it.
    Ended,
    /// An earlier watch was reading it.
    Open,
}

pub(super) struct Reader {
    pub(super) watching: Arc<Watching>,
    pub(super) key: StreamKey,
    pub(super) process_id: Uuid,
    pub(super) pod_name: String,
    pub(super) room: Arc<Semaphore>,
    pub(super) share: Arc<Share>,
    pub(super) chunks: mpsc::Sender<Said>,
    /// [`began`], once its pod was looked at.
    pub(super) began: OnceLock<i64>,
}

impl Reader {
    /// Reads to the end, from where it was opened. `followed`: its room among the logs that are followed.
    pub(super) async fn run(self, opened: Opened, found: Found, mut followed: Option<OwnedSemaphorePermit>) {
        let mut progress = Progress::new(opened, found);
        let mut full_until = None;
        let mut shown = Some(named(followed.as_ref()));
        let (mut silent, mut full_since) = (0, None::<Instant>);
        // Such a log is followed to find out whether it has ended, whether there is room or not.
        let mut ending = false;
        let mut hurries = found == Found::Running && progress.cursor.lines == 0;
        let mut span = Span::Newest;
        if found == Found::Ended {
            // The log that its node gives as the current one may be the next run's, and nothing may come of that for long.
            match self.look().await {
                Ok(Run::Going | Run::Silent { .. }) => {}
                Ok(over) => {
                    drop(followed);
                    return self.conclude(progress, over, shown).await;
                }
                Err(_) => progress.away = Some(Instant::now()),
            }
        }
        loop {
            let hurried = std::mem::take(&mut hurries);
            let mode = if (followed.is_some() || ending) && !hurried {
                Mode::Follow
            } else {
                Mode::Once
            };
            self.show(&mut shown, named(followed.as_ref())).await;
            let before = progress.cursor.lines;
            let Some(read) = self.read(&mut progress, mode, span).await else {
                return;
            };
            span = Span::Newest;
            match read {
                // The next file is read at once: it may be rotated away soon.
                Read::Rotated | Read::Silent => continue,
                Read::Behind => {
                    hurries = true;
                    span = Span::SinceCursor;
                    continue;
                }
                Read::FartherBack { set_back } => {
                    metrics::counter!("octopus_log_tails_missed_total").increment(1);
                    span = Span::farther(set_back);
                    continue;
                }
                Read::NodeFull => {
                    followed = None;
                    full_until = Some(Instant::now() + jittered(FULL_FOR));
                }
                _ => {}
            }
            let is_end = matches!(read, Read::End);
            let Some(looked) = self.look_at_end(&progress, is_end).await else {
                return;
            };
            let run = match looked {
                Ok(run) => run,
                Err(error) => {
                    tracing::debug!(error = %error, "the pod could not be looked at");
                    progress.away = Some(Instant::now());
                    if !self.watching.sleep(Duration::from_secs(1)).await {
                        return;
                    }
                    continue;
                }
            };
            match run {
                Run::Silent { grace } => {
                    ending = true;
                    let is_quiet = progress.cursor.lines == before;
                    // A container that lives keeps a followed stream open; one that is dead ends it at once.
                    let ended = is_quiet && mode == Mode::Follow && matches!(read, Read::End | Read::NotThere);
                    silent = if ended { silent + 1 } else { 0 };
                    // A node that cannot follow it never says so, but has killed it by then.
                    full_since = full_since
                        .filter(|_| is_quiet)
                        .or(Some(Instant::now()))
                        .filter(|_| matches!(read, Read::NodeFull));
                    let is_killed =
                        full_since.is_some_and(|since| since.elapsed() > Duration::from_secs(grace) + KILLED_WITHIN);
                    if silent >= 2 || is_killed {
                        return self.finish(progress, run, "inferred").await;
                    }
                    self.turn(&mut progress, Mode::Follow).await;
                    if !self.watching.sleep(INFER_AFTER).await {
                        return;
                    }
                }
                Run::Going => {
                    progress.note_beginning(self.began.get().copied(), Some(nanoseconds(Utc::now())), false);
                    // The stream may have ended before its file, and what was empty then need not be the next one any more.
                    progress.ended = None;
                    progress.next = progress.next.take().filter(|next| next.head.is_some());
                    let pause = match mode {
                        // What there was has come, and what comes is followed again.
                        Mode::Once if hurried && is_end => continue,
                        Mode::Follow if is_end => Duration::from_millis(200),
                        _ => POLL_EVERY,
                    };
                    if !self.watching.sleep(pause).await {
                        return;
                    }
                    followed = self.room_again(followed, full_until);
                }
                over => return self.conclude(progress, over, shown).await,
            }
        }
    }

    /// Puts a change of files at which lines may have been missed on record. `over`: nothing more comes.
    pub(super) async fn note_rotation(&self, progress: &mut Progress, over: bool) {
        if let Some(head) = progress.files.forgotten(over) {
            let pool = &self.watching.context.pool;
            let asked = report::last_line_before(pool, self.process_id, &self.key, head);
            // Without an answer the place is named less exactly.
            if let Ok(Ok(Some(at))) = timeout(ANSWERS_WITHIN, asked).await {
                progress.files.recalled(at);
            }
        }
        progress.note_rotation(over);
    }

    /// A log that is polled is followed as soon as there is room, unless the node itself had none a moment ago.
    fn room_again(
        &self,
        followed: Option<OwnedSemaphorePermit>,
        full_until: Option<Instant>,
    ) -> Option<OwnedSemaphorePermit> {
        if full_until.is_some_and(|until| Instant::now() < until) {
            return followed;
        }
        followed.or_else(|| self.room.clone().try_acquire_owned().ok())
    }

    async fn show(&self, shown: &mut Option<&'static str>, reader: &'static str) {
        if *shown != Some(reader) {
            let showing = report::set_reader(&self.watching.context.pool, &self.watching.watch, &self.key, reader);
            // Nothing to wait for: the log goes on, and may be spooled.
            // Nor is it told to a database whose watch is another's by now: who spools reads on.
            if let Ok(Ok(())) = timeout(ANSWERS_WITHIN, showing).await {
                *shown = Some(reader);
            }
        }
    }

    /// A look at what became of this run. A kubelet ends a stream when its container has ended and says so a little later:
    /// of a log that may have been rotated meanwhile it matters which it was. None: the watch is over.
    async fn look_at_end(&self, progress: &Progress, is_end: bool) -> Option<Result<Run, ClusterError>> {
        let ends = Instant::now() + END_WITHIN;
        loop {
            let run = self.look().await;
            let is_between = progress.next.is_some() || progress.ended.is_some() && progress.files.may_have_changed();
            let waits = is_end && is_between && Instant::now() < ends;
            if !waits || !matches!(run, Ok(Run::Going)) {
                return Some(run);
            }
            if !self.watching.sleep(Duration::from_millis(200)).await {
                return None;
            }
        }
    }

    /// A consistent look, however long that takes. None: the watch is over.
    async fn look_again(&self) -> Option<Run> {
        loop {
            match self.look().await {
                Ok(run) => return Some(run),
                Err(error) => tracing::debug!(error = %error, "the pod could not be looked at"),
            }
            self.watching.sleep(POLL_EVERY).await.then_some(())?;
        }
    }

    /// Whether what was read as the log of this run is another one's by now, or nobody knows. After the API server was away a status
    /// may be older than the log.
    pub(super) async fn is_other_run(&self, progress: &mut Progress, mode: Mode) -> Option<Read> {
        match self.pod().await {
            Ok(Some(pod)) => match run_of(&pod, &self.key) {
                Run::Removed => Some(Read::NextRun),
                Run::Previous if mode != Mode::Previous => Some(Read::NextRun),
                Run::Going if self.is_status_late(progress) && may_run_again(&pod) => Some(Read::Broken),
                _ => None,
            },
            Ok(None) => None,
            Err(_) => {
                progress.away = Some(Instant::now());
                Some(Read::Broken)
            }
        }
    }

    /// Whether the status of a pod may be older than its log. A reader may be younger than the absence of the API server.
    fn is_status_late(&self, progress: &Progress) -> bool {
        progress.is_status_late() || self.watching.context.cluster.was_missed(STATUS_WITHIN)
    }

    /// A consistent look at what became of this run.
    async fn look(&self) -> Result<Run, ClusterError> {
        let pod = self.pod().await?;
        Ok(pod.map_or(Run::PodGone, |pod| run_of(&pod, &self.key)))
    }

    async fn pod(&self) -> Result<Option<Pod>, ClusterError> {
        let cluster = &self.watching.context.cluster;
        let pod = cluster.pod(&self.pod_name, &self.key.pod_uid).await?;
        if let Some(began) = pod.as_ref().and_then(|pod| began(pod, &self.key)) {
            self.began.get_or_init(|| began);
        }
        Ok(pod)
    }
}

/// How a log is read, as it is stored.
pub(super) fn named(followed: Option<&OwnedSemaphorePermit>) -> &'static str {
    if followed.is_some() { "follow" } else { "poll" }
}
