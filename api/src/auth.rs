//! Who asks, and whether they may. Each request looks its token up: a revoked one is refused at once.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use octopus_shared::db::view::{self, Token, TokenRole};
use sha2::{Digest, Sha256};

use crate::error::Problem;
use crate::state::App;

/// A new token: 32 random bytes, recognizable by its beginning to people and to scanners for leaked secrets.
pub fn fresh_token() -> String {
    format!("octopus_{}", hex::encode(rand::random::<[u8; 32]>()))
}

/// What is stored of a token.
pub fn sha256(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Lets a request through when it carries a valid bearer token, and tells the handlers whose it is.
///
/// # Errors
/// 401 without one.
pub(crate) async fn authenticate(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let bearer = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(bearer) = bearer else {
        return Err(Problem::unauthenticated("the request carries no bearer token"));
    };
    let Some(token) = view::token(&app.pool, &sha256(bearer)).await? else {
        return Err(Problem::unauthenticated(
            "the bearer token is unknown, expired or revoked",
        ));
    };
    request.extensions_mut().insert(token);
    Ok(next.run(request).await)
}

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident => $role:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name;

        impl<S: Sync> FromRequestParts<S> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
                demand(parts, $role).map(|()| Self)
            }
        }
    )*};
}

roles! {
    /// Only for those who may read.
    Viewer => TokenRole::Viewer;
    /// Only for those who may start and kill.
    Operator => TokenRole::Operator;
    /// Only for those who may declare and delete.
    Admin => TokenRole::Admin;
}

/// The token that a request was let through with.
pub(crate) fn token(parts: &Parts) -> Result<&Token, Problem> {
    parts
        .extensions
        .get()
        .ok_or_else(|| Problem::unauthenticated("the request carries no bearer token"))
}

fn demand(parts: &Parts, needed: TokenRole) -> Result<(), Problem> {
    let token = token(parts)?;
    if token.role >= needed {
        Ok(())
    } else {
        Err(Problem::forbidden(token, needed))
    }
}
