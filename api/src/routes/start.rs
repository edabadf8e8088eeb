//! `POST /functions/{name}/processes`: starts one.

use axum::extract::State;
use axum::response::Response;
use octopus_shared::command::Request;
use octopus_shared::process::ProcessSpec;
use serde::Serialize;
use utoipa::ToSchema;

use super::accept::{Accepted, accept};
use crate::auth::Operator;
use crate::error::Problem;
use crate::extract::{Document, Mutation, Name, parse_value};
use crate::openapi::MutationProblems;
use crate::state::App;

/// What is to run, how, and from which revision.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Start {
    #[serde(flatten)]
    spec: ProcessSpec,
    /// Number of the revision; the newest when it is left out.
    revision: Option<i32>,
}

impl Start {
    /// Both halves refuse fields that they do not know, so each is given its own.
    fn read(document: Document) -> Result<Self, Problem> {
        let mut value = document.value;
        let revision = value.as_object_mut().and_then(|fields| fields.remove("revision"));
        let revision = revision.map_or(Ok(None), |number| parse_value(number, "revision"))?;
        Ok(Self {
            spec: parse_value(value, "")?,
            revision,
        })
    }
}

/// Start a process
///
/// It can be read as soon as this is answered. It waits for the image of its revision when that is still being built.
#[utoipa::path(
    post, path = "/api/v1/functions/{name}/processes", tag = "processes",
    params(
        ("name" = String, Path, description = "The function", example = "hello"),
        ("deadline_seconds" = Option<i32>, Query, minimum = 1, maximum = 604800,
         description = "The command fails unless a manager has begun it within so many seconds"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body get the same answer"),
    ),
    request_body(content = Start, examples(
        ("service" = (value = json!({"kind": "service"}))),
        ("task" = (value = json!({"kind": "task", "args": ["--once"], "timeout_seconds": 600, "retries": 2})))
    )),
    responses((status = 202, description = "Stored, with the process", body = Accepted,
               headers(("Location" = String, description = "Address of the command"))), MutationProblems)
)]
pub(super) async fn start(
    _: Operator,
    State(app): State<App>,
    Name(function): Name,
    mutation: Mutation,
    document: Document,
) -> Result<Response, Problem> {
    let asker = mutation.asker(&[&document.bytes]);
    let Start { spec, revision } = Start::read(document)?;
    accept(
        &app,
        &Request::StartProcess {
            function,
            revision,
            spec,
        },
        &asker,
    )
    .await
}
