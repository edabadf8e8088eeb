//! Whether the tables are those that this release works with.

use sqlx::PgPool;

/// The newest migration that this release needs. A later one is made so that earlier releases go on working.
pub const SCHEMA: i64 = 35;

/// What is to be done about a schema that is too old. None: it is not.
///
/// # Errors
/// When Postgres is away.
pub async fn outdated(pool: &PgPool) -> Result<Option<String>, sqlx::Error> {
    let readable = sqlx::query_scalar!(
        r#"select coalesce(has_table_privilege(to_regclass('_sqlx_migrations'), 'select'), false) as "readable!""#
    )
    .fetch_one(pool)
    .await?;
    let found = if readable {
        let newest = sqlx::query_scalar!("select max(version) from _sqlx_migrations where success");
        newest.fetch_one(pool).await?.unwrap_or_default()
    } else {
        0
    };
    let remedy = || format!("the database has schema {found}, this release needs {SCHEMA}: run `octopus-api migrate`");
    Ok((found < SCHEMA).then(remedy))
}
