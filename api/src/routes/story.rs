//! `GET /processes/{id}/story`: what happened to a process and what it printed, in order of time; read, or followed.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::process::unknown;
use crate::auth::Viewer;
use crate::error::Problem;
use crate::extract::{Id, Query, last_event_id};
use crate::log::{Format, StoryPlace, Told, follow_story, story};
use crate::openapi::FindProblems;
use crate::state::App;
use octopus_shared::db::view;

/// Which part of the story.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// What comes after this cursor.
    after: Option<String>,
    /// At most so many transitions and lines, 1 to 10000, by default 1000. Not with `follow`.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<i64>,
    /// Go on with what happens next, until the process is gone and its logs are read to the end. Default: true for
    /// server-sent events, else false.
    follow: Option<bool>,
}

/// Read or follow what happened to a process and what it printed
///
/// Transitions and printed lines, merged in order of time: a transition comes before the first line that the node did not
/// receive earlier. By `Accept`: `application/x-ndjson`, an object a line with `event`, `line`, `gap`, `truncated` or `end`;
/// `text/plain`, where `===` marks a transition; or `text/event-stream`, which follows: `event: transition` and `event: line` with the
/// cursor as `id`, resumed by `Last-Event-ID` without losing or repeating one, `gap`, `truncated` and, once nothing can come any
/// more, `end` with the seals of all streams. A transition that is followed waits up to a second for lines that were printed
/// before it. The header `Octopus-Cursor` is `after` of the next part of a story that does not follow, and `Octopus-More` says
/// whether there is or may be one.
#[utoipa::path(
    get, path = "/api/v1/processes/{id}/story", tag = "processes",
    params(
        ("id" = Uuid, Path, description = "The process"),
        Part,
        ("Last-Event-ID" = Option<String>, Header, description = "What comes after this cursor; wins over `after`"),
    ),
    responses(
        (status = 200, description = "A part of the story", content(
            (String = "text/plain"), (Told = "application/x-ndjson"), (super::feed::ServerSentEvent = "text/event-stream")
        ), headers(
            ("Octopus-Cursor" = String, description = "The place after the last line or transition"),
            ("Octopus-More" = bool, description = "Whether there is or may be more after it"),
        )),
        (status = 406, description = "None of the accepted formats can be had", body = crate::error::ProblemDocument,
         content_type = "application/problem+json"),
        FindProblems
    )
)]
pub(super) async fn read(
    _: Viewer,
    State(app): State<App>,
    Id(id): Id,
    Query(part): Query<Part>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let format = Format::accepted(&headers)?;
    let after = last_event_id(&headers)?.or(part.after);
    let after = after.map(|text| text.parse::<StoryPlace>()).transpose();
    let after = after
        .map_err(|problem| Problem::malformed("after", problem, "use the cursor of an answer"))?
        .unwrap_or_default();
    if !part.limit.is_none_or(|limit| (1..=10_000).contains(&limit)) {
        return Err(Problem::malformed("limit", "it is out of range", "choose 1 to 10000"));
    }
    if part.follow.unwrap_or(format == Format::Sse) {
        if part.limit.is_some() {
            return Err(Problem::malformed(
                "limit",
                "it cannot be combined with `follow`, as of server-sent events",
                "leave one of them out",
            ));
        }
        let told = follow_story(app, id, after).await?.ok_or_else(|| unknown(id))?;
        return Ok(format.story_that_goes_on(ReceiverStream::new(told)));
    }
    if view::log_progress(&app.pool, id).await?.is_none() {
        return Err(unknown(id));
    }
    let page = story(&app.pool, id, after, part.limit.unwrap_or(1000)).await?;
    Ok(format.story(&page))
}
