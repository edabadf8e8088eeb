//! One call to the API server: its time limit, and why it failed.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::cluster::patience;

/// No call to the API server takes longer; logs and watches have idle limits of their own.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The API server refused: asking again would not help.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// The API server's words.
        message: String,
    },
    /// The API server did not answer, or asked for patience.
    #[error("the API server does not answer: {0}")]
    Away(String),
    /// The API server asked for patience.
    #[error("the API server is busy: {message}")]
    Busy {
        /// The API server's words.
        message: String,
        /// What it asked for.
        after: Duration,
    },
    /// An object of that name exists and is not what was to be created.
    #[error("an object named {0} exists and is not ours")]
    NameTaken(String),
    /// A later claim has changed the object.
    #[error("a later command has changed {0}")]
    Overtaken(String),
    /// The kubeconfig cannot be used.
    #[error("{0}")]
    Kubeconfig(String),
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code < 500 && status.code != 429 => Self::Refused {
                code: status.code,
                message: status.message,
            },
            kube::Error::Api(status) if patience::asked(&status).is_some() => Self::Busy {
                after: patience::asked(&status).unwrap_or_default(),
                message: status.message,
            },
            kube::Error::Api(status) => Self::Away(format!("{} {}", status.code, status.message)),
            other => Self::Away(other.to_string()),
        }
    }
}

/// A call, within its time limit.
pub(crate) async fn limited<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ClusterError> {
    let started = Instant::now();
    let answer = match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer.map_err(ClusterError::from),
        Err(_) => Err(ClusterError::Away(format!(
            "no answer within {} s",
            CALL_LIMIT.as_secs()
        ))),
    };
    let ending = match &answer {
        Ok(_) => "ok",
        Err(ClusterError::Refused { .. }) => "refused",
        Err(_) => "away",
    };
    metrics::histogram!("octopus_cluster_call_seconds", "ending" => ending).record(started.elapsed());
    answer
}
