//! The process of a start that has just been stored, which the statement that stored it cannot see.

use serde_json::json;

use super::{ProcessSummary, ProcessView};
use crate::db::view::{CommandView, WaitedFor, WaitingFor};
use crate::process::{Lifecycle, ProcessSpec, ProcessState};

impl ProcessView {
    /// The process that a start has just made, as `accept_start_process` made it. None: that command makes none.
    pub(in crate::db) fn requested(start: &CommandView, waits_for_image: bool, spec: &ProcessSpec) -> Option<Self> {
        let (id, function) = (start.process_id?, start.function.clone()?);
        let text = id.to_string();
        let summary = ProcessSummary {
            id,
            name: format!("{function}-{}", &text[text.len() - 12..]),
            function,
            revision: start.revision?,
            cluster: start.cluster.clone(),
            kind: spec.kind,
            desired: "running".to_owned(),
            replicas: 1,
            restarted_at: None,
            lifecycle: Lifecycle::Requested,
            state: ProcessState::Pending,
            reason: waits_for_image.then(|| "waiting_for_image".to_owned()),
            message: None,
            remedy: None,
            exit_code: None,
            endpoint: None,
            attempt: 1,
            requested_by: start.requested_by.clone(),
            created_at: start.created_at,
            updated_at: start.created_at,
            gone_at: None,
            waiting_for: start.waiting_for.clone().or_else(|| Some(queued(start))),
        };
        Some(Self {
            summary,
            spec: json!(spec),
            last_event: 1,
            pods: Vec::new(),
            log_streams: Vec::new(),
            last_lines: Vec::new(),
        })
    }
}

/// Nothing but work stands between a start and its process.
pub(super) fn queued(start: &CommandView) -> WaitingFor {
    WaitingFor {
        what: WaitedFor::Command,
        cluster: start.cluster.clone(),
        command: Some(start.id),
        since: start.created_at,
    }
}
