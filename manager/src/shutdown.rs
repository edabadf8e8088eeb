//! Two-step shutdown: the first signal stops claiming and lets work finish, the second one gives it back at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The two steps.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Claim nothing more; finish what is under way.
    pub drain: CancellationToken,
    /// Stop at once.
    pub abort: CancellationToken,
}

impl Shutdown {
    /// Steps on SIGTERM and SIGINT.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = Self::default();
        let steps = shutdown.clone();
        tokio::spawn(async move {
            for step in [&steps.drain, &steps.abort] {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                tracing::info!(second = steps.drain.is_cancelled(), "signal received");
                step.cancel();
            }
        });
        Ok(shutdown)
    }
}
