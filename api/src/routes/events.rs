//! `GET /processes/{id}/events`: the transitions of one process, in order.

use axum::Json;
use axum::extract::State;
use octopus_shared::db::view::{self, EventView};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::process::{check_limit, default_limit, unknown};
use crate::auth::Viewer;
use crate::error::Problem;
use crate::extract::{Id, Query};
use crate::openapi::FindProblems;
use crate::state::App;

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// How many at most, 1 to 500.
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: i64,
    /// `next` of the page before: the number of its last event.
    #[serde(default)]
    #[param(default = 0)]
    after: i64,
}

/// A page of transitions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Events {
    /// In order.
    items: Vec<EventView>,
    /// `after` of the next page. Null: there is nothing more at the moment.
    next: Option<i64>,
}

/// List the transitions of a process
#[utoipa::path(
    get, path = "/api/v1/processes/{id}/events", tag = "processes",
    params(("id" = Uuid, Path, description = "The process"), Page),
    responses((status = 200, description = "Every transition, with its reason and what to do about it", body = Events), FindProblems)
)]
pub(super) async fn list(
    _: Viewer,
    State(app): State<App>,
    Id(id): Id,
    Query(page): Query<Page>,
) -> Result<Json<Events>, Problem> {
    let limit = check_limit(page.limit)?;
    let items = view::events(&app.pool, id, page.after, limit).await?;
    if items.is_empty() && view::log_progress(&app.pool, id).await?.is_none() {
        return Err(unknown(id));
    }
    let next = if items.len() as i64 == limit {
        items.last().map(|last| last.number)
    } else {
        None
    };
    Ok(Json(Events { items, next }))
}
