//! One read of a log: from where it was stored, to the end of the stream.

use std::time::Duration;

use chrono::Utc;
use futures::AsyncReadExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::LogParams;
use tokio::time::{Instant, timeout};

use super::chunk::{NextFile, Resume, nanoseconds};
use super::line::OVERLAP;
use super::pace::Pace;
use super::progress::Progress;
use super::reader::Reader;
use super::taking::{Taking, Way};

/// The node answers such a question in milliseconds.
const QUESTION: Duration = Duration::from_secs(5);

/// How a read ended.
pub(super) enum Read {
    /// The stream ended cleanly.
    End,
    /// The node has begun a new file, and the stream has come to the end of the old one.
    Rotated,
    /// It has brought much, and there is much more: it comes faster to one who does not follow.
    Behind,
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
                if progress.attached.is_some() {
                    progress.doubted = true;
                } else {
                    progress.attached = Some(nanoseconds(Utc::now()));
                    metrics::counter!("octopus_logs_attached_total").increment(1);
                }
                let enters = progress.next.is_some();
                let resume = match progress.next.take() {
                    Some(next) => Resume::in_next_file(&progress.cursor, next),
                    None => Resume::at(&progress.cursor),
                };
                progress.files.opened(progress.cursor.bytes);
                let way = Way {
                    mode,
                    span,
                    since: since.is_some(),
                    enters,
                };
                Taking::new(self, progress, way, resume).run(Box::pin(stream)).await
            }
            failed => {
                progress.doubted = true;
                // What was empty then need not be the next file any more.
                progress.next = progress.next.take().filter(|next| next.head.is_some());
                Some(match failed {
                    Ok(Err(kube::Error::Api(status))) if !matches!(status.code, 401 | 403 | 429 | 500..) => {
                        Read::NotThere
                    }
                    _ => {
                        progress.away = Some(Instant::now());
                        Read::Broken
                    }
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
            && !matches!(self.is_other_run(progress, mode).await, Some(Read::NextRun))
        {
            progress.next = Some(NextFile { head, rest });
        }
    }

    /// The first timestamp of the newest file; None within when nothing is in it yet, None when nobody knows.
    pub(super) async fn head(&self, mode: Mode) -> Option<Option<i64>> {
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

/// The whole second of a cursor, and one more: the API takes no finer time, the client would round it up, and the lines of
/// two streams of a container may change places.
fn floored(time: i64) -> Option<Timestamp> {
    Timestamp::from_second(time.div_euclid(1_000_000_000) - OVERLAP.num_seconds()).ok()
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    #[test]
    fn since_is_earlier_than_the_cursor() {
        let at: DateTime<Utc> = "2026-01-02T03:04:05.999999999Z".parse().unwrap();
        assert_eq!(floored(nanoseconds(at)).unwrap().to_string(), "2026-01-02T03:04:04Z");
    }
}
