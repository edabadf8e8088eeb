//! What all steps share.

use std::cell::RefCell;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::client::Client;
use crate::print::Out;

/// The API, the output, and what this run has started.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) client: Client,
    pub(crate) out: Out,
    pub(crate) cluster: String,
    /// A word of this run alone: what carries it was printed or answered now.
    pub(crate) run: String,
    started: RefCell<Vec<Uuid>>,
}

impl Stage {
    pub(crate) fn new(client: Client, out: Out, cluster: &str) -> Self {
        let run = Uuid::new_v4().simple().to_string()[..8].to_owned();
        Self {
            client,
            out,
            cluster: cluster.to_owned(),
            run,
            started: RefCell::default(),
        }
    }

    /// Remembers a process, to end it should a later step fail.
    pub(crate) fn remember(&self, process: Uuid) {
        self.started.borrow_mut().push(process);
    }

    /// After a failure: how the processes of this run stand, and an end to those that are left.
    pub(crate) async fn explain_and_clear(&self) {
        let started = self.started.take();
        for id in started {
            // The failure may be that nobody answers.
            if timeout(Duration::from_secs(10), self.explain_and_kill(id))
                .await
                .is_err()
            {
                return;
            }
        }
    }

    async fn explain_and_kill(&self, id: Uuid) {
        let Ok(process) = self.client.get::<Value>(&format!("/api/v1/processes/{id}")).await else {
            return;
        };
        if process["lifecycle"] == "gone" {
            return;
        }
        let shown: Vec<String> = ["lifecycle", "state", "reason", "message", "remedy", "waiting_for"]
            .into_iter()
            .filter(|name| !process[name].is_null())
            .map(|name| format!("{name}: {}", process[name]))
            .collect();
        self.out.say(format!("process {id} stands so: {}", shown.join(", ")));
        for pod in process["pods"].as_array().into_iter().flatten() {
            self.out.quote(&format!(
                "pod {}, phase {}, containers {}",
                pod["name"], pod["phase"], pod["containers"]
            ));
        }
        let log = self
            .client
            .text(&format!("/api/v1/processes/{id}/logs?tail=10"))
            .await
            .unwrap_or_default();
        for line in log.lines() {
            self.out.quote(line);
        }
        let kill = self
            .client
            .change::<Value>(Method::POST, &format!("/api/v1/processes/{id}/kill"), &json!({}))
            .await;
        if kill.is_ok() {
            self.out
                .say("it was asked to end; its events and logs can still be read");
        }
    }
}
