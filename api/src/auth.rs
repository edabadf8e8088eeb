//! Who asks, and whether they may. A revoked token is refused at once: requests that read look their token up, and what others
//! ask for is stored by a statement that looks it up.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use moka::future::Cache;
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
    let sha256 = sha256(bearer);
    let remembered = match request.method().is_safe() {
        true => None,
        false => app.tokens.get(&sha256).await,
    };
    let token = match remembered {
        Some(token) => token,
        None => {
            let token = view::token(&app.pool, &sha256)
                .await?
                .ok_or_else(Problem::invalid_token)?;
            app.tokens.remember(sha256, token).await
        }
    };
    request.extensions_mut().insert(Bearer { sha256, token });
    Ok(next.run(request).await)
}

/// Whose token a request carries.
#[derive(Clone, Debug)]
pub(crate) struct Bearer {
    /// What is stored of the token.
    pub(crate) sha256: [u8; 32],
    /// Who uses it, and for what.
    pub(crate) token: Arc<Token>,
}

/// Whose tokens were seen lately. Name and role of a token never change; whether it still holds is not remembered.
#[derive(Clone, Debug)]
pub struct Tokens(Cache<[u8; 32], Arc<Token>>);

impl Default for Tokens {
    fn default() -> Self {
        Self(
            Cache::builder()
                .max_capacity(10_000)
                .time_to_live(Duration::from_secs(60))
                .build(),
        )
    }
}

impl Tokens {
    async fn get(&self, sha256: &[u8; 32]) -> Option<Arc<Token>> {
        self.0.get(sha256).await
    }

    async fn remember(&self, sha256: [u8; 32], token: Token) -> Arc<Token> {
        let token = Arc::new(token);
        self.0.insert(sha256, token.clone()).await;
        token
    }
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
pub(crate) fn bearer(parts: &Parts) -> Result<&Bearer, Problem> {
    parts
        .extensions
        .get()
        .ok_or_else(|| Problem::unauthenticated("the request carries no bearer token"))
}

fn demand(parts: &Parts, needed: TokenRole) -> Result<(), Problem> {
    let token = &bearer(parts)?.token;
    if token.role >= needed {
        Ok(())
    } else {
        Err(Problem::forbidden(token, needed))
    }
}
