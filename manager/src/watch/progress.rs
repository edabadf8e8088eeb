//! How far a log was read.

use std::time::Duration;

use octopus_shared::db::report::{Opened, StreamCursor};
use octopus_shared::log::Gap;
use tokio::time::Instant;
use uuid::Uuid;

use super::chunk::NextFile;
use super::files::Files;
use super::flow::Flow;
use super::line::Stamped;

/// Kubelets tell again within this time what the API server did not take: every 10 s.
const STATUS_WITHIN: Duration = Duration::from_secs(12);

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
    /// When the API server last did not answer: what it says then of a pod may be old.
    pub(super) away: Option<Instant>,
    /// What comes first may be of another run: nothing of this one is stored, and it was not the current one a moment ago.
    pub(super) doubted: bool,
    /// The node has answered with the log at least once.
    pub(super) attached: bool,
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
            hurried: None,
            away: None,
            attached: false,
        }
    }

    /// Whether the status of a pod may be older than its log.
    pub(super) fn is_status_late(&self) -> bool {
        self.away.is_some_and(|away| away.elapsed() < STATUS_WITHIN)
    }

    /// Puts a hole on record.
    pub(super) fn note(&mut self, gap: Gap) {
        self.gaps.push(self.flow.estimated(gap));
    }

    /// The same of a change of files at which lines may have been missed. `over`: nothing more comes.
    pub(super) fn note_rotation(&mut self, over: bool) {
        if let Some(gap) = self.files.unproven(over) {
            self.note(gap);
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
