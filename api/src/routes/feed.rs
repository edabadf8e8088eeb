//! `GET /events`: the transitions of all processes, as one feed that can be resumed.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use octopus_shared::db::view::{self, FeedCursor};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

use crate::auth::Viewer;
use crate::error::Problem;
use crate::extract::{Query, last_event_id};
use crate::metrics::OpenStream;
use crate::openapi::ReadProblems;
use crate::state::App;

const PAGE: i64 = 500;
/// A transition that was announced can be held back by another transaction that is still open: look again soon.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_millis(1500);
/// Announcements come every few milliseconds when much happens; one look answers those of this time.
const GATHER: Duration = Duration::from_millis(20);

/// Where the feed begins.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    /// After this place: the `id` of an event of this feed, or `0` for everything that is kept. Default: from now on.
    after: Option<String>,
}

/// One event of a stream, as the format of server-sent events has it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema: the events are written by axum")]
pub(super) struct ServerSentEvent {
    /// Its kind.
    event: Option<String>,
    /// The place to resume after.
    id: Option<String>,
    /// A JSON document.
    data: String,
}

/// Follow the transitions of all processes
///
/// Server-sent events: `event: transition`, `data` is a transition (`EventView`), `id` the place to resume after. A client that
/// reconnects with `Last-Event-ID` misses none and sees none twice. The first event has an `id` only.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "processes",
    params(From, ("Last-Event-ID" = Option<String>, Header, description = "Resume after this place; wins over `after`")),
    responses((status = 200, description = "The feed", body = ServerSentEvent, content_type = "text/event-stream"), ReadProblems)
)]
pub(super) async fn follow(
    _: Viewer,
    State(app): State<App>,
    Query(from): Query<From>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let place = match last_event_id(&headers)?.or(from.after) {
        None => view::feed_end(&app.pool).await?,
        Some(text) if text == "0" => FeedCursor::default(),
        Some(text) => text
            .parse()
            .map_err(|words: &str| Problem::malformed("after", words, "use the `id` of an event of this feed"))?,
    };
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        if let Err(error) = send(&app, place, &sender).await {
            tracing::warn!(error = %error, "the feed of transitions broke off; its reader will resume it");
        }
    });
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default()))
}

type Sender = mpsc::Sender<Result<Event, Infallible>>;

/// Sends until the reader is gone or the process stops.
async fn send(app: &App, mut place: FeedCursor, sender: &Sender) -> Result<(), sqlx::Error> {
    let _open = OpenStream::new("events");
    let mut waiter = app.changes.subscribe();
    let mut retry = LAST_RETRY;
    let _ = sender.send(Ok(Event::default().id(place.to_string()))).await;
    loop {
        let page = view::feed(&app.pool, &place, PAGE).await?;
        let full = page.len() as i64 == PAGE;
        for (cursor, transition) in page {
            let Ok(event) = Event::default()
                .event("transition")
                .id(cursor.to_string())
                .json_data(&transition)
            else {
                return Ok(());
            };
            if sender.send(Ok(event)).await.is_err() {
                return Ok(());
            }
            place = cursor;
        }
        if full {
            continue;
        }
        tokio::select! {
            announced = waiter.changed_within(None, retry) => {
                retry = if announced { FIRST_RETRY } else { (retry * 2).min(LAST_RETRY) };
                tokio::time::sleep(GATHER).await;
            }
            () = sender.closed() => return Ok(()),
            () = app.stopping.cancelled() => return Ok(()),
        }
    }
}
