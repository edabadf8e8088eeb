//! The kill: a wish that is stored, then stopping, then gone, with the log kept to its last line.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::log;
use super::service::LAST_LINE;
use crate::failure::{Failure, check};
use crate::print::within;
use crate::process::Process;
use crate::stage::Stage;

const LIMIT: Duration = Duration::from_secs(90);
/// From the kill to the end of the log: it comes after the end of the process.
const LOG_LIMIT: Duration = Duration::from_secs(120);

/// Kills the service and follows its log from `cursor` to its end meanwhile.
pub(super) async fn service(stage: &Stage, process: &mut Process<'_>, cursor: &str) -> Result<(), Failure> {
    let path = process.path("/logs");
    let streams = format!("log_streams of GET {}", process.path(""));
    let to_its_end = log::follow(stage, &path, Some(cursor), |_| false);
    let to_its_end = within(LOG_LIMIT, "the end of the log", &streams, to_its_end);
    let (followed, ()) = tokio::try_join!(to_its_end, kill(stage, process))?;

    let kept = followed.lines.last().is_some_and(|line| line.text() == LAST_LINE);
    check(kept, || format!("the log does not end with `{LAST_LINE}`"), &streams)?;
    let completeness = followed.end.and_then(|end| end.completeness());
    let unknown = || Failure::new("nobody says whether the log is complete", &streams);
    stage.out.seen(&format!(
        "seen: {} transitions from requested to gone, no pod left, the last line kept, the end of the log {}",
        process.transitions.len(),
        completeness.ok_or_else(unknown)?
    ));
    Ok(())
}

async fn kill(stage: &Stage, process: &mut Process<'_>) -> Result<(), Failure> {
    let (path, body) = (process.path("/kill"), json!({ "grace_seconds": 5 }));
    stage.out.say(format!("POST {path} {body}"));
    let command: Value = stage.client.change(Method::POST, &path, &body).await?;
    let command = command["id"].as_str().unwrap_or_default().to_owned();
    stage.out.say(format!("202, command {command}"));
    process
        .until(LIMIT, "a process that is stopping", |seen| seen.lifecycle == "stopping")
        .await?;
    let gone = process
        .until(LIMIT, "a process that is gone", |seen| seen.lifecycle == "gone")
        .await?;
    let events = format!("GET {}", process.path("/events"));
    check(
        gone.state == "killed",
        || format!("the process ended as {}", gone.state),
        &events,
    )?;
    in_order(process)?;

    let read = process.read().await?;
    let pods = read["pods"].as_array().cloned().unwrap_or_default();
    for pod in &pods {
        let text = |name: &str| pod[name].as_str().unwrap_or("never").to_owned();
        stage
            .out
            .say(format!("pod {}, gone at {}", text("name"), text("gone_at")));
    }
    let all_gone = !pods.is_empty() && pods.iter().all(|pod| pod["gone_at"].is_string());
    check(
        all_gone,
        || "not every pod was seen to be gone".into(),
        format!("GET {}", process.path("")),
    )?;
    let command: Value = stage.client.get(&format!("/api/v1/commands/{command}?wait=10")).await?;
    check(
        command["state"] == "succeeded",
        || format!("the kill is {}", command["state"]),
        "the log of the manager",
    )
}

/// That it went through everything in this order: each transition was checked to follow on the one before.
fn in_order(process: &Process<'_>) -> Result<(), Failure> {
    let mut seen = process.transitions.iter();
    for (lifecycle, state) in [
        ("requested", "pending"),
        ("created", "ready"),
        ("stopping", "stopping"),
        ("gone", "killed"),
    ] {
        let found = seen.any(|transition| transition.lifecycle == lifecycle && transition.state == state);
        let look = format!("GET {}", process.path("/events"));
        check(
            found,
            || format!("the process was never seen as {lifecycle} / {state} in its turn"),
            look,
        )?;
    }
    Ok(())
}
