//! `octopus-api migrate`: what `sqlx migrate run` does, and the two logins of a deployment.

use std::str::FromStr;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

use crate::Failure;
use crate::config::Migrate;

/// Every migration, embedded.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

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
    MIGRATIONS.run(&mut connection).await?;
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
    let made = sqlx::raw_sql(
        "do $$
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
         $$",
    )
    .execute(&mut *connection)
    .await;
    sqlx::query!("select set_config('octopus.password', '', false) as word")
        .fetch_one(connection)
        .await?;
    made.map(|_| ())
}
