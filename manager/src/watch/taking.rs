//! A stream of a log -> chunks, as it comes.

use std::time::Duration;

use chrono::Utc;
use futures::{AsyncBufRead, AsyncBufReadExt, FutureExt};
use octopus_shared::db::report::Chunk;
use octopus_shared::log::Gap;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::chunk::{Batch, NextFile, Passed, Resume, nanoseconds};
use super::line::{Raw, Splitter, Stamped};
use super::pace::{Due, Pace};
use super::progress::Progress;
use super::reader::Reader;
use super::stream::{Mode, Read, Span};
use super::writer::{Message, Said};

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

/// How a stream was opened.
pub(super) struct Way {
    pub(super) mode: Mode,
    pub(super) span: Span,
    /// It begins at a time.
    pub(super) since: bool,
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
            let is_fragment = self.lines == 0 && !self.fragment && self.way.since;
            self.fragment |= is_fragment;
            if !is_fragment {
                self.progress.next = self.resume.not_begun().filter(|next| next.head.is_some());
            }
            tracing::debug!(line = %String::from_utf8_lossy(&raw.bytes), "not a line of the function");
            return Some((!is_fragment).then_some(Read::NodeFull));
        };
        if self.is_next_runs(&line) {
            return Some(Some(Read::NextRun));
        }
        // What is read as a whole begins with its file.
        if self.lines == 0 && self.way.enters {
            self.progress.files.entered(nanoseconds(line.at));
        } else if self.lines == 0 && !self.way.since {
            self.progress.files.looked(nanoseconds(line.at));
        }
        self.lines += 1;
        self.progress.files.read(nanoseconds(line.at), line.content.len());
        let passed = self.resume.pass(line);
        if let Some(end) = self.take(passed).await {
            return Some(Some(end));
        }
        if self.batch.text.len() >= FULL {
            self.flush().await?;
        }
        Some(None)
    }

    /// After each piece of the stream.
    async fn go_on(&mut self) -> Option<()> {
        let now = Instant::now();
        let is_large = self.batch.text.len() >= LARGE;
        self.pace.set_flush(now, !self.batch.is_empty(), is_large);
        self.pace
            .set_search(now, self.resume.is_searching(), self.resume.is_late());
        let looks =
            self.way.mode == Mode::Follow && !self.resume.is_searching() && self.progress.files.may_have_changed();
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
            self.progress.note_rotation(false);
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

    /// Nothing came until now. `Some`: nothing will.
    async fn wait_is_over(&mut self, rest: Option<&Raw>) -> Option<Option<Read>> {
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

    /// Whether the stream hangs at the end of a file that is not the newest one any more: kubelets do not tell.
    async fn hangs(&mut self, rest: Option<Stamped>) -> Option<Read> {
        let asked = Instant::now();
        self.pace.asked(asked);
        let Some(head) = self
            .reader
            .head(self.way.mode)
            .await
            .filter(|head| self.progress.files.is_next(*head))
        else {
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

    /// The stream is over.
    async fn ended(mut self, end: Read, rest: Option<&Raw>) -> Option<Read> {
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
            (true, Span::SinceCursor, Some(Some(line))) => self.progress.ended = Some(Some(line)),
            (true, _, Some(None)) => end = Read::NodeFull,
            (true, Span::SinceCursor, None) => self.progress.ended = Some(None),
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
            if let Some(rest) = next.rest.take_if(|_| is_read && is_whole && is_empty) {
                // Nothing was in the next file, so this was the last line.
                self.store(Passed::New(vec![rest]));
            }
            self.progress.next = Some(next);
        }
        self.flush().await?;
        Some(end)
    }

    fn is_next_runs(&self, line: &Stamped) -> bool {
        self.progress.until.is_some_and(|until| nanoseconds(line.at) >= until)
    }

    /// Stores what is new. What does not follow what is stored is looked at first: while the manager was away, or the status
    /// was late, the container may have been started again, and its node gives the log of its next run. `Some`: it did.
    async fn take(&mut self, passed: Passed) -> Option<Read> {
        let is_doubted = match &passed {
            Passed::Nothing => return None,
            Passed::New(_) => self.progress.doubted && self.progress.cursor.lines == 0,
            Passed::AfterGap(..) => true,
        };
        if is_doubted && let Some(end) = self.reader.is_other_run(self.progress, self.way.mode).await {
            return Some(end);
        }
        self.progress.doubted = false;
        self.store(passed);
        None
    }

    fn store(&mut self, passed: Passed) {
        let lines = match passed {
            Passed::Nothing => return,
            Passed::New(lines) => {
                self.progress.spooled_by = None;
                lines
            }
            Passed::AfterGap(lines, gap) => {
                let gap = self.progress.before_us(gap);
                self.progress.note(gap);
                // What was missed on the way to this file is part of the gap.
                if let Some(first) = lines.first() {
                    self.progress.files.passed_over(nanoseconds(first.at));
                }
                lines
            }
        };
        for mut line in lines {
            if self.progress.cursor.lines == 0 {
                self.progress.first = Some(nanoseconds(line.at));
                self.progress.files.entered(nanoseconds(line.at));
            }
            if let Some((seam, _)) = line.seam {
                let seam = nanoseconds(seam);
                let follows = self.progress.files.follows(seam);
                tracing::debug!(seam, follows, "a line was cut by the rotation");
                if follows {
                    self.progress.files.entered(seam);
                } else {
                    self.progress.files.passed_over(seam);
                    // The halves are of two lines: a file in between was passed over.
                    line = line.second_half();
                    self.progress.note(Gap {
                        from: self.progress.cursor.time,
                        to: Some(seam),
                        reason: "rotated_away".into(),
                        cut: true,
                        ..Gap::default()
                    });
                }
            }
            self.progress.flow.read(nanoseconds(line.at), line.content.len() + 1);
            self.batch.push(&mut self.progress.cursor, &line);
        }
    }

    /// Hands the batch to the writer. None: the watch is over.
    async fn flush(&mut self) -> Option<()> {
        self.pace.set_flush(Instant::now(), false, false);
        let batch = std::mem::take(&mut self.batch);
        batch.close(&mut self.progress.cursor);
        self.progress.gaps.extend(batch.gaps);
        let (Some(first_at), Some(last_at)) = (batch.first_at, batch.last_at) else {
            return Some(());
        };
        let chunk = Chunk {
            process_id: self.reader.process_id,
            seq: 0,
            day: Utc::now().date_naive(),
            key: self.reader.key.clone(),
            lines: batch.lines,
            first_at,
            last_at,
            size: batch.size,
            text: batch.text.finish(),
            before: batch.before,
            cursor: self.progress.cursor.clone(),
            gaps: std::mem::take(&mut self.progress.gaps),
            seams: batch.seams,
            head: self.progress.files.proven(),
        };
        let begins = Instant::now();
        let room = self.reader.share.room(batch.size.unsigned_abs() as usize).await?;
        let said = Said {
            message: Message::Chunk(chunk),
            room: Some(room),
        };
        let sent = self.reader.chunks.send(said).await.ok();
        self.pace.paused(Instant::now(), begins.elapsed());
        sent
    }
}
