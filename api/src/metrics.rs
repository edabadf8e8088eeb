//! Counters and histograms, rendered for Prometheus.

use std::sync::OnceLock;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::Failure;

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Makes this process record metrics. Further calls answer the same handle.
///
/// # Errors
/// When something else records the metrics of this process.
pub fn install() -> Result<PrometheusHandle, Failure> {
    let handle = HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new().set_buckets(&SECONDS).ok()?.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).ok()?;
        describe();
        Some(handle)
    });
    handle
        .clone()
        .ok_or_else(|| "something else records the metrics of this process".into())
}

fn describe() {
    metrics::describe_counter!(
        "octopus_api_http_requests_total",
        "Requests answered, by method, route and status."
    );
    metrics::describe_histogram!(
        "octopus_api_http_request_duration_seconds",
        "Time to the head of the answer."
    );
    metrics::describe_counter!("octopus_api_commands_enqueued_total", "Commands stored, by kind.");
    metrics::describe_gauge!(
        "octopus_api_listener_connected",
        "1 while this process hears what managers announce."
    );
    metrics::describe_gauge!("octopus_api_streams_open", "Streams that are being sent, by kind.");
}

/// Records every request.
pub(crate) async fn record(request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let method = request.method().as_str().to_owned();
    let started = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    metrics::histogram!("octopus_api_http_request_duration_seconds", "method" => method.clone(), "route" => route.clone())
        .record(started.elapsed().as_secs_f64());
    metrics::counter!("octopus_api_http_requests_total", "method" => method, "route" => route, "status" => status)
        .increment(1);
    response
}

/// Counts a stream while it is held.
#[derive(Debug)]
pub(crate) struct OpenStream(&'static str);

impl OpenStream {
    pub(crate) fn new(kind: &'static str) -> Self {
        metrics::gauge!("octopus_api_streams_open", "kind" => kind).increment(1.0);
        Self(kind)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        metrics::gauge!("octopus_api_streams_open", "kind" => self.0).decrement(1.0);
    }
}
