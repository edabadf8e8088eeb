//! Creates the objects of a process, or of the next attempt of a task.

use std::time::Duration;

use chrono::Utc;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::Ingress;
use octopus_shared::db::claim::{Claim, Outcome};
use octopus_shared::db::report::{self, Creation, ProcessRow, ReportError};
use octopus_shared::pod::Verdict;
use octopus_shared::process::{Lifecycle, ProcessKind, ProcessState};
use octopus_shared::reason;
use serde_json::{Value, json};

use super::{Ending, Obstacle, subject};
use crate::batch::Write;
use crate::cluster::{ClusterError, Deletion, expose, label, object};
use crate::context::Context;
use crate::failpoint::failpoint;

/// What is to be done about a process, decided from its row alone.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    /// It was asked to end: the kill does the rest.
    Cancel,
    /// It was created, ran and is over: whoever watched it has reported all of that.
    Nothing,
    /// Its pod exists, or existed, from this image: only its manifest may be missing.
    Report(String),
    /// Its image is not there yet.
    WaitForImage,
    /// Create it from this image.
    Create(String),
}

fn decide(process: &ProcessRow, pull: impl Fn(&str, &str) -> String) -> Action {
    match process.lifecycle > Lifecycle::Created {
        _ if process.killed => return Action::Cancel,
        true if process.pod_seen => return Action::Nothing,
        true => return Action::Cancel,
        false => {}
    }
    let Some((repository, digest)) = &process.image else {
        return Action::WaitForImage;
    };
    let image = pull(repository, digest);
    // A task's pod that was ever seen has run: creating it again would run it twice.
    if process.spec.kind == ProcessKind::Task && process.pod_seen {
        Action::Report(image)
    } else {
        Action::Create(image)
    }
}

pub(super) async fn carry_out(context: &Context, claim: &Claim) -> Result<Ending, Obstacle> {
    let id = subject(claim.process_id)?;
    let process = context.processes.read(id).await?;
    let (image, exists) = match decide(&process, |repository, digest| {
        context.builder.pull_reference(repository, digest)
    }) {
        Action::Cancel => {
            return Ok(Ending::Done(Outcome::Cancelled {
                reason: reason::KILL_REQUESTED.id.into(),
            }));
        }
        Action::Nothing => return Ok(Ending::SUCCEEDED),
        Action::Report(image) => (image, true),
        Action::WaitForImage => return Ok(Ending::wait(Duration::from_secs(1), "the image is not there yet")),
        Action::Create(image) => (image, false),
    };
    let reach = &context.cluster.around.reach;
    if let Some(setting) = reach.missing(process.function_spec.expose) {
        let message = format!("functions are not exposed so here: the manager has no {setting}");
        return fail(context, claim, &process, reason::EXPOSE_NOT_OFFERED, message).await;
    }
    failpoint!("start-claimed");
    let waited = (Utc::now() - claim.created_at).to_std().unwrap_or_default();
    metrics::histogram!("octopus_create_request_wait_seconds").record(waited);
    match create(context, &process, &image, exists).await {
        Ok(made) => {
            failpoint!("start-created");
            let made = Creation {
                seq: claim.seq,
                token: claim.token,
                process: id,
                manifest: made.manifest,
                endpoint: made.endpoint,
            };
            if !context.creations.write(made).await {
                return Err(ReportError::Fenced.into());
            }
            failpoint!("start-reported");
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

/// What was created of a process.
struct Made {
    /// The objects as they were sent.
    manifest: Value,
    /// Where it is called.
    endpoint: Option<String>,
}

/// Creates what is missing, unless it `exists`. The policy is there before the first pod.
async fn create(context: &Context, process: &ProcessRow, image: &str, exists: bool) -> Result<Made, Obstacle> {
    let Context { cluster, .. } = context;
    let around = &cluster.around;
    let unwritable = |error: serde_json::Error| Obstacle::Database(sqlx::Error::Encode(error.into()));
    let policy = object::policy(around, process).map_err(unwritable)?;
    if let Some(policy) = policy.as_ref().filter(|_| !exists) {
        cluster.create(policy).await?;
        failpoint!("start-policy");
    }
    let mut manifest: Vec<Value> = policy.iter().map(|policy| json!(policy)).collect();
    let endpoint = match process.spec.kind {
        ProcessKind::Task => {
            let pod = object::task(around, process, image).map_err(unwritable)?;
            if !exists {
                cluster.create(&pod).await?;
                failpoint!("start-pod");
            }
            manifest.push(json!(pod));
            None
        }
        ProcessKind::Service => {
            let (service, deployment) = object::service(around, process, image).map_err(unwritable)?;
            let created = cluster.create(&service).await?;
            failpoint!("start-service");
            cluster.create(&deployment).await?;
            manifest.extend([json!(service), json!(deployment)]);
            if let Some(ingress) = object::ingress(around, process).map_err(unwritable)? {
                cluster.create(&ingress).await?;
                manifest.push(json!(ingress));
            }
            Some(expose::endpoint(&around.reach, process, &cluster.namespace, &created))
        }
    };
    Ok(Made {
        manifest: manifest.into(),
        endpoint,
    })
}

impl Write for Creation {
    const WHAT: &'static str = "creations";

    fn seq(&self) -> i64 {
        self.seq
    }

    async fn store(pool: &sqlx::PgPool, batch: &[Self]) -> Result<Vec<i64>, sqlx::Error> {
        report::created(pool, batch).await
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
    let cluster = &context.cluster;
    let controllers = cluster.controllers(process).await?;
    for ingress in &controllers.ingresses {
        cluster.remove::<Ingress>(&ingress.metadata, Deletion::Graceful).await?;
    }
    for service in &controllers.services {
        cluster.remove::<Service>(&service.metadata, Deletion::Graceful).await?;
    }
    for deployment in &controllers.deployments {
        cluster
            .remove::<Deployment>(&deployment.metadata, Deletion::Graceful)
            .await?;
    }
    let selector = label::of_process(cluster.around.installation, process.id);
    if cluster.list::<Pod>(&selector).await?.is_empty() {
        cluster.remove_policies(process.id).await?;
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
            pod_seen: false,
            image: Some(("functions".into(), "sha256:0".into())),
            replicas: 1,
            restarted_at: None,
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
        let seen = |row: &ProcessRow| ProcessRow {
            pod_seen: true,
            ..row.clone()
        };
        for (name, row, expected) in [
            ("new task", &task, &create),
            ("task that ran", &seen(&task), &report),
            ("service whose pod was seen first", &seen(&service), &create),
            ("killed before creation", &killed, &Action::Cancel),
            ("gone without a pod", &gone, &Action::Cancel),
            ("ran and is gone", &seen(&gone), &Action::Nothing),
            ("killed while it ran", &seen(&killed), &Action::Cancel),
            ("no image", &imageless, &Action::WaitForImage),
        ] {
            assert_eq!(decide(row, pull), *expected, "{name}");
        }
    }
}
