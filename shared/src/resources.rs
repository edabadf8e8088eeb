//! What a pod may use: declared piece by piece, resolved into limits by a pure function.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Checker;

/// Memory when nothing is declared, and the least that a `device_map` gives.
const LEAST_MEBIBYTES: u64 = 256;

/// What a pod may use, as Kubernetes quantities. What is left out comes from the function's settings, then from the
/// `device_map` of its file, then from the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// CPU that is kept free for it, in cores or thousandths: `1`, `500m`. Default `10m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_request: Option<String>,
    /// CPU that it may use at most. Default `1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory that is kept for it and that it may use at most: `256Mi`, `2Gi`. Default: `cpu` of the `device_map`, but at
    /// least `256Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Scratch space in `/tmp` that it may use at most. What it prints has room of its own. Default `1Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<String>,
    /// Shared memory at `/dev/shm`, counted as memory. Default `64Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_memory: Option<String>,
    /// Whole GPUs, at most 16. Default: the number of `cuda:N` in the `device_map`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
}

/// What a pod is given: every part decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// CPU request.
    pub cpu_request: String,
    /// CPU limit.
    pub cpu: String,
    /// Memory request and limit.
    pub memory: String,
    /// Size of the scratch space.
    pub ephemeral_storage: String,
    /// Size of `/dev/shm`.
    pub shared_memory: String,
    /// Whole GPUs.
    pub gpus: u32,
}

impl Limits {
    /// The first that says something wins: the process, the function, the `device_map` of its file, the defaults. A CPU
    /// request is never more than the limit.
    pub fn resolve(process: &Resources, function: &Resources, device_map: &BTreeMap<String, String>) -> Self {
        let mapped = from_device_map(device_map);
        let first = |part: fn(&Resources) -> &Option<String>, default: &str| {
            [process, function, &mapped]
                .into_iter()
                .find_map(|declared| part(declared).clone())
                .unwrap_or_else(|| default.to_owned())
        };
        let cpu = first(|r| &r.cpu, "1");
        let cpu_request = first(|r| &r.cpu_request, "10m");
        Self {
            cpu_request: if cpu_millis(&cpu_request) > cpu_millis(&cpu) {
                cpu.clone()
            } else {
                cpu_request
            },
            cpu,
            memory: first(|r| &r.memory, "256Mi"),
            ephemeral_storage: first(|r| &r.ephemeral_storage, "1Gi"),
            shared_memory: first(|r| &r.shared_memory, "64Mi"),
            gpus: process.gpus.or(function.gpus).or(mapped.gpus).unwrap_or_default(),
        }
    }
}

/// `{"cuda:0": "10GiB", "cpu": "30GiB"}`: one GPU and 30 GiB of memory. Memory of a GPU cannot be asked for in Kubernetes.
/// The map counts what a model takes; Python and the function's packages need the default besides a small one.
fn from_device_map(device_map: &BTreeMap<String, String>) -> Resources {
    let gpus = device_map.keys().filter(|device| device.starts_with("cuda")).count();
    Resources {
        memory: device_map
            .get("cpu")
            .and_then(|amount| mebibytes_of_device(amount))
            .map(|mebibytes| format!("{}Mi", mebibytes.max(LEAST_MEBIBYTES))),
        gpus: u32::try_from(gpus).ok().filter(|gpus| *gpus > 0),
        ..Resources::default()
    }
}

/// `30GiB`, `512MiB`, `30GB`, `512MB`, with or without a space, in whole mebibytes, rounded up.
fn mebibytes_of_device(amount: &str) -> Option<u64> {
    let amount = amount.trim();
    let digits = amount.find(|c: char| !c.is_ascii_digit()).unwrap_or(amount.len());
    let number: u64 = amount[..digits].parse().ok().filter(|number| *number > 0)?;
    let bytes: u64 = match amount[digits..].trim() {
        "GiB" | "Gi" => 1 << 30,
        "MiB" | "Mi" => 1 << 20,
        "GB" | "G" => 1_000_000_000,
        "MB" | "M" => 1_000_000,
        _ => return None,
    };
    Some(number.checked_mul(bytes)?.div_ceil(1 << 20))
}

impl Resources {
    pub(crate) fn check(&self, checker: &mut Checker, path: &str) {
        for (name, value, cpu) in [
            ("cpu_request", &self.cpu_request, true),
            ("cpu", &self.cpu, true),
            ("memory", &self.memory, false),
            ("ephemeral_storage", &self.ephemeral_storage, false),
            ("shared_memory", &self.shared_memory, false),
        ] {
            let Some(value) = value else { continue };
            let remedy = if cpu {
                "write cores or thousandths: `2`, `500m`"
            } else {
                "write bytes with Mi or Gi: `256Mi`, `2Gi`"
            };
            let parsed = if cpu {
                cpu_millis(value)
            } else {
                storage_mebibytes(value)
            };
            let shown: String = value.chars().take(30).collect();
            checker.check(
                parsed.is_some_and(|amount| amount > 0),
                format!("{path}.{name}"),
                format!("`{}` is not a positive quantity", shown.escape_debug()),
                remedy,
            );
        }
        if let (Some(request), Some(limit)) = (&self.cpu_request, &self.cpu) {
            checker.check(
                cpu_millis(request) <= cpu_millis(limit),
                format!("{path}.cpu_request"),
                format!("{request} is more than the limit {limit}"),
                "ask for no more than `cpu`",
            );
        }
        checker.check(
            self.gpus.is_none_or(|gpus| gpus <= 16),
            format!("{path}.gpus"),
            "more than 16 GPUs are not in one node",
            "ask for 0 to 16",
        );
    }
}

fn cpu_millis(text: &str) -> Option<u32> {
    match text.strip_suffix('m') {
        Some(millis) => millis.parse().ok(),
        None => text.parse::<u32>().ok()?.checked_mul(1000),
    }
}

fn storage_mebibytes(text: &str) -> Option<u32> {
    match text.strip_suffix("Gi") {
        Some(gibibytes) => gibibytes.parse::<u32>().ok()?.checked_mul(1024),
        None => text.strip_suffix("Mi")?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(resources: &Resources) -> Vec<String> {
        let mut checker = Checker::default();
        resources.check(&mut checker, "resources");
        let refused = checker.finish().err().unwrap_or_default();
        refused.into_iter().map(|invalid| invalid.field).collect()
    }

    #[test]
    fn quantities_are_positive_and_requests_within_limits() {
        for (cpu_request, cpu, memory, expected) in [
            ("10m", "1", "64Mi", vec![]),
            ("2", "1", "64Mi", vec!["resources.cpu_request"]),
            ("0", "1", "64Mi", vec!["resources.cpu_request"]),
            ("10m", "lots", "64Mi", vec!["resources.cpu", "resources.cpu_request"]),
            ("10m", "1", "64", vec!["resources.memory"]),
            ("10m", "1", "-1Gi", vec!["resources.memory"]),
        ] {
            let resources = Resources {
                cpu_request: Some(cpu_request.into()),
                cpu: Some(cpu.into()),
                memory: Some(memory.into()),
                ..Resources::default()
            };
            assert_eq!(refused(&resources), expected, "{cpu_request} {cpu} {memory}");
        }
        let many = Resources {
            gpus: Some(17),
            ..Resources::default()
        };
        assert_eq!(refused(&many), ["resources.gpus"]);
    }

    #[test]
    fn the_process_wins_over_the_function_and_that_over_its_file() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let device_map = map(&[("cuda:0", "10GiB"), ("cuda:1", "10GiB"), ("cpu", "30GiB")]);
        let none = Resources::default();
        let small = Limits::resolve(&none, &none, &map(&[("cpu", "32MiB")]));
        assert_eq!(small.memory, "256Mi");
        let from_file = Limits::resolve(&none, &none, &device_map);
        assert_eq!((from_file.memory.as_str(), from_file.gpus), ("30720Mi", 2));
        let function = Resources {
            memory: Some("1Gi".into()),
            gpus: Some(0),
            ..Resources::default()
        };
        let process = Resources {
            cpu: Some("5m".into()),
            memory: Some("2Gi".into()),
            ..Resources::default()
        };
        let limits = Limits::resolve(&process, &function, &device_map);
        assert_eq!((limits.memory.as_str(), limits.gpus), ("2Gi", 0));
        assert_eq!((limits.cpu_request.as_str(), limits.cpu.as_str()), ("5m", "5m"));
        let default = Limits::resolve(&none, &none, &map(&[]));
        assert_eq!((default.memory.as_str(), default.gpus), ("256Mi", 0));
    }

    #[test]
    fn amounts_of_a_device_map_are_read() {
        for (amount, mebibytes) in [
            ("30GiB", Some(30720)),
            ("512MiB", Some(512)),
            (" 1 GB ", Some(954)),
            ("100MB", Some(96)),
            ("0GiB", None),
            ("GiB", None),
            ("-1GiB", None),
            ("10", None),
            ("99999999999999999999GiB", None),
            ("18446744073709551615GiB", None),
        ] {
            assert_eq!(mebibytes_of_device(amount), mebibytes, "{amount}");
        }
    }
}
