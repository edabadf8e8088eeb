//! Who a bearer token belongs to.

use serde::{Deserialize, Serialize};
use sqlx::PgPool;

/// A token that is valid now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Who uses it.
    pub name: String,
    /// What it allows.
    pub role: TokenRole,
}

/// What a token allows. Each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum TokenRole {
    /// Reads.
    Viewer,
    /// Also starts and kills processes and cancels commands.
    Operator,
    /// Also declares and deletes functions.
    Admin,
}

impl TokenRole {
    /// The spelling of the `role` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// The token with this SHA-256, when it is neither expired nor revoked by Postgres's clock.
///
/// # Errors
/// When Postgres is away.
pub async fn token(pool: &PgPool, sha256: &[u8]) -> Result<Option<Token>, sqlx::Error> {
    sqlx::query_as!(
        Token,
        r#"select name, role as "role: TokenRole" from api_token
            where sha256 = $1 and (expires_at is null or expires_at > now()) and (revoked_at is null or revoked_at > now())"#,
        sha256
    )
    .fetch_optional(pool)
    .await
}
