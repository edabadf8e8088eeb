//! A stream that shows nothing: what is due meanwhile, and whether it hangs.

use tokio::time::Instant;

use super::Taking;
use crate::watch::chunk::NextFile;
use crate::watch::line::{Raw, Stamped};
use crate::watch::pace::Due;
use crate::watch::stream::{Read, Span};

impl Taking<'_> {
    /// Nothing came until now. `Some`: nothing will.
    pub(super) async fn wait_is_over(&mut self, rest: Option<&Raw>) -> Option<Option<Read>> {
        let now = Instant::now();
        match self.pace.due(now) {
            Due::Flush => self.flush().await?,
            Due::Search => {
                // If the anchor was not among what came, it never will be.
                let passed = self.resume.abandon();
                if let Some(end) = self.take(passed).await {
                    return Some(Some(end));
                }
                self.pace.set_search(now, false, false);
                self.flush().await?;
            }
            Due::Look => {
                let rest = rest.and_then(|rest| Stamped::parse(rest, |_| false));
                return Some(self.hangs(rest).await);
            }
            Due::Nothing => {}
            Due::Idle => {
                self.progress.next = self.resume.not_begun();
                return Some(Some(Read::Broken));
            }
        }
        Some(None)
    }

    /// Whether the stream hangs at the end of a file that is not the newest one any more: kubelets do not tell. Or shows nothing though
    /// lines come.
    async fn hangs(&mut self, rest: Option<Stamped>) -> Option<Read> {
        let asked = Instant::now();
        self.pace.asked(asked);
        let head = self.reader.head(self.way.mode).await;
        let is_current = |head| self.progress.files.is_current(head);
        // One that lags is silent because its node is busy.
        if self.way.span == Span::SinceCursor && !self.is_old() && head.flatten().is_some_and(is_current) {
            return Some(Read::Silent);
        }
        let Some(head) = head.filter(|head| self.progress.files.is_next(*head)) else {
            self.pace.does_not_hang();
            return None;
        };
        // The old file may have bytes yet that are on their way.
        if !self.pace.hangs_for_long(Instant::now(), asked.elapsed()) {
            return None;
        }
        match self.reader.is_other_run(self.progress, self.way.mode).await {
            // Nobody knows: the stream is kept, with what it has shown of a line.
            Some(Read::Broken) => {
                self.pace.set_look(Instant::now(), true);
                return None;
            }
            Some(end) => return Some(end),
            None => {}
        }
        tracing::debug!(head, "the log was rotated, and its stream did not go on");
        self.progress.next = Some(NextFile { head, rest });
        Some(Read::Rotated)
    }
}
