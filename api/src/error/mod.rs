//! Problem documents (RFC 9457): every answer that is not a success.

mod from;
mod problem;

pub use problem::Problem;

use axum::http::StatusCode;
use octopus_shared::error::Invalid;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong and what to do about it, as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemDocument {
    /// Stable id of the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "urn:octopus:problem:invalid-input")]
    pub kind: String,
    /// The kind of problem, for people.
    pub title: String,
    /// The status code.
    pub status: u16,
    /// What is wrong with this very request.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Every field that was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Invalid>,
    /// Names this answer in the server's log, where that says more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// A kind of problem: status, stable id and title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(StatusCode, &'static str, &'static str);

macro_rules! kinds {
    ($($name:ident = $status:ident, $id:literal, $title:literal;)*) => {
        #[expect(missing_docs, reason = "the title says it")]
        impl Kind {
            $(pub const $name: Self = Self(StatusCode::$status, $id, $title);)*
        }
    };
}

kinds! {
    MALFORMED_REQUEST = BAD_REQUEST, "malformed-request", "The request cannot be read";
    UNAUTHENTICATED = UNAUTHORIZED, "unauthenticated", "A valid bearer token is needed";
    FORBIDDEN = FORBIDDEN, "forbidden", "The token does not allow this";
    NOT_FOUND = NOT_FOUND, "not-found", "There is no such thing";
    NO_ROUTE = NOT_FOUND, "no-route", "There is no such address";
    METHOD_NOT_ALLOWED = METHOD_NOT_ALLOWED, "method-not-allowed", "The address does not take this method";
    NOT_ACCEPTABLE = NOT_ACCEPTABLE, "not-acceptable", "None of the accepted formats can be had";
    CONFLICT = CONFLICT, "conflict", "The current state does not allow this";
    KEY_REUSED = CONFLICT, "idempotency-key-reused", "The Idempotency-Key belongs to another request";
    TOO_LARGE = PAYLOAD_TOO_LARGE, "too-large", "The body is too large";
    UNSUPPORTED_MEDIA_TYPE = UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body has a type that is not taken";
    INVALID_INPUT = UNPROCESSABLE_ENTITY, "invalid-input", "Fields of the request are refused";
    INTERNAL = INTERNAL_SERVER_ERROR, "internal", "The server failed";
    UNAVAILABLE = SERVICE_UNAVAILABLE, "unavailable", "Not available at the moment";
    TIMED_OUT = SERVICE_UNAVAILABLE, "timed-out", "The answer took too long";
}
