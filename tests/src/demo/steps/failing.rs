//! The failure: a task that exits with 3 says why, what to do about it, and what it printed last.

use serde_json::json;

use super::PROCESS_LIMIT;
use super::declare::{self, Function};
use crate::failure::{Failure, check};
use crate::process::Process;
use crate::stage::Stage;

const FUNCTION: Function = Function {
    name: "demo-fail",
    file: "fail.py",
    source: include_str!("../../../functions/fail.py"),
    calls_functions: false,
};
const LAST_LINE: &str = "fail: cannot go on: the input is missing";

pub(super) async fn task(stage: &Stage) -> Result<(), Failure> {
    declare::only(stage, &FUNCTION).await?;
    let mut task = Process::start(stage, FUNCTION.name, &json!({ "kind": "task" })).await?;
    let gone = task
        .until(PROCESS_LIMIT, "the end of the task", |seen| seen.lifecycle == "gone")
        .await?;
    let read = task.read().await?;
    for name in ["state", "reason", "message", "remedy", "exit_code"] {
        stage.out.say(format!(
            "{name}: {}",
            read[name]
                .as_str()
                .map_or_else(|| read[name].to_string(), str::to_owned)
        ));
    }
    let path = task.path("/logs?tail=5");
    stage.out.say(format!("GET {path}"));
    let log = stage.client.text(&path).await?;
    for line in log.lines() {
        stage.out.quote(line);
    }

    let look = format!("GET {}", task.path(""));
    check(
        gone.state == "failed",
        || format!("the task ended as {}", gone.state),
        &look,
    )?;
    check(
        gone.exit_code == Some(3) && read["exit_code"] == 3,
        || "the exit code is not 3".into(),
        &look,
    )?;
    check(
        read["reason"] == "exit_code",
        || format!("the reason is {}", read["reason"]),
        &look,
    )?;
    for name in ["message", "remedy"] {
        check(
            read[name].as_str().is_some_and(|text| !text.is_empty()),
            || format!("there is no {name}"),
            &look,
        )?;
    }
    check(
        log.lines().last() == Some(LAST_LINE),
        || format!("the log does not end with `{LAST_LINE}`"),
        format!("GET {path}"),
    )?;
    stage
        .out
        .seen("seen: failed with exit code 3, why, what to do, and the last lines");
    Ok(())
}
