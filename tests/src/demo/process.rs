//! Processes: started, and watched from one transition to the next.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::sleep;
use uuid::Uuid;

use crate::failure::{Failure, check};
use crate::stage::Stage;

const LOOK_EVERY: Duration = Duration::from_millis(200);
const LIFECYCLES: [&str; 4] = ["requested", "created", "stopping", "gone"];

/// One transition.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Transition {
    pub(crate) number: u64,
    at: DateTime<Utc>,
    pub(crate) lifecycle: String,
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) remedy: Option<String>,
    pub(crate) exit_code: Option<i32>,
}

/// A process and the transitions that were seen of it, all of them, in order.
#[derive(Debug)]
pub(crate) struct Process<'a> {
    stage: &'a Stage,
    pub(crate) id: Uuid,
    pub(crate) transitions: Vec<Transition>,
}

impl<'a> Process<'a> {
    /// Starts a process of a function.
    pub(crate) async fn start(stage: &'a Stage, function: &str, body: &Value) -> Result<Self, Failure> {
        let path = format!("/api/v1/functions/{function}/processes");
        stage.out.say(format!("POST {path} {body}"));
        let accepted: Value = stage.client.change(Method::POST, &path, body).await?;
        let id = accepted["process"]["id"].as_str().and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| Failure::new(format!("{path} named no process"), "the log of the API"))?;
        stage.remember(id);
        stage.out.say(format!(
            "202, process {id}, {}",
            accepted["process"]["name"].as_str().unwrap_or_default()
        ));
        let process = Self {
            stage,
            id,
            transitions: Vec::new(),
        };
        // It can be read at once.
        process.read().await?;
        Ok(process)
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/api/v1/processes/{}{rest}", self.id)
    }

    /// All of it as it stands.
    pub(crate) async fn read(&self) -> Result<Value, Failure> {
        self.stage.client.get(&self.path("")).await
    }

    /// Shows its transitions until one is the awaited one.
    pub(crate) async fn until(
        &mut self,
        limit: Duration,
        awaited: &str,
        is_it: impl Fn(&Transition) -> bool,
    ) -> Result<Transition, Failure> {
        let look = format!("GET {} says how it stands, its /logs what it printed", self.path(""));
        let out = self.stage.out;
        out.patiently(limit, awaited, &look, self.find(awaited, is_it)).await
    }

    async fn find(&mut self, awaited: &str, is_it: impl Fn(&Transition) -> bool) -> Result<Transition, Failure> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Transition>,
        }
        loop {
            let page: Page = self
                .stage
                .client
                .get(&self.path(&format!("/events?after={}", self.transitions.len())))
                .await?;
            for transition in page.items {
                self.append(transition.clone())?;
                if is_it(&transition) {
                    return Ok(transition);
                }
                check(
                    transition.lifecycle != "gone",
                    || format!("the process is gone, and {awaited} was not seen"),
                    transition
                        .remedy
                        .clone()
                        .unwrap_or_else(|| format!("GET {}", self.path("/logs"))),
                )?;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Shows a transition, and checks that it is the next one.
    fn append(&mut self, next: Transition) -> Result<(), Failure> {
        let optional = |text: &Option<String>| text.as_deref().map(|text| format!(", {text}")).unwrap_or_default();
        self.stage.out.say(format!(
            "#{} {} {} / {}{}{}",
            next.number,
            next.at.format("%H:%M:%S%.3f"),
            next.lifecycle,
            next.state,
            optional(&next.reason),
            optional(&next.message)
        ));
        let rank = |transition: &Transition| LIFECYCLES.iter().position(|known| *known == transition.lifecycle);
        let in_order = match self.transitions.last() {
            None => next.number == 1 && next.lifecycle == "requested",
            Some(last) => next.number == last.number + 1 && rank(&next) >= rank(last) && next.at >= last.at,
        };
        check(
            in_order,
            || "this transition is not the next one".into(),
            format!("GET {}", self.path("/events")),
        )?;
        self.transitions.push(next);
        Ok(())
    }
}
