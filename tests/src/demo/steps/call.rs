//! The call: the service can only be reached inside the cluster, so a task there sends the request.

use std::time::Duration;

use serde_json::{Value, json};

use super::declare::{self, Function};
use super::{PROCESS_LIMIT, log, service};
use crate::failure::{Failure, check};
use crate::process::Process;
use crate::stage::Stage;

const FUNCTION: Function = Function {
    name: "demo-call",
    file: "call.py",
    source: include_str!("../../../functions/call.py"),
    // The exception from the rule that functions reach nothing.
    calls_functions: true,
};
const LOG_LIMIT: Duration = Duration::from_secs(60);

/// Sends the request and shows the answer.
pub(super) async fn service(stage: &Stage, service: &Process<'_>) -> Result<(), Failure> {
    let url = format!("{}/v1/hello", service::endpoint(service).await?);
    declare::only(stage, &FUNCTION).await?;
    let body = json!({ "kind": "task", "args": [url, stage.run], "timeout_seconds": 120 });
    let mut task = Process::start(stage, FUNCTION.name, &body).await?;
    let end = task
        .until(PROCESS_LIMIT, "the end of the task", |seen| is_end(&seen.state))
        .await?;
    let path = task.path("/logs");
    let look = format!("GET {path}");
    let read = log::follow(stage, &path, None, |_| false);
    let followed = stage
        .out
        .patiently(LOG_LIMIT, "the end of the task's log", &look, read)
        .await?;
    check(
        end.state == "succeeded",
        || format!("the task that calls is {}", end.state),
        look.clone(),
    )?;

    let answer = followed
        .lines
        .iter()
        .find_map(|line| line.text().strip_prefix("call: 201 "));
    let answer = answer.ok_or_else(|| Failure::new("the task printed no answer 201", look.clone()))?;
    let wanted = json!({ "response": format!("Hello, {}!", stage.run) });
    let right = serde_json::from_str::<Value>(answer).is_ok_and(|answer| answer == wanted);
    check(right, || format!("the answer is {answer} and not {wanted}"), look)?;
    stage.out.seen(&format!("seen: 201 {answer}"));
    Ok(())
}

fn is_end(state: &str) -> bool {
    ["succeeded", "failed", "killed", "unconfirmed"].contains(&state)
}
