//! Changing an object: a PUT of what was just read, under its uid and resource version. What is gone meanwhile is not brought
//! back, and what changed meanwhile is read again.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::PostParams;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::patience::reading;
use super::{Cluster, ClusterError, label, limited};

/// Controllers write the status of an object while it is changed: each time it is read again.
const TRIES: usize = 8;

impl Cluster {
    /// Puts `change` of an object in its place. `fence` is the claim's token: what a later claim changed stays as it is. None:
    /// there is no such object.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn replace<K>(
        &self,
        name: &str,
        process: Uuid,
        fence: i64,
        change: impl Fn(&K) -> K,
    ) -> Result<Option<K>, ClusterError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let api = self.api::<K>();
        for _ in 0..TRIES {
            let Some(found) = reading(|| api.get_opt(name)).await? else {
                return Ok(None);
            };
            let metadata = found.meta();
            if metadata.deletion_timestamp.is_some() {
                return Err(ClusterError::Away(format!("{name} is being deleted")));
            }
            if !label::is_ours(metadata, self.around.installation) || label::process_of(metadata) != Some(process) {
                return Err(ClusterError::NameTaken(name.to_owned()));
            }
            if label::fence_of(metadata) > fence {
                return Err(ClusterError::Overtaken(name.to_owned()));
            }
            match limited(api.replace(name, &PostParams::default(), &change(&found))).await {
                Ok(changed) => return Ok(Some(changed)),
                // Another uid or another version by now: the next look decides.
                Err(ClusterError::Refused { code: 404 | 409, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ClusterError::Away(format!("{name} keeps being changed by others")))
    }
}
