//! `GET /processes/{id}/logs`: what a process printed, exactly once and in order.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use octopus_shared::log::Cursor;
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::process::unknown;
use crate::auth::Viewer;
use crate::error::Problem;
use crate::extract::{Id, Query, last_event_id};
use crate::log::{Format, Line, Selection, Source};
use crate::openapi::FindProblems;
use crate::state::App;

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Only the last so many lines, 0 to 1000000.
    #[param(minimum = 0, maximum = 1_000_000)]
    tail: Option<i64>,
    /// Lines after this cursor.
    after: Option<String>,
    /// Go on with what is printed next, until the process is gone and its logs are read to the end. Default: true for
    /// server-sent events, else false.
    follow: Option<bool>,
    /// At most so many lines, 1 to 1000000. All, when it is left out.
    #[param(minimum = 1, maximum = 1_000_000)]
    limit: Option<i64>,
}

/// Read or follow what a process printed
///
/// By `Accept`: `text/plain`, the bytes as they were printed; `application/x-ndjson`, an object a line; or
/// `text/event-stream`, `event: line` with the cursor as `id`, resumed by `Last-Event-ID` without losing or repeating a
/// line. After the last line NDJSON and events name the known holes (`gap`) and, once nothing can come any more, the
/// `end` with the seals of all streams. The header `Octopus-Cursor` is the place after the last line of an answer that does
/// not follow.
#[utoipa::path(
    get, path = "/api/v1/processes/{id}/logs", tag = "processes",
    params(
        ("id" = Uuid, Path, description = "The process"),
        Wanted,
        ("Last-Event-ID" = Option<String>, Header, description = "Lines after this cursor; wins over `after` and `tail`"),
    ),
    responses(
        (status = 200, description = "The lines", content(
            (String = "text/plain"), (Line = "application/x-ndjson"), (Line = "text/event-stream")
        ), headers(("Octopus-Cursor" = String, description = "The place after the last line"))),
        (status = 406, description = "None of the accepted formats can be had", body = crate::error::ProblemDocument,
         content_type = "application/problem+json"),
        FindProblems
    )
)]
pub(super) async fn read(
    _: Viewer,
    State(app): State<App>,
    Id(id): Id,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let format = Format::accepted(&headers)?;
    let selection = select(wanted, format, last_event_id(&headers)?)?;
    let source = Source::find(&app, id, selection).await?.ok_or_else(|| unknown(id))?;
    let end = source.end();
    Ok(format.answer(ReceiverStream::new(source.send(app)), end))
}

fn select(wanted: Wanted, format: Format, last_event_id: Option<String>) -> Result<Selection, Problem> {
    let resumed = last_event_id.is_some();
    if !resumed && wanted.after.is_some() && wanted.tail.is_some() {
        return Err(Problem::malformed(
            "tail",
            "it cannot be combined with `after`",
            "leave one of them out",
        ));
    }
    for (name, value, least) in [("tail", wanted.tail, 0), ("limit", wanted.limit, 1)] {
        if value.is_some_and(|value| !(least..=1_000_000).contains(&value)) {
            return Err(Problem::malformed(name, "it is out of range", "choose at most 1000000"));
        }
    }
    Ok(Selection {
        after: last_event_id.or(wanted.after).map(|text| cursor(&text)).transpose()?,
        tail: wanted.tail.filter(|_| !resumed),
        limit: wanted.limit,
        follow: wanted.follow.unwrap_or(format == Format::Sse),
    })
}

fn cursor(text: &str) -> Result<Cursor, Problem> {
    let cursor = text
        .parse()
        .ok()
        .filter(|cursor: &Cursor| cursor.seq >= 0 && cursor.line >= 0);
    cursor.ok_or_else(|| Problem::malformed("after", "it is no cursor of a log", "use the cursor of an answer"))
}
