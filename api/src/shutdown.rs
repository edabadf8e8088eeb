//! Two steps: the first signal lets everything finish, the second one does not wait.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the signals said so far.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled by the first SIGTERM or SIGINT.
    pub stopping: CancellationToken,
    /// Cancelled by the second one.
    pub abort: CancellationToken,
}

impl Shutdown {
    /// Starts to wait for SIGTERM and SIGINT.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = Self::default();
        let tokens = shutdown.clone();
        tokio::spawn(async move {
            either(&mut term, &mut int).await;
            tracing::info!("stopping: requests under way are finished; a second signal aborts them");
            tokens.stopping.cancel();
            either(&mut term, &mut int).await;
            tokens.abort.cancel();
        });
        Ok(shutdown)
    }
}

async fn either(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
