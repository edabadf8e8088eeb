//! The end of a run: what is left of its log, and the seal.

use std::time::Duration;

use octopus_shared::db::report::{self, Seal};
use octopus_shared::log::Gap;
use tokio::time::Instant;

use super::{POLL_EVERY, Reader};
use crate::failpoint::failpoint;
use crate::watch::progress::Progress;
use crate::watch::run::Run;
use crate::watch::stream::{Mode, Read, Span};
use crate::watch::writer::{Message, Said};

/// A container runtime may write the last bytes of a log when its container has ended already, and on a busy node so much
/// later.
const WRITTEN_WITHIN: Duration = Duration::from_millis(500);
/// Reads in which the last stored line is missed before the rest of the log is given up.
const MISSES: u32 = 3;

impl Reader {
    /// The run is over, and its pod says so.
    pub(super) async fn conclude(self, progress: Progress, run: Run, mut shown: Option<&'static str>) {
        match run {
            Run::Removed => return self.seal_without(progress, "restarted", "seen").await,
            Run::PodGone => return self.lost(progress, "unknown").await,
            Run::Previous => self.show(&mut shown, "previous").await,
            Run::Between { .. } => {
                failpoint!("log-ended");
            }
            _ => {}
        }
        self.finish(progress, run, "seen").await;
    }

    /// The run is over: reads what is left until a read adds nothing, then seals. Where no other run follows that last read begins
    /// half a second later or more; where one may, no time is to be lost.
    pub(super) async fn finish(self, mut progress: Progress, mut run: Run, end: &'static str) {
        let mut mode = run.mode();
        self.turn(&mut progress, mode).await;
        let within = if run.is_followed() {
            Duration::ZERO
        } else {
            WRITTEN_WITHIN
        };
        let written = Instant::now() + within;
        let (mut misses, mut refusals) = (0, 0);
        loop {
            progress.until = run.until();
            let (before, is_written) = (progress.cursor.lines, Instant::now() >= written);
            let Some(read) = self.read(&mut progress, mode, Span::AllAndLast).await else {
                return;
            };
            match read {
                Read::End if progress.cursor.lines != before => continue,
                Read::End if !is_written => {
                    let wait = written.saturating_duration_since(Instant::now());
                    if !self.watching.sleep(wait).await {
                        return;
                    }
                    continue;
                }
                // What is stored was among what came: it was this run's log.
                Read::End if !progress.missed && progress.cursor.lines > 0 => return self.seal(progress, end).await,
                Read::End if !progress.missed && matches!(run, Run::Ended | Run::Silent { .. } | Run::Forgotten) => {
                    return self.seal(progress, end).await;
                }
                Read::End if progress.missed => misses += 1,
                // Not a log, but the words of an error.
                Read::NodeFull => refusals += 1,
                _ => {}
            }
            // Its pod or its log may have been removed meanwhile, or another run may have begun, which need not have printed
            // anything: that is for a consistent look to say.
            let Some(looked) = self.look_again().await else { return };
            let is_there = !matches!(read, Read::NotThere);
            let is_read = matches!(read, Read::End) && !progress.missed;
            match looked {
                Run::PodGone => return self.lost(progress, end).await,
                Run::Removed => return self.seal_without(progress, "restarted", end).await,
                Run::Forgotten if !is_there => return self.seal_without(progress, "evicted", end).await,
                Run::Previous if mode == Mode::Previous && !is_there => {
                    return self.seal_without(progress, "restarted", end).await;
                }
                Run::Previous if mode == Mode::Previous && is_read => return self.seal(progress, end).await,
                Run::Between { .. } | Run::Ended if mode == Mode::Once && is_read => {
                    return self.seal(progress, end).await;
                }
                Run::Previous if refusals >= MISSES => return self.seal_without(progress, "restarted", end).await,
                // The next run may be short, and then this one's log is gone.
                Run::Previous if mode == Mode::Once => {
                    run = looked;
                    mode = run.mode();
                    continue;
                }
                _ if misses >= MISSES => return self.seal_without(progress, "rotated_away", end).await,
                _ if refusals >= MISSES => return self.seal_without(progress, "evicted", end).await,
                _ => {}
            }
            if !self.watching.sleep(POLL_EVERY).await {
                return;
            }
            // Nothing is read on an old look.
            let Some(looked) = self.look_again().await else { return };
            run = looked;
            mode = run.mode();
        }
    }

    /// The pod went before a read had confirmed its end: a kill may have been in a hurry, or somebody else was.
    async fn lost(self, progress: Progress, end: &'static str) {
        let killed = loop {
            let killed = report::is_killed(&self.watching.context.pool, self.process_id).await;
            match self.watching.written(killed.map_err(Into::into)) {
                Some(killed) => break killed,
                None if !self.watching.sleep(POLL_EVERY).await => return,
                None => {}
            }
        };
        let reason = if killed { "killed_early" } else { "pod_gone" };
        self.seal_without(progress, reason, end).await;
    }

    /// Seals a stream whose end cannot be read any more.
    async fn seal_without(self, mut progress: Progress, reason: &str, end: &'static str) {
        let gap = progress.before_us(Gap {
            from: progress.cursor.time,
            reason: reason.into(),
            ..Gap::default()
        });
        progress.gaps.push(gap);
        self.seal(progress, end).await;
    }

    async fn seal(self, mut progress: Progress, end: &'static str) {
        progress.note_beginning(self.began.get().copied(), None, true);
        self.note_rotation(&mut progress, true).await;
        let message = Message::Seal {
            process_id: self.process_id,
            key: self.key,
            seal: Seal {
                gaps: progress.gaps,
                end: end.into(),
            },
            at: progress.cursor,
        };
        // Fails only when the watch is over; then the next one seals it.
        let _ = self.chunks.send(Said { message, room: None }).await;
    }
}
