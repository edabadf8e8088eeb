//! How far a log was read.

use std::time::Duration;

use chrono::TimeDelta;
use octopus_shared::db::report::{Opened, StreamCursor};
use octopus_shared::log::Gap;
use tokio::time::Instant;
use uuid::Uuid;

use super::chunk::NextFile;
use super::files::{self, Files, Unread};
use super::flow::Flow;
use super::line::Stamped;
use super::logs::A_WHILE;
use super::reader::Found;

/// Kubelets tell again within this time what the API server did not take: every 10 s.
pub(super) const STATUS_WITHIN: Duration = Duration::from_secs(12);

/// How far a log was read, and what is known of it.
pub(super) struct Progress {
    pub(super) cursor: StreamCursor,
    /// The spool of another manager, in which the lines that follow may be.
    pub(super) spooled_by: Option<Uuid>,
    pub(super) files: Files,
    /// How fast it was printed.
    pub(super) flow: Flow,
    /// Holes that are not stored yet.
    pub(super) gaps: Vec<Gap>,
    /// The last stored line did not come in the last read.
    pub(super) missed: bool,
    /// A followed stream has ended. What it had shown of a line is its end, if its container has ended.
    pub(super) ended: Option<Option<Stamped>>,
    /// The file that was read has ended, and this one follows.
    pub(super) next: Option<NextFile>,
    /// The container has ended by then, and later lines are of its next run.
    pub(super) until: Option<i64>,
    /// When a followed stream was last left for a faster one.
    pub(super) hurried: Option<Instant>,
    /// When a stream last could not be opened or a look was not answered: what the API server says then of a pod may be old.
    pub(super) away: Option<Instant>,
    /// What comes first may be of another run: nothing of this one is stored, and it was not the current one a moment ago.
    pub(super) doubted: bool,
    /// When the node first answered with the log, by this machine's clock: nanoseconds since 1970.
    pub(super) attached: Option<i64>,
    /// The timestamp of the first line of all.
    pub(super) first: Option<i64>,
    /// It may have printed before anybody read it.
    unread: bool,
    /// When an earlier reader began to read what is stored.
    since: Option<i64>,
}

impl Progress {
    pub(super) fn new(opened: Opened, found: Found) -> Self {
        Self {
            doubted: !matches!(found, Found::Begun | Found::Running),
            unread: found != Found::Begun && !files::is_long(opened.cursor.first, opened.cursor.latest),
            since: opened.since.filter(|_| opened.cursor.lines > 0),
            flow: Flow::resumed(&opened),
            files: Files::resumed(opened.head, opened.cursor.time),
            first: opened.cursor.first,
            cursor: opened.cursor,
            spooled_by: opened.spooled_by,
            gaps: Vec::new(),
            missed: false,
            ended: None,
            next: None,
            until: None,
            hurried: None,
            away: None,
            attached: None,
        }
    }

    /// Whether the status of a pod may be older than its log, by what its reader has seen.
    pub(super) fn is_status_late(&self) -> bool {
        self.away.is_some_and(|away| away.elapsed() < STATUS_WITHIN)
    }

    /// Puts a hole on record.
    pub(super) fn note(&mut self, gap: Gap) {
        let gap = self.flow.estimated(gap);
        self.flow.missed(&gap);
        self.gaps.push(gap);
    }

    /// The same of a change of files at which lines may have been missed. `over`: nothing more comes.
    pub(super) fn note_rotation(&mut self, over: bool) {
        if let Some(gap) = self.files.unproven(over) {
            self.note(gap);
        }
    }

    /// Puts on record that the first lines may have been rotated away before anybody read them. `began`: when the run did; `until`:
    /// for how long it has gone on, up to its last line where that is None; nanoseconds since 1970. `over`: nothing more comes.
    pub(super) fn note_beginning(&mut self, began: Option<i64>, until: Option<i64>, over: bool) {
        let attached = self.since.or(self.attached);
        let (true, Some(began), Some(first), Some(attached)) = (self.unread, began, self.first, attached) else {
            return;
        };
        let run = Unread {
            began,
            first,
            attached,
            until: until.or(self.cursor.latest).unwrap_or(first),
            bytes: self.cursor.bytes,
            over,
        };
        let was_begun = self
            .since
            .is_some_and(|since| TimeDelta::nanoseconds(since - began) < A_WHILE);
        if first >= attached || was_begun {
            self.unread = false;
        } else if let Some(gap) = files::before_first(run) {
            self.unread = false;
            self.gaps.splice(0..0, gap);
        }
    }

    /// A hole that another manager may be able to fill: nothing new has come since it stopped.
    pub(super) fn before_us(&mut self, gap: Gap) -> Gap {
        match self.spooled_by.take() {
            Some(spool) => gap.spooled_by(spool),
            None => gap,
        }
    }
}
