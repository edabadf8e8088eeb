//! Paths and query strings.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use octopus_shared::function::validate_name;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::Problem;

/// Parts of the path.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read: Result<axum::extract::Path<T>, PathRejection> =
            axum::extract::Path::from_request_parts(parts, state).await;
        read.map(|path| Self(path.0))
            .map_err(|error| Problem::malformed("path", error.body_text(), "see /docs for the addresses"))
    }
}

/// The `{id}` of the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Id(pub(crate) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = param(parts, state, "id").await?;
        let shown: String = text.chars().take(60).collect();
        let refused = || {
            Problem::malformed(
                "id",
                format!("`{}` is no UUID", shown.escape_debug()),
                "use the id of an answer",
            )
        };
        text.parse().map(Self).map_err(|_| refused())
    }
}

/// The `{name}` of the path: a name that Kubernetes would take.
#[derive(Clone, Debug)]
pub(crate) struct Name(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let name = param(parts, state, "name").await?;
        validate_name(&name).map_err(Problem::invalid)?;
        Ok(Self(name))
    }
}

async fn param<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, Problem> {
    let refused = |text: String| Problem::malformed(name, text, "see /docs for the addresses");
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|error| refused(error.body_text()))?;
    let value = params
        .iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned());
    value.ok_or_else(|| refused("it is missing".to_owned()))
}

/// The query string.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        const REMEDY: &str = "see /docs for the parameters of this address";
        if parts.uri.query().is_some_and(|query| query.contains("%00")) {
            return Err(Problem::malformed("query", "it holds a NUL", "remove it"));
        }
        let read: Result<axum::extract::Query<T>, QueryRejection> = axum::extract::Query::try_from_uri(&parts.uri);
        read.map(|query| Self(query.0)).map_err(|error| {
            // axum's words are "Failed to deserialize query string: FIELD: PROBLEM".
            let text = error.body_text();
            let words = text.split_once(": ").map_or(text.as_str(), |(_, words)| words);
            let (field, problem) = words.split_once(": ").unwrap_or(("query", words));
            Problem::malformed(field, problem, REMEDY)
        })
    }
}

/// The `Last-Event-ID` of a client that reconnects. An empty one counts as none.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| Problem::malformed("Last-Event-ID", "it is not text", "send the `id` of an event"))?;
    Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
}
