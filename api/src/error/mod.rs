//! Problem documents (RFC 9457): every answer that is not a success.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use octopus_shared::db::enqueue::EnqueueError;
use octopus_shared::db::view::{Token, TokenRole};
use octopus_shared::error::Invalid;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

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

/// A problem, on its way to becoming an answer.
#[derive(Debug)]
pub struct Problem {
    kind: Kind,
    detail: String,
    remedy: Option<String>,
    errors: Vec<Invalid>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Problem {
    /// A problem of a kind.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            remedy: None,
            errors: Vec::new(),
            cause: None,
        }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Refused fields.
    pub fn invalid(errors: Vec<Invalid>) -> Self {
        let detail = errors
            .iter()
            .map(|error| format!("{}: {}", error.field, error.problem))
            .collect::<Vec<_>>()
            .join("; ");
        Self {
            errors,
            ..Self::new(Kind::INVALID_INPUT, detail)
        }
    }

    /// One refused part of the address or the headers.
    pub fn malformed(field: &str, problem: impl Into<String>, remedy: &str) -> Self {
        let error = Invalid::new(field, problem, remedy);
        Self {
            errors: vec![error.clone()],
            ..Self::new(Kind::MALFORMED_REQUEST, error.to_string())
        }
    }

    /// A thing that is not there.
    pub fn not_found(what: impl Into<String>, remedy: &str) -> Self {
        Self::new(Kind::NOT_FOUND, what).remedy(remedy)
    }

    /// A body above its limit.
    pub fn too_large(limit: usize) -> Self {
        let error = Invalid::new(
            "body",
            format!("it is longer than {limit} bytes"),
            "models and data belong on a volume",
        );
        Self {
            errors: vec![error],
            ..Self::new(Kind::TOO_LARGE, format!("the limit of this address is {limit} bytes"))
        }
    }

    pub(crate) fn unauthenticated(detail: &str) -> Self {
        Self::new(Kind::UNAUTHENTICATED, detail)
            .remedy("send `Authorization: Bearer TOKEN`; `octopus-api token create` makes one")
    }

    pub(crate) fn forbidden(token: &Token, needed: TokenRole) -> Self {
        let detail = format!(
            "this needs the role {}, and `{}` is {}",
            needed.as_str(),
            token.name,
            token.role.as_str()
        );
        Self::new(Kind::FORBIDDEN, detail).remedy(format!("use a token of the role {}", needed.as_str()))
    }

    /// Names of the refused fields.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.errors.iter().map(|error| error.field.as_str())
    }

    /// A failure of the server's own. What it was is logged and not shown.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(Kind::INTERNAL, "the server's log says more, under this instance")
        }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if is_away(&error) {
            let problem =
                Self::new(Kind::UNAVAILABLE, "the database cannot be reached").remedy("try again in a few seconds");
            return Self {
                cause: Some(error.into()),
                ..problem
            };
        }
        // Text with a NUL, which no column can hold.
        if matches!(
            error.as_database_error().and_then(|e| e.code()).as_deref(),
            Some("22021" | "22P05")
        ) {
            return Self::new(Kind::INVALID_INPUT, "a text holds a NUL").remedy("remove it");
        }
        Self::internal(error)
    }
}

fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        // Connection exceptions, too many connections, the server starting or shutting down.
        sqlx::Error::Database(database) => database
            .code()
            .is_some_and(|code| code.starts_with("08") || code.starts_with("57P") || code.starts_with("53")),
        _ => false,
    }
}

impl From<EnqueueError> for Problem {
    fn from(error: EnqueueError) -> Self {
        let with = |kind, detail, remedy| Self {
            remedy,
            ..Self::new(kind, detail)
        };
        match error {
            EnqueueError::Invalid(errors) => Self::invalid(errors),
            EnqueueError::NotFound { message, remedy } => with(Kind::NOT_FOUND, message, remedy),
            EnqueueError::Conflict { message, remedy } => with(Kind::CONFLICT, message, remedy),
            EnqueueError::KeyReused => Self::new(Kind::KEY_REUSED, "it was used with another method, address or body")
                .remedy("use a fresh key for each request, and the same key only to repeat it"),
            EnqueueError::Database(error) => error.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Kind(status, id, title) = self.kind;
        let instance = self.cause.map(|cause| {
            let instance = Uuid::new_v4();
            tracing::error!(problem = id, %instance, error = %cause, "a request failed");
            instance.urn().to_string()
        });
        let document = ProblemDocument {
            kind: format!("urn:octopus:problem:{id}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail,
            remedy: self.remedy,
            errors: self.errors,
            instance,
        };
        let mut response = Response::new(Body::from(serde_json::to_vec(&document).unwrap_or_default()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}
