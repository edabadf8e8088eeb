//! Builds the image of a revision, unless the same input was built before. While a registry or the package index is away it
//! is put off, however long that takes.

use std::time::Duration;

use octopus_shared::db::claim::{Claim, Outcome};
use octopus_shared::db::report::{self, BuiltImage};
use octopus_shared::function::{Entry, Source};
use octopus_shared::reason;
use tokio_util::sync::CancellationToken;

use super::build_log::Log;
use super::{Ending, Obstacle, subject};
use crate::context::{Context, LayerRows};
use crate::image::{BuildError, BuildLog, Supplies};

/// What may pass and is nobody's absence is tried this often.
const MAX_ATTEMPTS: i32 = 8;

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
    let over = CancellationToken::new();
    let building = async {
        let _over = over.clone().drop_guard();
        build(context, &source, &log).await
    };
    let (built, ()) = tokio::join!(building, log.keep_showing(context, claim, revision, &over));
    match built {
        Ok((image, config, entry)) => {
            log.line(&format!("image {}@{}", image.repository, image.digest));
            log.end();
            log.show(context, claim, revision).await?;
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
        Err(error) => {
            let next = next(&error, claim.attempts, context.builder.supplies());
            let (why, message, remedy) = (error.fault.as_str(), error.to_string(), error.remedy);
            if next != Next::Fail {
                // Shown as long as the build stands still.
                report::build_stands(&context.pool, claim, revision, (why, &message, &remedy)).await?;
            }
            match next {
                Next::PutOff(delay) => return Ok(Ending::wait(delay, message)),
                Next::Retry => return Ok(Ending::retry(claim, message)),
                Next::Fail => log.line(&message),
            }
            log.end();
            log.show(context, claim, revision).await?;
            report::build_failed(&context.pool, claim, revision, (why, &message, &remedy), &log.text()).await?;
            Ok(Ending::Done(Outcome::Failed {
                reason: why.into(),
                message,
                remedy,
            }))
        }
    }
}

/// What becomes of a build that has not ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It is nobody's fault and no attempt: a part is away.
    PutOff(Duration),
    /// It may pass.
    Retry,
    /// It is over.
    Fail,
}

fn next(error: &BuildError, attempts: i32, supplies: &Supplies) -> Next {
    match &error.away {
        Some(away) => Next::PutOff(supplies.missed(away, &error.to_string())),
        None if error.is_retryable() && attempts < MAX_ATTEMPTS => Next::Retry,
        None => Next::Fail,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Away, BuildFault, Part};

    #[test]
    fn who_is_away_is_waited_for_and_nothing_else_is_for_ever() {
        let away = |asked| Away {
            part: Part::Registry("h".into()),
            asked: Duration::from_secs(asked),
            silent: false,
        };
        let error = |fault, away: Option<Away>| {
            let error = BuildError::new(fault, "x", "y");
            match away {
                Some(away) => error.for_want_of(away),
                None => error,
            }
        };
        let put_off = |seconds| Next::PutOff(Duration::from_secs(seconds));
        for (name, error, attempts, expected) in [
            ("away", error(BuildFault::Unreachable, Some(away(0))), 0, put_off(1)),
            (
                "away for very long",
                error(BuildFault::Unreachable, Some(away(0))),
                1000,
                put_off(1),
            ),
            (
                "it asks for patience",
                error(BuildFault::Unreachable, Some(away(8))),
                0,
                put_off(10),
            ),
            (
                "an index of its own",
                error(BuildFault::Unreachable, None),
                7,
                Next::Retry,
            ),
            ("the same for long", error(BuildFault::Unreachable, None), 8, Next::Fail),
            ("the machine", error(BuildFault::Machine, None), 0, Next::Retry),
            ("the registry says no", error(BuildFault::Refused, None), 0, Next::Fail),
            ("the user", error(BuildFault::UnknownPackage, None), 0, Next::Fail),
        ] {
            assert_eq!(next(&error, attempts, &Supplies::default()), expected, "{name}");
        }
    }
}
