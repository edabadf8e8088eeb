//! The service: its start, what Kubernetes was given for it, and its log.

use std::time::Duration;

use serde_json::json;

use super::PROCESS_LIMIT;
use super::declare::{Function, Revision};
use super::log::{self, Line};
use crate::failure::{Failure, check};
use crate::print::plain;
use crate::process::Process;
use crate::stage::Stage;

pub(super) const FUNCTION: Function = Function {
    name: "demo-hello",
    file: "hello.py",
    source: include_str!("../../../functions/hello.py"),
    calls_functions: false,
};
/// The last line that it prints.
pub(super) const LAST_LINE: &str = "hello: asked to end, ending";
const LOG_LIMIT: Duration = Duration::from_secs(30);

/// Starts it and shows its states until it is ready.
pub(super) async fn start<'a>(stage: &'a Stage, revision: &Revision) -> Result<Process<'a>, Failure> {
    let body = json!({ "kind": "service", "revision": revision.number });
    let mut process = Process::start(stage, FUNCTION.name, &body).await?;
    let ready = process
        .until(PROCESS_LIMIT, "a service that is ready", |seen| seen.state == "ready")
        .await?;
    let look = format!("GET {}", process.path("/events"));
    check(
        ready.lifecycle == "created",
        || "a process is ready that was never created".into(),
        look,
    )?;
    stage.out.seen(&format!("seen: ready at {}", endpoint(&process).await?));
    Ok(process)
}

/// Where it is called, from inside its cluster.
pub(super) async fn endpoint(process: &Process<'_>) -> Result<String, Failure> {
    let read = process.read().await?;
    let endpoint = read["endpoint"]
        .as_str()
        .filter(|endpoint| endpoint.starts_with("http"));
    endpoint
        .map(str::to_owned)
        .ok_or_else(|| Failure::new("the service shows no endpoint", process.path("")))
}

/// Shows the kinds of the objects that were made for it.
pub(super) async fn manifest(stage: &Stage, process: &Process<'_>, revision: &Revision) -> Result<(), Failure> {
    let path = process.path("/manifest");
    stage.out.say(format!("GET {path}"));
    let manifest = stage.client.text(&path).await?;
    let mut kinds: Vec<_> = manifest.lines().filter(|line| line.starts_with("kind: ")).collect();
    for kind in &kinds {
        stage.out.quote(kind);
    }
    kinds.sort_unstable();
    check(
        kinds == ["kind: Deployment", "kind: NetworkPolicy", "kind: Service"],
        || format!("the manifest holds {kinds:?}"),
        format!("GET {path}"),
    )?;
    let pinned = manifest
        .lines()
        .find(|line| line.contains(&revision.image))
        .unwrap_or_default()
        .trim();
    check(
        !pinned.is_empty(),
        || "the manifest does not name the image".into(),
        format!("GET {path}"),
    )?;
    stage.out.quote(pinned.trim_start_matches("- "));
    stage.out.seen(&format!(
        "seen: {} lines of YAML, the image pinned by its digest",
        manifest.lines().count()
    ));
    Ok(())
}

/// Follows its log until it has shown the request of this run: what the function printed, and what Flask did. Answers
/// the place to go on from.
pub(super) async fn log(stage: &Stage, process: &Process<'_>) -> Result<String, Failure> {
    let (mut printed, mut served) = (false, false);
    let is_last = |line: &Line| {
        printed |= line.text() == format!("hello: {} asks", stage.run);
        // In any order: they come from two streams of the container, which a node reads one beside the other.
        served |= plain(line.text()).contains("\"POST /v1/hello HTTP/1.1\" 201");
        printed && served
    };
    let path = process.path("/logs");
    let awaited = "the request in the log of the service";
    let look = format!("GET {path}");
    let followed = stage
        .out
        .patiently(LOG_LIMIT, awaited, &look, log::follow(stage, &path, None, is_last))
        .await?;
    let cursor = followed
        .lines
        .last()
        .map(|line| line.cursor.clone())
        .unwrap_or_default();
    check(
        printed && served,
        || "the log ended without the lines of the request".into(),
        look,
    )?;
    stage
        .out
        .seen(&format!("seen: both lines of the request, up to cursor {cursor}"));
    Ok(cursor)
}
