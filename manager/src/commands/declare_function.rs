//! Builds the image of a revision, unless the same input was built before.

use std::sync::Mutex;

use chrono::{SecondsFormat, Utc};
use octopus_shared::db::claim::{Claim, Outcome};
use octopus_shared::db::report::{self, BuiltImage};
use octopus_shared::function::{Entry, Source};
use octopus_shared::reason;

use super::{Ending, Obstacle, subject};
use crate::context::{Context, LayerRows};
use crate::image::{BuildError, BuildLog};

/// A registry or an index that is away is asked again this often.
const MAX_ATTEMPTS: i32 = 8;
/// Bytes of a build log that are kept: the end.
const MAX_LOG_BYTES: usize = 256 << 10;

pub(super) async fn carry_out(context: &Context, claim: &Claim) -> Result<Ending, Obstacle> {
    let revision = subject(claim.revision_id)?;
    let row = report::build_source(&context.pool, revision).await?;
    if matches!(row.build_state.as_str(), "ready" | "failed") {
        // An earlier holder of this command stored the end of the build, but not that of the command.
        return Ok(match row.build_state.as_str() {
            "ready" => Ending::SUCCEEDED,
            _ => Ending::failed(reason::IMAGE_BUILD_FAILED, row.build_message.unwrap_or_default()),
        });
    }
    report::build_started(&context.pool, claim, revision).await?;
    let log = Log::default();
    let source = Source {
        format: row.format,
        content: row.content,
    };
    match build(context, &source, &log).await {
        Ok((image, config, entry)) => {
            log.line(&format!("image {}@{}", image.repository, image.digest));
            report::build_succeeded(
                &context.pool,
                claim,
                revision,
                &image,
                (config.as_ref(), &entry),
                &log.text(),
            )
            .await?;
            Ok(Ending::SUCCEEDED)
        }
        Err(error) if error.is_retryable() && claim.attempts < MAX_ATTEMPTS => Ok(Ending::retry(claim, error)),
        Err(error) => {
            let (why, message, remedy) = (error.fault.as_str(), error.to_string(), error.remedy);
            log.line(&message);
            report::build_failed(&context.pool, claim, revision, (why, &message, &remedy), &log.text()).await?;
            Ok(Ending::Done(Outcome::Failed {
                reason: why.into(),
                message,
                remedy,
            }))
        }
    }
}

async fn build(
    context: &Context,
    source: &Source,
    log: &Log,
) -> Result<(BuiltImage, Option<serde_json::Value>, Entry), BuildError> {
    let plan = context.builder.plan(source).await?;
    let config = plan
        .config
        .as_ref()
        .and_then(|config| serde_json::to_value(config).ok());
    let built = context
        .builder
        .build(&plan, &LayerRows(context.pool.clone()), context.wheels(), log)
        .await?;
    let image = BuiltImage {
        input_hash: plan.input_hash.clone(),
        repository: built.repository,
        digest: built.digest,
        base_digest: built.base_digest,
        size_bytes: i64::try_from(built.size_bytes).unwrap_or(i64::MAX),
    };
    Ok((image, config, plan.entry))
}

/// Collects the build log, with times.
#[derive(Default)]
struct Log(Mutex<String>);

impl Log {
    /// The end of it.
    fn text(&self) -> String {
        let text = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let start = text.len().saturating_sub(MAX_LOG_BYTES);
        let start = (start..text.len())
            .find(|index| text.is_char_boundary(*index))
            .unwrap_or(text.len());
        // Postgres' text has no NUL.
        text[start..].replace('\0', "\u{fffd}")
    }
}

impl BuildLog for Log {
    fn line(&self, line: &str) {
        let mut text = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        text.push_str(&format!("{at} {line}\n"));
    }
}
