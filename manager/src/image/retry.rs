//! How requests to registries fail, and which of them are worth another try.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use oci_client::Reference;
use oci_client::errors::{OciDistributionError, OciErrorCode};

use super::away::{Away, Part};
use super::error::{BuildError, BuildFault};

/// Tries again, a few times over some seconds, while the other side does not answer or fails itself. Not when it has taken a
/// long time to find that out, or was asked for patience: then the build as a whole waits.
pub(crate) async fn while_unreachable<T, F>(request: impl FnMut() -> F) -> Result<T, BuildError>
where
    F: Future<Output = Result<T, BuildError>>,
{
    after(Duration::from_millis(250), request).await
}

async fn after<T, F>(delay: Duration, request: impl FnMut() -> F) -> Result<T, BuildError>
where
    F: Future<Output = Result<T, BuildError>>,
{
    let delays = ExponentialBuilder::default()
        .with_jitter()
        .with_min_delay(delay)
        .with_max_delay(Duration::from_secs(5))
        .with_max_times(4);
    request
        .retry(delays)
        .when(|error| {
            error
                .away
                .as_ref()
                .is_some_and(|away| !away.silent && away.asked.is_zero())
        })
        .await
}

/// Bounds a request: the client below has no limit for a whole one.
pub(crate) async fn within<T>(
    limit: Duration,
    host: &str,
    request: impl Future<Output = Result<T, BuildError>>,
) -> Result<T, BuildError> {
    let late = |_| {
        let mut error = unreachable(host, &format!("no answer within {} s", limit.as_secs()));
        error.away.iter_mut().for_each(|away| away.silent = true);
        Err(error)
    };
    tokio::time::timeout(limit, request).await.unwrap_or_else(late)
}

/// The registry does not answer, or fails itself.
pub(crate) fn unreachable(host: &str, why: &str) -> BuildError {
    let part = Part::Registry(host.to_owned());
    BuildError::new(
        BuildFault::Unreachable,
        format!("{part} cannot be reached: {why}"),
        "Check the registry and the way to it; it is tried again.",
    )
    .for_want_of(Away::new(part))
}

/// The registry answered, and said no.
pub(crate) fn refused(host: &str, why: &str) -> BuildError {
    let remedy = "The operator has to check the registry's address, user and password.";
    BuildError::new(
        BuildFault::Refused,
        format!("the registry {host} says no: {why}"),
        remedy,
    )
}

/// By an HTTP status and what came with it.
pub(crate) fn status_error(host: &str, status: u16, message: &str) -> BuildError {
    let message: String = message.chars().take(300).collect();
    let why = format!("status {status} {}", message.trim());
    if status >= 500 || matches!(status, 408 | 429) {
        unreachable(host, &why)
    } else {
        refused(host, &why)
    }
}

/// Causes as well: reqwest's own words are only `error sending request`.
pub(crate) fn request_error(host: &str, error: reqwest::Error) -> BuildError {
    let error = error.without_url();
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        why = format!("{why}: {inner}");
        cause = inner.source();
    }
    unreachable(host, &why)
}

/// Whether the manifest is simply not there.
pub(crate) fn is_absent(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) | OciDistributionError::ServerError { code: 404, .. } => {
            true
        }
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|error| {
            matches!(
                error.code,
                OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
            )
        }),
        _ => false,
    }
}

/// The client's errors, folded.
pub(crate) fn oci_error(reference: &Reference, error: OciDistributionError) -> BuildError {
    let host = reference.registry();
    match error {
        OciDistributionError::RequestError(error) => match error.status() {
            Some(status) => status_error(host, status.as_u16(), ""),
            None => request_error(host, error),
        },
        OciDistributionError::ServerError { code, message, .. } => status_error(host, code, &message),
        OciDistributionError::RegistryError { envelope, .. } => {
            let busy = envelope
                .errors
                .iter()
                .any(|error| matches!(error.code, OciErrorCode::Toomanyrequests));
            let why = format!("{}: {envelope}", reference.whole());
            if busy {
                unreachable(host, &why)
            } else {
                refused(host, &why)
            }
        }
        OciDistributionError::UnauthorizedError { .. } => {
            refused(host, "user and password are not taken, or are missing")
        }
        OciDistributionError::IoError(error) => unreachable(host, &error.to_string()),
        // A cut answer has another digest.
        OciDistributionError::DigestError(error) => unreachable(host, &error.to_string()),
        other => refused(host, &other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_apart() {
        for (status, fault) in [
            (500, BuildFault::Unreachable),
            (503, BuildFault::Unreachable),
            (429, BuildFault::Unreachable),
            (408, BuildFault::Unreachable),
            (401, BuildFault::Refused),
            (404, BuildFault::Refused),
            (413, BuildFault::Refused),
        ] {
            assert_eq!(status_error("h", status, "").fault, fault, "{status}");
        }
    }

    #[tokio::test]
    async fn only_what_may_pass_is_tried_again() {
        let tries = std::cell::Cell::new(0);
        let count = |error: BuildError| {
            tries.set(tries.get() + 1);
            async move { Err::<(), _>(error) }
        };
        after(Duration::from_millis(1), || count(unreachable("h", "x")))
            .await
            .unwrap_err();
        assert_eq!(tries.replace(0), 5);
        after(Duration::from_millis(1), || count(refused("h", "x")))
            .await
            .unwrap_err();
        assert_eq!(tries.replace(0), 1);
        let busy = || {
            let away = Away::new(Part::Registry("h".into())).asking(Some("9"));
            unreachable("h", "x").for_want_of(away)
        };
        after(Duration::from_millis(1), || count(busy())).await.unwrap_err();
        assert_eq!(tries.get(), 1);
        let late = within(Duration::from_millis(10), "h", std::future::pending::<Result<(), _>>())
            .await
            .unwrap_err();
        assert!(late.away.is_some_and(|away| away.silent));
    }
}
