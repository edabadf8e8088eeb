//! Reading processes.

use axum::Json;
use axum::extract::State;
use octopus_shared::db::view::{self, ProcessFilter, ProcessSummary, ProcessView};
use octopus_shared::process::{ProcessKind, ProcessState};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::auth::Viewer;
use crate::error::Problem;
use crate::extract::{Id, Query};
use crate::openapi::{FindProblems, ReadProblems};
use crate::state::App;

/// Which processes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Of this function.
    function: Option<String>,
    /// In this state.
    state: Option<ProcessState>,
    /// Of this kind.
    kind: Option<ProcessKind>,
    /// On this cluster.
    cluster: Option<String>,
    /// Only those that are not gone.
    #[serde(default)]
    live: bool,
    /// How many at most, 1 to 500.
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: i64,
    /// `next` of the page before.
    after: Option<Uuid>,
}

/// A page of processes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Processes {
    /// The newest first.
    items: Vec<ProcessSummary>,
    /// `after` of the next page. Null: this is the last one.
    next: Option<Uuid>,
}

pub(super) fn default_limit() -> i64 {
    100
}

pub(super) fn check_limit(limit: i64) -> Result<i64, Problem> {
    if (1..=500).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::malformed(
        "limit",
        format!("{limit} is out of range"),
        "choose 1 to 500",
    ))
}

/// List processes
#[utoipa::path(
    get, path = "/api/v1/processes", tag = "processes", params(Which),
    responses((status = 200, description = "Processes, the newest first", body = Processes), ReadProblems)
)]
pub(super) async fn list(
    _: Viewer,
    State(app): State<App>,
    Query(which): Query<Which>,
) -> Result<Json<Processes>, Problem> {
    let limit = check_limit(which.limit)?;
    let filter = ProcessFilter {
        function: which.function,
        state: which.state,
        kind: which.kind,
        cluster: which.cluster,
        live: which.live,
    };
    let items = view::processes(&app.pool, &filter, which.after, limit).await?;
    let next = if items.len() as i64 == limit {
        items.last().map(|last| last.id)
    } else {
        None
    };
    Ok(Json(Processes { items, next }))
}

/// Read a process
#[utoipa::path(
    get, path = "/api/v1/processes/{id}", tag = "processes", params(("id" = Uuid, Path, description = "The process")),
    responses((status = 200, description = "All of it", body = ProcessView), FindProblems)
)]
pub(super) async fn read(_: Viewer, State(app): State<App>, Id(id): Id) -> Result<Json<ProcessView>, Problem> {
    view::process(&app.pool, id).await?.map(Json).ok_or_else(|| unknown(id))
}

pub(super) fn unknown(id: Uuid) -> Problem {
    Problem::not_found(format!("there is no process {id}"), "GET /api/v1/processes lists them")
}
