//! What holds for every request: an end to its time, and an answer even after a panic.

use std::any::Any;
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::{Extensions, HeaderMap, StatusCode, Uri, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::compression::predicate::{DefaultPredicate, Predicate};

use crate::error::{Kind, Problem};
use crate::log::Live;

/// Until the head of an answer has to be there. What streams afterwards takes as long as it likes.
const TIMEOUT: Duration = Duration::from_secs(30);
/// For the long poll, which may be asked to wait for a minute, and for sources that come over a slow line.
const LONG_TIMEOUT: Duration = Duration::from_secs(120);
const LONG_ROUTES: [&str; 2] = ["/api/v1/commands/{id}", "/api/v1/functions/{name}"];

pub(crate) async fn timeout(request: Request, next: Next) -> Result<Response, Problem> {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let limit = if route.is_some_and(|route| LONG_ROUTES.contains(&route)) {
        LONG_TIMEOUT
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

/// What is compressed: no events, and no answer that goes on, in which lines would wait in a buffer for others.
pub(crate) fn compressible() -> impl Predicate + Send + Sync + 'static {
    DefaultPredicate::new()
        .and(|_: StatusCode, _: Version, _: &HeaderMap, extensions: &Extensions| extensions.get::<Live>().is_none())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use tower::ServiceExt;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;

    async fn fails() {
        panic!("a secret");
    }

    #[tokio::test]
    async fn a_panic_is_answered_and_not_shown() {
        let router: Router = Router::new()
            .route("/", get(fails))
            .layer(CatchPanicLayer::custom(panicked));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains("urn:uuid:") && !text.contains("secret"), "{text}");
    }
}
