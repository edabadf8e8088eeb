//! What every part of a running manager shares.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use futures::future::BoxFuture;
use octopus_shared::db::Silence;
use octopus_shared::db::claim::Claim;
use octopus_shared::db::report::{self, CachedLayer as CachedRow, Creation};
use sqlx::PgPool;

use crate::RunError;
use crate::batch::{Batcher, Processes};
use crate::changes::Changes;
use crate::cluster::wheel::WheelPods;
use crate::cluster::{Cluster, ClusterError};
use crate::config::Config;
use crate::image::{Builder, CachedLayer, ImageSettings, LayerCache, PushRegistry, Supplies, WheelMaker};
use crate::spool::{Level, Spool};
use crate::watch::Logs;
use crate::worker::End;

/// What every part of a running manager shares.
pub struct Context {
    /// Settings.
    pub config: Config,
    /// Postgres.
    pub pool: PgPool,
    /// Told when a connection to it has died without a word.
    pub silence: Silence,
    /// The cluster.
    pub cluster: Cluster,
    /// The image builder.
    pub builder: Builder,
    /// Pods that build wheels from source, where an operator allows it.
    pub wheel_pods: Option<WheelPods>,
    /// Announces what changed.
    pub changes: Changes,
    /// Stores ends of commands.
    pub(crate) ends: Batcher<End>,
    /// Stores that objects were created.
    pub(crate) creations: Batcher<Creation>,
    /// Reads processes.
    pub(crate) processes: Processes,
    /// What readiness shows.
    pub health: std::sync::Arc<Health>,
    /// Where logs are kept while Postgres is away, if an operator names a place.
    pub(crate) spool: Option<Spool>,
    /// Those who read logs: of this watch, or of the one before it.
    pub(crate) readers: tokio::sync::Mutex<Option<std::sync::Arc<Logs>>>,
}

impl Context {
    /// What builds wheels from source, where an operator allows it.
    pub fn wheels(&self) -> Option<&dyn WheelMaker> {
        self.wheel_pods.as_ref().map(|pods| pods as &dyn WheelMaker)
    }

    /// Whether the API server answers, asked right now.
    pub async fn cluster_answers(&self) -> bool {
        self.ping().await.is_ok()
    }

    /// The same, and its version.
    pub(crate) async fn ping(&self) -> Result<String, ClusterError> {
        let answer = if self.health.cluster() {
            self.cluster.ping().await
        } else {
            self.cluster.ping_again().await
        };
        self.health.set_cluster(answer.is_ok());
        answer
    }

    /// Announces that a command and what it is about have changed.
    pub fn announce(&self, claim: &Claim) {
        self.changes.announce(claim.id);
        if let Some(process) = claim.process_id {
            self.changes.announce(process);
        }
    }
}

/// What readiness shows.
#[derive(Debug, Default)]
pub struct Health {
    leased: AtomicBool,
    cluster: AtomicBool,
    halted: Mutex<Option<String>>,
    token: Mutex<Option<String>>,
    schema: Mutex<Option<String>>,
    supplies: Supplies,
    spool: OnceLock<std::sync::Arc<Level>>,
}

impl Health {
    /// Shows also what builds miss.
    pub fn with(supplies: Supplies) -> Self {
        Self {
            supplies,
            ..Self::default()
        }
    }

    /// Whether this manager holds a lease.
    pub fn set_leased(&self, leased: bool) {
        self.leased.store(leased, Ordering::Relaxed);
    }

    /// Whether the API server answered the last time.
    pub fn set_cluster(&self, reachable: bool) {
        self.cluster.store(reachable, Ordering::Relaxed);
    }

    /// The same, for those who would only meet its absence.
    pub fn cluster(&self) -> bool {
        self.cluster.load(Ordering::Relaxed)
    }

    /// Why the reconciler removes nothing at the moment.
    pub fn set_halted(&self, why: Option<String>) {
        *self.halted.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// The same, for the report of the cluster.
    pub fn halted(&self) -> Option<String> {
        self.halted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is wrong with the manager's token.
    pub fn set_token(&self, problem: Option<String>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// What is wrong with the database.
    pub fn set_schema(&self, problem: Option<String>) {
        *self.schema.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Shows also how much is spooled.
    pub(crate) fn set_spool(&self, level: std::sync::Arc<Level>) {
        let _ = self.spool.set(level);
    }

    /// The spool, and how much of it is used. None: there is none.
    pub fn spool(&self) -> Option<SpoolUse> {
        let level = self.spool.get()?;
        Some(SpoolUse {
            id: level.id,
            bytes: level.bytes.load(Ordering::Relaxed),
            limit: level.limit,
        })
    }

    /// What is missing; empty when ready.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.leased.load(Ordering::Relaxed) {
            missing.push("no lease: is Postgres reachable?".to_owned());
        }
        if !self.cluster.load(Ordering::Relaxed) {
            missing.push("the cluster's API server does not answer".to_owned());
        }
        missing.extend(self.schema.lock().unwrap_or_else(PoisonError::into_inner).clone());
        missing.extend(self.supplies.missing());
        if self.spool.get().is_some_and(|level| level.full.load(Ordering::Relaxed)) {
            missing.push("the spool is full: logs wait on their nodes".to_owned());
        }
        missing.extend(self.token.lock().unwrap_or_else(PoisonError::into_inner).clone());
        missing
    }
}

/// How much is spooled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SpoolUse {
    /// Its name in gaps of logs.
    pub id: uuid::Uuid,
    /// Bytes that wait for Postgres.
    pub bytes: u64,
    /// Bytes at most.
    pub limit: u64,
}

/// Dependency layers that were pushed before, remembered in Postgres. A lookup that fails costs a layer, not a build.
pub struct LayerRows(pub PgPool);

impl LayerCache for LayerRows {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Option<CachedLayer>> {
        Box::pin(async move {
            let row = report::layer(&self.0, key).await.ok().flatten()?;
            Some(CachedLayer {
                digest: row.digest,
                diff_id: row.diff_id,
                size: u64::try_from(row.size_bytes).ok()?,
            })
        })
    }

    fn put<'a>(&'a self, key: &'a str, layer: &'a CachedLayer) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let row = CachedRow {
                digest: layer.digest.clone(),
                diff_id: layer.diff_id.clone(),
                size_bytes: i64::try_from(layer.size).unwrap_or(i64::MAX),
            };
            if let Err(error) = report::put_layer(&self.0, key, &row).await {
                tracing::warn!(error = %error, "a layer was not remembered");
            }
        })
    }
}

/// The builder's part of the settings.
pub(crate) fn image_settings(config: &Config) -> Result<ImageSettings, RunError> {
    let refused = |setting, problem: String| RunError::Setting { setting, problem };
    let password = match &config.registry_push_password_file {
        Some(path) => std::fs::read_to_string(path).map_err(|error| {
            refused(
                "OCTOPUS_REGISTRY_PUSH_PASSWORD_FILE",
                format!("{}: {error}", path.display()),
            )
        })?,
        None => String::new(),
    };
    let credentials = config
        .registry_push_user
        .clone()
        .map(|user| (user, password.trim_end().to_owned()));
    Ok(ImageSettings {
        push: PushRegistry::new(&config.registry_push, credentials)
            .map_err(|problem| refused("OCTOPUS_REGISTRY_PUSH", problem))?,
        pull: config.registry_pull.clone(),
        bases: config
            .base_images
            .parse()
            .map_err(|problem| refused("OCTOPUS_BASE_IMAGES", problem))?,
        uv: config.uv.clone(),
        python: config.python.clone(),
        cache_dir: config.cache_dir.clone(),
        ca_bundle: config.ca_bundle.clone(),
        system_packages: config.system_packages.iter().cloned().collect(),
        index_url: config.index_url.clone(),
    })
}
