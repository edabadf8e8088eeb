//! What is asked of the API server about objects: to create, list, change and delete them. Every write names what it is about by
//! uid, and 404 on a deletion means done.

use std::fmt::Debug;

use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use octopus_shared::access::Expose;
use octopus_shared::db::report::ProcessRow;
use octopus_shared::reason::Reason;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use uuid::Uuid;

use crate::cluster::call::{ClusterError, limited};
use crate::cluster::patience::reading;
use crate::cluster::{Cluster, label};

const PAGE: u32 = 250;

/// How an object goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// As it was created to.
    Graceful,
    /// Within seconds; 0 removes the object at once.
    Within(u32),
    /// It alone, what it controls stays.
    Orphaning,
}

/// What keeps the pods of a service alive and reached.
#[derive(Clone, Debug, Default)]
pub struct Controllers {
    /// Deployments.
    pub deployments: Vec<Deployment>,
    /// ReplicaSets.
    pub replica_sets: Vec<ReplicaSet>,
    /// Services.
    pub services: Vec<Service>,
    /// Ingresses.
    pub ingresses: Vec<Ingress>,
}

impl Controllers {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.deployments.is_empty()
            && self.replica_sets.is_empty()
            && self.services.is_empty()
            && self.ingresses.is_empty()
    }
}

impl Cluster {
    /// Whether as many creations are under way as may be.
    pub(crate) fn is_crowded(&self) -> bool {
        self.creating.available_permits() == 0
    }

    /// Creates an object. One of the same name is looked at: one of ours, made for the same process, is adopted.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn create<K>(&self, object: &K) -> Result<K, ClusterError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
    {
        // It is never closed.
        let _one_of_few = self.creating.acquire().await;
        match limited(self.api::<K>().create(&PostParams::default(), object)).await {
            Err(ClusterError::Refused { code: 409, .. }) => self.adopt(object).await,
            answer => answer,
        }
    }

    async fn adopt<K>(&self, wanted: &K) -> Result<K, ClusterError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let name = wanted.meta().name.clone().unwrap_or_default();
        let api = self.api::<K>();
        let found = reading(|| api.get_opt(&name)).await?;
        let found =
            found.ok_or_else(|| ClusterError::Away(format!("{name} exists and does not: it is being deleted")))?;
        if found.meta().deletion_timestamp.is_some() {
            return Err(ClusterError::Away(format!("{name} is being deleted")));
        }
        let process = |object: &K| label::process_of(object.meta());
        if !label::is_ours(found.meta(), self.around.installation) || process(&found) != process(wanted) {
            return Err(ClusterError::NameTaken(name));
        }
        // Changes of a process begin once it is created: another hash means that our template or settings changed meanwhile.
        let hash = |object: &K| label::hash_of(object.meta());
        if hash(&found) != hash(wanted) {
            tracing::warn!(object.name = %name, "adopted as an earlier release or other settings had made it");
        }
        Ok(found)
    }

    /// All objects of a kind under a label selector: a consistent list, in pages.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn list<K>(&self, selector: &str) -> Result<Vec<K>, ClusterError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        self.list_as(selector, Some).await
    }

    /// The same, of which only what `pick` makes of each object is kept: thousands of whole ones would be much at once.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) async fn list_as<K, T>(
        &self,
        selector: &str,
        pick: impl Fn(K) -> Option<T>,
    ) -> Result<Vec<T>, ClusterError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api = self.api::<K>();
        let mut parameters = ListParams::default().labels(selector).limit(PAGE);
        let mut picked = Vec::new();
        loop {
            let page = reading(|| api.list(&parameters)).await?;
            picked.extend(page.items.into_iter().filter_map(&pick));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(picked),
            }
        }
    }

    /// A pod by name, if it still has this uid.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn pod(&self, name: &str, uid: &str) -> Result<Option<Pod>, ClusterError> {
        let api = self.api::<Pod>();
        let pod = reading(|| api.get_opt(name)).await?;
        Ok(pod.filter(|pod| pod.metadata.uid.as_deref() == Some(uid)))
    }

    /// Deletes an object if it still is the one with this uid. What is gone, or is another one by now, counts as deleted.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn delete<K>(&self, name: &str, uid: &str, deletion: Deletion) -> Result<(), ClusterError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let parameters = DeleteParams {
            grace_period_seconds: match deletion {
                Deletion::Graceful | Deletion::Orphaning => None,
                Deletion::Within(seconds) => Some(seconds),
            },
            propagation_policy: (deletion == Deletion::Orphaning).then_some(PropagationPolicy::Orphan),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match limited(self.api::<K>().delete(name, &parameters)).await {
            Ok(_) | Err(ClusterError::Refused { code: 404 | 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes a listed object, unless it is on its way out already.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn remove<K>(&self, metadata: &ObjectMeta, deletion: Deletion) -> Result<(), ClusterError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        match (&metadata.name, &metadata.uid) {
            (Some(name), Some(uid)) if metadata.deletion_timestamp.is_none() => {
                self.delete::<K>(name, uid, deletion).await
            }
            _ => Ok(()),
        }
    }

    /// Deletes the policies of a process: what they opened is closed.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn remove_policies(&self, process: Uuid) -> Result<(), ClusterError> {
        let selector = label::of_process(self.around.installation, process);
        for policy in self.list::<NetworkPolicy>(&selector).await? {
            self.remove::<NetworkPolicy>(&policy.metadata, Deletion::Graceful)
                .await?;
        }
        Ok(())
    }

    /// Deletes the pod of a task that waits for its image in vain, and leaves word of that first: what its kubelet makes of the end of a
    /// container that never was says less. Does nothing when the pod has changed since it was looked at.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn give_up(&self, pod: &Pod, why: Reason, words: &str) -> Result<(), ClusterError> {
        let (Some(name), Some(uid)) = (&pod.metadata.name, &pod.metadata.uid) else {
            return Ok(());
        };
        let patch = json!({"metadata": {
            "uid": uid,
            "resourceVersion": pod.metadata.resource_version,
            "annotations": { label::GIVEN_UP: format!("{}: {words}", why.id) },
        }});
        let api = self.api::<Pod>();
        match limited(api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await {
            // Its kubelet confirms it: the image may come at this moment.
            Ok(_) => self.delete::<Pod>(name, uid, Deletion::Within(1)).await,
            Err(ClusterError::Refused { code: 404 | 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes a pod end without losing its log: lowers its active deadline. SIGTERM comes at once and the pod's grace is
    /// honoured; the object and the log stay until they are deleted.
    ///
    /// # Errors
    /// [`ClusterError`]; 409 when the pod changed since it was read.
    pub async fn lower_deadline(&self, pod: &Pod, now: DateTime<Utc>) -> Result<(), ClusterError> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let patch = json!({
            "metadata": {
                "uid": pod.metadata.uid,
                "resourceVersion": pod.metadata.resource_version,
                "annotations": { label::STOPPING_SINCE: now.to_rfc3339_opts(SecondsFormat::Millis, true) },
            },
            "spec": { "activeDeadlineSeconds": 1 },
        });
        match limited(
            self.api::<Pod>()
                .patch(&name, &PatchParams::default(), &Patch::Merge(&patch)),
        )
        .await
        {
            Ok(_) | Err(ClusterError::Refused { code: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deployments, ReplicaSets, Services and Ingresses of a process.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn controllers(&self, process: &ProcessRow) -> Result<Controllers, ClusterError> {
        let selector = label::of_process(self.around.installation, process.id);
        let ingresses = match process.function_spec.expose {
            Expose::Ingress => self.list(&selector).await?,
            Expose::ClusterIp | Expose::NodePort => Vec::new(),
        };
        Ok(Controllers {
            ingresses,
            deployments: self.list(&selector).await?,
            replica_sets: self.list(&selector).await?,
            services: self.list(&selector).await?,
        })
    }

    /// ResourceQuotas of the function namespace.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn quotas(&self) -> Result<Vec<ResourceQuota>, ClusterError> {
        self.list("").await
    }
}
