//! Reading clusters.

use axum::Json;
use axum::extract::State;
use octopus_shared::db::view::{self, ClusterView};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Viewer;
use crate::error::Problem;
use crate::extract::Name;
use crate::openapi::{FindProblems, ReadProblems};
use crate::state::App;

/// All clusters.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Clusters {
    /// By name.
    items: Vec<ClusterView>,
}

/// List clusters
#[utoipa::path(
    get, path = "/api/v1/clusters", tag = "clusters",
    responses((status = 200, description = "Every cluster that a manager serves or a function names", body = Clusters), ReadProblems)
)]
pub(super) async fn list(_: Viewer, State(app): State<App>) -> Result<Json<Clusters>, Problem> {
    Ok(Json(Clusters {
        items: view::clusters(&app.pool).await?,
    }))
}

/// Read a cluster
#[utoipa::path(
    get, path = "/api/v1/clusters/{name}", tag = "clusters",
    params(("name" = String, Path, description = "The cluster", example = "default")),
    responses((status = 200, description = "The cluster", body = ClusterView), FindProblems)
)]
pub(super) async fn read(_: Viewer, State(app): State<App>, Name(name): Name) -> Result<Json<ClusterView>, Problem> {
    let found = view::cluster(&app.pool, &name).await?;
    found.map(Json).ok_or_else(|| {
        Problem::not_found(
            format!("nothing names a cluster {name}"),
            "GET /api/v1/clusters lists them",
        )
    })
}
