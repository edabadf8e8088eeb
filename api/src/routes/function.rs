//! Reading functions.

use axum::Json;
use axum::extract::State;
use octopus_shared::db::view::{self, FunctionSummary, FunctionView};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Viewer;
use crate::error::Problem;
use crate::extract::{Name, Query};
use crate::openapi::{FindProblems, ReadProblems};
use crate::state::App;

pub(super) const UNKNOWN: &str = "GET /api/v1/functions lists them";

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// How many at most, 1 to 500.
    #[serde(default = "super::process::default_limit")]
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: i64,
    /// `next` of the page before.
    after: Option<String>,
}

/// A page of functions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Functions {
    /// By name.
    items: Vec<FunctionSummary>,
    /// `after` of the next page. Null: this is the last one.
    next: Option<String>,
}

/// List functions
#[utoipa::path(
    get, path = "/api/v1/functions", tag = "functions", params(Page),
    responses((status = 200, description = "Functions that are not deleted, by name", body = Functions), ReadProblems)
)]
pub(super) async fn list(
    _: Viewer,
    State(app): State<App>,
    Query(page): Query<Page>,
) -> Result<Json<Functions>, Problem> {
    let limit = super::process::check_limit(page.limit)?;
    let items = view::functions(&app.pool, page.after.as_deref(), limit).await?;
    let next = if items.len() as i64 == limit {
        items.last().map(|last| last.name.clone())
    } else {
        None
    };
    Ok(Json(Functions { items, next }))
}

/// Read a function and its revisions
#[utoipa::path(
    get, path = "/api/v1/functions/{name}", tag = "functions",
    params(("name" = String, Path, description = "The function", example = "hello")),
    responses((status = 200, description = "The function", body = FunctionView), FindProblems)
)]
pub(super) async fn read(_: Viewer, State(app): State<App>, Name(name): Name) -> Result<Json<FunctionView>, Problem> {
    let found = view::function(&app.pool, &name).await?;
    found
        .map(Json)
        .ok_or_else(|| Problem::not_found(format!("there is no function {name}"), UNKNOWN))
}
