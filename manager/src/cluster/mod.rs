//! The cluster: the only place that speaks with its API server. Every call has a time limit.

mod call;
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
mod requests;
pub mod state;
pub mod token;
pub mod warning;
pub mod wheel;
pub mod why;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::Resource;
use kube::api::{Api, PostParams};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, interval};
use uuid::Uuid;

pub use crate::cluster::call::ClusterError;
pub(crate) use crate::cluster::call::limited;
use crate::cluster::clients::Clients;
use crate::cluster::object::Surroundings;
pub use crate::cluster::requests::{Controllers, Deletion};
use crate::cluster::token::{Bearer, Found};
use crate::config::Config;

/// Nothing is cheaper to answer than the version: who takes longer is away.
const PING_LIMIT: Duration = Duration::from_secs(5);
/// While it is away another ping is sent beside the last one this often, each over a connection of its own: the first that is
/// answered is enough.
const PING_AGAIN: Duration = Duration::from_secs(1);

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
            Ok(Ok(version)) => {
                self.clients.answered();
                Ok(version.git_version)
            }
            Ok(Err(error)) => {
                self.clients.away();
                Err(error)
            }
            Err(_) => {
                self.clients.away();
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

    /// Whether kubelets have had the time to report to the API server: after an absence of it Kubernetes takes nodes for lost that
    /// could not.
    pub(crate) fn knows_nodes(&self) -> bool {
        self.clients.know_nodes(Instant::now())
    }

    /// The watch of the pods was interrupted: what kubelets had to say to the API server then they may have yet to repeat.
    pub(crate) fn missed(&self) {
        self.clients.missed(Instant::now());
    }

    /// Whether the API server may have been away within such a time.
    pub(crate) fn was_missed(&self, within: Duration) -> bool {
        self.clients.was_missed(Instant::now(), within)
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
