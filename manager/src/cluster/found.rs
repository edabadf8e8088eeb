//! What there is: every object of this installation, whatever its kind, with what it says about itself.

use chrono::{DateTime, Utc};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use uuid::Uuid;

use super::{Cluster, ClusterError, Deletion, label, state};

/// One object of ours, whatever its kind.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) process: Option<Uuid>,
    pub(crate) created_at: DateTime<Utc>,
    /// What was wanted of its process when it was made or last changed.
    pub(crate) wish: Option<String>,
    /// Pods that a Deployment is to have.
    pub(crate) replicas: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Deployment,
    ReplicaSet,
    Service,
    Ingress,
    Pod,
    /// Only ever opens something: it may go at any time, and stays behind every task that had one.
    NetworkPolicy,
}

impl Cluster {
    /// Every object of this installation that is not on its way out and has no controller: consistent lists, in pages.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) async fn found(&self) -> Result<Vec<Found>, ClusterError> {
        let selector = label::of_installation(self.around.installation);
        let deployments: Vec<Deployment> = self.list(&selector).await?;
        let mut found = described(Kind::Deployment, &deployments);
        for object in &mut found {
            let same = |deployment: &&Deployment| deployment.metadata.uid.as_ref() == Some(&object.uid);
            let spec = deployments.iter().find(same).and_then(|found| found.spec.as_ref());
            object.replicas = spec.and_then(|spec| spec.replicas);
        }
        found.extend(described::<ReplicaSet>(Kind::ReplicaSet, &self.list(&selector).await?));
        found.extend(described::<Service>(Kind::Service, &self.list(&selector).await?));
        found.extend(described::<Ingress>(Kind::Ingress, &self.list(&selector).await?));
        let policies = self.list(&selector).await?;
        found.extend(described::<NetworkPolicy>(Kind::NetworkPolicy, &policies));
        found.extend(described::<Pod>(Kind::Pod, &self.list(&selector).await?));
        Ok(found)
    }

    /// Names of Deployments that another installation made here.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) async fn strangers(&self) -> Result<Vec<String>, ClusterError> {
        let others = self
            .list::<Deployment>(&label::of_others(self.around.installation))
            .await?;
        Ok(others.into_iter().filter_map(|other| other.metadata.name).collect())
    }

    /// Deletes what was found, if it still is the same object.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) async fn remove_found(&self, object: &Found) -> Result<(), ClusterError> {
        let (name, uid) = (object.name.as_str(), object.uid.as_str());
        let how = Deletion::Graceful;
        match object.kind {
            Kind::Deployment => self.delete::<Deployment>(name, uid, how).await,
            Kind::ReplicaSet => self.delete::<ReplicaSet>(name, uid, how).await,
            Kind::Service => self.delete::<Service>(name, uid, how).await,
            Kind::Ingress => self.delete::<Ingress>(name, uid, how).await,
            Kind::Pod => self.delete::<Pod>(name, uid, how).await,
            Kind::NetworkPolicy => self.delete::<NetworkPolicy>(name, uid, how).await,
        }
    }
}

fn described<K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(
    kind: Kind,
    objects: &[K],
) -> Vec<Found> {
    let describe = |metadata: &ObjectMeta| {
        // What is on its way out already needs nobody, and what a controller made goes with it.
        let leaving = metadata.deletion_timestamp.is_some();
        let controlled = metadata
            .owner_references
            .as_ref()
            .is_some_and(|owners| !owners.is_empty());
        Some(Found {
            kind,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            process: label::process_of(metadata),
            created_at: metadata.creation_timestamp.as_ref().map(state::utc)?,
            wish: label::wish_of(metadata),
            replicas: None,
        })
        .filter(|_| !leaving && !controlled)
    };
    objects.iter().filter_map(|object| describe(object.meta())).collect()
}
