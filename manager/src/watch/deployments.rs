//! Services without a pod, or without a new one: a ReplicaSet that is refused one says so in its Deployment alone, and no
//! pod tells the story.

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use octopus_shared::db::report;
use uuid::Uuid;

use super::Watching;
use crate::cluster::{ClusterError, label, why};

const EVERY: Duration = Duration::from_secs(4);

pub(super) async fn run(watching: &Watching) {
    loop {
        // The report of the cluster sees it, so that nothing is asked while every service has its pods.
        tokio::select! {
            () = watching.hindered.notified() => {}
            () = watching.lost.cancelled() => return,
        }
        loop {
            let found = report::hindered_services(&watching.context.pool, &watching.watch.cluster).await;
            let hindered = watching.written(found.map_err(Into::into)).unwrap_or_default();
            if hindered.is_empty() {
                break;
            }
            if let Err(error) = look(watching, hindered.into_iter().collect()).await {
                tracing::info!(error = %error, "the deployments could not be listed");
            }
            if !watching.sleep(EVERY).await {
                return;
            }
        }
    }
}

/// The pod that comes in the end ends what is shown here: the watch of the pods sees it.
async fn look(watching: &Watching, hindered: HashSet<Uuid>) -> Result<(), ClusterError> {
    let cluster = &watching.context.cluster;
    let selector = label::of_installation(cluster.around.installation);
    let pick = |deployment: Deployment| {
        let process = label::process_of(&deployment.metadata).filter(|id| hindered.contains(id))?;
        Some((process, why::hindered(&deployment)?))
    };
    for (process, why) in cluster.list_as(&selector, pick).await? {
        let stored = report::pods_refused(&watching.context.pool, &watching.watch, process, &why).await;
        if watching.written(stored) == Some(true) {
            watching.context.changes.announce(process);
        }
    }
    Ok(())
}
