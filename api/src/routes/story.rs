//! `GET /processes/{id}/story`: what happened to a process and what it printed, in order of time.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::process::unknown;
use crate::auth::Viewer;
use crate::error::Problem;
use crate::extract::{Id, Query};
use crate::log::{Format, StoryPlace, Told, story};
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
    /// At most so many transitions and lines, 1 to 10000.
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 10_000, default = 1000)]
    limit: i64,
}

fn default_limit() -> i64 {
    1000
}

/// Read what happened to a process and what it printed
///
/// Transitions and printed lines, merged in order of time: a transition comes before the first line that the node did not
/// receive earlier. By `Accept`: `application/x-ndjson`, an object a line with `event`, `line`, `gap` or `truncated`; or `text/plain`,
/// where `===` marks a transition. The header `Octopus-Cursor` is `after` of the next part, and `Octopus-More` says whether
/// there is or may be one.
#[utoipa::path(
    get, path = "/api/v1/processes/{id}/story", tag = "processes",
    params(("id" = Uuid, Path, description = "The process"), Part),
    responses(
        (status = 200, description = "A part of the story", content(
            (String = "text/plain"), (Told = "application/x-ndjson")
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
    let format = Format::accepted_of(&headers, &[Format::Text, Format::Ndjson])?;
    if !(1..=10_000).contains(&part.limit) {
        return Err(Problem::malformed("limit", "it is out of range", "choose 1 to 10000"));
    }
    let after = part.after.map(|text| text.parse::<StoryPlace>()).transpose();
    let after = after.map_err(|problem| Problem::malformed("after", problem, "use the cursor of an answer"))?;
    if view::log_progress(&app.pool, id).await?.is_none() {
        return Err(unknown(id));
    }
    let page = story(&app.pool, id, after.unwrap_or_default(), part.limit).await?;
    Ok(format.story(&page))
}
