//! Logging of both binaries: one line per event on standard error, JSON when asked for.

use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` chooses what is shown (default `info`); `json` is for log collectors.
pub fn init(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,kube=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second call, as in tests that start both binaries' parts, keeps the first subscriber.
    let _ = if json {
        builder.json().try_init()
    } else {
        builder.compact().try_init()
    };
}
