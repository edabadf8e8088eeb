//! `Retry-After`: an API server that has too much to do says for how long it wants to be left alone, in a header that the
//! client does not hand on. Here it becomes part of the answer's status, which it does.

use std::time::{Duration, Instant};

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use http::Response;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use kube::core::Status;
use kube::core::response::StatusDetails;

use super::{ClusterError, limited};
use crate::session::jittered;

/// Longer than this nobody waits, whatever is asked for.
const LONGEST: Duration = Duration::from_secs(300);
/// How often a call that only reads is made.
const READS: usize = 3;
/// Between two of them, unless more is asked for.
const PAUSE: Duration = Duration::from_millis(200);
/// One that took longer than this, or is to wait longer, is not made again: its command is, as a whole.
const SHORT: Duration = Duration::from_secs(2);

/// A call that only reads, within its time limit. Where it is refused by an API server that has too much to do, it is made
/// again: a command of many calls would not get through, were it begun anew for each of them. What writes is never repeated so,
/// since it may have been done.
pub(super) async fn reading<T, F>(call: impl Fn() -> F) -> Result<T, ClusterError>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let mut reads = 1;
    loop {
        let started = Instant::now();
        let answer = limited(call()).await;
        let pause = match &answer {
            Err(ClusterError::Away(_)) => PAUSE,
            Err(ClusterError::Busy { after, .. }) => after.mul_f64(1.25).max(PAUSE),
            _ => return answer,
        };
        if reads == READS || pause > SHORT || started.elapsed() > SHORT {
            return answer;
        }
        reads += 1;
        tokio::time::sleep(jittered(pause)).await;
    }
}

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
    async fn what_only_reads_is_asked_again_and_not_for_long() {
        let failed = |code: u16, seconds: u32| {
            let details =
                (seconds > 0).then(|| serde_json::from_value(serde_json::json!({"retryAfterSeconds": seconds})));
            let details = details.map(Result::unwrap);
            kube::Error::Api(Box::new(Status {
                code,
                details,
                ..Status::failure("m", "r")
            }))
        };
        for (name, code, seconds, failures, tried, well) in [
            ("once", 503, 0, 1, 2, true),
            ("twice", 504, 0, 2, 3, true),
            ("too often", 503, 0, 3, 3, false),
            ("for long", 429, 9, 1, 1, false),
            ("for good", 403, 0, 1, 1, false),
        ] {
            let tries = std::cell::Cell::new(0);
            let read = reading(|| {
                tries.set(tries.get() + 1);
                let answer = if tries.get() > failures {
                    Ok(())
                } else {
                    Err(failed(code, seconds))
                };
                async move { answer }
            });
            assert_eq!((read.await.is_ok(), tries.get()), (well, tried), "{name}");
        }
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
