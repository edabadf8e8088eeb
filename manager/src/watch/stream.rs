//! One read of a log: from where it was stored, to the end of the stream.

use std::time::Duration;

use chrono::Utc;
use futures::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::LogParams;
use octopus_shared::db::report::{Chunk, Opened, StreamCursor};
use octopus_shared::log::Gap;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use uuid::Uuid;

use super::chunk::{Batch, NextFile, Passed, Resume, nanoseconds};
use super::files::Files;
use super::flow::Flow;
use super::line::{OVERLAP, Raw, Splitter, Stamped};
use super::pace::{Due, Pace};
use super::reader::Reader;
use super::writer::{Message, Said};

/// A chunk is written when it is full, or when its time has come ([`Pace`]).
const FULL: usize = 64 << 10;
/// The node answers such a question in milliseconds.
const QUESTION: Duration = Duration::from_secs(5);

/// How far a log was read, and what is known of it.
pub(super) struct Progress {
    pub(super) cursor: StreamCursor,
    /// The spool of another manager, in which the lines that follow may be.
    pub(super) spooled_by: Option<Uuid>,
    pub(super) files: Files,
    /// How fast it was printed.
    flow: Flow,
    /// Holes that are not stored yet.
    pub(super) gaps: Vec<Gap>,
    /// The last stored line did not come in the last read.
    pub(super) missed: bool,
    /// A followed stream has ended. What it had shown of a line is its end, if its container has ended.
    pub(super) ended: Option<Option<Stamped>>,
    /// The file that was read has ended, and this one follows.
    next: Option<NextFile>,
    /// The container has ended by then, and later lines are of its next run.
    pub(super) until: Option<i64>,
    /// What comes first may be of another run: nothing of this one is stored, and it was not the current one a moment ago.
    doubted: bool,
    /// The node has answered with the log at least once.
    attached: bool,
}

impl Progress {
    /// `is_current`: the node was just seen to run it.
    pub(super) fn new(opened: Opened, is_current: bool) -> Self {
        Self {
            doubted: !is_current,
            flow: Flow::resumed(&opened.cursor),
            files: Files::resumed(opened.head, opened.cursor.time),
            cursor: opened.cursor,
            spooled_by: opened.spooled_by,
            gaps: Vec::new(),
            missed: false,
            ended: None,
            next: None,
            until: None,
            attached: false,
        }
    }

    /// Puts a hole on record.
    fn note(&mut self, gap: Gap) {
        self.gaps.push(self.flow.estimated(gap));
    }

    /// The same of a change of files at which lines may have been missed. `over`: nothing more comes.
    pub(super) fn note_rotation(&mut self, over: bool) {
        if let Some(gap) = self.files.unproven(over) {
            self.note(gap);
        }
    }
}

impl Progress {
    /// A hole that another manager may be able to fill: nothing new has come since it stopped.
    pub(super) fn before_us(&mut self, gap: Gap) -> Gap {
        match self.spooled_by.take() {
            Some(spool) => gap.spooled_by(spool),
            None => gap,
        }
    }
}

/// How a read ended.
pub(super) enum Read {
    /// The stream ended cleanly.
    End,
    /// The node has begun a new file, and the stream has come to the end of the old one.
    Rotated,
    /// Nothing came for long, or the connection broke.
    Broken,
    /// The node cannot follow another log; its error text came instead of lines.
    NodeFull,
    /// There is no log to read at the moment.
    NotThere,
    /// It is the log of the container's next run.
    NextRun,
}

/// Which file of the node is read, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Follow,
    Once,
    Previous,
}

/// What is read of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// From the cursor on.
    SinceCursor,
    /// All of it, whatever the node's clock did; and bytes without a newline at the end are a line too.
    AllAndLast,
}

impl Reader {
    /// Reads once. None: the watch is over.
    pub(super) async fn read(&self, progress: &mut Progress, mode: Mode, span: Span) -> Option<Read> {
        progress.ended = None;
        // Of a new file all is read. Lines that changed places are looked for too.
        let is_whole = span == Span::AllAndLast || progress.next.is_some();
        let since = progress.cursor.time.filter(|_| !is_whole);
        let parameters = LogParams {
            follow: mode == Mode::Follow,
            since_time: since.and_then(floored),
            ..self.parameters(mode)
        };
        let api = self.watching.context.cluster.api::<Pod>();
        let opened = tokio::select! {
            opened = timeout(Pace::IDLE, api.log_stream(&self.pod_name, &parameters)) => opened,
            () = self.watching.lost.cancelled() => return None,
        };
        match opened {
            Ok(Ok(stream)) => {
                if std::mem::replace(&mut progress.attached, true) {
                    progress.doubted = true;
                } else {
                    metrics::counter!("octopus_logs_attached_total").increment(1);
                }
                let enters = progress.next.is_some();
                let resume = match progress.next.take() {
                    Some(next) => Resume::in_next_file(&progress.cursor, next),
                    None => Resume::at(&progress.cursor),
                };
                progress.files.opened(progress.cursor.bytes);
                let taking = Taking {
                    reader: self,
                    progress,
                    mode,
                    span,
                    since: since.is_some(),
                    enters,
                    resume,
                    batch: Batch::default(),
                    pace: Pace::new(),
                    lines: 0,
                    fragment: false,
                };
                taking.run(Box::pin(stream)).await
            }
            failed => {
                // What was empty then need not be the next file any more.
                progress.next = progress.next.take().filter(|next| next.head.is_some());
                Some(match failed {
                    Ok(Err(kube::Error::Api(status))) if status.code < 500 => Read::NotThere,
                    _ => Read::Broken,
                })
            }
        }
    }

    fn parameters(&self, mode: Mode) -> LogParams {
        LogParams {
            container: Some(self.key.container.clone()),
            previous: mode == Mode::Previous,
            timestamps: true,
            ..LogParams::default()
        }
    }

    /// The container of a followed stream has ended, so the stream has come to the end of its file. What follows in the
    /// newest file follows at once, if that is another one.
    pub(super) async fn turn(&self, progress: &mut Progress, mode: Mode) {
        let Some(rest) = progress.ended.take() else { return };
        if !progress.files.may_have_changed() {
            return;
        }
        if let Some(head) = self.head(mode).await
            && progress.files.is_next(head)
        {
            progress.next = Some(NextFile { head, rest });
        }
    }

    /// The first timestamp of the newest file; None within when nothing is in it yet, None when nobody knows.
    async fn head(&self, mode: Mode) -> Option<Option<i64>> {
        let parameters = LogParams {
            limit_bytes: Some(64),
            ..self.parameters(mode)
        };
        let api = self.watching.context.cluster.api::<Pod>();
        let asked = async {
            let mut bytes = Vec::new();
            let stream = api.log_stream(&self.pod_name, &parameters).await.ok()?;
            Box::pin(stream).take(64).read_to_end(&mut bytes).await.ok()?;
            let line = octopus_shared::log::parse_line(&bytes);
            // What has no timestamp is an error text.
            (bytes.is_empty() || line.is_some()).then(|| line.map(|line| nanoseconds(line.at)))
        };
        timeout(QUESTION, asked).await.ok().flatten()
    }
}

/// A stream that is being read.
struct Taking<'a> {
    reader: &'a Reader,
    progress: &'a mut Progress,
    mode: Mode,
    span: Span,
    /// The stream begins at a time.
    since: bool,
    /// It begins with the file after the one that was read to its end.
    enters: bool,
    resume: Resume,
    batch: Batch,
    pace: Pace,
    /// Lines that came, new or not.
    lines: u64,
    /// The stream began within a line.
    fragment: bool,
}

impl Taking<'_> {
    async fn run(mut self, mut stream: std::pin::Pin<Box<impl AsyncBufRead>>) -> Option<Read> {
        let mut splitter = Splitter::default();
        let end = loop {
            self.wait_for_share().await?;
            let read = tokio::select! {
                read = timeout_at(self.pace.next(), stream.fill_buf()) => read,
                () = self.reader.watching.lost.cancelled() => return None,
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
        self.pace.paused(begins.elapsed());
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
            let is_fragment = self.lines == 0 && !self.fragment && self.since;
            self.fragment |= is_fragment;
            tracing::debug!(line = %String::from_utf8_lossy(&raw.bytes), "not a line of the function");
            return Some((!is_fragment).then_some(Read::NodeFull));
        };
        if self.progress.until.is_some_and(|until| nanoseconds(line.at) >= until) {
            return Some(Some(Read::NextRun));
        }
        // What is read as a whole begins with its file.
        if self.lines == 0 && self.enters {
            self.progress.files.entered(nanoseconds(line.at));
        } else if self.lines == 0 && !self.since {
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
        self.pace.set_flush(now, !self.batch.is_empty());
        self.pace
            .set_search(now, self.resume.is_searching(), self.resume.is_late());
        let looks = self.mode == Mode::Follow && !self.resume.is_searching() && self.progress.files.may_have_changed();
        self.pace.set_look(now, looks);
        if looks && self.pace.is_long_since_look(now) {
            self.look_at_head().await;
        }
        // Else it may be that the hole before the newest file is about to be found.
        if !self.resume.is_searching() {
            self.progress.note_rotation(false);
        }
        Some(())
    }

    async fn look_at_head(&mut self) {
        self.pace.asked(Instant::now());
        if let Some(Some(head)) = self.reader.head(self.mode).await {
            tracing::debug!(head, "the newest file");
            self.progress.files.looked(head);
        }
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
        self.pace.asked(Instant::now());
        let Some(head) = self
            .reader
            .head(self.mode)
            .await
            .filter(|head| self.progress.files.is_next(*head))
        else {
            self.pace.does_not_hang();
            return None;
        };
        // The old file may have bytes yet that are on their way.
        if !self.pace.hangs_for_long(Instant::now()) {
            return None;
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
        match (is_end, self.span, parsed) {
            (true, Span::AllAndLast, Some(Some(line))) => {
                let passed = self.resume.pass(line);
                end = self.take(passed).await.unwrap_or(end);
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
        if self.mode != Mode::Follow || self.resume.is_searching() {
            self.progress.ended = None;
        }
        if matches!(end, Read::End) {
            let passed = self.resume.give_up();
            end = self.take(passed).await.unwrap_or(end);
        }
        if matches!(end, Read::End) {
            if self.span == Span::AllAndLast
                && let Some(rest) = self.resume.not_begun().and_then(|next| next.rest)
            {
                // Nothing followed in the next file, so this was the last line.
                self.store(Passed::New(vec![rest]));
            }
        }
        self.progress.missed = self.resume.has_missed();
        self.flush().await?;
        Some(end)
    }

    /// Stores what is new. What does not follow what is stored is looked at first: while the manager was away, or the status
    /// was late, the container may have been started again, and its node gives the log of its next run. `Some`: it did.
    async fn take(&mut self, passed: Passed) -> Option<Read> {
        let is_doubted = match &passed {
            Passed::Nothing => return None,
            Passed::New(_) => self.progress.doubted && self.progress.cursor.lines == 0,
            Passed::AfterGap(..) => true,
        };
        if is_doubted && let Some(end) = self.reader.is_other_run(self.mode).await {
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
                    self.progress.files.entered(nanoseconds(first.at));
                }
                lines
            }
        };
        for mut line in lines {
            if self.progress.cursor.lines == 0 {
                self.progress.files.entered(nanoseconds(line.at));
            }
            if let Some((seam, _)) = line.seam {
                let seam = nanoseconds(seam);
                let follows = self.progress.files.follows(seam);
                tracing::debug!(seam, follows, "a line was cut by the rotation");
                self.progress.files.entered(seam);
                if !follows {
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
        self.pace.set_flush(Instant::now(), false);
        let batch = std::mem::take(&mut self.batch);
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
        self.pace.paused(begins.elapsed());
        sent
    }
}

/// The whole second of a cursor, and one more: the API takes no finer time, the client would round it up, and the lines of
/// two streams of a container may change places.
fn floored(time: i64) -> Option<Timestamp> {
    Timestamp::from_second(time.div_euclid(1_000_000_000) - OVERLAP.num_seconds()).ok()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn since_is_earlier_than_the_cursor() {
        let at: DateTime<Utc> = "2026-01-02T03:04:05.999999999Z".parse().unwrap();
        assert_eq!(floored(nanoseconds(at)).unwrap().to_string(), "2026-01-02T03:04:04Z");
    }
}
