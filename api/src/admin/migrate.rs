//! `octopus-api migrate`: what `sqlx migrate run` does, and the two logins of a deployment.

use std::error::Error;
use std::str::FromStr;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

use crate::Failure;
use crate::config::Migrate;

/// Every migration, embedded.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Makes or alters the login that the session's settings name.
const MAKE_LOGIN: &str = "do $$
    declare
        login text := current_setting('octopus.login');
        word text := current_setting('octopus.password');
    begin
        if not exists (select from pg_roles where rolname = login) then
            execute format('create role %I', login);
        end if;
        execute format('alter role %I login password %L', login, word);
        execute format('grant %I to %I', current_setting('octopus.group'), login);
    end
    $$";

/// Tries at most. Of those that meet one succeeds each time, and the others have waited for it.
const TRIES: u32 = 100;

/// Applies the missing migrations, then sets the logins whose passwords are given.
///
/// # Errors
/// What stood against it.
pub async fn execute(config: Migrate) -> Result<(), Failure> {
    // Statements are never logged: one of them carries passwords.
    let mut connection = PgConnectOptions::from_str(&config.database.url)?
        .disable_statement_logging()
        .connect()
        .await?;
    migrate(&mut connection).await?;
    for (login, group, password) in [
        ("octopus_api_login", "octopus_api", config.api_password),
        ("octopus_manager_login", "octopus_manager", config.manager_password),
    ] {
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            set_login(&mut connection, login, group, &password).await?;
        }
    }
    Ok(())
}

/// Applies the missing migrations.
///
/// # Errors
/// What stood against it.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    again_when_met(async || Ok(MIGRATIONS.run(&mut *connection).await?)).await?;
    // Programs look whether the schema is one that they can work with.
    sqlx::raw_sql("grant select on _sqlx_migrations to octopus_api, octopus_manager")
        .execute(connection)
        .await?;
    Ok(())
}

/// Roles belong to the whole server, and every lock to one database: those who set up several databases at once may meet
/// at a role, and all but one of them fail.
async fn again_when_met(mut attempt: impl AsyncFnMut() -> Result<(), sqlx::Error>) -> Result<(), sqlx::Error> {
    for _ in 1..TRIES {
        match attempt().await {
            Err(error) if has_met(&error) => {}
            done => return done,
        }
    }
    attempt().await
}

fn has_met(error: &sqlx::Error) -> bool {
    let chain = std::iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source());
    let mut refusals = chain.filter_map(|error| error.downcast_ref::<sqlx::Error>()?.as_database_error());
    refusals.any(|refusal| match refusal.code().as_deref() {
        // No code of its own, and never translated.
        Some("XX000") => refusal.message().starts_with("tuple concurrently"),
        // The same role, or the same member of one, was made meanwhile.
        Some("23505") => refusal.constraint().is_some_and(|name| name.starts_with("pg_auth")),
        code => code == Some("40001"),
    })
}

/// Makes or alters a login in a group. The password travels as a parameter, is quoted by Postgres itself, and is in no
/// statement that the server would log.
///
/// # Errors
/// When the connected role may not make roles.
pub async fn set_login(
    connection: &mut PgConnection,
    login: &str,
    group: &str,
    password: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "select set_config('octopus.login', $1, false) as login, set_config('octopus.group', $2, false) as member_of,
                set_config('octopus.password', $3, false) as word",
        login,
        group,
        password
    )
    .fetch_one(&mut *connection)
    .await?;
    let made = again_when_met(async || {
        sqlx::raw_sql(MAKE_LOGIN).execute(&mut *connection).await?;
        Ok(())
    })
    .await;
    sqlx::query!("select set_config('octopus.password', '', false) as word")
        .fetch_one(connection)
        .await?;
    made
}

#[cfg(test)]
mod tests {
    use super::MIGRATIONS;

    #[test]
    fn programs_need_the_newest_schema() {
        let newest = MIGRATIONS.iter().map(|migration| migration.version).max();
        assert_eq!(newest, Some(octopus_shared::db::SCHEMA), "shared/src/db/schema.rs");
    }
}
