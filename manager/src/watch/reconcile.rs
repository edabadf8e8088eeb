//! Rows against objects, both ways. Objects whose process is gone are removed, after a grace and within bounds; a process
//! whose objects have vanished is shown as failed. An object without any row means a wrong database: then nothing is done.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use octopus_shared::db::report;
use octopus_shared::process::Lifecycle;
use uuid::Uuid;

use super::Watching;
use crate::cluster::ClusterError;
use crate::cluster::found::{Found, Kind};

const EVERY: Duration = Duration::from_secs(10);
/// A pass that would remove more than this many objects, and more than a tenth of what it sees, removes none.
const FEW: usize = 5;

pub(super) async fn run(watching: &Watching) {
    loop {
        count_drift(watching).await;
        if let Err(error) = pass(watching).await {
            tracing::info!(error = %error, "a reconciling pass was not finished");
        }
        if !watching.sleep(EVERY).await {
            return;
        }
    }
}

/// How many processes are not seen as they are wanted, for alarms on what stays so.
async fn count_drift(watching: &Watching) {
    let counted = report::drift_counts(&watching.context.pool, &watching.watch.cluster).await;
    for (what, count) in watching.written(counted.map_err(Into::into)).unwrap_or_default() {
        metrics::gauge!("octopus_drift_processes", "what" => what).set(count as f64);
    }
}

async fn pass(watching: &Watching) -> Result<(), ClusterError> {
    let cluster = &watching.context.cluster;
    let found = cluster.found().await?;
    let ids: Vec<Uuid> = found
        .iter()
        .filter_map(|object| object.process)
        .collect::<HashSet<_>>()
        .into_iter()
        .collect();
    let mut rows = Vec::new();
    if !ids.is_empty() {
        let behind = report::rows_behind(&watching.context.pool, &ids).await;
        let Some(behind) = watching.written(behind.map_err(Into::into)) else {
            return Ok(());
        };
        rows = behind;
    }
    let rows: HashMap<Uuid, Lifecycle> = rows.into_iter().map(|row| (row.id, row.lifecycle)).collect();
    let grace =
        TimeDelta::seconds(i64::try_from(watching.context.config.orphan_grace_seconds).unwrap_or(i64::MAX / 1000));
    let unwanted = unwanted(&found, &rows, Utc::now(), grace);
    let halted = halted(&found, &unwanted, &rows, Utc::now() - grace, cluster.installed_at);
    let why = match &halted {
        None if found.is_empty() => strangers(&cluster.strangers().await?),
        why => why.clone(),
    };
    watching.context.health.set_halted(why.clone());
    if let Some(why) = &why {
        tracing::warn!(why, "reconciling is halted");
    }
    if halted.is_some() {
        return Ok(());
    }
    mark_vanished(watching, &found).await;
    for object in unwanted {
        tracing::info!(object.name = %object.name, object.kind = ?object.kind, "removing what no row wants");
        metrics::counter!("octopus_orphans_removed_total").increment(1);
        cluster.remove_found(&object).await?;
    }
    Ok(())
}

/// Processes that were created and have no object left, not even one that nobody had seen yet.
async fn mark_vanished(watching: &Watching, found: &[Found]) {
    let pool = &watching.context.pool;
    let grace = Duration::from_secs(watching.context.config.orphan_grace_seconds);
    let childless = report::childless(pool, &watching.watch.cluster, grace).await;
    for process in watching.written(childless.map_err(Into::into)).unwrap_or_default() {
        let held =
            |object: &Found| object.process == Some(process) && matches!(object.kind, Kind::Pod | Kind::Deployment);
        if !found.iter().any(held) {
            tracing::info!(process.id = %process, "its objects have vanished");
            let stored = report::vanished(pool, &watching.watch, process).await;
            watching.written(stored);
            watching.context.changes.announce(process);
        }
    }
}

/// Objects whose process is gone.
pub(crate) fn unwanted(
    found: &[Found],
    rows: &HashMap<Uuid, Lifecycle>,
    now: DateTime<Utc>,
    grace: TimeDelta,
) -> Vec<Found> {
    let is_unwanted = |object: &&Found| {
        let row = object.process.and_then(|id| rows.get(&id));
        row == Some(&Lifecycle::Gone) && now - object.created_at > grace
    };
    found.iter().filter(is_unwanted).cloned().collect()
}

/// Why nothing may be removed, if that is so. Rows of processes are never deleted, so an object of this installation
/// without one was made by a later state of the database: it was restored, or is not the right one.
fn halted(
    found: &[Found],
    unwanted: &[Found],
    rows: &HashMap<Uuid, Lifecycle>,
    settled: DateTime<Utc>,
    installed_at: DateTime<Utc>,
) -> Option<String> {
    let has_row = |object: &Found| object.process.is_some_and(|id| rows.contains_key(&id));
    let unknown: Vec<_> = found
        .iter()
        .filter(|object| !has_row(object) && object.created_at < settled)
        .collect();
    if let Some(first) = unknown.first() {
        return Some(format!(
            "{} objects, {} for one, have no row in this database: was it restored, or is it the wrong one?",
            unknown.len(),
            first.name
        ));
    }
    let weighty = |objects: &[Found]| {
        objects
            .iter()
            .filter(|object| object.kind != Kind::NetworkPolicy)
            .count()
    };
    let (few, all) = (weighty(unwanted), weighty(found));
    if few > FEW && few * 10 > all {
        return Some(format!(
            "{few} of {all} objects belong to processes that are gone: too many at once"
        ));
    }
    // Kubernetes cuts times to whole seconds: an object seems older than it is by up to one.
    let older = unwanted
        .iter()
        .find(|object| object.created_at + TimeDelta::seconds(1) < installed_at)?;
    Some(format!(
        "{} is older than this database: was it set up anew?",
        older.name
    ))
}

/// What it says where nothing is of this database, and something of another one. Nothing would be removed anyway.
fn strangers(deployments: &[String]) -> Option<String> {
    let first = deployments.first()?;
    Some(format!(
        "{} deployments, {first} for one, belong to another database, and nothing to this one: is it the wrong one?",
        deployments.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn found(process: Option<Uuid>, age_seconds: i64) -> Found {
        Found {
            kind: Kind::Pod,
            name: "hello".into(),
            uid: "u".into(),
            process,
            created_at: now() - TimeDelta::seconds(age_seconds),
            wish: None,
            replicas: None,
        }
    }

    #[test]
    fn only_what_no_row_wants_is_unwanted_and_only_after_the_grace() {
        let (live, gone) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let rows = [(live, Lifecycle::Created), (gone, Lifecycle::Gone)].into();
        for (name, object, expected) in [
            ("wanted", found(Some(live), 100), false),
            ("its process is gone", found(Some(gone), 100), true),
            ("its process is gone, but it is young", found(Some(gone), 10), false),
            ("no such process", found(Some(Uuid::from_u128(3)), 100), false),
            ("no process at all", found(None, 100), false),
        ] {
            let removed = unwanted(&[object], &rows, now(), TimeDelta::seconds(60));
            assert_eq!(!removed.is_empty(), expected, "{name}");
        }
    }

    #[test]
    fn a_wrong_database_removes_nothing() {
        let (gone, unknown) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let rows: HashMap<_, _> = [(gone, Lifecycle::Gone)].into();
        let settled = now() - TimeDelta::seconds(60);
        let long_ago = now() - TimeDelta::days(1);
        let orphans = |count| vec![found(Some(gone), 100); count];
        let check =
            |all: &[Found], unwanted: &[Found], installed_at| halted(all, unwanted, &rows, settled, installed_at);
        assert_eq!(check(&orphans(5), &orphans(5), long_ago), None);
        assert_eq!(check(&orphans(100), &orphans(6), long_ago), None);
        assert!(
            check(&orphans(50), &orphans(6), long_ago).is_some(),
            "more than a tenth"
        );
        assert!(
            check(&orphans(100), &orphans(1), now()).is_some(),
            "the database is younger than the object"
        );
        assert!(
            check(&[found(Some(unknown), 100)], &[], long_ago).is_some(),
            "an object without a row"
        );
        assert!(
            check(&[found(None, 100)], &[], long_ago).is_some(),
            "an object without a process"
        );
        assert_eq!(
            check(&[found(Some(unknown), 10)], &[], long_ago),
            None,
            "too young to tell"
        );
    }
}
