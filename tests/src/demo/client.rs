//! The REST API, spoken as any client would.

use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderName};
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use crate::failure::Failure;
use crate::sse::Events;

/// Longer than the longest long poll.
const TIMEOUT: Duration = Duration::from_secs(75);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client with its token.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    pub(crate) fn new(base: &str, token: &str) -> Result<Self, Failure> {
        // An error here says that another part of this program chose a provider before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // The API is near: a company's proxy is not asked.
        let mut http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).no_proxy();
        if base.starts_with("http://") {
            // Images without any certificate authority are enough then.
            http = http.tls_certs_only([]);
        }
        let http = http
            .build()
            .map_err(|error| Failure::new(chain(&error), "mend OCTOPUS_URL"))?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
        })
    }

    /// Reads JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let request = self.request(Method::GET, path).timeout(TIMEOUT);
        read(path, self.send(path, request).await?).await
    }

    /// Reads text.
    pub(crate) async fn text(&self, path: &str) -> Result<String, Failure> {
        let request = self.request(Method::GET, path).timeout(TIMEOUT);
        let response = self.send(path, request).await?;
        response.text().await.map_err(|error| broken(path, &error))
    }

    /// Asks for a change. Every such request has a key, so that nothing is done twice when it is repeated.
    pub(crate) async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, Failure> {
        let key = HeaderName::from_static("idempotency-key");
        let request = self
            .request(method, path)
            .timeout(TIMEOUT)
            .header(key, Uuid::new_v4().to_string())
            .json(body);
        let response = self.send(path, request).await?;
        let status = response.status().as_u16();
        if status != 202 {
            return Err(Failure::new(
                format!("{path} answered {status} and not 202"),
                "GET /docs says what it should answer",
            ));
        }
        read(path, response).await
    }

    /// Follows server-sent events, from after `last` on where that is given.
    pub(crate) async fn follow(&self, path: &str, last: Option<&str>) -> Result<Events, Failure> {
        let mut request = self.request(Method::GET, path).header(ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header(HeaderName::from_static("last-event-id"), last);
        }
        Ok(Events::new(path, self.send(path, request).await?))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(&self.token)
    }

    async fn send(&self, path: &str, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| {
            Failure::new(
                chain(&error),
                format!("is the API up at {}? GET /readyz needs no token", self.base),
            )
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let problem: Value = response.json().await.unwrap_or_default();
        let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
        let look = Some(text("remedy"))
            .filter(|remedy| !remedy.is_empty())
            .unwrap_or_else(|| "the log of the API".into());
        Err(Failure::new(
            format!("{path} answered {status}: {}", text("detail")),
            look,
        ))
    }
}

async fn read<T: DeserializeOwned>(path: &str, response: Response) -> Result<T, Failure> {
    response.json().await.map_err(|error| broken(path, &error))
}

/// An answer that broke off or is not what it should be.
pub(crate) fn broken(path: &str, error: &reqwest::Error) -> Failure {
    Failure::new(format!("the answer of {path}: {}", chain(error)), "the log of the API")
}

/// An error with its causes, which reqwest does not print by itself.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
