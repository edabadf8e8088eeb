//! Builds of revisions: their source, their image, their failure.

use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::{ReportError, claimed};
use crate::db::claim::Claim;
use crate::function::{Entry, FunctionSpec, SourceFormat};

/// What a build starts from.
#[derive(Clone, Debug)]
pub struct BuildSource {
    /// The function.
    pub function: String,
    /// `pending`, `building`, `ready` or `failed`.
    pub build_state: String,
    /// Why it failed, if it did.
    pub build_message: Option<String>,
    /// Its settings.
    pub spec: FunctionSpec,
    /// How the source is packed.
    pub format: SourceFormat,
    /// The source.
    pub content: Vec<u8>,
}

/// The source of a revision.
///
/// # Errors
/// When Postgres is away, or the row was written by a release that this one does not understand.
pub async fn build_source(pool: &PgPool, revision: Uuid) -> Result<BuildSource, sqlx::Error> {
    let row = sqlx::query!(
        "select r.function_name, r.build_state, r.build_message, r.spec, b.format, b.content
           from revision r join bundle b on b.sha256 = r.bundle where r.id = $1",
        revision
    )
    .fetch_one(pool)
    .await?;
    Ok(BuildSource {
        function: row.function_name,
        build_state: row.build_state,
        build_message: row.build_message,
        spec: serde_json::from_value(row.spec).map_err(|error| sqlx::Error::Decode(error.into()))?,
        format: SourceFormat::parse(&row.format).ok_or_else(|| sqlx::Error::Decode("unknown source format".into()))?,
        content: row.content,
    })
}

/// Shows that a build has begun.
///
/// # Errors
/// [`ReportError`].
pub async fn build_started(pool: &PgPool, claim: &Claim, revision: Uuid) -> Result<(), ReportError> {
    let mut transaction = claimed(pool, claim).await?;
    sqlx::query!(
        "update revision set build_state = 'building' where id = $1 and build_state = 'pending'",
        revision
    )
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// Stores what a build has printed so far, and how many lines of it were left out. `begins`: nothing was stored of it before.
///
/// # Errors
/// [`ReportError`].
pub async fn build_printed(
    pool: &PgPool,
    claim: &Claim,
    revision: Uuid,
    (log, dropped, begins): (&str, i64, bool),
) -> Result<(), ReportError> {
    let mut transaction = claimed(pool, claim).await?;
    sqlx::query!(
        "update revision set build_log = $2, build_log_dropped = $3, build_attempt = build_attempt + $4::bool::integer
          where id = $1 and build_state = 'building'",
        revision,
        log,
        dropped,
        begins
    )
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// Shows why a build that has begun does not get on. What is known already is not written again.
///
/// # Errors
/// [`ReportError`].
pub async fn build_stands(
    pool: &PgPool,
    claim: &Claim,
    revision: Uuid,
    (reason, message, remedy): (&str, &str, &str),
) -> Result<(), ReportError> {
    let mut transaction = claimed(pool, claim).await?;
    sqlx::query!(
        "update revision set build_reason = $2, build_message = $3, build_remedy = $4
          where id = $1 and build_state = 'building' and (build_reason, build_message) is distinct from ($2, $3)",
        revision,
        reason,
        message,
        remedy
    )
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// An image that was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltImage {
    /// Hash of everything that went into it.
    pub input_hash: String,
    /// Repository without a host.
    pub repository: String,
    /// Manifest digest.
    pub digest: String,
    /// Manifest digest of the base image.
    pub base_digest: String,
    /// Compressed bytes of all layers.
    pub size_bytes: i64,
}

/// Stores the image and lets go what waited for it.
///
/// # Errors
/// [`ReportError`].
pub async fn build_succeeded(
    pool: &PgPool,
    claim: &Claim,
    revision: Uuid,
    image: &BuiltImage,
    (config, entry): (Option<&Value>, &Entry),
    log: &str,
) -> Result<(), ReportError> {
    let entry = serde_json::to_value(entry).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let mut transaction = claimed(pool, claim).await?;
    sqlx::query!(
        "insert into image (input_hash, repository, digest, base_digest, size_bytes) values ($1, $2, $3, $4, $5)
         on conflict do nothing",
        image.input_hash,
        image.repository,
        image.digest,
        image.base_digest,
        image.size_bytes
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "update revision set build_state = 'ready', image = $2, config = $3, entry = $4, build_log = $5, built_at = now(),
                build_reason = null, build_message = null, build_remedy = null
          where id = $1",
        revision,
        image.input_hash,
        config,
        entry,
        log
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "update command_ready set waits_for = null, run_at = now() where waits_for = $1",
        revision
    )
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// Ends a build for good, and with it everything that waited for its image.
///
/// # Errors
/// [`ReportError`].
pub async fn build_failed(
    pool: &PgPool,
    claim: &Claim,
    revision: Uuid,
    (reason, message, remedy): (&str, &str, &str),
    log: &str,
) -> Result<(), ReportError> {
    let mut transaction = claimed(pool, claim).await?;
    sqlx::query!(
        "select fail_revision($1, $2, $3, $4, $5)",
        revision,
        reason,
        message,
        remedy,
        log
    )
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// A dependency layer that was pushed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedLayer {
    /// Digest of the compressed blob.
    pub digest: String,
    /// Digest of the uncompressed tar.
    pub diff_id: String,
    /// Compressed bytes.
    pub size_bytes: i64,
}

/// Looks a layer up.
///
/// # Errors
/// When Postgres is away.
pub async fn layer(pool: &PgPool, key: &str) -> Result<Option<CachedLayer>, sqlx::Error> {
    sqlx::query_as!(
        CachedLayer,
        "select digest, diff_id, size_bytes from image_layer where key = $1",
        key
    )
    .fetch_optional(pool)
    .await
}

/// Remembers a layer. Content-addressed, so it needs no fence.
///
/// # Errors
/// When Postgres is away.
pub async fn put_layer(pool: &PgPool, key: &str, layer: &CachedLayer) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into image_layer (key, digest, diff_id, size_bytes) values ($1, $2, $3, $4) on conflict do nothing",
        key,
        layer.digest,
        layer.diff_id,
        layer.size_bytes
    )
    .execute(pool)
    .await?;
    Ok(())
}
