//! The three forms of a log: as printed, as JSON lines, as server-sent events.

use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use octopus_shared::log::Cursor;
use serde::Serialize;

use super::line::{Entry, Item};
use super::story::{self, Told};
use crate::error::{Kind, Problem};

/// The place after the last line of an answer.
const CURSOR: HeaderName = HeaderName::from_static("octopus-cursor");
/// Whether there are or may be lines after it.
const MORE: HeaderName = HeaderName::from_static("octopus-more");

const TEXT: &str = "text/plain; charset=utf-8";
const NDJSON: &str = "application/x-ndjson";

/// An answer that goes on: it is not compressed, so that no line waits in a buffer for others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live;

/// Where an answer ends that does not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) place: Cursor,
    pub(crate) more: bool,
}

/// In which form a log is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The bytes that were printed, with newlines.
    Text,
    /// One JSON object a line.
    Ndjson,
    /// Server-sent events.
    Sse,
}

impl Format {
    /// The first form that a client accepts, in its own order. Text when it does not say.
    pub(crate) fn accepted(headers: &HeaderMap) -> Result<Self, Problem> {
        let accept = headers
            .get(ACCEPT)
            .map(|value| value.to_str().unwrap_or_default())
            .unwrap_or("*/*");
        accept
            .split(',')
            .find_map(|kind| {
                match kind
                    .split(';')
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_ascii_lowercase()
                    .as_str()
                {
                    "*/*" | "text/*" | "text/plain" => Some(Self::Text),
                    "application/x-ndjson" => Some(Self::Ndjson),
                    "text/event-stream" => Some(Self::Sse),
                    _ => None,
                }
            })
            .ok_or_else(|| {
                const HAD: &str = "it can be had as text/plain, application/x-ndjson or text/event-stream";
                Problem::new(Kind::NOT_ACCEPTABLE, HAD).remedy("accept one of them")
            })
    }

    /// A part of a story.
    pub(crate) fn story(self, page: &story::Page) -> Response {
        let told = page.told.iter();
        let mut response = match self {
            Self::Text => whole(TEXT, story_text(&page.told)),
            Self::Ndjson => whole(NDJSON, told.flat_map(json_line).collect()),
            Self::Sse => server_sent(stream::iter([Ok(told.map(story_event).collect())])),
        };
        ends(&mut response, &page.place.to_string(), page.more);
        response
    }

    /// A story that goes on.
    pub(crate) fn story_that_goes_on<S>(self, told: S) -> Response
    where
        S: Stream<Item = Result<Vec<Told>, sqlx::Error>> + Send + 'static,
    {
        let mut response = match self {
            Self::Text => streamed(TEXT, told.map_ok(|told| story_text(&told).into())),
            Self::Ndjson => streamed(NDJSON, told.map_ok(|told| told.iter().flat_map(json_line).collect())),
            Self::Sse => server_sent(told.map_ok(|told| told.iter().map(story_event).collect())),
        };
        response.extensions_mut().insert(Live);
        response
    }

    /// The answer. A failure on the way breaks the connection off, so that no reader takes a part for the whole.
    /// `marks`: holes are lines of the text too.
    pub(crate) fn answer<S>(self, items: S, stop: Option<Stop>, marks: bool) -> Response
    where
        S: Stream<Item = Result<Item, sqlx::Error>> + Send + 'static,
    {
        let mut response = match self {
            Self::Text => streamed(TEXT, items.map(move |item| item.map(|item| text(item, marks)))),
            Self::Ndjson => streamed(NDJSON, items.map(|item| item.map(ndjson))),
            Self::Sse => server_sent(items.map_ok(events)),
        };
        match stop {
            Some(stop) => {
                ends(&mut response, &stop.place.to_string(), stop.more);
            }
            None => {
                response.extensions_mut().insert(Live);
            }
        }
        response
    }
}

fn ends(response: &mut Response, place: &str, more: bool) {
    let headers = response.headers_mut();
    if let Ok(cursor) = HeaderValue::from_str(place) {
        headers.insert(CURSOR, cursor);
    }
    headers.insert(MORE, HeaderValue::from_static(if more { "true" } else { "false" }));
}

fn whole(kind: &'static str, bytes: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], bytes).into_response()
}

fn streamed<S>(kind: &'static str, bytes: S) -> Response
where
    S: Stream<Item = Result<Bytes, sqlx::Error>> + Send + 'static,
{
    (
        [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")],
        Body::from_stream(bytes),
    )
        .into_response()
}

fn server_sent<S>(events: S) -> Response
where
    S: Stream<Item = Result<Vec<Event>, sqlx::Error>> + Send + 'static,
{
    let events = events.map_ok(|events| stream::iter(events.into_iter().map(Ok::<_, sqlx::Error>)));
    Sse::new(events.try_flatten())
        .keep_alive(KeepAlive::default())
        .into_response()
}

fn text(item: Item, marks: bool) -> Bytes {
    let mut bytes = Vec::new();
    let mut line = |content: &[u8]| {
        bytes.extend_from_slice(content);
        bytes.push(b'\n');
    };
    match item {
        Item::Lines(lines) => {
            for entry in lines.entries() {
                match entry {
                    Entry::Line(printed) => line(printed.line.content),
                    Entry::Gap(gap) if marks => line(gap.mark().as_bytes()),
                    Entry::Gap(_) => {}
                }
            }
        }
        Item::Gap(gap) if marks => line(gap.mark().as_bytes()),
        Item::Truncated(start) if marks => line(start.mark().as_bytes()),
        Item::Gap(_) | Item::Truncated(_) | Item::End(_) | Item::Rests => {}
    }
    bytes.into()
}

fn ndjson(item: Item) -> Bytes {
    #[derive(Serialize)]
    struct Ended<T> {
        end: T,
    }
    match item {
        Item::Lines(lines) => lines
            .entries()
            .into_iter()
            .flat_map(|entry| match entry {
                Entry::Line(printed) => json_line(&lines.describe(&printed)),
                Entry::Gap(gap) => json_line(&gap),
            })
            .collect(),
        Item::Gap(gap) => json_line(&gap).into(),
        Item::Truncated(start) => json_line(&start).into(),
        Item::End(end) => json_line(&Ended { end }).into(),
        Item::Rests => Bytes::new(),
    }
}

fn json_line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn story_text(told: &[Told]) -> Vec<u8> {
    let lines = told.iter().filter(|told| told.end.is_none());
    lines
        .flat_map(|told| [told.text().as_slice(), b"\n"].concat())
        .collect()
}

/// As in the feed of transitions and in the log, but for the `id`.
fn story_event(told: &Told) -> Event {
    let id = Some(told.cursor.as_str());
    let parts = [
        told.event.as_ref().map(|data| event("transition", id, data)),
        told.line.as_ref().map(|data| event("line", id, data)),
        told.gap.as_ref().map(|data| event("gap", None, data)),
        told.truncated.as_ref().map(|data| event("truncated", None, data)),
        told.end.as_ref().map(|data| event("end", None, data)),
    ];
    parts.into_iter().flatten().next().unwrap_or_default()
}

fn event<T: Serialize>(name: &str, id: Option<&str>, data: &T) -> Event {
    let event = Event::default()
        .event(name)
        .data(serde_json::to_string(data).unwrap_or_default());
    match id {
        Some(id) => event.id(id),
        None => event,
    }
}

fn events(item: Item) -> Vec<Event> {
    match item {
        Item::Lines(lines) => lines
            .entries()
            .into_iter()
            .map(|entry| match entry {
                Entry::Line(printed) => {
                    let line = lines.describe(&printed);
                    event("line", Some(&line.cursor), &line)
                }
                Entry::Gap(gap) => event("gap", None, &gap),
            })
            .collect(),
        Item::Gap(gap) => vec![event("gap", None, &gap)],
        Item::Truncated(start) => vec![event("truncated", None, &start)],
        Item::End(end) => vec![event("end", None, &end)],
        Item::Rests => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_form_is_taken() {
        for (accept, form) in [
            (None, Some(Format::Text)),
            (Some("*/*"), Some(Format::Text)),
            (Some("text/event-stream"), Some(Format::Sse)),
            (
                Some("application/json, application/x-ndjson;q=0.9, */*"),
                Some(Format::Ndjson),
            ),
            (Some("image/png"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(Format::accepted(&headers).ok(), form, "{accept:?}");
        }
    }
}
