//! `Retry-After`: an API server that has too much to do says for how long it wants to be left alone, in a header that the
//! client does not hand on. Here it becomes part of the answer's status, which it does.

use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use http::Response;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use kube::core::Status;
use kube::core::response::StatusDetails;

/// Longer than this nobody waits, whatever is asked for.
const LONGEST: Duration = Duration::from_secs(300);

/// How long the API server asked to be left alone.
pub(super) fn asked(status: &Status) -> Option<Duration> {
    let seconds = status.details.as_ref()?.retry_after_seconds;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(LONGEST))
}

/// Answers that say it in their header alone say it in their status too.
pub(super) fn told<B>(answer: Response<B>) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let seconds = header(RETRY_AFTER).and_then(|seconds| seconds.trim().parse::<u32>().ok());
    // A status of its own holds it already.
    let is_status = header(CONTENT_TYPE).is_some_and(|kind| kind.contains("json"));
    let code = answer.status();
    let (Some(seconds), false, true) = (seconds, is_status, code.is_client_error() || code.is_server_error()) else {
        return answer.map(Body::new);
    };
    let reason = code.canonical_reason().unwrap_or_default();
    let status = Status {
        code: code.as_u16(),
        details: Some(StatusDetails {
            retry_after_seconds: seconds,
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
        }),
        ..Status::failure(reason, reason)
    };
    match serde_json::to_vec(&status) {
        Ok(written) => answer.map(|_| Body::from(written)),
        Err(_) => answer.map(Body::new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ClusterError;

    /// What becomes of an answer on its way through a real client.
    async fn error(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> ClusterError {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let headers = headers.to_vec();
        let answer = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let mut answer = Response::builder().status(status);
            for (name, value) in &headers {
                answer = answer.header(*name, *value);
            }
            let answer = answer.body(Body::from(body)).map(told).map_err(BoxError::from);
            async move { answer }
        });
        let client = kube::Client::new(answer, "functions");
        let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::default_namespaced(client);
        pods.get("any").await.unwrap_err().into()
    }

    #[tokio::test]
    async fn what_is_asked_for_is_known_wherever_it_is_said() {
        let after = |error: &ClusterError| match error {
            ClusterError::Busy { after, .. } => Some(after.as_secs()),
            _ => None,
        };
        let plain = ("content-type", "text/plain");
        let json = ("content-type", "application/json");
        let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"m","reason":"TooManyRequests","code":429,
                         "details":{"retryAfterSeconds":7}}"#;
        for (name, code, headers, body, expected) in [
            (
                "in the header",
                429,
                vec![plain, ("retry-after", "5")],
                "Too many requests",
                Some(5),
            ),
            ("by a proxy", 503, vec![("retry-after", "9")], "", Some(9)),
            ("in the status", 429, vec![json, ("retry-after", "1")], status, Some(7)),
            (
                "far too long",
                503,
                vec![plain, ("retry-after", "86400")],
                "",
                Some(300),
            ),
            (
                "as a date",
                503,
                vec![plain, ("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")],
                "x",
                None,
            ),
            ("not at all", 503, vec![plain], "x", None),
        ] {
            let error = error(code, &headers, body).await;
            assert_eq!(after(&error), expected, "{name}: {error}");
        }
        assert!(matches!(
            error(404, &[plain, ("retry-after", "5")], "x").await,
            ClusterError::Refused { code: 404, .. }
        ));
    }
}
