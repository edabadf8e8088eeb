//! What every mutation carries besides its body.

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use octopus_shared::db::enqueue::{Asker, Idempotency};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::auth;
use crate::error::Problem;
use crate::extract::Query;

/// Who asks, with which key, in which trace, for which address, and until when.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    who: String,
    token: [u8; 32],
    key: Option<String>,
    trace_parent: Option<String>,
    deadline_seconds: Option<i32>,
    address: String,
}

/// What the query of a mutation may hold.
#[derive(Deserialize)]
struct Deadline {
    deadline_seconds: Option<i32>,
}

impl<S: Send + Sync> FromRequestParts<S> for Mutation {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(Deadline { deadline_seconds }) = Query::from_request_parts(parts, state).await?;
        let bearer = auth::bearer(parts)?;
        let path = parts
            .extensions
            .get::<OriginalUri>()
            .map_or_else(|| parts.uri.path(), |uri| uri.0.path());
        Ok(Self {
            who: bearer.token.name.clone(),
            token: bearer.sha256,
            key: idempotency_key(&parts.headers)?,
            trace_parent: trace_parent(&parts.headers),
            // Another deadline is another request.
            address: match deadline_seconds {
                Some(seconds) => format!("{} {path}?deadline_seconds={seconds}", parts.method),
                None => format!("{} {path}", parts.method),
            },
            deadline_seconds,
        })
    }
}

impl Mutation {
    /// The asker of a request with these parts of a body. The hash covers each part's length, so that no two lists of
    /// parts have the same one.
    pub(crate) fn asker(self, body: &[&[u8]]) -> Asker {
        let idempotency = self.key.map(|key| {
            let mut hash = Sha256::new();
            for part in [&[self.address.as_bytes()], body].concat() {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            Idempotency {
                key,
                request_hash: hash.finalize().into(),
            }
        });
        Asker {
            name: self.who,
            token: Some(self.token),
            idempotency,
            trace_parent: self.trace_parent,
            deadline_seconds: self.deadline_seconds,
        }
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    const NAME: &str = "Idempotency-Key";
    let mut values = headers.get_all(NAME).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let visible = |text: &str| (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    match value.to_str() {
        Ok(key) if visible(key) && values.next().is_none() => Ok(Some(key.to_owned())),
        _ => Err(Problem::malformed(
            NAME,
            "it is not 1 to 255 visible ASCII characters",
            "send one key, for example a UUID",
        )),
    }
}

/// The W3C trace context, when it is well-formed.
fn trace_parent(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let well_formed = value.len() == 55 && value.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    well_formed.then(|| value.to_owned())
}
