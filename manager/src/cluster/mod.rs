//! The cluster: the only place that speaks with its API server. Every call has a time limit, every write names what it is
//! about by uid, and 404 on a deletion means done.

mod clients;
pub mod expose;
pub(crate) mod found;
pub mod gpu;
pub(crate) mod helper;
pub mod label;
pub mod object;
mod patience;
pub mod policy;
mod replace;
pub mod state;
pub mod token;
pub mod warning;
pub mod wheel;
pub mod why;

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::Resource;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use octopus_shared::access::Expose;
use octopus_shared::db::report::ProcessRow;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::time::interval;
use uuid::Uuid;

use crate::cluster::clients::Clients;
use crate::cluster::object::Surroundings;
use crate::cluster::patience::reading;
use crate::cluster::token::{Bearer, Found};
use crate::config::Config;

/// No call to the API server takes longer; logs and watches have idle limits of their own.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// Nothing is cheaper to answer than the version: who takes longer is away.
const PING_LIMIT: Duration = Duration::from_secs(5);
/// While it is away another ping is sent beside the last one this often, each over a connection of its own: the first that is
/// answered is enough.
const PING_AGAIN: Duration = Duration::from_secs(1);
const PAGE: u32 = 250;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The API server refused: asking again would not help.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// The API server's words.
        message: String,
    },
    /// The API server did not answer, or asked for patience.
    #[error("the API server does not answer: {0}")]
    Away(String),
    /// The API server asked for patience.
    #[error("the API server is busy: {message}")]
    Busy {
        /// The API server's words.
        message: String,
        /// What it asked for.
        after: Duration,
    },
    /// An object of that name exists and is not what was to be created.
    #[error("an object named {0} exists and is not ours")]
    NameTaken(String),
    /// A later claim has changed the object.
    #[error("a later command has changed {0}")]
    Overtaken(String),
    /// The kubeconfig cannot be used.
    #[error("{0}")]
    Kubeconfig(String),
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code < 500 && status.code != 429 => Self::Refused {
                code: status.code,
                message: status.message,
            },
            kube::Error::Api(status) if patience::asked(&status).is_some() => Self::Busy {
                after: patience::asked(&status).unwrap_or_default(),
                message: status.message,
            },
            kube::Error::Api(status) => Self::Away(format!("{} {}", status.code, status.message)),
            other => Self::Away(other.to_string()),
        }
    }
}

/// One function namespace of one cluster.
#[derive(Clone)]
pub struct Cluster {
    clients: Clients,
    /// The token that its requests carry.
    pub bearer: Bearer,
    /// The token that the kubeconfig gave at first.
    pub found: Option<Found>,
    /// The function namespace.
    pub namespace: String,
    /// The API server's gitVersion.
    pub version: String,
    /// Its second number: 33 in 1.33.
    pub minor: u32,
    /// What all objects have in common.
    pub around: Surroundings,
    /// When the database was set up: what is older is not ours to judge.
    pub installed_at: DateTime<Utc>,
    /// Creations that are under way at once.
    creating: Arc<Semaphore>,
}

impl Cluster {
    /// Reads the kubeconfig and asks the API server for its version.
    ///
    /// # Errors
    /// When either is not there yet.
    pub async fn connect(
        config: &Config,
        installation: Uuid,
        installed_at: DateTime<Utc>,
    ) -> Result<Self, ClusterError> {
        let (mut settings, found) = token::read(&config.kubeconfig).await?;
        settings.connect_timeout = Some(Duration::from_secs(5));
        // A retried create answers 409 for our own object; every command is retried as a whole instead.
        settings.default_retry = false;
        let bearer = Bearer::default();
        if let Some(found) = &found {
            bearer.set(&found.token)?;
        }
        let unusable = |error: kube::Error| {
            ClusterError::Kubeconfig(format!("KUBECONFIG {}: {error}", config.kubeconfig.display()))
        };
        let clients = Clients::new(settings, &bearer).map_err(unusable)?;
        let version = limited(clients.calling().apiserver_version()).await?;
        let minor: u32 = version.minor.trim_end_matches('+').parse().unwrap_or_default();
        let around = Surroundings {
            installation,
            pull_secret: config.registry_pull_secret.clone(),
            runtime_class: config.runtime_class.clone(),
            // An older API server would drop the field and run the pod as if it had not been asked for.
            user_namespaces: config.user_namespaces && minor >= 30,
            gpus: gpu::Gpus {
                resource: config.gpu_resource.clone(),
                selector: config.gpu_node_selector.clone(),
                tolerations: config.gpu_tolerations.clone(),
                runtime_class: config.gpu_runtime_class.clone(),
            },
            reach: expose::Reach {
                node_address: config.node_address.clone(),
                ingress_url: config.ingress_url.clone(),
                ingress_class: config.ingress_class.clone(),
                ingress_from: config.ingress_namespace_labels.clone(),
                closed: config.closed_blocks.clone(),
            },
        };
        Ok(Self {
            clients,
            bearer,
            found,
            namespace: config.namespace.clone(),
            version: version.git_version,
            minor,
            around,
            installed_at,
            creating: Arc::new(Semaphore::new(config.starts as usize)),
        })
    }

    /// Objects of one kind in the function namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.clients.calling(), &self.namespace)
    }

    /// The same, to be watched by calls that the API server ends within a minute.
    pub fn watched<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.clients.watching(), &self.namespace)
    }

    /// Pods of another namespace: that of the builds.
    pub fn pods_of(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.clients.calling(), namespace)
    }

    /// A fresh token for an account: the manager's own is the only one that it may ask for.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn renew_token(&self, namespace: &str, account: &str, seconds: u32) -> Result<String, ClusterError> {
        request_token(&Api::namespaced(self.clients.calling(), namespace), account, seconds).await
    }

    /// The API server's version: whether it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<String, ClusterError> {
        // Alone: beside others it would not be seen that its connection has died.
        self.pinged(limited(self.clients.calling().apiserver_version())).await
    }

    /// The same, of an API server that did not answer the last time.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping_again(&self) -> Result<String, ClusterError> {
        let client = self.clients.calling();
        let first = async {
            let (mut asked, mut again) = (FuturesUnordered::new(), interval(PING_AGAIN));
            loop {
                tokio::select! {
                    _ = again.tick() => asked.push(limited(client.apiserver_version())),
                    Some(answer) = asked.next() => return answer,
                }
            }
        };
        self.pinged(first).await
    }

    async fn pinged(&self, asked: impl Future<Output = Result<Info, ClusterError>>) -> Result<String, ClusterError> {
        match tokio::time::timeout(PING_LIMIT, asked).await {
            Ok(answer) => {
                let version = answer?.git_version;
                self.clients.answered();
                Ok(version)
            }
            Err(_) => {
                self.clients.silent();
                Err(ClusterError::Away(format!(
                    "no answer within {} s",
                    PING_LIMIT.as_secs()
                )))
            }
        }
    }

    /// Changes when the API server is back from a silence: what was asked before is never answered.
    pub fn revived(&self) -> watch::Receiver<u64> {
        self.clients.revived()
    }

    /// The API server's clock, to the second.
    ///
    /// # Errors
    /// [`ClusterError`]; also when it does not say.
    pub async fn clock(&self) -> Result<DateTime<Utc>, ClusterError> {
        let asked = http::Request::get("/version")
            .body(kube::client::Body::empty())
            .map_err(|error| ClusterError::Away(error.to_string()))?;
        let answer = limited(self.clients.calling().send(asked)).await?;
        let date = answer.headers().get(http::header::DATE);
        date.and_then(|date| DateTime::parse_from_rfc2822(date.to_str().ok()?).ok())
            .map(|date| date.to_utc())
            .ok_or_else(|| ClusterError::Away("it answers without a date".into()))
    }

    /// Whether the manager has a right.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn may(&self, right: ResourceAttributes) -> Result<bool, ClusterError> {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(right),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.clients.calling());
        let answer = limited(reviews.create(&PostParams::default(), &review)).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

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

/// A token for an account, bound to nothing but it.
pub(crate) async fn request_token(
    accounts: &Api<ServiceAccount>,
    account: &str,
    seconds: u32,
) -> Result<String, ClusterError> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(i64::from(seconds)),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let made = limited(accounts.create_token_request(account, &PostParams::default(), &request)).await?;
    made.status
        .map(|status| status.token)
        .filter(|token| !token.is_empty())
        .ok_or_else(|| ClusterError::Away("it answered without a token".into()))
}

/// A call, within its time limit.
pub(crate) async fn limited<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ClusterError> {
    let started = std::time::Instant::now();
    let answer = match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer.map_err(ClusterError::from),
        Err(_) => Err(ClusterError::Away(format!(
            "no answer within {} s",
            CALL_LIMIT.as_secs()
        ))),
    };
    let ending = match &answer {
        Ok(_) => "ok",
        Err(ClusterError::Refused { .. }) => "refused",
        Err(_) => "away",
    };
    metrics::histogram!("octopus_cluster_call_seconds", "ending" => ending).record(started.elapsed());
    answer
}
