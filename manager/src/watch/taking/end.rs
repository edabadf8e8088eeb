//! The end of a stream: what its last bytes are, and what follows it.

use super::Taking;
use crate::watch::chunk::Passed;
use crate::watch::line::{Raw, Stamped};
use crate::watch::stream::{Mode, Read, Span};

impl Taking<'_> {
    /// The stream is over.
    pub(super) async fn ended(mut self, end: Read, rest: Option<&Raw>) -> Option<Read> {
        let is_end = matches!(end, Read::End);
        let parsed = rest.map(|rest| Stamped::parse(rest, |_| false));
        let mut end = end;
        match (is_end, self.way.span, parsed) {
            (true, Span::AllAndLast, Some(Some(line))) => {
                end = if self.is_next_runs(&line) {
                    Read::NextRun
                } else {
                    let passed = self.resume.pass(line);
                    self.take(passed).await.unwrap_or(end)
                };
            }
            // A fragment: it is read again, whole, unless this was the end of its file.
            (true, _, Some(Some(line))) => self.progress.ended = Some(Some(line)),
            (true, _, Some(None)) => end = Read::NodeFull,
            (true, span, None) if span != Span::AllAndLast => self.progress.ended = Some(None),
            _ => {}
        }
        if self.fragment && self.lines == 0 {
            end = Read::NodeFull;
        }
        if self.way.mode != Mode::Follow || self.resume.is_searching() {
            self.progress.ended = None;
        }
        if matches!(end, Read::End) {
            let passed = self.resume.give_up();
            end = self.take(passed).await.unwrap_or(end);
        }
        let is_whole = self.way.span == Span::AllAndLast;
        let is_read = matches!(end, Read::End);
        let next = self.resume.not_begun().filter(|next| is_read || next.head.is_some());
        // Of all that the node has, what is stored is a part, unless its file was read to the end and nothing is in the next one.
        let is_empty = next.as_ref().is_some_and(|next| next.head.is_none());
        self.progress.missed = self.resume.has_missed() || is_whole && self.resume.is_searching() && !is_empty;
        if let Some(mut next) = next {
            if is_read
                && is_whole
                && let Some(line) = next.last_line()
            {
                self.store(Passed::New(vec![line]));
            }
            self.progress.next = Some(next);
        }
        self.flush().await?;
        Some(end)
    }
}
