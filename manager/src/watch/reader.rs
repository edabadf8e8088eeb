//! One run of one container -> chunks, byte for byte, to its end.
//!
//! The end of a stream says nothing: an API server ends it cleanly when its link to the kubelet dies. A log is complete
//! when the container has ended and a further read adds nothing.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::{AsyncBufRead, AsyncBufReadExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::LogParams;
use octopus_shared::db::report::{self, Chunk, Gap, Seal, StreamCursor, StreamKey};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::Watching;
use super::chunk::{Batch, Passed, Resume, Splitter, Stamped};
use super::writer::Message;
use crate::cluster::ClusterError;

/// A chunk is written this long after its first line came, or when it is full.
const FLUSH_AFTER: Duration = Duration::from_millis(150);
const FULL: usize = 64 << 10;
/// A followed stream without a byte for this long is opened again: its connection may have died silently.
const IDLE: Duration = Duration::from_secs(60);
/// Between two reads of a log that is not followed.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Between the two silent reads from which the end of a container is inferred.
const INFER_AFTER: Duration = Duration::from_secs(2);

pub(super) struct Reader {
    pub(super) watching: Arc<Watching>,
    pub(super) key: StreamKey,
    pub(super) process_id: Uuid,
    pub(super) pod_name: String,
    pub(super) room: Arc<Semaphore>,
    pub(super) chunks: mpsc::Sender<Message>,
}

/// How a read ended.
enum Read {
    /// The stream ended cleanly.
    End,
    /// Nothing came for long, or the connection broke.
    Broken,
    /// The node cannot follow another log; its error text came instead of lines.
    NodeFull,
    /// There is no log to read at the moment.
    NotThere,
}

/// What a look at the pod says about this run of the container.
enum Run {
    /// It goes on.
    Going,
    /// Its end is in the status; its log is the current one.
    Ended,
    /// Another run has followed; its log is the previous one, if the node still has it.
    Previous,
    /// More than one run has followed: the node has removed its log.
    Removed,
    /// The pod is ending and the status will not say when the container has ended (kubelets before 1.22).
    Silent,
    /// The pod has ended and its status does not know the container any more: its node has evicted it, mostly with its log.
    Forgotten,
    /// The pod is gone, and with it its log.
    PodGone,
}

/// Which file of the node is read, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Follow,
    Once,
    Previous,
}

impl Reader {
    /// Reads to the end, from where `cursor` is.
    pub(super) async fn run(self, mut cursor: StreamCursor) {
        let mut followed = self.room.clone().try_acquire_owned().ok();
        let mut shown = None;
        let mut silent = 0;
        loop {
            let mode = if followed.is_some() { Mode::Follow } else { Mode::Once };
            self.show(&mut shown, if followed.is_some() { "follow" } else { "poll" })
                .await;
            let before = cursor.lines;
            let Some(read) = self.read(&mut cursor, mode, false).await else {
                return;
            };
            if matches!(read, Read::NodeFull) {
                followed = None;
            }
            let run = match self.look().await {
                Ok(run) => run,
                Err(error) => {
                    tracing::debug!(error = %error, "the pod could not be looked at");
                    if !self.watching.sleep(Duration::from_secs(1)).await {
                        return;
                    }
                    continue;
                }
            };
            match run {
                Run::Ended | Run::Forgotten => return self.finish(cursor, Mode::Once, "seen").await,
                Run::Previous => {
                    self.show(&mut shown, "previous").await;
                    return self.finish(cursor, Mode::Previous, "seen").await;
                }
                Run::Removed => return self.seal(Some(missing(&cursor, "restarted")), "seen").await,
                Run::PodGone => return self.lost(&cursor, "unknown").await,
                Run::Silent => {
                    // A container that lives keeps a followed stream open; one that is dead ends it at once.
                    let ended =
                        matches!(read, Read::End | Read::NotThere) && cursor.lines == before && mode == Mode::Follow;
                    silent = if ended { silent + 1 } else { 0 };
                    if silent >= 2 {
                        return self.finish(cursor, Mode::Once, "inferred").await;
                    }
                    followed = followed.or_else(|| self.room.clone().try_acquire_owned().ok());
                    if !self.watching.sleep(INFER_AFTER).await {
                        return;
                    }
                }
                Run::Going => {
                    let pause = if matches!(read, Read::End) && mode == Mode::Follow {
                        Duration::from_millis(200)
                    } else {
                        POLL_EVERY
                    };
                    if !self.watching.sleep(pause).await {
                        return;
                    }
                    followed = self.room_again(followed, &read);
                }
            }
        }
    }

    /// A log that is polled is followed as soon as there is room, unless the node itself has none.
    fn room_again(&self, followed: Option<OwnedSemaphorePermit>, read: &Read) -> Option<OwnedSemaphorePermit> {
        match read {
            Read::NodeFull => None,
            _ => followed.or_else(|| self.room.clone().try_acquire_owned().ok()),
        }
    }

    async fn show(&self, shown: &mut Option<&'static str>, reader: &'static str) {
        if *shown != Some(reader) {
            let stored = report::set_reader(&self.watching.context.pool, &self.watching.watch, &self.key, reader).await;
            if self.watching.written(stored).is_some() {
                *shown = Some(reader);
            }
        }
    }

    /// The container has ended: reads what is left until a read adds nothing, then seals.
    async fn finish(self, mut cursor: StreamCursor, mode: Mode, end: &'static str) {
        loop {
            let before = cursor.lines;
            let Some(read) = self.read(&mut cursor, mode, true).await else {
                return;
            };
            match read {
                Read::End if cursor.lines == before => return self.seal(None, end).await,
                Read::End => {}
                Read::NotThere => {
                    // Its pod or its log may have been removed meanwhile; that is for a consistent look to say.
                    match self.look().await {
                        Ok(Run::PodGone) => return self.lost(&cursor, end).await,
                        Ok(Run::Removed) => return self.seal(Some(missing(&cursor, "restarted")), end).await,
                        Ok(Run::Forgotten) => return self.seal(Some(missing(&cursor, "evicted")), end).await,
                        Ok(Run::Previous) if mode == Mode::Previous => {
                            return self.seal(Some(missing(&cursor, "restarted")), end).await;
                        }
                        _ => {}
                    }
                    if !self.watching.sleep(POLL_EVERY).await {
                        return;
                    }
                }
                Read::Broken | Read::NodeFull => {
                    if !self.watching.sleep(POLL_EVERY).await {
                        return;
                    }
                }
            }
        }
    }

    /// The pod went before a read had confirmed its end: a kill may have been in a hurry, or somebody else was.
    async fn lost(self, cursor: &StreamCursor, end: &'static str) {
        let killed = loop {
            let killed = report::is_killed(&self.watching.context.pool, self.process_id).await;
            match self.watching.written(killed.map_err(Into::into)) {
                Some(killed) => break killed,
                None if !self.watching.sleep(POLL_EVERY).await => return,
                None => {}
            }
        };
        let reason = if killed { "killed_early" } else { "pod_gone" };
        self.seal(Some(missing(cursor, reason)), end).await;
    }

    async fn seal(self, gap: Option<Gap>, end: &'static str) {
        let message = Message::Seal {
            process_id: self.process_id,
            key: self.key,
            seal: Seal { gap, end },
        };
        // Fails only when the watch is over; then the next one seals it.
        let _ = self.chunks.send(message).await;
    }

    /// A consistent look at what became of this run.
    async fn look(&self) -> Result<Run, ClusterError> {
        let Some(pod) = self
            .watching
            .context
            .cluster
            .pod(&self.pod_name, &self.key.pod_uid)
            .await?
        else {
            return Ok(Run::PodGone);
        };
        let status = pod.status.unwrap_or_default();
        let final_phase = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let container = status
            .container_statuses
            .iter()
            .flatten()
            .find(|status| status.name == self.key.container);
        let Some(container) = container else {
            return Ok(if final_phase { Run::Forgotten } else { Run::Going });
        };
        let state = container.state.clone().unwrap_or_default();
        Ok(match container.restart_count - self.key.restart {
            0 if state.terminated.is_some() => Run::Ended,
            0 if state.running.is_some() && final_phase => Run::Silent,
            0 => Run::Going,
            // While it waits to be started again, the current log is still the one of the run before.
            1 if state.waiting.is_some() => Run::Ended,
            1 => Run::Previous,
            _ => Run::Removed,
        })
    }

    /// Reads once from where the cursor is. `last`: bytes without a newline at the end are a line too. None: the watch is over.
    async fn read(&self, cursor: &mut StreamCursor, mode: Mode, last: bool) -> Option<Read> {
        let parameters = LogParams {
            container: Some(self.key.container.clone()),
            follow: mode == Mode::Follow,
            previous: mode == Mode::Previous,
            timestamps: true,
            since_time: cursor.time.and_then(floored),
            ..LogParams::default()
        };
        let api = self.watching.context.cluster.api::<Pod>();
        let opened = tokio::select! {
            opened = timeout(IDLE, api.log_stream(&self.pod_name, &parameters)) => opened,
            () = self.watching.lost.cancelled() => return None,
        };
        match opened {
            Ok(Ok(stream)) => self.take(cursor, Box::pin(stream), last).await,
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => Some(Read::NotThere),
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "a log could not be opened");
                Some(Read::Broken)
            }
            Err(_) => Some(Read::Broken),
        }
    }

    /// Takes a stream to its end.
    async fn take(
        &self,
        cursor: &mut StreamCursor,
        mut stream: std::pin::Pin<Box<impl AsyncBufRead>>,
        last: bool,
    ) -> Option<Read> {
        let mut splitter = Splitter::default();
        let mut resume = Resume::at(cursor);
        let mut batch = Batch::default();
        let mut flush_at: Option<Instant> = None;
        let end = loop {
            let wait = flush_at.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
            let bytes = tokio::select! {
                read = timeout(wait, stream.fill_buf()) => match read {
                    Ok(Ok(bytes)) => bytes,
                    Ok(Err(error)) => {
                        tracing::debug!(error = %error, "a log stream broke");
                        break Read::Broken;
                    }
                    Err(_) if flush_at.take().is_some() => {
                        // Nothing more came: if the anchor was not among it, it never will be.
                        self.store(cursor, &mut batch, resume.give_up());
                        self.flush(cursor, &mut batch).await?;
                        continue;
                    }
                    Err(_) => break Read::Broken,
                },
                () = self.watching.lost.cancelled() => return None,
            };
            if bytes.is_empty() {
                break Read::End;
            }
            let taken = bytes.len();
            let lines = splitter.push(bytes);
            stream.consume_unpin(taken);
            for line in lines {
                let Some(line) = Stamped::parse(&line) else {
                    tracing::debug!(line = %String::from_utf8_lossy(&line), "not a line of the function");
                    self.flush(cursor, &mut batch).await?;
                    return Some(Read::NodeFull);
                };
                self.store(cursor, &mut batch, resume.pass(line));
            }
            if batch.data.len() >= FULL {
                self.flush(cursor, &mut batch).await?;
                flush_at = None;
            } else if flush_at.is_none() && (batch.lines > 0 || resume.is_searching()) {
                flush_at = Some(Instant::now() + FLUSH_AFTER);
            }
        };
        if let (Read::End, Some(rest)) = (&end, splitter.rest()) {
            match Stamped::parse(&rest) {
                Some(line) if last => self.store(cursor, &mut batch, resume.pass(line)),
                // A fragment: it is read again, whole.
                Some(_) => {}
                None => {
                    self.flush(cursor, &mut batch).await?;
                    return Some(Read::NodeFull);
                }
            }
        }
        if matches!(end, Read::End) {
            self.store(cursor, &mut batch, resume.give_up());
        }
        self.flush(cursor, &mut batch).await?;
        Some(end)
    }

    fn store(&self, cursor: &mut StreamCursor, batch: &mut Batch, passed: Passed) {
        let lines = match passed {
            Passed::Nothing => return,
            Passed::New(lines) => lines,
            Passed::AfterGap(lines, gap) => {
                batch.gaps.push(gap);
                lines
            }
        };
        for line in &lines {
            batch.push(cursor, line);
        }
    }

    /// Hands the batch to the writer. None: the watch is over.
    async fn flush(&self, cursor: &StreamCursor, batch: &mut Batch) -> Option<()> {
        let batch = std::mem::take(batch);
        let (Some(first_at), Some(last_at)) = (batch.first_at, batch.last_at) else {
            return Some(());
        };
        let chunk = Chunk {
            process_id: self.process_id,
            seq: 0,
            day: Utc::now().date_naive(),
            key: self.key.clone(),
            lines: batch.lines,
            first_at,
            last_at,
            data: batch.data,
            cursor: cursor.clone(),
            gaps: batch.gaps,
        };
        self.chunks.send(Message::Chunk(chunk)).await.ok()
    }
}

/// The hole at the end of a stream that cannot be read any more.
fn missing(cursor: &StreamCursor, reason: &str) -> Gap {
    Gap {
        from: cursor.time,
        to: None,
        reason: reason.into(),
    }
}

/// The whole second of a cursor: the API takes no finer time, and the client would round it up.
fn floored(time: i64) -> Option<Timestamp> {
    Timestamp::from_second(time.div_euclid(1_000_000_000)).ok()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::watch::chunk::nanoseconds;

    #[test]
    fn since_is_never_later_than_the_cursor() {
        let at: DateTime<Utc> = "2026-01-02T03:04:05.999999999Z".parse().unwrap();
        assert_eq!(floored(nanoseconds(at)).unwrap().to_string(), "2026-01-02T03:04:05Z");
    }
}
