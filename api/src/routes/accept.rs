//! The answer of every mutation: 202 with the command that was stored.

use axum::Json;
use axum::http::header::LOCATION;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use octopus_shared::command::Request;
use octopus_shared::db::enqueue::{self, Asker};
use octopus_shared::db::view::{CommandView, ProcessView};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Problem;
use crate::state::App;

/// A command that was stored, and the process that it makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(super) struct Accepted {
    /// The command.
    #[serde(flatten)]
    pub(super) command: CommandView,
    /// The process that was made with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<ProcessView>,
}

/// Says that an earlier request with the same key had stored the command.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Stores a request, announces it, and answers with the command as it stands.
pub(super) async fn accept(app: &App, request: &Request, asker: &Asker) -> Result<Response, Problem> {
    let enqueue::Accepted {
        command,
        process,
        replayed,
    } = enqueue::enqueue(&app.pool, request, asker).await?;
    if !replayed {
        metrics::counter!("octopus_api_commands_enqueued_total", "kind" => command.kind.clone()).increment(1);
        tracing::info!(command.id = %command.id, command.kind, command.cluster, who = asker.name, "stored");
    }
    app.announcer.stored(&command);
    let location = format!("/api/v1/commands/{}", command.id);
    let mut response = (
        StatusCode::ACCEPTED,
        [(LOCATION, location)],
        Json(Accepted { command, process }),
    )
        .into_response();
    if replayed {
        response
            .headers_mut()
            .insert(REPLAYED, axum::http::HeaderValue::from_static("true"));
    }
    Ok(response)
}
