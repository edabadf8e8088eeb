//! Keeps the manager's token alive: it is renewed at half of its life, by a TokenRequest for its own account, which is all
//! that its role allows there. A newer token that somebody else wrote (another manager, `login`) is taken over.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cluster::token::{self, Claims, Found};
use crate::cluster::{Cluster, ClusterError};
use crate::config::Config;
use crate::context::Health;
use crate::session::jittered;

/// Between two looks at the file and the clock.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// What is to be done with a token.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing yet.
    Keep,
    /// Ask for the next one.
    Renew,
}

fn decide(claims: &Claims, now: DateTime<Utc>) -> Step {
    if now < claims.renew_at() {
        Step::Keep
    } else {
        Step::Renew
    }
}

/// What readiness says of a token that could not be renewed, if it has to say something. A server that is away says so
/// itself, as long as the token lives.
fn complaint(claims: &Claims, now: DateTime<Utc>, error: &ClusterError) -> Option<String> {
    let ends = claims.expires_at.format("%Y-%m-%d %H:%M:%S UTC");
    if claims.expires_at <= now {
        return Some(format!(
            "the manager's token expired at {ends} and could not be renewed ({error}): octopus-manager login makes a new one"
        ));
    }
    matches!(error, ClusterError::Refused { .. })
        .then(|| format!("the manager's token, which ends at {ends}, cannot be renewed: {error}; apply k8s/rbac.yaml"))
}

/// Renews until `over`. Ends at once when the cluster knows us by something else than a token that ends.
pub async fn run(config: Config, cluster: Cluster, health: Arc<Health>, over: CancellationToken) {
    let Some(found) = cluster.found.clone() else { return };
    let mut renewal = Renewal {
        claims: Claims::of(&found.token),
        found,
        config,
        cluster,
        health,
        told: false,
    };
    renewal.show();
    loop {
        renewal.look().await;
        tokio::select! { () = over.cancelled() => return, () = sleep(jittered(LOOK_EVERY)) => {} }
    }
}

struct Renewal {
    config: Config,
    cluster: Cluster,
    health: Arc<Health>,
    /// What the kubeconfig gave the last time: only a change of it is news.
    found: Found,
    /// Those of the token in use.
    claims: Option<Claims>,
    /// Whether it was said that tokens are kept in memory only.
    told: bool,
}

impl Renewal {
    async fn look(&mut self) {
        self.take_over().await;
        let Some(claims) = self.claims.clone() else { return };
        let now = Utc::now();
        if decide(&claims, now) == Step::Keep {
            self.health.set_token(None);
            return;
        }
        match self.renew(&claims).await {
            Ok(()) => self.health.set_token(None),
            Err(error) => {
                tracing::warn!(error = %error, token.expires_at = %claims.expires_at, "the token could not be renewed yet");
                self.health.set_token(complaint(&claims, now, &error));
            }
        }
    }

    async fn renew(&mut self, claims: &Claims) -> Result<(), ClusterError> {
        let seconds = self.config.token_seconds;
        let token = self
            .cluster
            .renew_token(&claims.namespace, &claims.account, seconds)
            .await?;
        self.cluster.bearer.set(&token)?;
        self.claims = Claims::of(&token);
        self.keep(token).await;
        self.show();
        Ok(())
    }

    /// Writes the renewed token where the first one came from, for the next start.
    async fn keep(&mut self, token: String) {
        let Some(file) = self.found.file.clone() else {
            return self.tell("the kubeconfig holds its token itself");
        };
        let (path, content) = (file.clone(), token.clone());
        match tokio::task::spawn_blocking(move || token::write(&path, &content)).await {
            Ok(Ok(())) => self.found.token = token,
            Ok(Err(error)) => self.tell(&format!("{}: {error}", file.display())),
            Err(error) => self.tell(&error.to_string()),
        }
    }

    fn tell(&mut self, why: &str) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                why,
                "renewed tokens are kept in memory only: a start after the first one has ended needs octopus-manager login"
            );
        }
    }

    /// A token that changed in the kubeconfig or its file since, and lives longer than ours.
    async fn take_over(&mut self) {
        let Ok((_, Some(found))) = token::read(&self.config.kubeconfig).await else {
            return;
        };
        if found == self.found {
            return;
        }
        let claims = Claims::of(&found.token);
        let ends = |claims: &Option<Claims>| claims.as_ref().map_or(DateTime::<Utc>::MAX_UTC, |all| all.expires_at);
        if ends(&claims) > ends(&self.claims) && self.cluster.bearer.set(&found.token).is_ok() {
            tracing::info!("another token was found in the kubeconfig");
            self.claims = claims;
            self.show();
        }
        self.found = found;
    }

    fn show(&self) {
        let Some(claims) = &self.claims else {
            tracing::info!("the token does not say when it ends: it is not renewed");
            return;
        };
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
        metrics::gauge!("octopus_token_expiry_timestamp_seconds").set(claims.expires_at.timestamp() as f64);
        tracing::info!(token.expires_at = %claims.expires_at, token.renew_at = %claims.renew_at(), "token in use");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            namespace: "n".into(),
            account: "a".into(),
            issued_at: at(1000),
            expires_at: at(1600),
        }
    }

    #[test]
    fn a_token_is_renewed_from_half_of_its_life_on() {
        for (now, step) in [
            (900, Step::Keep),
            (1299, Step::Keep),
            (1300, Step::Renew),
            (1599, Step::Renew),
            (9999, Step::Renew),
        ] {
            assert_eq!(decide(&claims(), at(now)), step, "{now}");
        }
    }

    #[test]
    fn readiness_tells_an_expired_token_from_a_server_that_is_away() {
        let refused = ClusterError::Refused {
            code: 403,
            message: "forbidden".into(),
        };
        let away = ClusterError::Away("no route".into());
        assert_eq!(complaint(&claims(), at(1400), &away), None);
        assert!(
            complaint(&claims(), at(1400), &refused)
                .unwrap()
                .contains("k8s/rbac.yaml")
        );
        assert!(complaint(&claims(), at(1600), &away).unwrap().contains("expired"));
    }
}
