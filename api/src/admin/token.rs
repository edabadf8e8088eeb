//! `octopus-api token ...`: bearer tokens, stored as hashes.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use octopus_shared::db::view::TokenRole;
use sqlx::postgres::PgConnectOptions;
use sqlx::postgres::types::PgInterval;
use sqlx::{ConnectOptions, PgConnection};

use super::print;
use crate::Failure;
use crate::auth::{fresh_token, sha256};
use crate::config::{TokenAction, TokenCommand};

/// Carries out one of the token commands.
///
/// # Errors
/// What stood against it.
pub async fn execute(config: TokenCommand) -> Result<(), Failure> {
    let mut connection = PgConnectOptions::from_str(&config.database.url)?.connect().await?;
    match config.action {
        TokenAction::Create { name, role, expires_in } => {
            print(&create(&mut connection, &name, role, expires_in).await?)
        }
        TokenAction::List => print(&list(&mut connection).await?),
        TokenAction::Revoke { name } => revoke(&mut connection, &name).await,
    }
}

/// Makes a token and answers it: it cannot be read again.
///
/// # Errors
/// When the name is taken or malformed.
pub async fn create(
    connection: &mut PgConnection,
    name: &str,
    role: TokenRole,
    expires_in: Option<Duration>,
) -> Result<String, Failure> {
    let token = fresh_token();
    let lifetime = expires_in
        .map(|time| {
            i64::try_from(time.as_micros()).map(|microseconds| PgInterval {
                months: 0,
                days: 0,
                microseconds,
            })
        })
        .transpose()?;
    sqlx::query!(
        "insert into api_token (name, sha256, role, expires_at) values ($1, $2, $3, now() + $4)",
        name,
        &sha256(&token),
        role.as_str(),
        lifetime
    )
    .execute(connection)
    .await
    .map_err(|error| explain(error, name))?;
    Ok(token)
}

fn explain(error: sqlx::Error, name: &str) -> Failure {
    match error.as_database_error().and_then(|database| database.constraint()) {
        Some("api_token_live_name") => {
            format!("a token named `{name}` exists; revoke it first or choose another name").into()
        }
        Some("api_token_name_check") => {
            format!("`{name}` is no name: use letters, digits and `_.@-`, at most 63").into()
        }
        _ => error.into(),
    }
}

/// A table of all tokens.
///
/// # Errors
/// When Postgres is away.
pub async fn list(connection: &mut PgConnection) -> Result<String, Failure> {
    let rows = sqlx::query!(
        r#"select name, role, created_at, expires_at, revoked_at, expires_at <= now() as "expired!: Option<bool>"
             from api_token order by created_at, id"#
    )
    .fetch_all(connection)
    .await?;
    let mut table = format!(
        "{:<32} {:<9} {:<20} {:<20} state\n",
        "name", "role", "created", "expires"
    );
    for row in rows {
        let state = match (row.revoked_at, row.expired) {
            (Some(at), _) => format!("revoked {}", minute(at)),
            (None, Some(true)) => "expired".to_owned(),
            (None, _) => "valid".to_owned(),
        };
        let expires = row.expires_at.map_or_else(|| "never".to_owned(), minute);
        table += &format!(
            "{:<32} {:<9} {:<20} {:<20} {state}\n",
            row.name,
            row.role,
            minute(row.created_at),
            expires
        );
    }
    Ok(table)
}

fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%MZ").to_string()
}

/// Refuses a token from now on, in every API process.
///
/// # Errors
/// When no valid token has this name.
pub async fn revoke(connection: &mut PgConnection, name: &str) -> Result<(), Failure> {
    let revoked = sqlx::query!(
        "update api_token set revoked_at = now() where name = $1 and revoked_at is null",
        name
    )
    .execute(connection)
    .await?;
    match revoked.rows_affected() {
        0 => Err(format!("there is no token `{name}` that is not revoked").into()),
        _ => Ok(()),
    }
}
