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

/// Among so many of the newest lines the last stored one is looked for first.
const NEWEST: u32 = 100;
/// The node answers such a question in milliseconds.
const QUESTION: Duration = Duration::from_secs(5);

/// How a read ended.
pub(super) enum Read {
    /// The stream ended cleanly.
    End,
    /// The node has begun a new file, and the stream has come to the end of the old one.
    Rotated,
    /// It was opened from a time and is silent: the node may hide what has come since.
    Silent,
    /// It has brought much, and there is much more: it comes faster to one who does not follow.
    Behind,
    /// The last stored line is not among the newest ones ([`Passed::FartherBack`](super::chunk::Passed::FartherBack)).
    FartherBack { set_back: bool },
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Follow,
    Once,
    Previous,
}

/// What is read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// Its newest lines ([`NEWEST`]), if the last stored one is among them: a node finds them without reading through its file.
    Newest,
    /// From the cursor's time on. A node leaves out what is earlier, wherever it stands: a stream that falls silent may do so because the
    /// node's clock was set back, and is not followed any more.
    SinceCursor,
    /// All of it.
    All,
    /// The same, and bytes without a newline at the end are a line too.
    AllAndLast,
}

impl Span {
    /// What is read next when the newest lines do not show the last stored one. `set_back`: though they begin before it.
    pub(super) fn farther(set_back: bool) -> Self {
        if set_back { Self::All } else { Self::SinceCursor }
    }

    /// The same of a log of which so many lines are stored.
    fn of(self, stored: i64) -> Self {
        match self {
            Self::Newest if stored < NEWEST.into() => Self::All,
            span => span,
        }
    }
}

impl Reader {
    /// Reads once. None: the watch is over.
    pub(super) async fn read(&self, progress: &mut Progress, mode: Mode, span: Span) -> Option<Read> {
        progress.ended = None;
        // Of a new file all is read.
        let is_part = progress.next.is_none();
        let span = span.of(progress.cursor.lines);
        let tail = (is_part && span == Span::Newest).then_some(NEWEST);
        let since = progress.cursor.time.filter(|_| is_part && span == Span::SinceCursor);
        let parameters = LogParams {
            follow: mode == Mode::Follow,
            since_time: since.and_then(floored),
            tail_lines: tail.map(Into::into),
            ..self.parameters(mode)
        };
        let api = self.watching.context.cluster.api::<Pod>();
        let opened = tokio::select! {
            opened = timeout(Pace::IDLE, api.log_stream(&self.pod_name, &parameters)) => opened,
            () = self.watching.lost.cancelled() => return None,
        };
        match opened {
            Ok(Ok(stream)) => {
                tracing::debug!(pod = self.pod_name, ?mode, ?span, "a log was opened");
                if progress.attached.is_some() {
                    progress.doubted = true;
                } else {
                    progress.attached = Some(nanoseconds(Utc::now()));
                    metrics::counter!("octopus_logs_attached_total").increment(1);
                }
                let enters = progress.next.is_some();
                let resume = match (progress.next.take(), tail) {
                    (Some(next), _) => Resume::in_next_file(&progress.cursor, next),
                    (None, Some(lines)) => Resume::in_tail(&progress.cursor, lines),
                    (None, None) => Resume::at(&progress.cursor),
                };
                if tail.is_some() {
                    metrics::counter!("octopus_log_tails_total").increment(1);
                }
                progress.files.opened(progress.cursor.bytes);
                let way = Way {
                    mode,
                    span,
                    begins_within: since.is_some() || tail.is_some(),
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
        let head = timeout(QUESTION, asked).await.ok().flatten();
        if head.is_none() {
            tracing::debug!(pod = self.pod_name, "what the newest file begins with is not known");
        }
        head
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

    #[test]
    fn the_newest_lines_of_a_log_of_few_are_all() {
        assert_eq!(Span::Newest.of(99), Span::All);
        assert_eq!(Span::Newest.of(100), Span::Newest);
        assert_eq!(Span::SinceCursor.of(0), Span::SinceCursor);
    }
}
