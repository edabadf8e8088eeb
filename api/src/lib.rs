//! The API: turns requests into rows of Postgres and rows into answers.
//!
//! It knows neither Kubernetes nor a registry, and of the database only [`octopus_shared::db::enqueue`] and
//! [`octopus_shared::db::view`]. Its role there may insert commands and bundles and read; nothing else.

pub mod admin;
pub mod announce;
pub mod auth;
pub mod changes;
pub mod config;
pub mod error;
mod extract;
mod limits;
mod log;
pub mod metrics;
pub mod openapi;
pub mod routes;
pub mod shutdown;
pub mod state;

use std::future::Future;

use axum::serve::ListenerExt as _;
use octopus_shared::{db, telemetry};
use tokio::net::TcpListener;

use crate::config::{Cli, Command, Serve};
use crate::shutdown::Shutdown;
use crate::state::App;

/// Why the program ends with a failure.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Carries out what the command line asks for.
///
/// # Errors
/// What stood against it, without any secret.
pub async fn execute(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Serve(serve) => self::serve(serve).await,
        Command::Token(token) => admin::token::execute(token).await,
        Command::Migrate(migrate) => admin::migrate::execute(migrate).await,
        Command::Openapi => admin::print(&openapi::json()?),
    }
}

async fn serve(config: Serve) -> Result<(), Failure> {
    telemetry::init(config.log_json);
    let shutdown = Shutdown::on_signals()?;
    let app = App::new(
        db::pool(&config.database.url, config.database_connections)?,
        shutdown.stopping.clone(),
    )?;
    let listening = app.changes.listen(config.database.url, shutdown.stopping.clone());
    let announcing = app.announcer.run(app.pool.clone(), shutdown.stopping.clone());
    let (announcer, pool) = (app.announcer.clone(), app.pool.clone());
    let listener = TcpListener::bind(config.listen).await?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let serving = async {
        let ended = tokio::join!(
            run(listener, app, shutdown.stopping.clone().cancelled_owned()),
            listening,
            announcing
        )
        .0;
        announcer.flush(&pool).await;
        ended
    };
    tokio::select! {
        ended = serving => ended,
        () = shutdown.abort.cancelled() => Err("aborted by a second signal".into()),
    }
}

/// Serves until `stop`: then no connection is accepted, streams end, and requests under way are finished.
///
/// # Errors
/// When the listener fails.
pub async fn run(
    listener: TcpListener,
    app: App,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let stopping = app.stopping.clone();
    let stop = async move {
        stop.await;
        stopping.cancel();
    };
    // An answer that is streamed is several small writes: each but the first would wait until the client has confirmed the one before,
    // and clients take 40 ms for that.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(error = %error, "a connection sends late what is small");
        }
    });
    // A bare router would be built anew for each connection, which every follower would hold: half of what one takes.
    let service = routes::router(app).into_make_service();
    axum::serve(listener, service).with_graceful_shutdown(stop).await?;
    tracing::info!("stopped");
    Ok(())
}
