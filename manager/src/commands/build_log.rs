//! What a build prints, stored while it does. It only grows: a place in it stays the same place.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use octopus_shared::db::claim::Claim;
use octopus_shared::db::report::{self, ReportError};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::context::Context;
use crate::image::BuildLog;

/// Bytes of its beginning that are kept,
const BEGINNING: usize = 160 << 10;
/// and of its end. Together with the time of each line they stay below the 256 KiB that a row takes.
const END: usize = 64 << 10;
/// Bytes of a line: a longer one becomes several.
const LINE: usize = 8 << 10;
/// Between two looks at whether there is more to store.
const SHOWN_EVERY: Duration = Duration::from_millis(500);

/// The log of one try of a build.
#[derive(Default)]
pub(super) struct Log(Mutex<Text>);

#[derive(Default)]
struct Text {
    /// What is stored: lines, each after its time.
    stored: String,
    /// The last lines of a long log, stored when it is over.
    rest: VecDeque<String>,
    rest_bytes: usize,
    /// Lines that were neither.
    dropped: i64,
    /// Bytes of `stored` that are in Postgres.
    shown: usize,
}

impl Log {
    /// Stores what comes until the build is `over`. What fails is tried again.
    pub(super) async fn keep_showing(
        &self,
        context: &Context,
        claim: &Claim,
        revision: Uuid,
        over: &CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SHOWN_EVERY) => {}
                () = over.cancelled() => return,
            }
            if let Err(error) = self.show(context, claim, revision).await {
                tracing::debug!(error = %error, "what a build printed was not stored yet");
            }
        }
    }

    /// Stores what was printed since the last time.
    ///
    /// # Errors
    /// [`ReportError`].
    pub(super) async fn show(&self, context: &Context, claim: &Claim, revision: Uuid) -> Result<(), ReportError> {
        let (text, dropped, shown) = {
            let text = self.lock();
            (text.stored.clone(), text.dropped, text.shown)
        };
        if text.len() > shown {
            report::build_printed(&context.pool, claim, revision, (&text, dropped, shown == 0)).await?;
            self.lock().shown = text.len();
            context.changes.announce(revision);
        }
        Ok(())
    }

    /// No more comes.
    pub(super) fn end(&self) {
        let mut text = self.lock();
        if text.dropped > 0 {
            let dropped = text.dropped;
            text.stored
                .push_str(&stamped(&format!("({dropped} lines are left out here)")));
        }
        let rest: String = text.rest.drain(..).collect();
        text.stored.push_str(&rest);
        text.rest_bytes = 0;
    }

    /// All of it, once it is over.
    pub(super) fn text(&self) -> String {
        self.lock().stored.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Text> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BuildLog for Log {
    fn line(&self, line: &str) {
        let mut text = self.lock();
        for line in line.lines() {
            let mut rest = line;
            while rest.len() > LINE {
                let (piece, following) = rest.split_at(rest.floor_char_boundary(LINE));
                text.push(stamped(piece));
                rest = following;
            }
            text.push(stamped(rest));
        }
    }
}

impl Text {
    fn push(&mut self, line: String) {
        if self.rest.is_empty() && self.stored.len() + line.len() <= BEGINNING {
            return self.stored.push_str(&line);
        }
        self.rest_bytes += line.len();
        self.rest.push_back(line);
        while let Some(old) = self.rest.pop_front_if(|_| self.rest_bytes > END) {
            self.rest_bytes -= old.len();
            self.dropped += 1;
        }
    }
}

/// A line after its time. Postgres' text has no NUL.
fn stamped(line: &str) -> String {
    let at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    format!("{at} {}\n", line.replace('\0', "\u{fffd}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(log: &Log) -> Vec<String> {
        let text = log.text();
        let content = text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned());
        content.collect()
    }

    #[test]
    fn a_log_only_grows_and_each_line_has_a_time() {
        let log = Log::default();
        log.line("first\nsecond");
        let before = log.text();
        log.line("NUL \0");
        log.end();
        assert!(log.text().starts_with(&before));
        assert_eq!(lines(&log), ["first", "second", "NUL \u{fffd}"]);
    }

    #[test]
    fn of_a_long_line_nothing_is_lost() {
        let log = Log::default();
        let long = format!("{}\u{e9}{}", "x".repeat(LINE - 1), "y".repeat(LINE));
        log.line(&long);
        log.end();
        let lines = lines(&log);
        let sizes: Vec<usize> = lines.iter().map(String::len).collect();
        assert_eq!((sizes, lines.concat()), (vec![LINE - 1, LINE, 2], long));
    }

    #[test]
    fn of_a_long_log_the_beginning_and_the_end_are_kept() {
        let log = Log::default();
        for number in 0..20_000 {
            log.line(&format!("line {number}"));
        }
        let beginning = log.text();
        log.line(&"x".repeat(LINE));
        log.end();
        let (text, lines) = (log.text(), lines(&log));
        assert!(
            text.starts_with(&beginning) && text.len() <= 256 << 10,
            "{}",
            text.len()
        );
        let left_out = log.lock().dropped;
        assert!(lines.contains(&format!("({left_out} lines are left out here)")));
        assert_eq!(lines.len() as i64, 20_001 - left_out + 1);
        assert_eq!((lines[0].as_str(), lines.last().unwrap().len()), ("line 0", LINE));
        assert_eq!(lines[lines.len() - 2], "line 19999");
    }
}
