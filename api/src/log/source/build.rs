//! The log of a build: one chunk, which grows until the build is over, and another one for each further try.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use octopus_shared::db::view::{self, BuildLog, LogChunk, LogStreamView};
use octopus_shared::log::{self, Cursor, Span, Text, chained, parse_line, push_line};
use octopus_shared::process::ProcessState;
use sqlx::PgPool;

use super::{Selection, Sender, Source, send};
use crate::log::line::{End, Item};
use crate::state::App;

/// What its lines have in place of a container's name.
const CONTAINER: &str = "build";

/// Whose build.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    /// The function.
    pub(crate) function: String,
    /// Number of the revision.
    pub(crate) number: i32,
}

impl Build {
    pub(super) async fn log(&self, pool: &PgPool) -> Result<Option<BuildLog>, sqlx::Error> {
        view::build_log(pool, &self.function, self.number).await
    }
}

impl Source {
    /// Finds the lines of a build. None: there is no such revision.
    pub(crate) async fn find_build(app: &App, of: Build, wanted: Selection) -> Result<Option<Self>, sqlx::Error> {
        let Some(log) = of.log(&app.pool).await? else {
            return Ok(None);
        };
        let source = Self {
            process: log.revision,
            build: Some(of),
            place: wanted.after.unwrap_or_default(),
            sent: false,
            until: None,
            reaches_end: true,
            kept: Some(chunk(&log)),
            found: None,
            filter: wanted.filter.clone(),
            left: None,
            ended: log.succeeded.is_some(),
            says_rests: false,
        };
        source.select(app, Cursor::default(), wanted).await.map(Some)
    }

    /// Sends what a build has printed, then what it prints next, until it is over.
    pub(super) async fn follow_build(mut self, app: &App, build: &Build, sender: &Sender) -> Result<(), sqlx::Error> {
        let mut waiter = app.changes.subscribe();
        while let Some(log) = build.log(&app.pool).await? {
            if let Some(chunk) = printed(&log).filter(|chunk| chunk.span.end() > self.place)
                && (!send(vec![self.take(chunk)], sender).await || self.has_all())
            {
                return Ok(());
            }
            if let Some(end) = end(&log) {
                send(vec![Item::End(end)], sender).await;
                return Ok(());
            }
            tokio::select! {
                _ = waiter.changed(Some(self.process)) => {}
                () = sender.closed() => return Ok(()),
                () = app.stopping.cancelled() => return Ok(()),
            }
        }
        Ok(())
    }
}

/// What has been printed.
fn chunk(log: &BuildLog) -> LogChunk {
    let text = Text::plain(data(&log.text));
    LogChunk {
        span: Span {
            seq: log.attempt.into(),
            lines: i32::try_from(text.count()).unwrap_or(i32::MAX),
            parts: None,
        },
        pod_uid: String::new(),
        container: CONTAINER.into(),
        restart: 0,
        attempt: log.attempt,
        text,
        gaps: serde_json::json!([]),
    }
}

/// Lines that a release before this one stored may have no time: they have that of the line before.
fn data(text: &str) -> Vec<u8> {
    let (mut data, mut at) = (Vec::new(), DateTime::UNIX_EPOCH);
    for line in text.lines() {
        let parsed = parse_line(line.as_bytes());
        let content = parsed.as_ref().map_or(line.as_bytes(), |parsed| parsed.content);
        at = parsed.as_ref().map_or(at, |parsed| parsed.at);
        push_line(&mut data, at, content);
    }
    data
}

/// What comes behind the last line. None: the build goes on.
pub(super) fn end(log: &BuildLog) -> Option<End> {
    let succeeded = log.succeeded?;
    let chunk = chunk(log);
    let (mut hash, mut bytes) = (Vec::new(), 0);
    let (mut first_at, mut last_at) = (None::<DateTime<Utc>>, None);
    for log::Line { at, content } in chunk.text.lines() {
        hash = chained(&hash, content);
        bytes += content.len() as i64 + 1;
        first_at = first_at.or(Some(at));
        last_at = Some(at);
    }
    let complete = log.dropped == 0;
    let seal = if complete { "complete" } else { "truncated" };
    Some(End {
        state: if succeeded {
            ProcessState::Succeeded
        } else {
            ProcessState::Failed
        },
        complete,
        streams: vec![LogStreamView {
            pod_uid: String::new(),
            container: CONTAINER.into(),
            restart: 0,
            attempt: log.attempt,
            reader: "follow".into(),
            lines: chunk.span.lines.into(),
            bytes,
            sha256: (!hash.is_empty()).then(|| hex::encode(&hash)),
            first_at,
            last_at,
            seal: Some(seal.into()),
            seal_reason: (!complete).then(|| "log_limit".into()),
            seal_end: Some("seen".into()),
            gaps: serde_json::json!([]),
            truncated: None,
            sealed_at: log.built_at,
        }],
    })
}

/// The chunk, if there is anything in it.
fn printed(log: &BuildLog) -> Option<Arc<LogChunk>> {
    let chunk = chunk(log);
    (chunk.span.lines > 0).then(|| Arc::new(chunk))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn each_line_has_a_time_and_the_seal_counts_them() {
        let log = BuildLog {
            revision: Uuid::nil(),
            attempt: 2,
            text: "2026-01-02T03:04:05.006Z first\nof an earlier release\n".into(),
            dropped: 0,
            succeeded: Some(false),
            built_at: None,
        };
        let shown = chunk(&log);
        let lines: Vec<_> = shown
            .text
            .lines()
            .map(|line| (line.at.timestamp_millis(), line.content))
            .collect();
        let at = 1_767_323_045_006;
        assert_eq!(lines, [(at, b"first".as_slice()), (at, b"of an earlier release")]);
        assert_eq!((shown.span.seq, shown.span.lines), (2, 2));
        let end = end(&log).unwrap();
        let stream = &end.streams[0];
        assert_eq!((end.state, end.complete), (ProcessState::Failed, true));
        assert_eq!(
            (stream.lines, stream.bytes, stream.seal.as_deref()),
            (2, 28, Some("complete"))
        );
        let goes_on = BuildLog { succeeded: None, ..log };
        assert!(super::end(&goes_on).is_none());
    }
}
