//! Declaring functions, and waiting for their images.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::failure::{Failure, check};
use crate::stage::Stage;

const BUILD_LIMIT: Duration = Duration::from_secs(600);

/// A function that is to be declared.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) file: &'static str,
    pub(super) source: &'static str,
    pub(super) calls_functions: bool,
}

/// A revision whose image there is.
#[derive(Debug)]
pub(super) struct Revision {
    pub(super) number: i64,
    pub(super) image: String,
}

/// A command, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Command {
    id: Uuid,
    state: String,
    revision: Option<i64>,
    finished_at: Option<String>,
    message: Option<String>,
    remedy: Option<String>,
    waiting_for: Option<Value>,
}

/// Declares a function. It can be started at once: the start waits for the image.
pub(super) async fn only(stage: &Stage, function: &Function) -> Result<(), Failure> {
    send(stage, function).await.map(|_| ())
}

/// Declares a function and shows how its image is built.
pub(super) async fn and_wait(stage: &Stage, function: &Function) -> Result<Revision, Failure> {
    let command = send(stage, function).await?;
    let number = command
        .revision
        .ok_or_else(|| Failure::new("the command names no revision", "the log of the API"))?;
    let log = format!("/api/v1/functions/{}/revisions/{number}/build-log", function.name);
    let awaited = format!("the image of {} revision {number}", function.name);
    let look = format!("GET {log}, and the log of the manager");
    stage
        .out
        .patiently(BUILD_LIMIT, &awaited, &look, built(stage, command, &log))
        .await?;

    let path = format!("/api/v1/functions/{}", function.name);
    let read: Value = stage.client.get(&path).await?;
    let revision = read["revisions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|revision| revision["number"] == number);
    let image = revision
        .and_then(|revision| revision["image"].as_str())
        .unwrap_or_default()
        .to_owned();
    check(
        image.contains("@sha256:"),
        || format!("revision {number} shows no image"),
        format!("GET {path}"),
    )?;
    let bytes = revision
        .and_then(|revision| revision["image_size_bytes"].as_f64())
        .unwrap_or_default();
    stage.out.seen(&format!("seen: image {image}, {:.1} MB", bytes / 1e6));
    Ok(Revision { number, image })
}

async fn send(stage: &Stage, function: &Function) -> Result<Command, Failure> {
    let path = format!("/api/v1/functions/{}", function.name);
    let spec = json!({ "cluster": stage.cluster, "calls_functions": function.calls_functions });
    stage.out.say(format!("PUT {path} with {}, {spec}", function.file));
    let body = json!({ "spec": spec, "source": function.source });
    let command: Command = stage.client.change(Method::PUT, &path, &body).await?;
    stage.out.say(format!(
        "202, command {}, revision {}",
        command.id,
        command.revision.unwrap_or_default()
    ));
    Ok(command)
}

/// Waits for the end of a build and shows the lines of its log as they come.
async fn built(stage: &Stage, mut command: Command, log: &str) -> Result<(), Failure> {
    let mut shown = 0;
    let mut waited_for = None;
    loop {
        // Asked before the log is read: what is logged last is read after the end was known.
        let ended = command.finished_at.is_some();
        let text = stage.client.text(log).await?;
        for line in text.lines().skip(shown) {
            stage.out.quote(line);
            shown += 1;
        }
        if ended {
            break;
        }
        if command.waiting_for != waited_for
            && let Some(waits) = &command.waiting_for
        {
            stage
                .out
                .say(format!("it waits for a {}", waits["what"].as_str().unwrap_or_default()));
        }
        waited_for = command.waiting_for;
        command = stage
            .client
            .get(&format!("/api/v1/commands/{}?wait=1", command.id))
            .await?;
    }
    check(
        command.state == "succeeded",
        || {
            format!(
                "the build is {}: {}",
                command.state,
                command.message.as_deref().unwrap_or("nobody says why")
            )
        },
        command.remedy.unwrap_or_else(|| format!("GET {log}")),
    )
}
