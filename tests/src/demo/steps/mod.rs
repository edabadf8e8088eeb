//! The main job, step by step.

mod call;
mod declare;
mod failing;
mod kill;
mod log;
mod look;
mod service;

use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::stage::Stage;

const STEPS: usize = 8;
/// How long a process may take to become what it was asked to be.
const PROCESS_LIMIT: Duration = Duration::from_secs(180);

/// Plays every step. The names of the functions are the same in each run: declaring one again makes its next revision.
pub(crate) async fn play(stage: &Stage) -> Result<(), Failure> {
    let mut times = Times {
        stage,
        seen: Vec::new(),
    };
    times
        .step("stack", "look whether everything is there", look::at_the_stack(stage))
        .await?;
    let title = "declare a Flask function with a dependency and wait for its image";
    let revision = times
        .step("image", title, declare::and_wait(stage, &service::FUNCTION))
        .await?;
    let mut service = times
        .step("ready", "start it as a service", service::start(stage, &revision))
        .await?;
    times
        .step(
            "manifest",
            "see what was given to Kubernetes",
            service::manifest(stage, &service, &revision),
        )
        .await?;
    let title = "call it from inside the cluster: a task of a second function sends the request";
    times.step("call", title, call::service(stage, &service)).await?;
    let title = "follow its log until the lines of that request";
    let cursor = times.step("log", title, service::log(stage, &service)).await?;
    times
        .step("kill", "kill it", kill::service(stage, &mut service, &cursor))
        .await?;
    times
        .step("failure", "run a task that exits with 3", failing::task(stage))
        .await?;
    times.sum_up();
    Ok(())
}

/// How long each step took.
struct Times<'a> {
    stage: &'a Stage,
    seen: Vec<(&'static str, Duration)>,
}

impl Times<'_> {
    async fn step<T>(
        &mut self,
        name: &'static str,
        title: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        self.stage.out.step(self.seen.len() + 1, STEPS, title);
        let done = work.await.map_err(|failure| Failure {
            what: format!("step {name}: {}", failure.what),
            ..failure
        })?;
        self.seen.push((name, started.elapsed()));
        Ok(done)
    }

    fn sum_up(&self) {
        let all: Duration = self.seen.iter().map(|(_, time)| *time).sum();
        let times: Vec<_> = self
            .seen
            .iter()
            .map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64()))
            .collect();
        let text = format!(
            "All {} steps were seen in {:.1} s: {}",
            self.seen.len(),
            all.as_secs_f64(),
            times.join(", ")
        );
        self.stage.out.seen(&text);
    }
}
