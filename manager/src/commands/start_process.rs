//! Creates the objects of a process, or of the next attempt of a task.

use std::time::Duration;

use chrono::Utc;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use octopus_shared::db::claim::{Claim, Outcome};
use octopus_shared::db::report::{self, ProcessRow};
use octopus_shared::pod::Verdict;
use octopus_shared::process::{Lifecycle, ProcessKind, ProcessState};
use octopus_shared::reason;
use serde_json::{Value, json};

use super::{Ending, Obstacle, subject};
use crate::cluster::{ClusterError, Deletion, object};
use crate::context::Context;

/// What is to be done about a process, decided from its row alone.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    /// It was asked to end: the kill does the rest.
    Cancel,
    /// Its pod exists, or existed, from this image: only its manifest may be missing.
    Report(String),
    /// Its image is not there yet.
    WaitForImage,
    /// Create it from this image.
    Create(String),
}

fn decide(process: &ProcessRow, pod_seen: bool, pull: impl Fn(&str, &str) -> String) -> Action {
    if process.killed || process.lifecycle > Lifecycle::Created {
        return Action::Cancel;
    }
    let Some((repository, digest)) = &process.image else {
        return Action::WaitForImage;
    };
    let image = pull(repository, digest);
    // A task's pod that was ever seen has run: creating it again would run it twice.
    if process.spec.kind == ProcessKind::Task && pod_seen {
        Action::Report(image)
    } else {
        Action::Create(image)
    }
}

pub(super) async fn carry_out(context: &Context, claim: &Claim) -> Result<Ending, Obstacle> {
    let id = subject(claim.process_id)?;
    let process = report::process(&context.pool, id).await?;
    let seen = report::pod_seen(&context.pool, id, process.attempt).await?;
    let (image, exists) = match decide(&process, seen, |repository, digest| {
        context.builder.pull_reference(repository, digest)
    }) {
        Action::Cancel => {
            return Ok(Ending::Done(Outcome::Cancelled {
                reason: reason::KILL_REQUESTED.id.into(),
            }));
        }
        Action::Report(image) => (image, true),
        Action::WaitForImage => return Ok(Ending::wait(Duration::from_secs(1), "the image is not there yet")),
        Action::Create(image) => (image, false),
    };
    let waited = (Utc::now() - claim.created_at).to_std().unwrap_or_default();
    metrics::histogram!("octopus_create_request_wait_seconds").record(waited);
    match create(context, &process, &image, exists).await {
        Ok(manifest) => {
            let endpoint = object::endpoint(&process, &context.cluster.namespace);
            let endpoint = (process.spec.kind == ProcessKind::Service).then_some(endpoint.as_str());
            report::created(&context.pool, claim, id, &manifest, endpoint).await?;
            Ok(Ending::SUCCEEDED)
        }
        Err(Obstacle::Cluster(ClusterError::Refused { code: 403, message })) if message.contains("exceeded quota") => {
            report::hindered(&context.pool, claim, id, reason::QUOTA_EXCEEDED, &message).await?;
            Ok(Ending::wait(Duration::from_secs(5), message))
        }
        // Rights or the namespace are missing: somebody will mend that, and it goes on by itself.
        Err(Obstacle::Cluster(ClusterError::Refused {
            code: 401 | 403 | 404,
            message,
        })) => {
            report::hindered(&context.pool, claim, id, reason::REJECTED_BY_CLUSTER, &message).await?;
            Ok(Ending::wait(Duration::from_secs(10), message))
        }
        Err(Obstacle::Cluster(ClusterError::Refused { message, .. })) => {
            fail(context, claim, &process, reason::REJECTED_BY_CLUSTER, message).await
        }
        Err(Obstacle::Cluster(error @ ClusterError::NameTaken(_))) => {
            fail(context, claim, &process, reason::NAME_TAKEN, error.to_string()).await
        }
        Err(obstacle) => {
            report::hindered(
                &context.pool,
                claim,
                id,
                reason::CLUSTER_UNREACHABLE,
                &obstacle.to_string(),
            )
            .await?;
            Err(obstacle)
        }
    }
}

/// Creates what is missing, unless it `exists`, and answers the objects as they were sent.
async fn create(context: &Context, process: &ProcessRow, image: &str, exists: bool) -> Result<Value, Obstacle> {
    let around = &context.cluster.around;
    let unwritable = |error: serde_json::Error| Obstacle::Database(sqlx::Error::Encode(error.into()));
    match process.spec.kind {
        ProcessKind::Task => {
            let pod = object::task(around, process, image).map_err(unwritable)?;
            if !exists {
                context.cluster.create(&pod).await?;
            }
            Ok(json!([pod]))
        }
        ProcessKind::Service => {
            let (service, deployment) = object::service(around, process, image).map_err(unwritable)?;
            context.cluster.create(&service).await?;
            context.cluster.create(&deployment).await?;
            Ok(json!([service, deployment]))
        }
    }
}

/// For good: removes what was created of it, so that nothing half-done remains.
async fn fail(
    context: &Context,
    claim: &Claim,
    process: &ProcessRow,
    why: reason::Reason,
    message: String,
) -> Result<Ending, Obstacle> {
    let controllers = context.cluster.controllers(process.id).await?;
    for object in controllers.services {
        let (name, uid) = (
            object.metadata.name.unwrap_or_default(),
            object.metadata.uid.unwrap_or_default(),
        );
        context
            .cluster
            .delete::<Service>(&name, &uid, Deletion::Graceful)
            .await?;
    }
    for object in controllers.deployments {
        let (name, uid) = (
            object.metadata.name.unwrap_or_default(),
            object.metadata.uid.unwrap_or_default(),
        );
        context
            .cluster
            .delete::<Deployment>(&name, &uid, Deletion::Graceful)
            .await?;
    }
    let selector = crate::cluster::label::of_process(context.cluster.around.installation, process.id);
    if context.cluster.list::<Pod>(&selector).await?.is_empty() {
        let verdict = Verdict::because(ProcessState::Failed, why, message.clone());
        report::gone(&context.pool, claim, process.id, &verdict).await?;
    }
    Ok(Ending::failed(why, message))
}

#[cfg(test)]
mod tests {
    use octopus_shared::function::FunctionSpec;
    use octopus_shared::process::ProcessSpec;

    use super::*;

    fn row(kind: ProcessKind) -> ProcessRow {
        ProcessRow {
            id: uuid::Uuid::nil(),
            name: "hello-0".into(),
            function: "hello".into(),
            revision: 1,
            function_spec: FunctionSpec::default(),
            entry: Default::default(),
            device_map: Default::default(),
            spec: ProcessSpec::new(kind),
            killed: false,
            kill_grace_seconds: None,
            kill_force: false,
            lifecycle: Lifecycle::Requested,
            state: ProcessState::Pending,
            attempt: 1,
            image: Some(("functions".into(), "sha256:0".into())),
        }
    }

    #[test]
    fn the_row_decides() {
        let pull = |repository: &str, digest: &str| format!("{repository}@{digest}");
        let create = Action::Create("functions@sha256:0".into());
        let report = Action::Report("functions@sha256:0".into());
        let (task, service) = (row(ProcessKind::Task), row(ProcessKind::Service));
        let killed = ProcessRow {
            killed: true,
            ..task.clone()
        };
        let gone = ProcessRow {
            lifecycle: Lifecycle::Gone,
            ..task.clone()
        };
        let imageless = ProcessRow {
            image: None,
            ..task.clone()
        };
        for (name, row, pod_seen, expected) in [
            ("new task", &task, false, &create),
            ("task that ran", &task, true, &report),
            ("service whose pod was seen first", &service, true, &create),
            ("killed before creation", &killed, false, &Action::Cancel),
            ("gone", &gone, false, &Action::Cancel),
            ("no image", &imageless, false, &Action::WaitForImage),
        ] {
            assert_eq!(decide(row, pod_seen, pull), *expected, "{name}");
        }
    }
}
