//! The manager: claims commands, builds images, drives Kubernetes, and writes back what it sees.
//!
//! Data flows one way: a row is claimed ([`worker`]), carried out ([`commands`], with [`image`] and [`cluster`]), and what
//! the cluster then shows is written back by the manager that watches it ([`watch`]).

mod batch;
pub mod changes;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod context;
pub mod diff;
mod failpoint;
mod http;
pub mod image;
pub mod login;
pub mod preflight;
pub mod renewal;
pub mod session;
pub mod shutdown;
mod spool;
pub mod watch;
pub mod worker;

use std::sync::Arc;
use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use octopus_shared::db;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::batch::{Batcher, Processes};
use crate::changes::Changes;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::context::{Context, Health};
use crate::shutdown::Shutdown;
use crate::spool::Spool;

/// Why the manager cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A setting that cannot be used.
    #[error("{setting}: {problem}")]
    Setting {
        /// Name of its environment variable.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The address to listen on.
    #[error("OCTOPUS_LISTEN: {0}")]
    Listen(std::io::Error),
}

/// Runs until `shutdown`. Postgres, the cluster and the registry may all be away, at the start too: it waits for them.
///
/// # Errors
/// [`RunError`], when waiting would not help.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    let silence = db::Silence::default();
    let pool = db::pool_telling(&config.database_url, config.database_connections, &silence).map_err(|error| {
        RunError::Setting {
            setting: "DATABASE_URL",
            problem: error.to_string(),
        }
    })?;
    let builder = image::Builder::new(context::image_settings(&config)?).map_err(|error| RunError::Setting {
        setting: "OCTOPUS_CACHE_DIR or OCTOPUS_CA_BUNDLE",
        problem: error.to_string(),
    })?;
    let health = Arc::new(Health::with(builder.supplies().clone()));
    let spool = open_spool(&config)?;
    if let Some(spool) = &spool {
        health.set_spool(spool.level());
    }
    let served = CancellationToken::new();
    http::serve(config.listen, pool.clone(), health.clone(), served.clone()).await?;
    // Health is shown to the end, through the draining too.
    let _served = served.drop_guard();

    let wait = || {
        ConstantBuilder::new()
            .with_delay(Duration::from_secs(2))
            .with_jitter()
            .without_max_times()
    };
    let start = async {
        // Older managers work with a newer schema, but not the other way round. Whoever migrates it ends the waiting.
        let schema = (|| schema(&pool))
            .retry(wait())
            .notify(|why, _| {
                tracing::error!(why, "waiting for Postgres and its migrations");
                health.set_schema(Some(why.clone()));
            })
            .await;
        health.set_schema(schema.err());
        let (installation, installed_at) = (|| db::claim::installation(&pool))
            .retry(wait())
            .notify(|error, _| tracing::warn!(error = %error, "waiting for Postgres and its migrations"))
            .await?;
        let cluster = (|| Cluster::connect(&config, installation, installed_at))
            .retry(wait())
            .notify(|error, _| tracing::warn!(error = %error, "waiting for the cluster"))
            .await;
        Ok::<_, sqlx::Error>(cluster)
    };
    let cluster = tokio::select! {
        () = shutdown.drain.cancelled() => return Ok(()),
        started = start => match started {
            Ok(Ok(cluster)) => cluster,
            Ok(Err(error)) => return Err(RunError::Setting { setting: "KUBECONFIG", problem: error.to_string() }),
            Err(error) => return Err(RunError::Setting { setting: "DATABASE_URL", problem: error.to_string() }),
        },
    };
    health.set_cluster(true);
    tracing::info!(cluster.name = %config.cluster, cluster.version = %cluster.version, "octopus-manager starts");
    let renewing = CancellationToken::new();
    tokio::spawn(renewal::run(
        config.clone(),
        cluster.clone(),
        health.clone(),
        renewing.clone(),
    ));
    // The token lives to the end, as health does.
    let _renewing = renewing.drop_guard();
    let changes = Changes::start(pool.clone());
    let wheel_pods = cluster::wheel::WheelPods::new(&config, &cluster);
    let asked = cluster.clone();
    let is_crowded = move || asked.is_crowded();
    let context = Arc::new(Context {
        wheel_pods,
        config,
        ends: Batcher::start(pool.clone(), silence.clone(), is_crowded.clone()),
        creations: Batcher::start(pool.clone(), silence.clone(), is_crowded),
        processes: Processes::start(pool.clone(), silence.clone()),
        pool,
        silence,
        cluster,
        builder,
        changes,
        health,
        spool,
        readers: Mutex::default(),
    });
    session::run(&context, &shutdown).await;
    Ok(())
}

/// The spool that the settings name.
fn open_spool(config: &Config) -> Result<Option<Spool>, RunError> {
    let Some(folder) = config
        .spool_dir
        .as_ref()
        .filter(|folder| !folder.as_os_str().is_empty())
    else {
        return Ok(None);
    };
    Spool::open(folder, config.spool_bytes)
        .map(Some)
        .map_err(|error| RunError::Setting {
            setting: "OCTOPUS_SPOOL_DIR",
            problem: format!("{}: {error}", folder.display()),
        })
}

/// Nothing, when the database has what this release needs; else what stands against it.
async fn schema(pool: &sqlx::PgPool) -> Result<(), String> {
    match db::soon(db::outdated(pool)).await {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(why),
        Err(error) => Err(error.to_string()),
    }
}
