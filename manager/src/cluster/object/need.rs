//! What a function is given: environment, resources, volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, EnvVar, EnvVarSource, PersistentVolumeClaimVolumeSource, ResourceRequirements,
    SecretKeySelector, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use octopus_shared::db::report::ProcessRow;
use octopus_shared::env::EnvVar as Variable;
use octopus_shared::function::FunctionSpec;
use octopus_shared::resources::Limits;

/// Volume of `/tmp`.
pub(in crate::cluster) const SCRATCH: &str = "scratch";
/// Volume of `/dev/shm`.
pub(in crate::cluster) const SHARED_MEMORY: &str = "shm";
/// What a container's log may take on its node, in MiB, beside its scratch space. A kubelet keeps five files of 10 MiB, and
/// looks at their size only every 10 s: the other half is room for 5 MiB written in each of those seconds.
const LOG_ROOM_MIB: u32 = 100;

pub(super) fn limits(process: &ProcessRow) -> Limits {
    Limits::resolve(
        &process.spec.resources,
        &process.function_spec.resources,
        &process.device_map,
    )
}

/// Later ones win: what every function is given, the function's own, the process's own.
pub(super) fn environment(process: &ProcessRow) -> Vec<EnvVar> {
    let mut given = vec![
        Variable::plain("HOME", "/tmp"),
        Variable::plain("TMPDIR", "/tmp"),
        Variable::plain("XDG_CACHE_HOME", "/tmp/.cache"),
    ];
    // Models are downloaded once for all pods and revisions, where there is a place that outlives them.
    if let Some(volume) = process.function_spec.volumes.iter().find(|volume| !volume.read_only) {
        given.push(Variable::plain("HF_HOME", format!("{}/huggingface", volume.path)));
        given.push(Variable::plain("TORCH_HOME", format!("{}/torch", volume.path)));
    }
    let declared = process.function_spec.env.iter().chain(&process.spec.env).cloned();
    let merged: BTreeMap<String, EnvVar> = given
        .into_iter()
        .chain(declared)
        .map(|variable| (variable.name.clone(), variable_of(variable)))
        .collect();
    merged.into_values().collect()
}

/// A secret stays a reference: the node reads it when it makes the container, and nobody on the way there.
fn variable_of(variable: Variable) -> EnvVar {
    EnvVar {
        name: variable.name,
        value: variable.value,
        value_from: variable.from_secret.map(|secret| EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.name,
                key: secret.key,
                ..SecretKeySelector::default()
            }),
            ..EnvVarSource::default()
        }),
    }
}

pub(super) fn requirements(limits: &Limits, gpu_resource: &str) -> ResourceRequirements {
    let gpus = (limits.gpus > 0).then(|| (gpu_resource.to_owned(), Quantity(limits.gpus.to_string())));
    let quantities = |list: [(&str, &str); 3]| {
        let list = list.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())));
        Some(list.into_iter().chain(gpus.clone()).collect())
    };
    ResourceRequirements {
        limits: quantities([
            ("cpu", &limits.cpu),
            ("memory", &limits.memory),
            ("ephemeral-storage", &with_log_room(&limits.ephemeral_storage)),
        ]),
        // Without a request of its own, scratch space would be reserved at its limit.
        requests: quantities([
            ("cpu", &limits.cpu_request),
            ("memory", &limits.memory),
            ("ephemeral-storage", "16Mi"),
        ]),
        ..ResourceRequirements::default()
    }
}

/// Scratch space and [`LOG_ROOM_MIB`]: so that the limit of the whole is met by logs only, and that of `/tmp` by files.
fn with_log_room(scratch: &str) -> String {
    let mebibytes: Option<u64> = match scratch.strip_suffix("Gi") {
        Some(gibibytes) => gibibytes.parse().ok().and_then(|size: u64| size.checked_mul(1024)),
        None => scratch.strip_suffix("Mi").and_then(|mebibytes| mebibytes.parse().ok()),
    };
    match mebibytes.and_then(|size| size.checked_add(LOG_ROOM_MIB.into())) {
        Some(size) => format!("{size}Mi"),
        // Another unit is refused where functions are declared.
        None => scratch.to_owned(),
    }
}

pub(super) fn volumes(spec: &FunctionSpec, limits: &Limits) -> Vec<Volume> {
    let empty = |name: &str, medium: Option<&str>, size: &str| Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: Some(Quantity(size.to_owned())),
        }),
        ..Volume::default()
    };
    let claims = claims(spec).into_iter().enumerate().map(|(index, claim)| Volume {
        name: volume_name(index),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.into(),
            // Storage that many nodes may read is attached only when nobody in the pod writes.
            read_only: spec
                .volumes
                .iter()
                .all(|volume| volume.claim != claim || volume.read_only)
                .then_some(true),
        }),
        ..Volume::default()
    });
    [
        empty(SCRATCH, None, &limits.ephemeral_storage),
        empty(SHARED_MEMORY, Some("Memory"), &limits.shared_memory),
    ]
    .into_iter()
    .chain(claims)
    .collect()
}

pub(super) fn mounts(spec: &FunctionSpec) -> Vec<VolumeMount> {
    let mount = |name: String, path: &str, read_only: bool| VolumeMount {
        name,
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let claims = claims(spec);
    let declared = spec.volumes.iter().filter_map(|volume| {
        let index = claims.iter().position(|claim| *claim == volume.claim)?;
        Some(mount(volume_name(index), &volume.path, volume.read_only))
    });
    [
        mount(SCRATCH.into(), "/tmp", false),
        mount(SHARED_MEMORY.into(), "/dev/shm", false),
    ]
    .into_iter()
    .chain(declared)
    .collect()
}

/// Each claim once: it may be seen at several paths.
fn claims(spec: &FunctionSpec) -> Vec<&str> {
    let mut claims: Vec<&str> = Vec::new();
    for volume in &spec.volumes {
        if !claims.contains(&volume.claim.as_str()) {
            claims.push(&volume.claim);
        }
    }
    claims
}

/// Names of claims may be longer than names of volumes.
fn volume_name(index: usize) -> String {
    format!("volume-{index}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_have_room_of_their_own() {
        for (scratch, limit) in [("1Gi", "1124Mi"), ("64Mi", "164Mi"), ("7", "7")] {
            assert_eq!(with_log_room(scratch), limit);
        }
    }
}
