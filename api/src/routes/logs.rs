//! `GET /processes/{id}/logs`: what a process printed, exactly once and in order; and the same of a build.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use octopus_shared::db::view::ChunkFilter;
use octopus_shared::function::validate_name;
use octopus_shared::log::Cursor;
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::process::unknown;
use crate::auth::Viewer;
use crate::error::Problem;
use crate::extract::{Id, Path, Query, last_event_id};
use crate::log::{Build, Filter, Format, Line, Selection, Source, is_short};
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
    /// At most so many lines, 1 to 1000000; an answer that follows ends behind them, without `end`. All, when it is left out.
    #[param(minimum = 1, maximum = 1_000_000)]
    limit: Option<i64>,
    /// Only lines that the node received at this time or later: RFC 3339.
    since: Option<String>,
    /// Only lines that it received before this time. Not with `follow`.
    until: Option<String>,
    /// Only lines of this container.
    container: Option<String>,
    /// Only lines that hold this text of up to 1000 bytes.
    grep: Option<String>,
    /// Only lines that match this regular expression, in the syntax of the Rust crate `regex`. Not with `grep`.
    regex: Option<String>,
    /// Whether holes are lines of a text too: `--- octopus: ... ---`. NDJSON and events always have them.
    marks: Option<bool>,
}

/// Read or follow what a process printed
///
/// By `Accept`: `text/plain`, the bytes as they were printed; `application/x-ndjson`, an object a line; or
/// `text/event-stream`, `event: line` with the cursor as `id`, resumed by `Last-Event-ID` without losing or repeating a
/// line. NDJSON and events have the known holes where they are (`gap`; the line after one may be `partial`), what was dropped of a
/// log that was longer than it may be before the first line that is left (`truncated`) and, once nothing can come any more, the
/// `end` with the seals of all streams. The header `Octopus-Cursor` is the place after the last line of an answer that does not
/// follow, and `Octopus-More` says whether there is more after it.
///
/// `tail` and `limit` count the lines that `since`, `until`, `container`, `grep` and `regex` leave. An answer that does not
/// follow looks at up to 256 MiB of the log for them, for up to 5 s: then `Octopus-More` is true, and `after` with the cursor
/// goes on. Answers that do not follow are compressed with gzip or zstd where that is accepted.
#[utoipa::path(
    get, path = "/api/v1/processes/{id}/logs", tag = "processes",
    params(
        ("id" = Uuid, Path, description = "The process"),
        Wanted,
        ("Last-Event-ID" = Option<String>, Header, description = "Lines after this cursor; wins over `after` and `tail`"),
    ),
    responses(
        (status = 200, description = "The lines", content(
            (String = "text/plain"), (Line = "application/x-ndjson"), (super::feed::ServerSentEvent = "text/event-stream")
        ), headers(
            ("Octopus-Cursor" = String, description = "The place after the last line, or how far was looked"),
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
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = Asked::parse(wanted, &headers)?;
    let source = Source::find(&app, id, asked.selection.clone()).await?;
    Ok(asked.answer(source.ok_or_else(|| unknown(id))?, app))
}

/// Read or follow what the build of a revision printed
///
/// Like the log of a process, with lines of the container `build`: each try of the build begins the log anew, as the next `attempt`.
/// Of more than 224 KiB lines in the middle are left out, and the seal is `truncated`.
#[utoipa::path(
    get, path = "/api/v1/functions/{name}/revisions/{number}/build-log", tag = "functions",
    params(
        ("name" = String, Path, description = "The function", example = "hello"),
        ("number" = i32, Path, description = "The revision", example = 1),
        Wanted,
        ("Last-Event-ID" = Option<String>, Header, description = "Lines after this cursor; wins over `after` and `tail`"),
    ),
    responses(
        (status = 200, description = "The lines", content(
            (String = "text/plain"), (Line = "application/x-ndjson"), (super::feed::ServerSentEvent = "text/event-stream")
        ), headers(
            ("Octopus-Cursor" = String, description = "The place after the last line, or how far was looked"),
            ("Octopus-More" = bool, description = "Whether there is or may be more after it"),
        )),
        (status = 406, description = "None of the accepted formats can be had", body = crate::error::ProblemDocument,
         content_type = "application/problem+json"),
        FindProblems
    )
)]
pub(super) async fn read_build(
    _: Viewer,
    State(app): State<App>,
    Path((function, number)): Path<(String, i32)>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    validate_name(&function).map_err(Problem::invalid)?;
    let asked = Asked::parse(wanted, &headers)?;
    let unknown = || {
        let missing = format!("function {function} has no revision {number}");
        Problem::not_found(missing, super::function::UNKNOWN)
    };
    let build = Build {
        function: function.clone(),
        number,
    };
    let source = Source::find_build(&app, build, asked.selection.clone()).await?;
    Ok(asked.answer(source.ok_or_else(unknown)?, app))
}

/// What a request asks for.
struct Asked {
    format: Format,
    marks: bool,
    selection: Selection,
}

impl Asked {
    fn parse(wanted: Wanted, headers: &HeaderMap) -> Result<Self, Problem> {
        let format = Format::accepted(headers)?;
        Ok(Self {
            format,
            marks: wanted.marks.unwrap_or_default(),
            selection: select(wanted, format, last_event_id(headers)?)?,
        })
    }

    fn answer(self, source: Source, app: App) -> Response {
        let stop = source.stop();
        let items = ReceiverStream::new(source.send(app));
        self.format.answer(items, stop, self.marks)
    }
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
    if wanted.until.is_some() && wanted.follow == Some(true) {
        return Err(Problem::malformed(
            "until",
            "it cannot be combined with `follow`",
            "leave one of them out",
        ));
    }
    let follow = wanted.follow.unwrap_or(format == Format::Sse && wanted.until.is_none());
    let filter = filter(&wanted)?;
    Ok(Selection {
        filter: Arc::new(filter),
        after: last_event_id.or(wanted.after).map(|text| cursor(&text)).transpose()?,
        tail: wanted.tail.filter(|_| !resumed),
        limit: wanted.limit,
        follow,
    })
}

fn filter(wanted: &Wanted) -> Result<Filter, Problem> {
    if wanted.grep.is_some() && wanted.regex.is_some() {
        return Err(Problem::malformed(
            "regex",
            "it cannot be combined with `grep`",
            "leave one of them out",
        ));
    }
    for (name, text) in [
        ("container", &wanted.container),
        ("grep", &wanted.grep),
        ("regex", &wanted.regex),
    ] {
        if !text.as_deref().is_none_or(is_short) {
            return Err(Problem::malformed(name, "it is too long", "send at most 1000 bytes"));
        }
    }
    let chunks = ChunkFilter {
        container: wanted.container.clone(),
        since: time("since", wanted.since.as_deref())?,
        until: time("until", wanted.until.as_deref())?,
    };
    Filter::new(chunks, wanted.grep.as_deref(), wanted.regex.as_deref())
        .map_err(|error| Problem::malformed("regex", error, "see docs.rs/regex for what an expression may hold"))
}

fn time(name: &'static str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, Problem> {
    let parsed = text.map(|text| DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()));
    parsed.transpose().map_err(|_| {
        Problem::malformed(
            name,
            "it is no time of RFC 3339",
            "write it as 2026-01-02T03:04:05Z; a plus sign of an offset is %2B",
        )
    })
}

fn cursor(text: &str) -> Result<Cursor, Problem> {
    let cursor = text
        .parse()
        .ok()
        .filter(|cursor: &Cursor| cursor.seq >= 0 && cursor.line >= 0);
    cursor.ok_or_else(|| Problem::malformed("after", "it is no cursor of a log", "use the cursor of an answer"))
}
