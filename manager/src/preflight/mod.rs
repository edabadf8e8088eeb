//! `octopus-manager preflight`: what a cluster lacks, told before functions run on it.
//!
//! Looking ([`probe`], [`rights`]) and judging ([`judge`]) are apart: what was seen goes into pure functions that know the
//! words and the remedies.

mod judge;
mod probe;
mod rights;

use std::io::Write as _;
use std::process::ExitCode;

use chrono::{DateTime, SubsecRound, Utc};
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use futures::future::BoxFuture;
use octopus_shared::db::{self, report};
use octopus_shared::function::{Source, SourceFormat};
use octopus_shared::preflight::{Finding, FindingStatus, Preflight};
use sqlx::PgPool;
use uuid::Uuid;

use self::probe::{Probe, Probed};
use self::rights::{FORBIDDEN, NEEDED, Places};
use crate::cluster::token::Claims;
use crate::cluster::{Cluster, ClusterError};
use crate::config::Config;
use crate::context::image_settings;
use crate::image::{BuildError, BuildLog, Builder, CachedLayer, LayerCache};

/// What `preflight` asks for: the settings with which the manager is to run.
#[derive(Clone, Debug, Args)]
pub struct PreflightArgs {
    /// The settings.
    #[command(flatten)]
    pub config: Config,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// All that one preflight found out.
#[derive(Debug)]
struct Outcome {
    version: Option<String>,
    policy_enforced: Option<bool>,
    findings: Vec<Finding>,
}

/// Looks, stores and prints. The exit status is 1 when anything is an error.
pub async fn run(arguments: &PreflightArgs) -> ExitCode {
    let config = &arguments.config;
    let (pool, database) = database(config).await;
    let mut outcome = look(config, pool.as_ref()).await;
    outcome.findings.insert(0, database);
    let preflight = Preflight {
        // As exactly as Postgres keeps it: what is printed is what is shown later.
        at: Utc::now().trunc_subsecs(6),
        findings: outcome.findings,
    };
    if let Some(pool) = &pool {
        let stored = report::report_preflight(
            pool,
            &config.cluster,
            outcome.version.as_deref(),
            outcome.policy_enforced,
            &preflight,
        );
        if let Err(error) = stored.await {
            tracing::error!(error = %error, "the API does not show this preflight: it could not be stored");
        }
    }
    let text = if arguments.json {
        serde_json::to_string_pretty(&preflight).unwrap_or_default()
    } else {
        table(&preflight.findings)
    };
    let printed = writeln!(std::io::stdout(), "{text}");
    let failed = preflight
        .findings
        .iter()
        .any(|finding| finding.status == FindingStatus::Error);
    if failed || printed.is_err() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Postgres, if it can be used.
async fn database(config: &Config) -> (Option<PgPool>, Finding) {
    let connect = async {
        let pool = db::pool(&config.database_url, 2).map_err(|error| error.to_string())?;
        let installed = db::claim::installation(&pool).await;
        installed.map(|_| pool).map_err(|error| error.to_string())
    };
    match connect.await {
        Ok(pool) => (Some(pool), judge::database(None)),
        Err(why) => (None, judge::database(Some(&why))),
    }
}

async fn look(config: &Config, pool: Option<&PgPool>) -> Outcome {
    tracing::info!(kubeconfig = %config.kubeconfig.display(), "asking the API server");
    // Nothing of a preflight belongs to an installation: the reconciler never sees it.
    let cluster = match Cluster::connect(config, Uuid::nil(), DateTime::UNIX_EPOCH).await {
        Ok(cluster) => cluster,
        Err(error) => {
            return Outcome {
                version: None,
                policy_enforced: None,
                findings: vec![judge::no_cluster(&error)],
            };
        }
    };
    let (rights, pod_security, quota, (inside, policy_enforced)) = tokio::join!(
        reviewed(config, &cluster),
        pod_security(&cluster),
        quota(&cluster),
        inside(config, &cluster, pool),
    );
    let mut findings = vec![judge::version(&cluster.version, cluster.minor, config.user_namespaces)];
    findings.extend(rights);
    findings.push(pod_security);
    findings.push(quota);
    findings.extend(inside);
    Outcome {
        version: Some(cluster.version.clone()),
        policy_enforced,
        findings,
    }
}

async fn reviewed(config: &Config, cluster: &Cluster) -> [Finding; 2] {
    let claims = cluster.found.as_ref().and_then(|found| Claims::of(&found.token));
    let places = Places {
        functions: config.namespace.clone(),
        builds: config.build_namespace.clone().filter(|name| !name.is_empty()),
        account: claims.map(|claims| (claims.namespace, claims.account)),
    };
    let asked = futures::future::try_join(
        rights::review(cluster, &places, &NEEDED),
        rights::review(cluster, &places, &FORBIDDEN),
    );
    match asked.await {
        Ok((needed, forbidden)) => [judge::needed(&needed), judge::forbidden(&forbidden)],
        Err(error) => ["rights", "forbidden_rights"].map(|check| unanswered(check, &error)),
    }
}

async fn pod_security(cluster: &Cluster) -> Finding {
    match probe::privileged_refused(cluster).await {
        Ok(refused) => judge::pod_security(refused.as_deref()),
        Err(error) => unanswered("pod_security", &error),
    }
}

async fn quota(cluster: &Cluster) -> Finding {
    match cluster.quotas().await {
        Ok(quotas) => judge::quota(&quotas),
        Err(error) => unanswered("quota", &error),
    }
}

/// What needs an image in the registry and pods in the cluster.
async fn inside(config: &Config, cluster: &Cluster, pool: Option<&PgPool>) -> (Vec<Finding>, Option<bool>) {
    const NEEDS_POD: [&str; 4] = ["network_policy", "process_limit", "inotify", "gpu"];
    let stopped = |why: &str| NEEDS_POD.map(|check| judge::unknown(check, why, "mend what the other findings name"));
    let mut skews = Vec::new();
    if let Ok(time) = cluster.clock().await {
        skews.push(("API server", seconds(time - Utc::now())));
    }
    if let Some(pool) = pool
        && let Ok(time) = report::clock(pool).await
    {
        skews.push(("Postgres", seconds(time - Utc::now())));
    }
    tracing::info!(registry = %config.registry_push, "pushing the probe's image");
    let image = match image(config).await {
        Ok(image) => image,
        Err(error) => {
            let mut findings = vec![
                judge::registry_push(Some((&error.problem, &error.remedy))),
                judge::unknown("registry_pull", "there is no image to pull", "mend registry_push"),
            ];
            findings.extend(stopped("no pod could be run"));
            findings.push(judge::clock(&skews));
            return (findings, None);
        }
    };
    let probe = Probe {
        cluster,
        image: &image,
        id: Uuid::new_v4(),
    };
    tracing::info!(namespace = %cluster.namespace, "looking from inside of a pod");
    let (seen, gpu) = tokio::join!(probe.look(), probe.gpu());
    probe.clear().await;

    let mut findings = vec![judge::registry_push(None)];
    let gpu = judge::gpu(&gpu, &config.gpu_resource);
    let mut enforced = None;
    match seen {
        Probed::Seen(inside, skew) => {
            skews.push(("node", skew));
            let (policy, seen) = judge::network_policy(&inside);
            enforced = seen;
            findings.push(judge::registry_pull(None));
            findings.push(policy);
            findings.push(judge::process_limit(&inside));
            findings.push(judge::inotify(&inside, config.followed_logs));
            findings.push(gpu);
        }
        Probed::NotStarted(why) => {
            findings.push(judge::registry_pull(Some(&why)));
            findings.extend(stopped("no pod could be run"));
        }
        Probed::Failed(why) => {
            findings.push(judge::unknown(
                "registry_pull",
                &why,
                "mend what the other findings name, and repeat it",
            ));
            findings.extend(stopped(&why));
        }
    }
    findings.push(judge::clock(&skews));
    (findings, enforced)
}

/// The probe, as any function is built: what stops it would stop functions too.
async fn image(config: &Config) -> Result<String, BuildError> {
    let settings = image_settings(config).map_err(|error| BuildError::machine("the settings", error))?;
    let builder = Builder::new(settings)?;
    let source = Source {
        format: SourceFormat::PythonFile,
        content: probe::PROGRAM.as_bytes().into(),
    };
    let plan = builder.plan(&source).await?;
    let built = builder.build(&plan, &Nothing, None, &Nothing).await?;
    Ok(builder.pull_reference(&built.repository, &built.digest))
}

/// The probe has no dependencies and nobody reads its build log.
struct Nothing;

impl LayerCache for Nothing {
    fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Option<CachedLayer>> {
        Box::pin(std::future::ready(None))
    }

    fn put<'a>(&'a self, _: &'a str, _: &'a CachedLayer) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl BuildLog for Nothing {
    fn line(&self, text: &str) {
        tracing::debug!("{text}");
    }
}

fn unanswered(check: &str, error: &ClusterError) -> Finding {
    judge::unknown(
        check,
        error.to_string(),
        "mend what the other findings name, and repeat it",
    )
}

#[expect(clippy::cast_precision_loss, reason = "differences of clocks are small")]
fn seconds(difference: chrono::TimeDelta) -> f64 {
    difference.num_milliseconds() as f64 / 1000.0
}

fn table(findings: &[Finding]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["CHECK", "STATUS", "FOUND", "REMEDY"]);
    for finding in findings {
        table.add_row([
            finding.check.as_str(),
            finding.status.as_str(),
            finding.found.as_str(),
            finding.remedy.as_str(),
        ]);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_check() {
        let text = table(&[
            Finding::ok("version", "v1.33.1"),
            Finding::new("quota", FindingStatus::Warning, "none", "set one"),
        ]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines,
            [
                vec!["CHECK", "STATUS", "FOUND", "REMEDY"],
                vec!["version", "ok", "v1.33.1"],
                vec!["quota", "warning", "none", "set", "one"],
            ]
        );
    }
}
