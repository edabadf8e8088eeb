//! Names, labels and annotations: how objects say whose they are. One place makes them and one place reads them.

use std::collections::BTreeMap;

use chrono::SecondsFormat;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use octopus_shared::db::report::ProcessRow;
use octopus_shared::reason::{self, Reason};
use octopus_shared::shard;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The installation that an object belongs to.
pub const INSTALLATION: &str = "octopus-process-manager/installation";
/// The process that an object was made for.
pub const PROCESS: &str = "octopus-process-manager/process";
/// The function, for people and for network policies.
pub const FUNCTION: &str = "octopus-process-manager/function";
/// Number of the revision.
pub const REVISION: &str = "octopus-process-manager/revision";
/// Shard of the process ([`octopus_shared::shard`]): which of the cluster's managers watches a pod.
pub const SHARD: &str = "octopus-process-manager/shard";
/// Attempt that a pod was made for.
pub const ATTEMPT: &str = "octopus-process-manager/attempt";
/// `service` or `task`.
pub const KIND: &str = "octopus-process-manager/kind";
/// Pods that may call other functions: k8s/networkpolicy.yaml lets them.
pub const CALLS_FUNCTIONS: &str = "octopus-process-manager/calls-functions";
/// Hash of the object as we made it. Where it differs and the wish ([`wish_of`]) does not, our template or an operator's setting
/// has changed, and nothing that a user asked for.
pub const SPEC_HASH: &str = "octopus-process-manager/spec-hash";
/// Route that set a function up before its pod was ready: an annotation of the pods of services that have one.
pub const SET_UP: &str = "octopus-process-manager/set-up";
/// Who may connect to a process and where it may connect to, as text: an annotation of its NetworkPolicy.
pub const REACH: &str = "octopus-process-manager/reach";
/// When the restart was asked for that an object or a pod belongs to.
pub const RESTARTED_AT: &str = "octopus-process-manager/restarted-at";
/// Fencing token of the claim that last changed an object: an earlier claim changes it no more.
pub const FENCE: &str = "octopus-process-manager/fence";
/// When a kill lowered the deadline of a pod.
pub const STOPPING_SINCE: &str = "octopus-process-manager/stopping-since";
/// Why nobody waits any longer for the image of a task's pod: `<reason>: <words>`. It is deleted next.
pub const GIVEN_UP: &str = "octopus-process-manager/given-up";
/// Kubernetes' own recommended label.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value on everything we make.
pub const MANAGER: &str = "octopus-manager";

/// Labels of every object of a process.
pub fn labels(installation: Uuid, process: &ProcessRow) -> BTreeMap<String, String> {
    [
        (MANAGED_BY, MANAGER.to_owned()),
        ("app.kubernetes.io/name", process.function.clone()),
        (INSTALLATION, installation.to_string()),
        (PROCESS, process.id.to_string()),
        (FUNCTION, process.function.clone()),
        (REVISION, process.revision.to_string()),
        (SHARD, shard::of(process.id).to_string()),
        (KIND, process.spec.kind.as_str().to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// Selects everything of an installation.
pub fn of_installation(installation: Uuid) -> String {
    format!("{INSTALLATION}={installation}")
}

/// Selects the pods of shards. One without the label, made before there were shards, is of the first one.
pub fn of_shards(installation: Uuid, shards: &[i16]) -> String {
    let named = |shards: Vec<i16>| shards.iter().map(i16::to_string).collect::<Vec<_>>().join(",");
    let others: Vec<i16> = (0..shard::COUNT).filter(|shard| !shards.contains(shard)).collect();
    let ours = of_installation(installation);
    match (shards.contains(&0), others.is_empty()) {
        (_, true) => ours,
        (true, false) => format!("{ours},{SHARD} notin ({})", named(others)),
        (false, false) => format!("{ours},{SHARD} in ({})", named(shards.to_vec())),
    }
}

/// Selects everything of other installations.
pub fn of_others(installation: Uuid) -> String {
    format!("{INSTALLATION},{INSTALLATION}!={installation}")
}

/// Selects everything of a process.
pub fn of_process(installation: Uuid, process: Uuid) -> String {
    format!("{INSTALLATION}={installation},{PROCESS}={process}")
}

/// The process that an object says it was made for.
pub fn process_of(metadata: &ObjectMeta) -> Option<Uuid> {
    metadata.labels.as_ref()?.get(PROCESS)?.parse().ok()
}

/// The shard that a pod says it is of; the first one without a word.
pub fn shard_of(metadata: &ObjectMeta) -> i16 {
    let shard = metadata.labels.as_ref().and_then(|labels| labels.get(SHARD));
    shard.and_then(|shard| shard.parse().ok()).unwrap_or_default()
}

/// The attempt that a pod says it was made for; pods of services have none and count as the first.
pub fn attempt_of(metadata: &ObjectMeta) -> i32 {
    let attempt = metadata.labels.as_ref().and_then(|labels| labels.get(ATTEMPT));
    attempt.and_then(|attempt| attempt.parse().ok()).unwrap_or(1)
}

/// What was wanted of its process when an object or a pod was made ([`octopus_shared::service::wish`]).
pub fn wish_of(metadata: &ObjectMeta) -> Option<String> {
    let revision = metadata.labels.as_ref()?.get(REVISION)?;
    let restart = metadata.annotations.as_ref().and_then(|all| all.get(RESTARTED_AT));
    Some(match restart {
        Some(at) => format!("{revision}/{at}"),
        None => revision.clone(),
    })
}

/// Hash of an object as a release made it.
pub fn hash_of(metadata: &ObjectMeta) -> Option<String> {
    metadata.annotations.as_ref()?.get(SPEC_HASH).cloned()
}

/// The newest claim that changed an object; 0 for one that is as it was created.
pub fn fence_of(metadata: &ObjectMeta) -> i64 {
    let fence = metadata.annotations.as_ref().and_then(|all| all.get(FENCE));
    fence.and_then(|token| token.parse().ok()).unwrap_or_default()
}

/// The annotation of a restarted process.
pub fn restart(process: &ProcessRow) -> Option<(String, String)> {
    let at = process.restarted_at?;
    Some((RESTARTED_AT.to_owned(), at.to_rfc3339_opts(SecondsFormat::Micros, true)))
}

/// `service` or `task`, as a pod says it.
pub fn kind_of(metadata: &ObjectMeta) -> Option<&str> {
    metadata.labels.as_ref()?.get(KIND).map(String::as_str)
}

/// The route that set a pod's function up before it was ready.
pub fn set_up_of(metadata: &ObjectMeta) -> Option<&str> {
    metadata.annotations.as_ref()?.get(SET_UP).map(String::as_str)
}

/// Why a pod was given up, and the words.
pub fn given_up(metadata: &ObjectMeta) -> Option<(Reason, &str)> {
    let (id, words) = metadata.annotations.as_ref()?.get(GIVEN_UP)?.split_once(": ")?;
    let reason = reason::OF_IMAGES.into_iter().find(|reason| reason.id == id)?;
    Some((reason, words))
}

/// Whether an object is of this installation.
pub fn is_ours(metadata: &ObjectMeta, installation: Uuid) -> bool {
    metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(INSTALLATION))
        .is_some_and(|id| *id == installation.to_string())
}

/// The hash for [`SPEC_HASH`], over an object's JSON without that annotation.
pub fn spec_hash(object: &impl serde::Serialize) -> Result<String, serde_json::Error> {
    Ok(hex::encode(&Sha256::digest(serde_json::to_vec(object)?)[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_leave_no_pod_out() {
        let selected = |shards: &[i16]| {
            let all = of_shards(Uuid::nil(), shards);
            all.replace(&of_installation(Uuid::nil()), "ours")
                .replace(SHARD, "shard")
        };
        let all: Vec<i16> = (0..shard::COUNT).collect();
        assert_eq!(selected(&all), "ours");
        assert_eq!(selected(&all[1..3]), "ours,shard in (1,2)");
        assert_eq!(selected(&all[..10]), "ours,shard notin (10,11)");
    }
}
