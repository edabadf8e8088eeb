//! What there is: every object of this installation, whatever its kind, with what it says about itself.

use std::fmt::Debug;

use chrono::{DateTime, Utc};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
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
        let deployment = |deployment: Deployment| {
            Some(Found {
                replicas: deployment.spec.as_ref().and_then(|spec| spec.replicas),
                ..described(Kind::Deployment, &deployment.metadata)?
            })
        };
        let mut found = self.list_as(&selector, deployment).await?;
        found.extend(self.found_of::<ReplicaSet>(Kind::ReplicaSet, &selector).await?);
        found.extend(self.found_of::<Service>(Kind::Service, &selector).await?);
        found.extend(self.found_of::<Ingress>(Kind::Ingress, &selector).await?);
        found.extend(self.found_of::<NetworkPolicy>(Kind::NetworkPolicy, &selector).await?);
        found.extend(self.found_of::<Pod>(Kind::Pod, &selector).await?);
        Ok(found)
    }

    async fn found_of<K>(&self, kind: Kind, selector: &str) -> Result<Vec<Found>, ClusterError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        self.list_as(selector, |object: K| described(kind, object.meta())).await
    }

    /// Names of Deployments that another installation made here.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) async fn strangers(&self) -> Result<Vec<String>, ClusterError> {
        let others = label::of_others(self.around.installation);
        self.list_as(&others, |other: Deployment| other.metadata.name).await
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

/// What is on its way out already needs nobody, and what a controller made goes with it.
fn described(kind: Kind, metadata: &ObjectMeta) -> Option<Found> {
    let leaving = metadata.deletion_timestamp.is_some();
    let controlled = metadata
        .owner_references
        .as_ref()
        .is_some_and(|owners| !owners.is_empty());
    if leaving || controlled {
        return None;
    }
    Some(Found {
        kind,
        name: metadata.name.clone()?,
        uid: metadata.uid.clone()?,
        process: label::process_of(metadata),
        created_at: metadata.creation_timestamp.as_ref().map(state::utc)?,
        wish: label::wish_of(metadata),
        replicas: None,
    })
}
