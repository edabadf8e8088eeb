//! The real API on a real socket, and a client of it.

use std::sync::Once;

use octopus_api::admin::token;
use octopus_api::state::App;
use octopus_shared::db::view::TokenRole;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::postgres::Database;
use crate::sse::Events;

static TLS: Once = Once::new();

/// A client that speaks TLS with the one provider of this project.
pub fn client() -> reqwest::Client {
    TLS.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::new()
}

/// An API process, but for its command line.
pub struct Api {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// A client without a token.
    pub client: reqwest::Client,
    /// A token of the role viewer.
    pub viewer: String,
    /// A token of the role operator.
    pub operator: String,
    /// A token of the role admin: what requests carry unless they say otherwise.
    pub admin: String,
    stopping: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// What the API answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{} is no JSON", String::from_utf8_lossy(&self.body)))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }

    /// The body, once it is sure that the status is 202.
    pub fn accepted(&self) -> Value {
        assert_eq!(
            self.status,
            StatusCode::ACCEPTED,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        self.json()
    }

    /// Id of the problem, without its prefix, once it is sure that it is a problem document of this status.
    pub fn problem(&self) -> String {
        let shown = String::from_utf8_lossy(&self.body);
        assert_eq!(self.headers["content-type"], "application/problem+json", "{shown}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16(), "{shown}");
        problem["type"]
            .as_str()
            .expect("a type")
            .strip_prefix("urn:octopus:problem:")
            .expect("our prefix")
            .to_owned()
    }

    /// Names of the refused fields.
    pub fn fields(&self) -> Vec<String> {
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        errors
            .iter()
            .map(|error| error["field"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

impl Api {
    /// Starts one on a database, with a token of each role.
    pub async fn start(database: &Database) -> Self {
        let mut connection = database.owner.acquire().await.expect("the database answers");
        let mut tokens = Vec::new();
        for role in [TokenRole::Viewer, TokenRole::Operator, TokenRole::Admin] {
            // Further processes on the same database have tokens of their own.
            let name = format!("{}-{}", role.as_str(), uuid::Uuid::new_v4().simple());
            tokens.push(
                token::create(&mut connection, &name, role, None)
                    .await
                    .expect("a token"),
            );
        }
        let stopping = CancellationToken::new();
        let app = App::new(database.api.clone(), stopping.clone()).expect("metrics");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let tasks = vec![
            tokio::spawn(app.changes.listen(database.url.clone(), stopping.clone())),
            tokio::spawn(app.announcer.run(database.api.clone(), stopping.clone())),
            tokio::spawn(run(listener, app, stopping.clone())),
        ];
        let [viewer, operator, admin] = tokens.try_into().expect("three tokens");
        Self {
            url,
            client: client(),
            viewer,
            operator,
            admin,
            stopping,
            tasks,
        }
    }

    /// Stops as SIGTERM does, and waits for the end.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        for task in self.tasks.drain(..) {
            task.await.expect("a clean end");
        }
    }

    /// A request without a token.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// A request with a token.
    pub fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(token)
    }

    /// What a viewer reads in this media type.
    pub async fn read_as(&self, path: &str, accept: &str) -> String {
        let request = self.request(Method::GET, path, &self.viewer);
        let answer = send(request.header("accept", accept)).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        answer.text()
    }

    /// Reads.
    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path, &self.admin)).await
    }

    /// Reads JSON that has to be there.
    pub async fn read(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "{path}: {}",
            String::from_utf8_lossy(&answer.body)
        );
        answer.json()
    }

    /// Posts JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::POST, path, &self.admin).json(body)).await
    }

    /// Puts JSON.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::PUT, path, &self.admin).json(body)).await
    }

    /// Follows events.
    pub async fn events(&self, path: &str, last_event_id: Option<&str>) -> Events {
        let mut request = self
            .request(Method::GET, path, &self.admin)
            .header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        Events::new(response)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

async fn run(listener: TcpListener, app: App, stopping: CancellationToken) {
    octopus_api::run(listener, app, stopping.cancelled_owned())
        .await
        .expect("a clean end");
}

/// Sends a request and reads the whole answer.
pub async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    Answer {
        status,
        headers,
        body: response.bytes().await.expect("a body").to_vec(),
    }
}
