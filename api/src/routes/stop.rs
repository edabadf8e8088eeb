//! Ending things: a process, a function, a command that nobody has begun; and beginning one again that has failed.

use axum::extract::State;
use axum::response::Response;
use octopus_shared::command::{KillOptions, Request};

use super::accept::{Accepted, accept};
use crate::auth::{Admin, Operator};
use crate::error::Problem;
use crate::extract::{Document, Id, Mutation, Name, parse_value};
use crate::openapi::MutationProblems;
use crate::state::App;

/// Kill a process
///
/// The wish is stored with the command, so it takes effect before any manager claims it. The body may be empty.
#[utoipa::path(
    post, path = "/api/v1/processes/{id}/kill", tag = "processes",
    params(
        ("id" = Uuid, Path, description = "The process"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body get the same answer"),
    ),
    request_body(content = KillOptions, example = json!({"grace_seconds": 5})),
    responses((status = 202, description = "Stored", body = Accepted,
               headers(("Location" = String, description = "Address of the command"))), MutationProblems)
)]
pub(super) async fn kill(
    _: Operator,
    State(app): State<App>,
    Id(process): Id,
    mutation: Mutation,
    document: Document,
) -> Result<Response, Problem> {
    let asker = mutation.asker(&[&document.bytes]);
    let options: KillOptions = parse_value(document.value, "")?;
    accept(&app, &Request::KillProcess { process, options }, &asker).await
}

/// Delete a function
///
/// Ends its processes and forgets its name. Their logs and events can still be read.
#[utoipa::path(
    delete, path = "/api/v1/functions/{name}", tag = "functions",
    params(
        ("name" = String, Path, description = "The function", example = "hello"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key gets the same answer"),
    ),
    responses((status = 202, description = "Stored", body = Accepted,
               headers(("Location" = String, description = "Address of the command"))), MutationProblems)
)]
pub(super) async fn delete(
    _: Admin,
    State(app): State<App>,
    Name(name): Name,
    mutation: Mutation,
) -> Result<Response, Problem> {
    accept(&app, &Request::DeleteFunction { name }, &mutation.asker(&[])).await
}

/// Cancel a command
///
/// Works until a manager claims it. A cancelled start leaves a process that was killed before it was created.
#[utoipa::path(
    post, path = "/api/v1/commands/{id}/cancel", tag = "commands",
    params(
        ("id" = Uuid, Path, description = "The command to cancel"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key gets the same answer"),
    ),
    responses((status = 202, description = "Cancelled; the body is the cancellation, a command of its own", body = Accepted,
               headers(("Location" = String, description = "Address of the cancellation"))), MutationProblems)
)]
pub(super) async fn cancel(
    _: Operator,
    State(app): State<App>,
    Id(command): Id,
    mutation: Mutation,
) -> Result<Response, Problem> {
    accept(&app, &Request::CancelCommand { command }, &mutation.asker(&[])).await
}

/// Put a failed command back into the queue
///
/// For builds, restarts, updates and scales. How it failed is kept in `failures`. A failed start is over: start another process.
#[utoipa::path(
    post, path = "/api/v1/commands/{id}/requeue", tag = "commands",
    params(
        ("id" = Uuid, Path, description = "The command that has failed"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key gets the same answer"),
    ),
    responses((status = 202, description = "It waits again; the body is this request, a command of its own", body = Accepted,
               headers(("Location" = String, description = "Address of this request"))), MutationProblems)
)]
pub(super) async fn requeue(
    _: Operator,
    State(app): State<App>,
    Id(command): Id,
    mutation: Mutation,
) -> Result<Response, Problem> {
    accept(&app, &Request::RequeueCommand { command }, &mutation.asker(&[])).await
}
