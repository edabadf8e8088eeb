//! Logs that are followed: one task for each looks at Postgres for all of its followers, whatever their number, and keeps what
//! is new for a moment. A follower that is further behind reads what it lacks by itself, so it holds nobody back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use octopus_shared::db::view::{self, ChunkFilter, LogChunk, PodView};
use octopus_shared::log::Cursor;
use octopus_shared::process::ProcessState;
use octopus_shared::reason;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::line::{End, Gap, Item};
use super::source::PAGE;
use crate::state::App;

/// Bytes of a log that are kept for its followers, and for how long.
const KEPT: usize = 1 << 20;
const KEPT_FOR: Duration = Duration::from_secs(5);
/// Chunks that a follower takes at once.
const TAKEN: usize = 4;
/// Between two looks while Postgres is away.
const AWAY: Duration = Duration::from_secs(1);

/// The logs that this process's clients follow at the moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followed(Arc<Mutex<HashMap<Uuid, watch::Sender<Seen>>>>);

/// What was seen of a log since somebody follows it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Everything after this place is in `recent`. None: nobody has looked yet.
    from: Option<Cursor>,
    recent: VecDeque<(Instant, Arc<LogChunk>)>,
    transitions: i64,
    end: Option<Arc<Ending>>,
}

/// What comes behind the last line.
#[derive(Debug, Default)]
pub(super) struct Ending {
    gaps: Vec<Gap>,
    /// None: the process is not known any more.
    end: Option<End>,
}

/// What a follower does next.
#[derive(Debug)]
pub(super) enum Next {
    /// It reads what is stored up to this place: it is not kept any more.
    Read(Cursor),
    /// It sends these.
    Send {
        chunks: Vec<Arc<LogChunk>>,
        /// Its place is the end of the chunk before them, and not within one that is not here.
        whole: bool,
    },
    /// Nothing comes any more but this.
    End(Arc<Ending>),
    /// It waits until more was seen.
    Wait,
}

impl Seen {
    pub(super) fn after(&self, place: Cursor) -> Next {
        let Some(from) = self.from else { return Next::Wait };
        if place < from {
            return Next::Read(from);
        }
        let sent = self.recent.partition_point(|(_, chunk)| chunk.span.end() <= place);
        let chunks: Vec<_> = self
            .recent
            .range(sent..)
            .take(TAKEN)
            .map(|(_, chunk)| chunk.clone())
            .collect();
        match &self.end {
            _ if !chunks.is_empty() => Next::Send {
                chunks,
                whole: place == from || self.recent.iter().any(|(_, chunk)| chunk.span.end() == place),
            },
            Some(end) => Next::End(end.clone()),
            None => Next::Wait,
        }
    }

    /// Whether somebody has looked.
    pub(super) fn has_begun(&self) -> bool {
        self.from.is_some()
    }

    /// Number of the newest transition of the process.
    pub(super) fn transitions(&self) -> i64 {
        self.transitions
    }

    fn begin(&mut self, place: Cursor) {
        self.from = Some(place);
    }

    fn add(&mut self, now: Instant, chunks: Vec<LogChunk>) {
        self.recent
            .extend(chunks.into_iter().map(|chunk| (now, Arc::new(chunk))));
        let mut bytes: usize = self.recent.iter().map(|(_, chunk)| chunk.text.size()).sum();
        while let Some((_, old)) = self
            .recent
            .pop_front_if(|(at, _)| bytes > KEPT || now.duration_since(*at) > KEPT_FOR)
        {
            bytes -= old.text.size();
            self.from = Some(old.span.end());
        }
    }

    /// The place after everything that was seen.
    fn place(&self) -> Cursor {
        let last = self.recent.back().map(|(_, chunk)| chunk.span.end());
        last.or(self.from).unwrap_or_default()
    }
}

impl Followed {
    /// Joins the followers of a log. What was stored before the first of them came is for each to read.
    pub(super) fn join(&self, app: &App, process: Uuid) -> watch::Receiver<Seen> {
        let mut logs = self.lock();
        if let Some(log) = logs.get(&process) {
            return log.subscribe();
        }
        let (sender, receiver) = watch::channel(Seen::default());
        logs.insert(process, sender.clone());
        let (followed, app) = (self.clone(), app.clone());
        tokio::spawn(async move { followed.look(&app, process, &sender).await });
        receiver
    }

    /// Looks until nobody follows any more, or the log has ended.
    async fn look(&self, app: &App, process: Uuid, log: &watch::Sender<Seen>) {
        let mut waiter = app.changes.subscribe();
        loop {
            let looked = look(app, process, log).await;
            if let Err(error) = &looked {
                tracing::warn!(error = %error, "followers of a log wait for Postgres");
            }
            if matches!(looked, Ok(true)) {
                self.lock().remove(&process);
                return;
            }
            let changed = async {
                match looked {
                    Ok(_) => _ = waiter.changed(Some(process)).await,
                    Err(_) => tokio::time::sleep(AWAY).await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = log.closed() => if self.forget(process, log) { return },
                () = app.stopping.cancelled() => {
                    self.lock().remove(&process);
                    return;
                }
            }
        }
    }

    /// False: somebody has come meanwhile.
    fn forget(&self, process: Uuid, log: &watch::Sender<Seen>) -> bool {
        let mut logs = self.lock();
        let is_over = log.receiver_count() == 0;
        if is_over {
            logs.remove(&process);
        }
        is_over
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<Seen>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One look. True: the log has ended.
async fn look(app: &App, process: Uuid, log: &watch::Sender<Seen>) -> Result<bool, sqlx::Error> {
    // Asked before the lines are read: what is printed last is read after it was known to be the last.
    let progress = view::log_progress(&app.pool, process).await?;
    let transitions = progress.map_or(0, |progress| progress.transitions);
    log.send_if_modified(|seen| std::mem::replace(&mut seen.transitions, transitions) != transitions);
    if log.borrow().from.is_none() {
        let end = view::log_end(&app.pool, process).await?;
        log.send_modify(|seen| seen.begin(end));
    }
    loop {
        let place = log.borrow().place();
        let chunks = view::chunks(&app.pool, process, place, i64::MAX, &ChunkFilter::default(), PAGE).await?;
        let is_full = chunks.len() as i64 == PAGE;
        log.send_if_modified(|seen| {
            let is_new = !chunks.is_empty();
            seen.add(Instant::now(), chunks);
            is_new
        });
        if !is_full {
            break;
        }
    }
    let ending = match progress {
        Some(progress) if !progress.has_ended() => return Ok(false),
        Some(_) => Ending::of(app, process).await?,
        None => Ending::default(),
    };
    log.send_modify(|seen| seen.end = Some(Arc::new(ending)));
    Ok(true)
}

impl Ending {
    pub(super) fn items(&self) -> Vec<Item> {
        let gaps = self.gaps.iter().cloned().map(Item::Gap);
        gaps.chain(self.end.clone().map(Item::End)).collect()
    }

    /// Of a process whose log has ended.
    pub(super) async fn of(app: &App, process: Uuid) -> Result<Self, sqlx::Error> {
        let streams = view::log_streams(&app.pool, process).await?;
        let gaps = streams.iter().flat_map(Gap::at_end_of).collect();
        let Some(process) = view::process(&app.pool, process).await? else {
            return Ok(Self { gaps, end: None });
        };
        let complete = match (streams.as_slice(), process.pods.as_slice()) {
            // Nobody has seen a pod: there may have been one if its objects were made.
            ([], []) => view::manifest(&app.pool, process.summary.id).await?.flatten().is_none(),
            ([], pods) => pods.iter().all(has_never_run),
            (streams, _) => streams.iter().all(|stream| stream.seal.as_deref() == Some("complete")),
        };
        let end = End {
            state: process.summary.state,
            complete,
            streams,
        };
        Ok(Self { gaps, end: Some(end) })
    }
}

/// Whether it is known that no container of a pod has run. One that was seen to wait may have run later, and nobody was there.
fn has_never_run(pod: &PodView) -> bool {
    let why = pod.reason.as_deref();
    let was_not_made = reason::OF_IMAGES.iter().any(|reason| Some(reason.id) == why);
    pod.state == ProcessState::Failed.as_str() && (was_not_made || why == Some(reason::NODE_REFUSED.id))
}

#[cfg(test)]
mod tests {
    use octopus_shared::log::{Span, Text, push_line};

    use super::*;

    fn chunk(seq: i64, bytes: usize) -> LogChunk {
        let mut data = Vec::new();
        push_line(&mut data, chrono::DateTime::from_timestamp_nanos(1), &vec![b'x'; bytes]);
        LogChunk {
            span: Span {
                seq,
                lines: 1,
                parts: None,
            },
            pod_uid: String::new(),
            container: String::new(),
            restart: 0,
            attempt: 1,
            text: Text::plain(data),
            gaps: serde_json::json!([]),
        }
    }

    fn sent(next: Next) -> Vec<i64> {
        match next {
            Next::Send { chunks, .. } => chunks.iter().map(|chunk| chunk.span.seq).collect(),
            next => panic!("{next:?}"),
        }
    }

    #[test]
    fn a_follower_gets_what_is_kept_and_reads_what_is_not() {
        let at = |seq| Cursor { seq, line: 1 };
        let now = Instant::now();
        let mut seen = Seen::default();
        assert!(matches!(seen.after(at(9)), Next::Wait), "nobody has looked");
        seen.begin(at(2));
        assert!(matches!(seen.after(at(1)), Next::Read(from) if from == at(2)));
        assert!(matches!(seen.after(at(2)), Next::Wait));
        seen.add(now, (3..=8).map(|seq| chunk(seq, 10)).collect());
        assert_eq!(sent(seen.after(at(2))), [3, 4, 5, 6], "few at once");
        assert_eq!(sent(seen.after(Cursor { seq: 7, line: 0 })), [7, 8]);
        assert!(matches!(seen.after(at(8)), Next::Wait));
        assert!(
            matches!(seen.after(at(99)), Next::Wait),
            "a place that is still to come"
        );
        seen.end = Some(Arc::default());
        assert_eq!(sent(seen.after(at(7))), [8], "lines before the end");
        assert!(matches!(seen.after(at(8)), Next::End(_)));

        seen.add(now + KEPT_FOR * 2, Vec::new());
        assert!(
            matches!(seen.after(at(5)), Next::Read(from) if from == at(8)),
            "it was kept long enough"
        );
        assert_eq!(seen.place(), at(8));
    }

    #[test]
    fn nothing_is_missing_behind_the_end_of_a_chunk_that_was_seen() {
        let mut seen = Seen::default();
        seen.begin(Cursor { seq: 2, line: 1 });
        seen.add(Instant::now(), vec![chunk(3, 10), chunk(6, 10)]);
        for (seq, line, expected) in [(2, 1, true), (3, 0, false), (3, 1, true), (5, 1, false)] {
            let next = seen.after(Cursor { seq, line });
            assert!(
                matches!(next, Next::Send { whole, .. } if whole == expected),
                "{seq}.{line}: {next:?}"
            );
        }
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let at = |seq| Cursor { seq, line: 1 };
        let mut seen = Seen::default();
        seen.begin(at(0));
        seen.add(Instant::now(), (1..=12).map(|seq| chunk(seq, KEPT / 8)).collect());
        let kept: usize = seen.recent.iter().map(|(_, chunk)| chunk.text.size()).sum();
        assert!(kept <= KEPT && seen.recent.len() > 4, "{kept}");
        let first = seen.recent[0].1.span.seq;
        assert!(matches!(seen.after(at(0)), Next::Read(from) if from == at(first - 1)));
        seen.add(Instant::now(), vec![chunk(13, 2 * KEPT)]);
        assert!(seen.recent.is_empty(), "a line that is longer than all that is kept");
        assert!(matches!(seen.after(at(12)), Next::Read(from) if from == at(13)));
    }
}
