//! `GET /commands/{id}`: how a command stands, or, waited for, how it ended.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use octopus_shared::db::view::{self, CommandView};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;

use crate::auth::Viewer;
use crate::error::Problem;
use crate::extract::{Id, Query};
use crate::metrics::OpenStream;
use crate::openapi::FindProblems;
use crate::state::App;

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Patience {
    /// Seconds to wait for the command's end, 0 to 60. The answer is the command as it stands then.
    #[serde(default)]
    #[param(minimum = 0, maximum = 60, default = 0)]
    wait: u64,
}

/// Read a command, or wait for its end
#[utoipa::path(
    get, path = "/api/v1/commands/{id}", tag = "commands",
    params(("id" = Uuid, Path, description = "The command"), Patience),
    responses((status = 200, description = "The command", body = CommandView), FindProblems)
)]
pub(super) async fn read(
    _: Viewer,
    State(app): State<App>,
    Id(id): Id,
    Query(patience): Query<Patience>,
) -> Result<Json<CommandView>, Problem> {
    if patience.wait > 60 {
        return Err(Problem::malformed(
            "wait",
            format!("{} is out of range", patience.wait),
            "choose 0 to 60 seconds",
        ));
    }
    let _open = OpenStream::new("command");
    let until = Instant::now() + Duration::from_secs(patience.wait);
    // Interest is registered before the look, so that an end in between is not missed.
    let mut waiter = app.changes.subscribe();
    loop {
        let Some(command) = view::command(&app.pool, id).await? else {
            return Err(Problem::not_found(
                format!("there is no command {id}"),
                "use the id of a 202",
            ));
        };
        if command.has_ended() || Instant::now() >= until || app.stopping.is_cancelled() {
            return Ok(Json(command));
        }
        tokio::select! {
            _ = waiter.changed(Some(id)) => {}
            () = tokio::time::sleep_until(until) => {}
            () = app.stopping.cancelled() => {}
        }
    }
}
