//! The REST API as its users see it, and waiting for what it shows.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, interval};
use uuid::Uuid;

use crate::sse::Events;

/// Between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A machine that others use too may be several times slower than one that is free, and the seconds that tests name are the
/// latter's.
const SLOWER: u64 = 3;

/// The API with a token.
#[derive(Clone)]
pub struct Client {
    url: String,
    token: String,
    http: reqwest::Client,
}

impl Client {
    /// A client with a token.
    pub fn new(url: String, token: String) -> Self {
        Self {
            url,
            token,
            http: reqwest::Client::new(),
        }
    }

    /// The same API with another token.
    pub fn with_token(&self, token: String) -> Self {
        Self { token, ..self.clone() }
    }

    /// Waits until the API is ready.
    pub async fn ready(&self) {
        until("the API to be ready", 30, async || {
            let answer = self.http.get(format!("{}/readyz", self.url)).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// One request with a JSON body, or none when it is null.
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await.expect("the API answers");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (status, value)
    }

    /// A mutation by a client that asks again until it is answered, under one key: what callers are told to do. Answers the
    /// command.
    pub async fn insist(&self, method: Method, path: &str, body: &Value) -> Value {
        let key = Uuid::new_v4().to_string();
        until(&format!("{path} to be accepted"), 120, async || {
            let request = self
                .http
                .request(method.clone(), format!("{}{path}", self.url))
                .bearer_auth(&self.token)
                .header("idempotency-key", &key)
                .timeout(Duration::from_secs(15));
            let answer = request.json(body).send().await.ok()?;
            let status = answer.status();
            let value: Value = answer.json().await.unwrap_or_default();
            // Whatever is away: it says so, and nothing else.
            let again = status == StatusCode::SERVICE_UNAVAILABLE;
            assert!(again || status == StatusCode::ACCEPTED, "{path}: {status} {value}");
            (!again).then_some(value)
        })
        .await
    }

    /// What a path shows.
    pub async fn get(&self, path: &str) -> Value {
        let (status, value) = self.send(Method::GET, path, &Value::Null).await;
        assert_eq!(status, StatusCode::OK, "GET {path}: {value}");
        value
    }

    /// The same, as text.
    pub async fn get_text(&self, path: &str) -> String {
        let request = self
            .http
            .get(format!("{}{path}", self.url))
            .bearer_auth(&self.token)
            .header("accept", "text/plain");
        let answer = request.send().await.expect("the API answers");
        assert_eq!(answer.status(), StatusCode::OK, "GET {path}");
        answer.text().await.expect("text")
    }

    async fn accepted(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, value) = self.send(method, path, body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{path}: {value}");
        value
    }

    /// Declares a function from one Python file; answers the command.
    pub async fn declare(&self, name: &str, source: &str, spec: Value) -> Uuid {
        let body = json!({ "spec": spec, "source": source });
        id(&self
            .accepted(Method::PUT, &format!("/api/v1/functions/{name}"), &body)
            .await["id"])
    }

    /// Declares a function and waits for its image; answers the revision.
    pub async fn build(&self, name: &str, source: &str, spec: Value) -> Value {
        let command = self.declare(name, source, spec).await;
        let ended = self.ended(command, 180).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        self.get(&format!("/api/v1/functions/{name}")).await["revisions"][0].clone()
    }

    /// Starts a process; answers its id.
    pub async fn start(&self, function: &str, spec: Value) -> Uuid {
        let answer = self
            .accepted(Method::POST, &format!("/api/v1/functions/{function}/processes"), &spec)
            .await;
        id(&answer["process"]["id"])
    }

    /// Asks for the end of a process; answers the command.
    pub async fn kill(&self, process: Uuid, options: Value) -> Uuid {
        id(&self
            .accepted(Method::POST, &format!("/api/v1/processes/{process}/kill"), &options)
            .await["id"])
    }

    /// Waits for the end of a command.
    pub async fn ended(&self, command: Uuid, seconds: u64) -> Value {
        until(&format!("the end of command {command}"), seconds, async || {
            let shown = self.get(&format!("/api/v1/commands/{command}?wait=5")).await;
            matches!(shown["state"].as_str(), Some("succeeded" | "failed" | "cancelled")).then_some(shown)
        })
        .await
    }

    /// A process.
    pub async fn process(&self, id: Uuid) -> Value {
        self.get(&format!("/api/v1/processes/{id}")).await
    }

    /// Waits until a process shows a value in a field. Panics with all that it shows when the time is over.
    pub async fn shows(&self, id: Uuid, field: &str, value: &str, seconds: u64) -> Value {
        let seconds = seconds * SLOWER;
        let ends = Instant::now() + Duration::from_secs(seconds);
        let mut ticks = interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let shown = self.process(id).await;
            if shown[field] == value {
                return shown;
            }
            assert!(
                Instant::now() < ends,
                "waited {seconds} s for {field} {value} of {shown}"
            );
        }
    }

    /// Waits until a process has ended and its log is sealed. Its pod may be there for another minute: a kubelet is long in removing one
    /// that is deleted when its containers have ended a while ago.
    pub async fn over(&self, id: Uuid, seconds: u64) -> Value {
        until(&format!("the end of {id} and of its log"), seconds, async || {
            let shown = self.process(id).await;
            let streams = shown["log_streams"].as_array()?;
            let is_over = matches!(shown["state"].as_str(), Some("succeeded" | "failed" | "killed"));
            let is_read = !streams.is_empty() && streams.iter().all(|stream| stream["seal"].is_string());
            (is_over && is_read).then_some(shown)
        })
        .await
    }

    /// All transitions of a process.
    pub async fn events(&self, id: Uuid) -> Vec<Value> {
        let page = self.get(&format!("/api/v1/processes/{id}/events?limit=500")).await;
        page["items"].as_array().cloned().unwrap_or_default()
    }

    /// The whole log of a process, byte for byte.
    pub async fn log(&self, id: Uuid) -> Vec<u8> {
        let mut all = Vec::new();
        self.log_as(id, "text/plain", |page| all.extend_from_slice(page)).await;
        all
    }

    /// The log of a process as it is in NDJSON: lines, holes and the end.
    pub async fn log_lines(&self, id: Uuid, mut see: impl FnMut(&Value)) {
        self.log_as(id, "application/x-ndjson", |page| {
            for line in page.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                see(&serde_json::from_slice(line).expect("JSON"));
            }
        })
        .await;
    }

    async fn log_as(&self, id: Uuid, accept: &str, mut see: impl FnMut(&[u8])) {
        let mut after = "0.0".to_owned();
        loop {
            let url = format!("{}/api/v1/processes/{id}/logs?after={after}&limit=20000", self.url);
            let request = self.http.get(url).bearer_auth(&self.token).header("accept", accept);
            let answer = request.send().await.expect("the API answers");
            assert_eq!(answer.status(), StatusCode::OK);
            let next = answer
                .headers()
                .get("octopus-cursor")
                .and_then(|cursor| cursor.to_str().ok())
                .map(str::to_owned);
            let bytes = answer.bytes().await.expect("a body");
            see(&bytes);
            match next {
                Some(next) if next != after && !bytes.is_empty() => after = next,
                _ => return,
            }
        }
    }

    /// Follows a path as server-sent events, after one of them or from the beginning.
    pub async fn events_of(&self, path: &str, last_event_id: Option<&str>) -> Events {
        let request = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token);
        let mut request = request.header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let answer = request.send().await.expect("the API answers");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        Events::new(answer)
    }

    /// Follows the log of a process to its end, line by line.
    pub async fn follow(&self, id: Uuid, mut see: impl FnMut(&str)) {
        let mut events = self.events_of(&format!("/api/v1/processes/{id}/logs"), None).await;
        while let Some(event) = events.next().await {
            if event.event == "end" {
                return;
            }
            if let Some(line) = event.json()["line"].as_str() {
                see(line);
            }
        }
    }

    /// Follows the transitions of all processes, from now on.
    pub async fn feed(&self) -> Events {
        self.events_of("/api/v1/events", None).await
    }
}

fn id(value: &Value) -> Uuid {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("{value} is no id"))
}

/// Looks again and again until there is something to see. Panics with `what` when the time is over.
pub async fn until<T>(what: &str, seconds: u64, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let seconds = seconds * SLOWER;
    let ends = Instant::now() + Duration::from_secs(seconds);
    let mut ticks = interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < ends, "waited {seconds} s for {what}");
    }
}
