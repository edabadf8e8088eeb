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

/// Steps on SIGTERM and SIGINT.
pub fn signals() -> Shutdown {
    let shutdown = Shutdown::default();
    let steps = shutdown.clone();
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            tracing::error!("signals cannot be received; SIGKILL ends the manager");
            return;
        };
        for step in [&steps.drain, &steps.abort] {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!(second = steps.drain.is_cancelled(), "signal received");
            step.cancel();
        }
    });
    shutdown
}
