//! `GET /processes/{id}/manifest`: what was given to Kubernetes.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use octopus_shared::db::view;
use serde_json::Value;

use super::process::unknown;
use crate::auth::Viewer;
use crate::error::{Kind, Problem};
use crate::extract::Id;
use crate::openapi::FindProblems;
use crate::state::App;

/// Read a process's Kubernetes configuration
#[utoipa::path(
    get, path = "/api/v1/processes/{id}/manifest", tag = "processes",
    params(("id" = Uuid, Path, description = "The process")),
    responses(
        (status = 200, description = "The objects as they were created, as YAML documents", body = String,
         content_type = "application/yaml"),
        (status = 409, description = "They are not made yet", body = crate::error::ProblemDocument,
         content_type = "application/problem+json"),
        FindProblems
    )
)]
pub(super) async fn read(_: Viewer, State(app): State<App>, Id(id): Id) -> Result<impl IntoResponse, Problem> {
    let manifest = view::manifest(&app.pool, id).await?.ok_or_else(|| unknown(id))?;
    let manifest = manifest.ok_or_else(|| {
        Problem::new(Kind::CONFLICT, "its objects are not made yet")
            .remedy("wait for the command that starts it to end")
    })?;
    Ok(([(CONTENT_TYPE, "application/yaml")], yaml(manifest)?))
}

fn yaml(manifest: Value) -> Result<String, Problem> {
    let objects = match manifest {
        Value::Array(objects) => objects,
        object => vec![object],
    };
    let documents: Result<Vec<_>, _> = objects.iter().map(serde_yaml_ng::to_string).collect();
    Ok(documents.map_err(Problem::internal)?.join("---\n"))
}
