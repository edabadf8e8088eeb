//! Restarts, updates and scales a service: what is asked for becomes what is wanted of the process, and its objects are put
//! in accordance with that. Done again, it changes nothing.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use octopus_shared::command::CommandKind;
use octopus_shared::db::claim::{Claim, Outcome};
use octopus_shared::db::report::{self, Change, ProcessRow, RevisionRow};
use octopus_shared::process::{Lifecycle, ProcessKind};
use octopus_shared::reason::{self, Reason};
use serde_json::{Value, json};

use super::{Ending, Obstacle, subject};
use crate::cluster::object::change::{replaced, replaced_service, scaled};
use crate::cluster::{Cluster, ClusterError, Deletion, expose, label, object};
use crate::context::Context;
use crate::failpoint::failpoint;

/// What is to be done, decided from the rows alone.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    /// It was asked to end.
    Cancel,
    /// Not yet.
    Wait(&'static str),
    /// It cannot be done.
    Refuse(Reason, String),
    /// Store this as what is wanted, for this reason and in these words, and make it so.
    Change(Change, Reason, String),
}

fn decide(asked: Change, process: &ProcessRow, revision: Option<&RevisionRow>, missing: Option<&str>) -> Action {
    if process.killed || process.lifecycle > Lifecycle::Created {
        return Action::Cancel;
    }
    if process.spec.kind == ProcessKind::Task {
        return Action::Refuse(reason::REJECTED_BY_CLUSTER, "a task cannot be changed".into());
    }
    if process.lifecycle == Lifecycle::Requested {
        return Action::Wait("its objects are not made yet");
    }
    match (&asked, revision) {
        (Change::Revision(_), None) => Action::Wait("there is no such revision yet"),
        (Change::Revision(_), Some(revision)) if !revision.built => Action::Wait("the image is not there yet"),
        (Change::Revision(_), Some(revision)) => {
            if let Some(setting) = missing {
                let words = format!("functions are not exposed so here: the manager has no {setting}");
                return Action::Refuse(reason::EXPOSE_NOT_OFFERED, words);
            }
            let words = format!("revision {} instead of {}", revision.number, process.revision);
            Action::Change(asked, reason::UPDATE_REQUESTED, words)
        }
        (Change::Replicas(replicas), _) => {
            let words = format!("{replicas} pods instead of {}", process.replicas);
            Action::Change(asked, reason::SCALE_REQUESTED, words)
        }
        (Change::Restart(_), _) => Action::Change(
            asked,
            reason::RESTART_REQUESTED,
            "new pods instead of those that run".into(),
        ),
    }
}

fn asked(claim: &Claim) -> Result<Change, Obstacle> {
    let unreadable = || Obstacle::Database(sqlx::Error::Decode("the command does not say what to change".into()));
    match claim.kind {
        CommandKind::UpdateProcess => Ok(Change::Revision(subject(claim.revision_id)?)),
        CommandKind::ScaleProcess => {
            let replicas = claim.payload.get("replicas").and_then(Value::as_i64);
            let replicas = replicas.and_then(|number| number.try_into().ok());
            replicas.map(Change::Replicas).ok_or_else(unreadable)
        }
        _ => Ok(Change::Restart(claim.created_at)),
    }
}

pub(super) async fn carry_out(context: &Context, claim: &Claim) -> Result<Ending, Obstacle> {
    let id = subject(claim.process_id)?;
    let asked = asked(claim)?;
    let process = report::process(&context.pool, id).await?;
    let revision = match &asked {
        Change::Revision(id) => Some(report::revision(&context.pool, *id).await?),
        Change::Restart(_) | Change::Replicas(_) => None,
    };
    let reach = &context.cluster.around.reach;
    let missing = revision
        .as_ref()
        .and_then(|revision| reach.missing(revision.spec.expose));
    let cancelled = Ending::Done(Outcome::Cancelled {
        reason: reason::KILL_REQUESTED.id.into(),
    });
    let (change, why, words) = match decide(asked, &process, revision.as_ref(), missing) {
        Action::Cancel => return Ok(cancelled),
        Action::Wait(why) => return Ok(Ending::wait(Duration::from_secs(1), why)),
        Action::Refuse(why, words) => return Ok(Ending::failed(why, words)),
        Action::Change(change, why, words) => (change, why, words),
    };
    failpoint!("change-claimed");
    if !report::change(&context.pool, claim, id, &change, (why, &words)).await? {
        return Ok(cancelled);
    }
    failpoint!("change-stored");
    context.announce(claim);
    // What is wanted by now, with whatever earlier changes of this service made of it.
    let process = report::process(&context.pool, id).await?;
    match make_so(context, claim, &process).await {
        Ok(Made::All) => Ok(Ending::SUCCEEDED),
        Ok(Made::Killed) => Ok(cancelled),
        Ok(Made::Missing) => Ok(Ending::failed(
            reason::DELETED_BY_OTHER,
            "its Deployment is not in the cluster any more",
        )),
        Err(Obstacle::Cluster(error)) => hindered(context, claim, error).await,
        Err(obstacle) => Err(obstacle),
    }
}

/// What does not let the objects be changed: shown at the command, for the process runs on as it is.
async fn hindered(context: &Context, claim: &Claim, error: ClusterError) -> Result<Ending, Obstacle> {
    match error {
        ClusterError::Refused {
            code: 401 | 403 | 404,
            message,
        } => {
            let quota = message.contains("exceeded quota");
            let why = if quota {
                reason::QUOTA_EXCEEDED
            } else {
                reason::REJECTED_BY_CLUSTER
            };
            report::put_off(&context.pool, claim, why, &message).await?;
            Ok(Ending::wait(Duration::from_secs(if quota { 5 } else { 10 }), message))
        }
        ClusterError::Refused { message, .. } => Ok(Ending::failed(reason::REJECTED_BY_CLUSTER, message)),
        ClusterError::NameTaken(_) => Ok(Ending::failed(reason::NAME_TAKEN, error.to_string())),
        ClusterError::Overtaken(_) => Err(error.into()),
        ClusterError::Away(_) | ClusterError::Busy { .. } | ClusterError::Kubeconfig(_) => {
            report::put_off(&context.pool, claim, reason::CLUSTER_UNREACHABLE, &error.to_string()).await?;
            Err(error.into())
        }
    }
}

/// How far it came.
enum Made {
    /// The objects are as they are wanted.
    All,
    /// It was asked to end meanwhile.
    Killed,
    /// There is no Deployment that could be changed.
    Missing,
}

/// Puts the objects in accordance with the row.
async fn make_so(context: &Context, claim: &Claim, process: &ProcessRow) -> Result<Made, Obstacle> {
    let Context { cluster, pool, .. } = context;
    let unwritable = |error: serde_json::Error| Obstacle::Database(sqlx::Error::Encode(error.into()));
    let Some((repository, digest)) = &process.image else {
        return Err(Obstacle::Database(sqlx::Error::RowNotFound));
    };
    let image = context.builder.pull_reference(repository, digest);
    let around = &cluster.around;
    let (id, name, fence) = (process.id, process.name.as_str(), claim.token);
    let (service, deployment) = object::service(around, process, &image).map_err(unwritable)?;

    if claim.kind == CommandKind::ScaleProcess {
        let is_as_wanted = |found: &Deployment| label::wish_of(&found.metadata) == Some(process.wish());
        let change = |found: &Deployment| match is_as_wanted(found) {
            true => scaled(found, process.replicas, fence),
            // An earlier change has not come so far.
            false => replaced(found, deployment.clone(), fence),
        };
        return Ok(match cluster.replace(name, id, fence, change).await? {
            Some(_) => {
                failpoint!("scale-put");
                report::scaled(pool, claim, id).await?;
                Made::All
            }
            None => Made::Missing,
        });
    }

    let policy = object::policy(around, process).map_err(unwritable)?;
    let ingress = object::ingress(around, process).map_err(unwritable)?;
    let mut manifest = Vec::new();
    // What the new pods may reach is open before the first of them.
    if let Some(policy) = &policy {
        put(cluster, name, id, fence, policy, replaced::<NetworkPolicy>).await?;
        failpoint!("change-policy");
        manifest.push(json!(policy));
    }
    if report::is_killed(pool, id).await? {
        return Ok(Made::Killed);
    }
    let change = |found: &Deployment| replaced(found, deployment.clone(), fence);
    if cluster.replace(name, id, fence, change).await?.is_none() {
        return Ok(Made::Missing);
    }
    failpoint!("change-deployment");
    let reached = put(cluster, name, id, fence, &service, replaced_service).await?;
    failpoint!("change-service");
    manifest.extend([json!(service), json!(deployment)]);
    match &ingress {
        Some(ingress) => {
            put(cluster, name, id, fence, ingress, replaced::<Ingress>).await?;
            manifest.push(json!(ingress));
        }
        None => {
            let selector = label::of_process(around.installation, id);
            for ingress in cluster.list::<Ingress>(&selector).await? {
                cluster.remove::<Ingress>(&ingress.metadata, Deletion::Graceful).await?;
            }
        }
    }
    if policy.is_none() {
        cluster.remove_policies(id).await?;
    }
    let endpoint = expose::endpoint(&around.reach, process, &cluster.namespace, &reached);
    failpoint!("change-made");
    report::changed(pool, claim, id, &manifest.into(), &endpoint).await?;
    failpoint!("change-reported");
    Ok(Made::All)
}

/// An object that only has to be there: changed, or made where there is none.
async fn put<K>(
    cluster: &Cluster,
    name: &str,
    process: uuid::Uuid,
    fence: i64,
    wanted: &K,
    change: fn(&K, K, i64) -> K,
) -> Result<K, ClusterError>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + serde::Serialize,
{
    let there = cluster
        .replace(name, process, fence, |found| change(found, wanted.clone(), fence))
        .await?;
    match there {
        Some(changed) => Ok(changed),
        None => cluster.create(wanted).await,
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use octopus_shared::function::FunctionSpec;
    use uuid::Uuid;

    use super::*;
    use crate::cluster::object::tests::process;

    #[test]
    fn the_rows_decide() {
        let revision = |built| RevisionRow {
            number: 4,
            built,
            spec: FunctionSpec::default(),
        };
        let row = |lifecycle, killed, kind| ProcessRow {
            lifecycle,
            killed,
            ..process(kind)
        };
        let runs = row(Lifecycle::Created, false, ProcessKind::Service);
        let killed = row(Lifecycle::Created, true, ProcessKind::Service);
        let gone = row(Lifecycle::Gone, false, ProcessKind::Service);
        let requested = row(Lifecycle::Requested, false, ProcessKind::Service);
        let task = row(Lifecycle::Created, false, ProcessKind::Task);
        let (update, scale) = (Change::Revision(Uuid::max()), Change::Replicas(3));
        let restart = Change::Restart(DateTime::UNIX_EPOCH);
        let words = |action: Action| match action {
            Action::Cancel => "cancel".to_owned(),
            Action::Wait(why) => format!("wait: {why}"),
            Action::Refuse(why, _) => format!("refuse: {}", why.id),
            Action::Change(_, why, words) => format!("{}: {words}", why.id),
        };
        for (name, asked, row, revision, missing, expected) in [
            (
                "another revision",
                &update,
                &runs,
                Some(revision(true)),
                None,
                "update_requested: revision 4 instead of 3",
            ),
            (
                "its image is being built",
                &update,
                &runs,
                Some(revision(false)),
                None,
                "wait: the image is not there yet",
            ),
            (
                "it cannot be exposed so",
                &update,
                &runs,
                Some(revision(true)),
                Some("OCTOPUS_NODE_ADDRESS"),
                "refuse: expose_not_offered",
            ),
            (
                "more pods",
                &scale,
                &runs,
                None,
                None,
                "scale_requested: 3 pods instead of 1",
            ),
            (
                "new pods",
                &restart,
                &runs,
                None,
                None,
                "restart_requested: new pods instead of those that run",
            ),
            ("killed meanwhile", &restart, &killed, None, None, "cancel"),
            ("gone meanwhile", &update, &gone, Some(revision(true)), None, "cancel"),
            (
                "not made yet",
                &scale,
                &requested,
                None,
                None,
                "wait: its objects are not made yet",
            ),
            ("a task", &scale, &task, None, None, "refuse: rejected_by_cluster"),
        ] {
            let action = decide(asked.clone(), row, revision.as_ref(), missing);
            assert_eq!(words(action), expected, "{name}");
        }
    }
}
