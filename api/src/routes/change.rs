//! Changes of a service that runs: restart, update, scale.

use axum::extract::State;
use axum::response::Response;
use octopus_shared::command::Request;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::accept::{Accepted, accept};
use crate::auth::Operator;
use crate::error::Problem;
use crate::extract::{Document, Id, Mutation, parse_value};
use crate::openapi::MutationProblems;
use crate::state::App;

/// Nothing has to be said.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Restart {}

/// To which revision.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    /// Number of the revision; the newest when it is left out.
    revision: Option<i32>,
}

/// How many.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Scale {
    /// Pods that are wanted, 0 to 100.
    #[schema(minimum = 0, maximum = 100)]
    replicas: i32,
}

/// Restart a service
///
/// New pods take the place of those that run, which answer until the new ones are ready; with GPUs they end first. The body
/// may be empty.
#[utoipa::path(
    post, path = "/api/v1/processes/{id}/restart", tag = "processes",
    params(
        ("id" = Uuid, Path, description = "The process"),
        ("deadline_seconds" = Option<i32>, Query, minimum = 1, maximum = 604800,
         description = "The command fails unless a manager has begun it within so many seconds"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body get the same answer"),
    ),
    request_body(content = Restart, example = json!({})),
    responses((status = 202, description = "Stored", body = Accepted,
               headers(("Location" = String, description = "Address of the command"))), MutationProblems)
)]
pub(super) async fn restart(
    _: Operator,
    State(app): State<App>,
    Id(process): Id,
    mutation: Mutation,
    document: Document,
) -> Result<Response, Problem> {
    let asker = mutation.asker(&[&document.bytes]);
    let Restart {} = parse_value(document.value, "")?;
    accept(&app, &Request::RestartProcess { process }, &asker).await
}

/// Update a service to another revision
///
/// Waits for the revision's image when that is still being built. New pods take the place of those that run, which answer until
/// the new ones are ready; with GPUs they end first. What the revision no longer has is gone from the objects.
#[utoipa::path(
    post, path = "/api/v1/processes/{id}/update", tag = "processes",
    params(
        ("id" = Uuid, Path, description = "The process"),
        ("deadline_seconds" = Option<i32>, Query, minimum = 1, maximum = 604800,
         description = "The command fails unless a manager has begun it within so many seconds"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body get the same answer"),
    ),
    request_body(content = Update, example = json!({"revision": 2})),
    responses((status = 202, description = "Stored", body = Accepted,
               headers(("Location" = String, description = "Address of the command"))), MutationProblems)
)]
pub(super) async fn update(
    _: Operator,
    State(app): State<App>,
    Id(process): Id,
    mutation: Mutation,
    document: Document,
) -> Result<Response, Problem> {
    let asker = mutation.asker(&[&document.bytes]);
    let Update { revision } = parse_value(document.value, "")?;
    accept(&app, &Request::UpdateProcess { process, revision }, &asker).await
}

/// Scale a service
///
/// The pods that are wanted and run go on. With 0 none is left, and the service waits for the next scale.
#[utoipa::path(
    post, path = "/api/v1/processes/{id}/scale", tag = "processes",
    params(
        ("id" = Uuid, Path, description = "The process"),
        ("deadline_seconds" = Option<i32>, Query, minimum = 1, maximum = 604800,
         description = "The command fails unless a manager has begun it within so many seconds"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body get the same answer"),
    ),
    request_body(content = Scale, example = json!({"replicas": 2})),
    responses((status = 202, description = "Stored", body = Accepted,
               headers(("Location" = String, description = "Address of the command"))), MutationProblems)
)]
pub(super) async fn scale(
    _: Operator,
    State(app): State<App>,
    Id(process): Id,
    mutation: Mutation,
    document: Document,
) -> Result<Response, Problem> {
    let asker = mutation.asker(&[&document.bytes]);
    let Scale { replicas } = parse_value(document.value, "")?;
    accept(&app, &Request::ScaleProcess { process, replicas }, &asker).await
}
