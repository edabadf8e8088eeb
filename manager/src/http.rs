//! `/healthz`, `/readyz` and `/metrics` of a manager.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusBuilder;
use octopus_shared::db;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::RunError;
use crate::context::Health;

/// Listens, and serves in the background until `stop`.
pub(crate) async fn serve(
    listen: SocketAddr,
    pool: PgPool,
    health: Arc<Health>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let prometheus = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::debug!("metrics are recorded elsewhere in this process");
    }
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready).with_state((pool, health)))
        .route("/metrics", get(move || async move { prometheus.render() }));
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(RunError::Listen)?;
    tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(error = %error, "the health server ended");
        }
    });
    Ok(())
}

async fn ready(State((pool, health)): State<(PgPool, Arc<Health>)>) -> (StatusCode, Json<Value>) {
    let mut missing = health.missing();
    if db::soon(sqlx::query!("select 1 as one").fetch_one(&pool))
        .await
        .is_err()
    {
        missing.push("Postgres does not answer".to_owned());
    }
    let spool = health.spool();
    let status = if missing.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(json!({ "ready": missing.is_empty(), "missing": missing, "spool": spool })),
    )
}
