//! Functions and their revisions.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

/// A function in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FunctionSummary {
    /// Its name.
    pub name: String,
    /// The cluster whose managers build and run it.
    pub cluster: String,
    /// When it was first declared.
    pub created_at: DateTime<Utc>,
    /// Number of its newest revision.
    pub revision: i32,
    /// How far the image of the newest revision is: `pending`, `building`, `ready` or `failed`.
    pub build_state: String,
    /// Its processes that are not gone.
    pub live_processes: i64,
}

/// A function and its revisions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FunctionView {
    /// Its name.
    pub name: String,
    /// The cluster whose managers build and run it.
    pub cluster: String,
    /// When it was first declared.
    pub created_at: DateTime<Utc>,
    /// Its newest hundred revisions, the newest first.
    pub revisions: Vec<RevisionView>,
}

/// One immutable version of a function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevisionView {
    /// Its id.
    pub id: Uuid,
    /// Counts from 1 within the function.
    pub number: i32,
    /// Its settings, as they were declared.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::function::FunctionSpec))]
    pub spec: Value,
    /// SHA-256 of its source.
    pub source_sha256: String,
    /// How its source is packed.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::function::SourceFormat))]
    pub source_format: String,
    /// `pending`, `building`, `ready` or `failed`.
    pub build_state: String,
    /// Stable id of why the build failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_reason: Option<String>,
    /// The same for people, with the line of the source where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_message: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_remedy: Option<String>,
    /// The image, as repository and digest without a host, once it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Compressed bytes of all of the image's layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size_bytes: Option<i64>,
    /// The function's own `config_str`, parsed, once it is built.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub config: Option<Value>,
    /// When it was declared.
    pub created_at: DateTime<Utc>,
    /// When its build ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub built_at: Option<DateTime<Utc>>,
}

/// Every function that is not deleted, by name: up to `limit` of those after `after`.
///
/// # Errors
/// When Postgres is away.
pub async fn functions(pool: &PgPool, after: Option<&str>, limit: i64) -> Result<Vec<FunctionSummary>, sqlx::Error> {
    sqlx::query_as!(
        FunctionSummary,
        r#"select f.name as "name!", f.cluster as "cluster!", f.created_at as "created_at!", f.last_revision as "revision!",
                  r.build_state as "build_state!",
                  (select count(*) from process p where p.function_name = f.name and p.cluster = f.cluster
                                                    and p.lifecycle < 'gone') as "live_processes!"
             from function f join revision r on r.function_name = f.name and r.number = f.last_revision
            where f.deleted_at is null and ($1::text is null or f.name > $1)
            order by f.name
            limit $2"#,
        after,
        limit
    )
    .fetch_all(pool)
    .await
}

/// One function that is not deleted.
///
/// # Errors
/// When Postgres is away.
pub async fn function(pool: &PgPool, name: &str) -> Result<Option<FunctionView>, sqlx::Error> {
    let found = sqlx::query!(
        "select name, cluster, created_at from function where name = $1 and deleted_at is null",
        name
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = found else { return Ok(None) };
    let revisions = revisions(pool, name).await?;
    Ok(Some(FunctionView {
        name: row.name,
        cluster: row.cluster,
        created_at: row.created_at,
        revisions,
    }))
}

async fn revisions(pool: &PgPool, function: &str) -> Result<Vec<RevisionView>, sqlx::Error> {
    sqlx::query_as!(
        RevisionView,
        r#"select r.id as "id!", r.number as "number!", r.spec as "spec!", r.build_state as "build_state!",
                  r.created_at as "created_at!", encode(r.bundle, 'hex') as "source_sha256!", b.format as "source_format!",
                  r.build_reason, r.build_message, r.build_remedy,
                  i.repository || '@' || i.digest as image, i.size_bytes as "image_size_bytes?", r.config, r.built_at
             from revision r join bundle b on b.sha256 = r.bundle left join image i on i.input_hash = r.image
            where r.function_name = $1
            order by r.number desc
            limit 100"#,
        function
    )
    .fetch_all(pool)
    .await
}

/// What the build of a revision has printed.
#[derive(Clone, Debug)]
pub struct BuildLog {
    /// The revision.
    pub revision: Uuid,
    /// How often it was begun: with each try of the build it begins anew.
    pub attempt: i32,
    /// Lines, each after its time.
    pub text: String,
    /// How many lines of a long one were left out.
    pub dropped: i64,
    /// Whether the image was made, once the build is over.
    pub succeeded: Option<bool>,
    /// When it was over.
    pub built_at: Option<DateTime<Utc>>,
}

/// What the build of a revision has printed. None: there is no such revision.
///
/// # Errors
/// When Postgres is away.
pub async fn build_log(pool: &PgPool, function: &str, number: i32) -> Result<Option<BuildLog>, sqlx::Error> {
    let row = sqlx::query!(
        "select id, build_attempt, build_state, build_log, build_log_dropped, built_at from revision
          where function_name = $1 and number = $2",
        function,
        number
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| BuildLog {
        revision: row.id,
        attempt: row.build_attempt,
        text: row.build_log.unwrap_or_default(),
        dropped: row.build_log_dropped,
        succeeded: match row.build_state.as_str() {
            "ready" => Some(true),
            "failed" => Some(false),
            _ => None,
        },
        built_at: row.built_at,
    }))
}
