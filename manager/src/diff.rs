//! `octopus-manager diff`: rows against objects, for a person. With `--apply` it removes what the reconciler holds back.

use std::collections::HashMap;
use std::io::Write as _;
use std::process::ExitCode;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use octopus_shared::db::report::{self, Drift, Wanted};
use octopus_shared::db::{self};
use octopus_shared::process::{Lifecycle, ProcessKind};
use serde::Serialize;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::cluster::found::{Found, Kind};
use crate::config::Config;

/// What `diff` asks for: the settings with which the manager runs.
#[derive(Clone, Debug, Args)]
pub struct DiffArgs {
    /// The settings.
    #[command(flatten)]
    pub config: Config,
    /// Remove the objects that are shown as extra, as they were when they were looked at.
    #[arg(long)]
    pub apply: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// One thing that is not as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Difference {
    /// `missing`, `extra`, `different` or `stuck`.
    what: String,
    /// Kind of the object, or `Process`.
    kind: String,
    name: String,
    process: Option<Uuid>,
    words: String,
    /// Whether it was removed.
    removed: bool,
}

/// Looks, removes where that was asked for, and prints. The exit status is 1 when anything is left that is not as it is wanted.
///
/// # Errors
/// When Postgres or the cluster does not answer.
pub async fn run(arguments: &DiffArgs) -> Result<ExitCode, String> {
    let config = &arguments.config;
    let words = |error: &dyn std::error::Error| error.to_string();
    let pool = db::pool(&config.database_url, 2).map_err(|error| words(&error))?;
    let (installation, installed_at) = db::claim::installation(&pool).await.map_err(|error| words(&error))?;
    let cluster = Cluster::connect(config, installation, installed_at).await;
    let cluster = cluster.map_err(|error| words(&error))?;
    // The objects first: a process that is made meanwhile has its row.
    let found = cluster.found().await.map_err(|error| words(&error))?;
    let named: Vec<Uuid> = found.iter().filter_map(|object| object.process).collect();
    let rows = report::wanted(&pool, &config.cluster, &named).await;
    let rows = rows.map_err(|error| words(&error))?;
    let drift = report::drift(&pool, &config.cluster)
        .await
        .map_err(|error| words(&error))?;
    let now = report::clock(&pool).await.map_err(|error| words(&error))?;
    let grace = TimeDelta::seconds(i64::try_from(config.orphan_grace_seconds).unwrap_or(i64::MAX / 1000));
    let extra = extra(&found, &rows, now, grace);
    let mut all = Vec::new();
    for (object, why) in &extra {
        let removed = arguments.apply;
        if removed {
            cluster.remove_found(object).await.map_err(|error| words(&error))?;
            tracing::info!(object.name = %object.name, object.kind = ?object.kind, "removed");
        }
        all.push(Difference {
            removed,
            ..difference("extra", object, why.clone())
        });
    }
    all.extend(misses(&found, &rows));
    all.extend(drift.into_iter().map(of_row));
    let text = if arguments.json {
        serde_json::to_string_pretty(&all).unwrap_or_default()
    } else {
        table(&all)
    };
    writeln!(std::io::stdout(), "{text}").map_err(|error| words(&error))?;
    Ok(if all.iter().all(|one| one.removed) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn difference(what: &str, object: &Found, words: String) -> Difference {
    Difference {
        what: what.into(),
        kind: format!("{:?}", object.kind),
        name: object.name.clone(),
        process: object.process,
        words,
        removed: false,
    }
}

/// Objects that no row wants: those of processes that are gone, and those that no row explains. Young ones may be on their way.
fn extra(found: &[Found], rows: &[Wanted], now: DateTime<Utc>, grace: TimeDelta) -> Vec<(Found, String)> {
    let rows: HashMap<Uuid, &Wanted> = rows.iter().map(|row| (row.id, row)).collect();
    let settled = found.iter().filter(|object| now - object.created_at > grace);
    settled
        .filter_map(|object| {
            let why = match object.process.and_then(|id| rows.get(&id)) {
                None => "no row of this database explains it",
                Some(row) if row.lifecycle == Lifecycle::Gone => "its process is gone",
                Some(_) => return None,
            };
            Some((object.clone(), why.to_owned()))
        })
        .collect()
}

/// Services whose Deployment is not there or is not the one that is wanted. What a newer release would make of the same wish
/// is no difference.
fn misses(found: &[Found], rows: &[Wanted]) -> Vec<Difference> {
    let mut all = Vec::new();
    let services = rows
        .iter()
        .filter(|row| row.kind == ProcessKind::Service && row.lifecycle == Lifecycle::Created && !row.killed);
    for row in services {
        let of_row = |object: &&Found| object.kind == Kind::Deployment && object.process == Some(row.id);
        let Some(deployment) = found.iter().find(of_row) else {
            all.push(Difference {
                what: "missing".into(),
                kind: "Deployment".into(),
                name: row.name.clone(),
                process: Some(row.id),
                words: "its process runs, and the cluster has none".into(),
                removed: false,
            });
            continue;
        };
        let wish = deployment.wish.as_deref().unwrap_or_default();
        if wish != row.wish {
            let words = format!("revision and restart {wish} instead of {}", row.wish);
            all.push(difference("different", deployment, words));
        }
        if deployment.replicas != Some(row.replicas) {
            let has = deployment.replicas.unwrap_or(1);
            let words = format!("{has} replicas instead of {}", row.replicas);
            all.push(difference("different", deployment, words));
        }
    }
    all
}

fn of_row(drift: Drift) -> Difference {
    let hand = if drift.in_hand {
        "; a command of it is under way"
    } else {
        ""
    };
    Difference {
        what: drift.what,
        kind: "Process".into(),
        name: drift.name,
        process: Some(drift.process),
        words: format!(
            "{}, since {}{hand}",
            drift.words,
            drift.since.format("%Y-%m-%d %H:%M:%S")
        ),
        removed: false,
    }
}

fn table(all: &[Difference]) -> String {
    if all.is_empty() {
        return "everything is as it is wanted".into();
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["WHAT", "KIND", "NAME", "WHY"]);
    for one in all {
        let what = if one.removed { "removed" } else { one.what.as_str() };
        table.add_row([what, one.kind.as_str(), one.name.as_str(), one.words.as_str()]);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn found(process: u128, age_seconds: i64, wish: &str, replicas: i32) -> Found {
        Found {
            kind: Kind::Deployment,
            name: format!("hello-{process}"),
            uid: "u".into(),
            process: Some(Uuid::from_u128(process)),
            created_at: now() - TimeDelta::seconds(age_seconds),
            wish: Some(wish.into()),
            replicas: Some(replicas),
        }
    }

    fn row(process: u128, lifecycle: Lifecycle) -> Wanted {
        Wanted {
            id: Uuid::from_u128(process),
            name: format!("hello-{process}"),
            kind: ProcessKind::Service,
            killed: false,
            lifecycle,
            wish: "2".into(),
            replicas: 1,
        }
    }

    #[test]
    fn only_what_no_row_wants_is_extra_and_only_after_the_grace() {
        let rows = [row(1, Lifecycle::Created), row(2, Lifecycle::Gone)];
        let grace = TimeDelta::seconds(60);
        for (name, object, expected) in [
            ("wanted", found(1, 100, "2", 1), None),
            (
                "its process is gone",
                found(2, 100, "2", 1),
                Some("its process is gone"),
            ),
            ("gone, but young", found(2, 10, "2", 1), None),
            (
                "unknown",
                found(3, 100, "2", 1),
                Some("no row of this database explains it"),
            ),
            ("unknown, but young", found(3, 10, "2", 1), None),
        ] {
            let extra = extra(&[object], &rows, now(), grace);
            assert_eq!(extra.first().map(|(_, why)| why.as_str()), expected, "{name}");
        }
    }

    #[test]
    fn a_deployment_is_as_it_is_wanted_or_says_what_is_not() {
        let created = [row(1, Lifecycle::Created)];
        let killed = [Wanted {
            killed: true,
            ..row(1, Lifecycle::Created)
        }];
        for (name, objects, rows, expected) in [
            ("as wanted", vec![found(1, 100, "2", 1)], &created, vec![]),
            (
                "missing",
                vec![],
                &created,
                vec!["missing: its process runs, and the cluster has none"],
            ),
            (
                "an earlier revision, and scaled by hand",
                vec![found(1, 100, "1", 3)],
                &created,
                vec![
                    "different: revision and restart 1 instead of 2",
                    "different: 3 replicas instead of 1",
                ],
            ),
            ("killed", vec![], &killed, vec![]),
        ] {
            let seen: Vec<String> = misses(&objects, rows)
                .iter()
                .map(|one| format!("{}: {}", one.what, one.words))
                .collect();
            assert_eq!(seen, expected, "{name}");
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_difference() {
        assert_eq!(table(&[]), "everything is as it is wanted");
        let removed = Difference {
            removed: true,
            ..difference("extra", &found(1, 1, "1", 1), "gone".into())
        };
        let text = table(&[removed, difference("different", &found(2, 1, "1", 1), "other".into())]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines,
            [
                vec!["WHAT", "KIND", "NAME", "WHY"],
                vec!["removed", "Deployment", "hello-1", "gone"],
                vec!["different", "Deployment", "hello-2", "other"],
            ]
        );
    }
}
