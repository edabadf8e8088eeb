//! An HTTP proxy of one test's own before the API server that replaces a share of its answers: what a real one, or a load
//! balancer before it, says when it has too much to do or has lost its storage. It cannot be made to say it otherwise.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::Method;
use serde_json::{Value, json};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is carried out, and the answer is lost: 504 of a load balancer.
    Lost,
    /// Not carried out: 429, with `Retry-After` in the header alone.
    Busy,
    /// Not carried out: 503 of a load balancer that has nobody behind it.
    Unavailable,
    /// Not carried out: 504 of the API server itself.
    Late,
}

/// Each of them in turn.
const TURNS: [Fault; 4] = [Fault::Lost, Fault::Busy, Fault::Unavailable, Fault::Late];
/// Every fifth request of a method meets one; of those that are rare, every third.
const EVERY: [usize; 2] = [5, 3];

/// The proxy. It ends with the test's runtime.
#[derive(Clone)]
pub struct Faulty {
    /// Port on this machine, without TLS.
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    beyond: String,
    client: reqwest::Client,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    failing: bool,
    logs: bool,
    requests: BTreeMap<String, usize>,
    faults: BTreeMap<(String, Fault), usize>,
}

impl Faulty {
    /// Before an API server: its URL, and the certificate of its authority as PEM.
    pub async fn before(beyond: &str, authority: &[u8]) -> Self {
        let authority = reqwest::Certificate::from_pem(authority).expect("a certificate");
        let client = reqwest::Client::builder().tls_certs_only([authority]).build();
        let shared = Arc::new(Shared {
            beyond: beyond.trim_end_matches('/').to_owned(),
            client: client.expect("a client"),
            seen: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let router = Router::new().fallback(pass).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, shared }
    }

    /// From now on answers are replaced, or no longer.
    pub fn fail(&self, failing: bool) {
        self.shared.seen().failing = failing;
    }

    /// From now on logs come from here, for pods that no node runs: one line, and nothing more for who follows.
    pub fn answer_logs(&self) {
        self.shared.seen().logs = true;
    }

    /// How often each fault met each method.
    pub fn faults(&self) -> BTreeMap<(String, Fault), usize> {
        self.shared.seen().faults.clone()
    }
}

impl Shared {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next request of a method meets.
    fn next(&self, method: &Method) -> Option<Fault> {
        let mut seen = self.seen();
        if !seen.failing {
            return None;
        }
        let count = seen.requests.entry(method.to_string()).or_default();
        *count += 1;
        let every = EVERY[usize::from(*method == Method::PATCH)];
        let fault = (*count % every == 1).then(|| TURNS[*count / every % TURNS.len()])?;
        *seen.faults.entry((method.to_string(), fault)).or_default() += 1;
        Some(fault)
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if request.uri().path().ends_with("/log") && shared.seen().logs {
        return log(request.uri().query().unwrap_or_default());
    }
    let fault = shared.next(request.method());
    let text = |status: u16, kind: &str, body: String| {
        let answer = Response::builder().status(status).header("content-type", kind);
        answer.body(Body::from(body)).expect("an answer")
    };
    let page = |status: u16, words: &str| text(status, "text/html", format!("<html><h1>{status} {words}</h1></html>"));
    match fault {
        None => forward(&shared, request)
            .await
            .unwrap_or_else(|error| page(502, &error.to_string())),
        Some(Fault::Lost) => {
            let answer = forward(&shared, request).await;
            // A watch that was begun is ended; whatever else was asked for is done by then.
            drop(answer);
            page(504, "Gateway Time-out")
        }
        Some(Fault::Busy) => {
            let mut answer = text(429, "text/plain", "Too many requests, please try again later.\n".into());
            answer
                .headers_mut()
                .insert("retry-after", "1".parse().expect("a value"));
            answer
        }
        Some(Fault::Unavailable) => page(503, "Service Unavailable"),
        Some(Fault::Late) => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Timeout", "code": 504,
                "message": "Timeout: request did not complete within the allotted timeout", "details": {},
            });
            text(504, "application/json", status.to_string())
        }
    }
}

fn log(query: &str) -> Response {
    let line = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(
        b"2026-01-02T03:04:05.000000006Z up\n",
    ))]);
    let body = if query.contains("follow=true") {
        Body::from_stream(line.chain(stream::pending()))
    } else {
        Body::from_stream(line)
    };
    Response::new(body)
}

async fn forward(shared: &Shared, request: Request) -> Result<Response, reqwest::Error> {
    let (head, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let mut headers = head.headers;
    for name in ["host", "content-length", "transfer-encoding", "connection"] {
        headers.remove(name);
    }
    let url = format!("{}{}", shared.beyond, head.uri);
    let sent = shared
        .client
        .request(head.method, url)
        .headers(headers)
        .body(body)
        .send();
    let answer = sent.await?;
    let mut passed = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| *name != "transfer-encoding") {
        passed = passed.header(name, value);
    }
    let body = Body::from_stream(answer.bytes_stream().into_stream());
    Ok(passed.body(body).expect("an answer"))
}

/// The API server's URL and the authority of its certificate, as a kubeconfig has them.
pub(super) fn server(kubeconfig: &Value) -> (String, Vec<u8>) {
    use base64::Engine as _;
    let cluster = &kubeconfig["clusters"][0]["cluster"];
    let authority = cluster["certificate-authority-data"].as_str().expect("an authority");
    let authority = base64::prelude::BASE64_STANDARD.decode(authority).expect("base64");
    (cluster["server"].as_str().expect("a server").to_owned(), authority)
}
