//! A problem, from where it is found to the answer.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use octopus_shared::db::view::{Token, TokenRole};
use octopus_shared::error::Invalid;
use uuid::Uuid;

use super::{Kind, ProblemDocument};
use crate::Failure;

/// A problem, on its way to becoming an answer.
#[derive(Debug)]
pub struct Problem(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: Kind,
    detail: String,
    remedy: Option<String>,
    errors: Vec<Invalid>,
    cause: Option<Failure>,
}

impl Problem {
    /// A problem of a kind.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            kind,
            detail: detail.into(),
            remedy: None,
            errors: Vec::new(),
            cause: None,
        }))
    }

    /// Says what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// Adds what is logged and not shown.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<Failure>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    fn errors(mut self, errors: Vec<Invalid>) -> Self {
        self.0.errors = errors;
        self
    }

    /// Refused fields.
    pub fn invalid(errors: Vec<Invalid>) -> Self {
        let words: Vec<_> = errors
            .iter()
            .map(|error| format!("{}: {}", error.field, error.problem))
            .collect();
        Self::new(Kind::INVALID_INPUT, words.join("; ")).errors(errors)
    }

    /// One refused part of the address or the headers.
    pub fn malformed(field: &str, problem: impl Into<String>, remedy: &str) -> Self {
        let error = Invalid::new(field, problem, remedy);
        Self::new(Kind::MALFORMED_REQUEST, error.to_string()).errors(vec![error])
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
        Self::new(Kind::TOO_LARGE, format!("the limit of this address is {limit} bytes")).errors(vec![error])
    }

    /// A failure of the server's own. What it was is logged and not shown.
    pub fn internal(cause: impl Into<Failure>) -> Self {
        Self::new(Kind::INTERNAL, "the server's log says more, under this instance").cause(cause)
    }

    pub(crate) fn unauthenticated(detail: &str) -> Self {
        Self::new(Kind::UNAUTHENTICATED, detail)
            .remedy("send `Authorization: Bearer TOKEN`; `octopus-api token create` makes one")
    }

    /// 401: what came as a token is none, or none any more.
    pub(crate) fn invalid_token() -> Self {
        Self::unauthenticated("the bearer token is unknown, expired or revoked")
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

    /// The refused fields.
    pub fn refused(&self) -> &[Invalid] {
        &self.0.errors
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Parts {
            kind: Kind(status, id, title),
            detail,
            remedy,
            errors,
            cause,
        } = *self.0;
        // Logged once, here: whoever found it only passed it on.
        let instance = cause.map(|cause| {
            let instance = Uuid::new_v4();
            tracing::error!(problem = id, %instance, error = %cause, "a request failed");
            instance.urn().to_string()
        });
        let document = ProblemDocument {
            kind: format!("urn:octopus:problem:{id}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail,
            remedy,
            errors,
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
