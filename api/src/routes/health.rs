//! The API process itself.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use octopus_shared::db;

use crate::auth::Viewer;
use crate::error::{Kind, Problem};
use crate::openapi::ReadProblems;
use crate::state::App;

/// Whether the process is up
#[utoipa::path(get, path = "/healthz", tag = "service", security(()),
    responses((status = 200, description = "It is", body = String, content_type = "text/plain")))]
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Whether requests can be answered
#[utoipa::path(get, path = "/readyz", tag = "service", security(()), responses(
    (status = 200, description = "The database answers and is migrated", body = String, content_type = "text/plain"),
    (status = 503, description = "It does not, or is not, or the process is stopping", body = crate::error::ProblemDocument,
     content_type = "application/problem+json")))]
pub(super) async fn ready(State(app): State<App>) -> Result<&'static str, Problem> {
    if app.stopping.is_cancelled() {
        return Err(Problem::new(Kind::UNAVAILABLE, "the process is stopping"));
    }
    if let Some(why) = db::soon(db::outdated(&app.pool)).await? {
        return Err(Problem::new(Kind::UNAVAILABLE, why).remedy("run `octopus-api migrate`"));
    }
    Ok("ok\n")
}

/// Metrics for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "service", responses(
    (status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain"), ReadProblems))]
pub(super) async fn metrics(_: Viewer, State(app): State<App>) -> impl IntoResponse {
    app.metrics.run_upkeep();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render())
}
