//! A stream of a log -> chunks, as it comes.

mod end;
mod silence;
mod storing;

use std::time::Duration;

use chrono::Utc;
use futures::{AsyncBufRead, AsyncBufReadExt, FutureExt};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::chunk::{Batch, Resume, nanoseconds};
use super::line::{Raw, Splitter, Stamped};
use super::pace::Pace;
use super::progress::Progress;
use super::reader::Reader;
use super::stream::{Mode, Read, Span};

/// A chunk is written when it is full, or when its time has come ([`Pace`]).
const FULL: usize = 64 << 10;
/// One of so much is not worth a wait for more.
const LARGE: usize = 16 << 10;

/// A followed stream is left for a faster one when it has brought so much,
const MUCH: usize = 64 << 10;
/// its last line is so old, in nanoseconds,
const OLD: i64 = 2_000_000_000;
/// and this was not done a moment ago: the node's clock may be late.
const HURRIES_EVERY: Duration = Duration::from_secs(60);

/// Bytes of what a node says instead of a log that are shown. Its errors are longer than this only by their paths.
const SHOWN: usize = 64;

/// How a stream was opened.
pub(super) struct Way {
    pub(super) mode: Mode,
    pub(super) span: Span,
    /// It begins within the file.
    pub(super) begins_within: bool,
    /// It begins with the file after the one that was read to its end.
    pub(super) enters: bool,
}

/// A stream that is being read.
pub(super) struct Taking<'a> {
    reader: &'a Reader,
    progress: &'a mut Progress,
    way: Way,
    resume: Resume,
    batch: Batch,
    pace: Pace,
    /// Lines that came, new or not.
    lines: u64,
    /// Bytes that came.
    bytes: usize,
    /// The stream began within a line.
    fragment: bool,
}

impl<'a> Taking<'a> {
    pub(super) fn new(reader: &'a Reader, progress: &'a mut Progress, way: Way, resume: Resume) -> Self {
        Self {
            reader,
            progress,
            way,
            resume,
            batch: Batch::default(),
            pace: Pace::new(),
            lines: 0,
            bytes: 0,
            fragment: false,
        }
    }

    /// Takes it to its end. None: the watch is over.
    pub(super) async fn run(mut self, mut stream: std::pin::Pin<Box<impl AsyncBufRead>>) -> Option<Read> {
        let mut splitter = Splitter::default();
        let end = loop {
            self.wait_for_share().await?;
            if self.reader.watching.lost.is_cancelled() {
                return None;
            }
            if self.pace.was_stopped(Instant::now()) {
                self.progress.files.blinded();
            }
            // A fast stream has more at once, and needs no clock.
            let read = match stream.fill_buf().now_or_never() {
                Some(read) => Ok(read),
                None => tokio::select! {
                    read = timeout_at(self.pace.next(), stream.fill_buf()) => read,
                    () = self.reader.watching.lost.cancelled() => return None,
                },
            };
            let bytes = match read {
                Ok(Ok([])) => break Read::End,
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) => {
                    tracing::debug!(error = %error, "a log stream broke");
                    break Read::Broken;
                }
                Err(_) => match self.wait_is_over(splitter.rest()).await? {
                    Some(end) => break end,
                    None => continue,
                },
            };
            let taken = bytes.len();
            self.bytes += taken;
            let lines = splitter.push(bytes);
            stream.consume_unpin(taken);
            self.reader.share.took(taken, Instant::now());
            self.pace.bytes_came(Instant::now());
            for line in &lines {
                if let Some(end) = self.line(line).await? {
                    self.flush().await?;
                    return Some(end);
                }
            }
            self.go_on().await?;
            if !lines.is_empty() && self.is_behind() && self.may_leave().await? {
                return Some(Read::Behind);
            }
        };
        self.ended(end, splitter.rest()).await
    }

    /// Pauses while the process is ahead of its rate. What is read by then does not wait with it.
    async fn wait_for_share(&mut self) -> Option<()> {
        let Some(until) = self.reader.share.pauses_until(Instant::now()) else {
            return Some(());
        };
        if self.pace.is_flush_before(until) {
            self.flush().await?;
        }
        let begins = Instant::now();
        tokio::select! {
            () = sleep_until(until) => {}
            () = self.reader.watching.lost.cancelled() => return None,
        }
        metrics::counter!("octopus_log_pauses_total").increment(1);
        self.pace.paused(Instant::now(), begins.elapsed());
        Some(())
    }

    /// Takes a line. `Some` within: it is not this run's, and the read ends with it.
    async fn line(&mut self, raw: &Raw) -> Option<Option<Read>> {
        for at in Stamped::doubtful(raw) {
            if !self.progress.files.begins(nanoseconds(at))
                && self.progress.files.may_have_changed()
                && self.pace.may_ask(Instant::now())
            {
                self.look_at_head().await;
            }
        }
        let files = &self.progress.files;
        let Some(line) = Stamped::parse(raw, |at| files.begins(nanoseconds(at))) else {
            // A stream that begins at a time may begin within a line of an earlier time, on kubelets from 1.26 on.
            let is_fragment = self.lines == 0 && !self.fragment && self.way.begins_within;
            self.fragment |= is_fragment;
            if !is_fragment {
                self.progress.next = self.resume.not_begun().filter(|next| next.head.is_some());
            }
            // Its beginning at most: it may be half of one.
            let beginning = &raw.bytes[..raw.bytes.len().min(SHOWN)];
            tracing::debug!(line = %String::from_utf8_lossy(beginning), "not a line of the function");
            return Some((!is_fragment).then_some(Read::NodeFull));
        };
        if self.is_next_runs(&line) {
            return Some(Some(Read::NextRun));
        }
        if self.lines == 0 {
            self.progress.files.began(nanoseconds(line.at));
        }
        // What is read as a whole begins with its file.
        if self.lines == 0 && self.way.enters {
            self.progress.files.entered(nanoseconds(line.at));
        } else if self.lines == 0 && !self.way.begins_within {
            self.progress.files.looked(nanoseconds(line.at));
        }
        self.lines += 1;
        if self.shows_again(nanoseconds(line.at)).await {
            tracing::debug!(at = %line.at, "the stream begins its file again");
            metrics::counter!("octopus_log_repeats_total").increment(1);
            self.flush().await?;
            self.resume = Resume::at(&self.progress.cursor);
        }
        let (at, bytes) = (nanoseconds(line.at), line.content.len());
        let passed = self.resume.pass(line);
        // What is not the beginning of anything comes once more.
        if !self.resume.is_in_tail() {
            self.progress.files.read(at, bytes);
        }
        if let Some(end) = self.take(passed).await {
            return Some(Some(end));
        }
        if self.batch.text.len() >= FULL {
            self.flush().await?;
        }
        Some(None)
    }

    /// Whether the stream shows the file that it is in again. Newer kubelets show the first line of a file without its timestamp where
    /// they join it to the half of one, so it may have gone on to this file without being seen.
    async fn shows_again(&mut self, at: i64) -> bool {
        if self.resume.is_searching() {
            return false;
        }
        let is_unknown = self.progress.files.goes_far_back(at) && !self.progress.files.begins(at);
        if self.way.mode == Mode::Follow && is_unknown && self.pace.may_ask(Instant::now()) {
            self.look_at_head().await;
        }
        self.progress.files.shows_again(at)
    }

    /// After each piece of the stream.
    async fn go_on(&mut self) -> Option<()> {
        let now = Instant::now();
        let is_large = self.batch.text.len() >= LARGE;
        self.pace.set_flush(now, !self.batch.is_empty(), is_large);
        self.pace
            .set_search(now, self.resume.is_searching(), self.resume.is_late());
        let may_be_hidden = self.way.span == Span::SinceCursor || self.progress.files.may_have_changed();
        let looks = self.way.mode == Mode::Follow && !self.resume.is_searching() && may_be_hidden;
        self.pace.set_look(now, looks);
        if looks && self.pace.is_long_since_look(now) {
            self.look_at_head().await;
        }
        if self.way.mode == Mode::Follow && !self.is_old() {
            self.progress
                .note_beginning(self.reader.began.get().copied(), None, false);
        }
        // Else it may be that the hole before the newest file is about to be found.
        if !self.resume.is_searching() {
            self.reader.note_rotation(self.progress, false).await;
        }
        Some(())
    }

    /// Whether the lines are old though nothing held this stream up but whoever passes it on.
    fn is_behind(&self) -> bool {
        let hurried = self.progress.hurried;
        self.way.mode == Mode::Follow
            && self.bytes >= MUCH
            && !self.resume.is_searching()
            && !self.pace.was_held_up(Instant::now())
            && self.is_old()
            && hurried.is_none_or(|hurried| hurried.elapsed() >= HURRIES_EVERY)
    }

    fn is_old(&self) -> bool {
        let is_old = |last: i64| nanoseconds(Utc::now()).saturating_sub(last) >= OLD;
        self.progress.cursor.time.is_some_and(is_old)
    }

    /// Whether the stream is in the newest file: else nobody but it has the rest. Asked at once before it is left.
    async fn may_leave(&mut self) -> Option<bool> {
        self.progress.hurried = Some(Instant::now());
        self.flush().await?;
        let head = self.look_at_head().await;
        let may_leave = head.is_some_and(|head| self.progress.files.is_current(head));
        if may_leave {
            metrics::counter!("octopus_log_hurries_total").increment(1);
        }
        Some(may_leave)
    }

    async fn look_at_head(&mut self) -> Option<i64> {
        let head = self.reader.head(self.way.mode).await.flatten();
        self.pace.asked(Instant::now());
        if let Some(head) = head {
            tracing::debug!(head, "the newest file");
            self.progress.files.looked(head);
        }
        head
    }

    fn is_next_runs(&self, line: &Stamped) -> bool {
        self.progress.until.is_some_and(|until| nanoseconds(line.at) >= until)
    }
}
