//! What every handler may use.

use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::announce::Announcer;
use crate::auth::Tokens;
use crate::changes::Changes;
use crate::log::Followed;
use crate::metrics;

/// Handles to the parts of one API process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    /// The database, as the role `octopus_api`.
    pub pool: PgPool,
    /// Whose tokens were seen lately.
    pub tokens: Tokens,
    /// What managers announce.
    pub changes: Changes,
    /// Logs that are followed.
    pub(crate) followed: Followed,
    /// What this process announces.
    pub announcer: Announcer,
    /// Cancelled when the process is to end: streams and long polls end with it.
    pub stopping: CancellationToken,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
}

impl App {
    /// The parts, none of them running yet.
    ///
    /// # Errors
    /// When the metrics cannot be set up.
    pub fn new(pool: PgPool, stopping: CancellationToken) -> Result<Self, Failure> {
        let metrics = metrics::install()?;
        Ok(Self {
            pool,
            tokens: Tokens::default(),
            changes: Changes::default(),
            followed: Followed::default(),
            announcer: Announcer::default(),
            stopping,
            metrics,
        })
    }
}
