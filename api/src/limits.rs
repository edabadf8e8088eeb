//! What holds for every request: an end to its time, and an answer even after a panic.

use std::any::Any;
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::Uri;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::{Kind, Problem};

/// Until the head of an answer has to be there. What streams afterwards takes as long as it likes.
const TIMEOUT: Duration = Duration::from_secs(30);
/// For the long poll, which may be asked to wait for a minute.
const LONG_POLL_TIMEOUT: Duration = Duration::from_secs(90);

pub(crate) async fn timeout(request: Request, next: Next) -> Result<Response, Problem> {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let limit = if route == Some("/api/v1/commands/{id}") {
        LONG_POLL_TIMEOUT
    } else {
        TIMEOUT
    };
    tokio::time::timeout(limit, next.run(request)).await.map_err(|_| {
        Problem::new(
            Kind::TIMED_OUT,
            format!("it was given up after {} seconds", limit.as_secs()),
        )
        .remedy("try again; a mutation with an Idempotency-Key is carried out once")
    })
}

/// The answer to a request whose handler panicked.
#[expect(clippy::needless_pass_by_value, reason = "the signature that the layer wants")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let words = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    Problem::internal(format!("panic: {}", words.unwrap_or("without words"))).into_response()
}

pub(crate) async fn no_route(uri: Uri) -> Problem {
    let shown: String = uri.path().chars().take(120).collect();
    Problem::new(Kind::NO_ROUTE, format!("`{shown}` leads nowhere")).remedy("see /docs for the addresses")
}

pub(crate) async fn wrong_method(request: Request) -> Problem {
    Problem::new(
        Kind::METHOD_NOT_ALLOWED,
        format!("{} is not taken here", request.method()),
    )
    .remedy("see /docs for the methods of this address")
}
