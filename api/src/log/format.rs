//! The three forms of a log: as printed, as JSON lines, as server-sent events.

use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use octopus_shared::log::Cursor;
use serde::Serialize;

use super::line::{Item, contents, described};
use crate::error::{Kind, Problem};

/// The place after the last line of an answer.
const CURSOR: HeaderName = HeaderName::from_static("octopus-cursor");

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
                Problem::new(
                    Kind::NOT_ACCEPTABLE,
                    "logs are text/plain, application/x-ndjson or text/event-stream",
                )
                .remedy("accept one of them")
            })
    }

    /// The answer. A failure on the way breaks the connection off, so that no reader takes a part for the whole.
    pub(crate) fn answer<S>(self, items: S, end: Option<Cursor>) -> Response
    where
        S: Stream<Item = Result<Item, sqlx::Error>> + Send + 'static,
    {
        let mut response = match self {
            Self::Text => streamed("text/plain; charset=utf-8", items.map(|item| item.map(text))),
            Self::Ndjson => streamed("application/x-ndjson", items.map(|item| item.map(ndjson))),
            Self::Sse => {
                let events =
                    items.map(|item| item.map(|item| stream::iter(events(item).into_iter().map(Ok::<_, sqlx::Error>))));
                Sse::new(futures::TryStreamExt::try_flatten(events))
                    .keep_alive(KeepAlive::default())
                    .into_response()
            }
        };
        if let Some(cursor) = end.and_then(|end| HeaderValue::from_str(&end.to_string()).ok()) {
            response.headers_mut().insert(CURSOR, cursor);
        }
        response
    }
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

fn text(item: Item) -> Bytes {
    let mut bytes = Vec::new();
    if let Item::Lines { chunk, from, until } = item {
        for line in contents(&chunk, from, until) {
            bytes.extend_from_slice(line);
            bytes.push(b'\n');
        }
    }
    bytes.into()
}

fn ndjson(item: Item) -> Bytes {
    #[derive(Serialize)]
    struct Ended<T> {
        end: T,
    }
    match item {
        Item::Lines { chunk, from, until } => described(&chunk, from, until)
            .flat_map(|line| json_line(&line))
            .collect(),
        Item::Gap(gap) => json_line(&gap).into(),
        Item::End(end) => json_line(&Ended { end }).into(),
    }
}

fn json_line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn events(item: Item) -> Vec<Event> {
    let event = |name: &str, id: Option<&str>, data: String| {
        let event = Event::default().event(name).data(data);
        id.map_or(event.clone(), |id| event.id(id))
    };
    let json = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
    match item {
        Item::Lines { chunk, from, until } => described(&chunk, from, until)
            .map(|line| event("line", Some(&line.cursor), json(serde_json::to_string(&line))))
            .collect(),
        Item::Gap(gap) => vec![event("gap", None, json(serde_json::to_string(&gap)))],
        Item::End(end) => vec![event("end", None, json(serde_json::to_string(&end)))],
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
