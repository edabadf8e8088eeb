//! What was seen -> findings. Pure: every branch has its words here.

use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use octopus_shared::preflight::{Finding, FindingStatus};
use serde::Deserialize;

use super::rights::Reviewed;
use crate::cluster::ClusterError;

/// The oldest API server that the manager was run against.
const OLDEST_MINOR: u32 = 20;
/// Log lines and events of two clocks are told apart by eye up to that.
const MAX_SKEW_SECONDS: f64 = 5.0;
/// Watches of the kubelet itself, beside those of followed logs.
const KUBELET_INSTANCES: u64 = 28;
const NEARLY_FULL: f64 = 0.9;

const APPLY: &str = "apply k8s/ to the cluster with an administrator's kubeconfig: `kubectl apply -k k8s`";

/// What a pod saw from inside: the line that probe.py prints.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Inside {
    policy: Ports,
    processes: Option<u64>,
    inotify_instances: Option<u64>,
    /// Seconds since 1970, by the node's clock.
    pub(super) time: f64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Ports {
    allowed: bool,
    denied: bool,
}

fn warning(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding::new(check, FindingStatus::Warning, found, remedy)
}

fn error(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding::new(check, FindingStatus::Error, found, remedy)
}

/// What another finding stands in the way of.
pub(super) fn unknown(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding::new(check, FindingStatus::Unknown, found, remedy)
}

pub(super) fn database(refused: Option<&str>) -> Finding {
    match refused {
        None => Finding::ok("database", "Postgres answers, its migrations are applied"),
        Some(why) => error(
            "database",
            why,
            "start Postgres, run `octopus-api migrate` with the owner's DATABASE_URL, and check the manager's DATABASE_URL",
        ),
    }
}

pub(super) fn no_cluster(why: &ClusterError) -> Finding {
    error(
        "version",
        why.to_string(),
        "check KUBECONFIG; `octopus-manager login` makes one with an administrator's",
    )
}

pub(super) fn version(version: &str, minor: u32, user_namespaces_wanted: bool) -> Finding {
    if minor < OLDEST_MINOR {
        return warning(
            "version",
            format!("{version} is older than anything that was tried"),
            format!("use Kubernetes 1.{OLDEST_MINOR} or newer"),
        );
    }
    if user_namespaces_wanted && minor < 30 {
        return warning(
            "version",
            format!("{version} has no user namespaces: pods run without them"),
            "use Kubernetes 1.30 or newer, or leave OCTOPUS_USER_NAMESPACES out",
        );
    }
    Finding::ok("version", version)
}

pub(super) fn needed(reviewed: &Reviewed) -> Finding {
    match reviewed.denied.as_slice() {
        [] => Finding::ok("rights", format!("all {} needed", reviewed.allowed.len())),
        missing => error("rights", format!("missing: {}", missing.join(", ")), APPLY),
    }
}

pub(super) fn forbidden(reviewed: &Reviewed) -> Finding {
    match reviewed.allowed.as_slice() {
        [] => Finding::ok("forbidden_rights", format!("none of {}", reviewed.denied.len())),
        too_many => error(
            "forbidden_rights",
            format!("the manager may {}", too_many.join(", ")),
            "remove the role bindings that grant it: a mistake of the manager could reach further than the functions. \
             `kubectl get rolebindings,clusterrolebindings -A -o wide` shows them",
        ),
    }
}

pub(super) fn network_policy(inside: &Inside) -> (Finding, Option<bool>) {
    const CHECK: &str = "network_policy";
    match inside.policy {
        Ports {
            allowed: true,
            denied: false,
        } => (Finding::ok(CHECK, "enforced"), Some(true)),
        Ports {
            allowed: true,
            denied: true,
        } => (
            warning(
                CHECK,
                "not enforced: a pod was reached at a port that no policy opens",
                "use a network that enforces NetworkPolicy, as Calico, Cilium and k3s's own do. Until then every function \
                 reaches whatever its node reaches",
            ),
            Some(false),
        ),
        Ports { allowed: false, .. } => (
            unknown(
                CHECK,
                "one pod did not reach another at a port that a policy opens",
                "check the cluster's network: functions cannot be called through it",
            ),
            None,
        ),
    }
}

/// `refused`: the words with which a privileged pod was refused; None, it was not.
pub(super) fn pod_security(refused: Option<&str>) -> Finding {
    match refused {
        Some(why) => Finding::ok(
            "pod_security",
            format!("a privileged pod is refused: {}", first_line(why)),
        ),
        None => warning(
            "pod_security",
            "a privileged pod would be accepted in the function namespace",
            "use Kubernetes 1.23 or newer, whose Pod Security reads the labels in k8s/namespace.yaml; or a policy engine. \
             The manager itself asks for nothing that `restricted` refuses",
        ),
    }
}

pub(super) fn process_limit(inside: &Inside) -> Finding {
    match inside.processes {
        Some(limit) => Finding::ok("process_limit", format!("a pod was stopped at {limit} processes")),
        None => warning(
            "process_limit",
            "a pod may have more processes than anybody needs",
            "set podPidsLimit in the kubelets' configuration, to 512 for one: a fork bomb can take a node down",
        ),
    }
}

pub(super) fn inotify(inside: &Inside, followed_logs: usize) -> Finding {
    const CHECK: &str = "inotify";
    let needed = u64::try_from(followed_logs)
        .unwrap_or(u64::MAX)
        .saturating_add(KUBELET_INSTANCES);
    match inside.inotify_instances {
        None => unknown(
            CHECK,
            "the pod could not read the limit",
            "look at it on a node: `sysctl fs.inotify`",
        ),
        Some(instances) if instances < needed => warning(
            CHECK,
            format!("a node has {instances} instances, and {followed_logs} logs are followed at once"),
            format!(
                "set fs.inotify.max_user_instances to {needed} or more on the nodes, or OCTOPUS_FOLLOWED_LOGS to {} or less",
                instances.saturating_sub(KUBELET_INSTANCES)
            ),
        ),
        Some(instances) => Finding::ok(CHECK, format!("{instances} instances")),
    }
}

/// `refused`: problem and remedy.
pub(super) fn registry_push(refused: Option<(&str, &str)>) -> Finding {
    match refused {
        None => Finding::ok("registry_push", "an image of the probe was built and pushed"),
        Some((problem, remedy)) => error("registry_push", problem, remedy),
    }
}

pub(super) fn registry_pull(refused: Option<&str>) -> Finding {
    match refused {
        None => Finding::ok("registry_pull", "a node pulled it and ran it"),
        Some(why) => error(
            "registry_pull",
            first_line(why),
            "a node must reach the registry under OCTOPUS_REGISTRY_PULL; set OCTOPUS_REGISTRY_PULL_SECRET where it asks for a \
             password",
        ),
    }
}

/// Differences to this machine's clock in seconds, by whose clock it is.
pub(super) fn clock(skews: &[(&str, f64)]) -> Finding {
    let told: Vec<String> = skews
        .iter()
        .map(|(whose, skew)| format!("{whose} {skew:+.1} s"))
        .collect();
    let found = format!("against this machine: {}", told.join(", "));
    if skews.is_empty() {
        unknown("clock", "no other clock was seen", "mend what the other findings name")
    } else if skews.iter().any(|(_, skew)| skew.abs() > MAX_SKEW_SECONDS) {
        warning(
            "clock",
            found,
            "run NTP on all of these machines: times of events and logs do not fit together",
        )
    } else {
        Finding::ok("clock", found)
    }
}

/// How the scheduler took a pod with a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gpu {
    /// Onto a node.
    Scheduled(String),
    /// Its words.
    Unschedulable(String),
    /// It said nothing in time, or the pod was not accepted.
    Unknown(String),
}

pub(super) fn gpu(seen: &Gpu, resource: &str) -> Finding {
    match seen {
        Gpu::Scheduled(node) => Finding::ok("gpu", format!("{node} has a free {resource}")),
        Gpu::Unschedulable(why) => warning(
            "gpu",
            format!("no free {resource}: {}", first_line(why)),
            "functions that ask for a GPU wait until there is one: install the device plugin, or check OCTOPUS_GPU_RESOURCE, \
             OCTOPUS_GPU_NODE_SELECTOR and OCTOPUS_GPU_TOLERATIONS. Nothing to do where there are none and none are wanted",
        ),
        Gpu::Unknown(why) => unknown("gpu", first_line(why), "mend what the other findings name"),
    }
}

pub(super) fn quota(quotas: &[ResourceQuota]) -> Finding {
    let mut full = Vec::new();
    let mut shown = Vec::new();
    for status in quotas.iter().filter_map(|quota| quota.status.as_ref()) {
        for (resource, hard) in status.hard.iter().flatten() {
            let used = status.used.as_ref().and_then(|used| used.get(resource));
            let (Some(hard_amount), Some(used_amount)) = (amount(hard), used.and_then(amount)) else {
                continue;
            };
            let text = format!("{resource} {} of {}", used.map_or("0", |used| &used.0), hard.0);
            // A quota of nothing is a prohibition, and not full.
            if hard_amount > 0.0 && used_amount >= NEARLY_FULL * hard_amount {
                full.push(text.clone());
            }
            if matches!(resource.as_str(), "pods" | "limits.memory") {
                shown.push(text);
            }
        }
    }
    if quotas.is_empty() {
        return warning(
            "quota",
            "the function namespace has no ResourceQuota: functions may take the whole cluster",
            "set what they may take together in k8s/quota.yaml and apply it",
        );
    }
    if full.is_empty() {
        Finding::ok("quota", format!("used: {}", shown.join(", ")))
    } else {
        warning(
            "quota",
            format!("nearly used up: {}", full.join(", ")),
            "raise it in k8s/quota.yaml, or kill processes that nobody needs",
        )
    }
}

/// Kubernetes' quantities as plain numbers: `64`, `500m`, `256Gi`.
fn amount(quantity: &Quantity) -> Option<f64> {
    const UNITS: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    let text = quantity.0.as_str();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1.0));
    Some(number.parse::<f64>().ok()? * unit)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use FindingStatus::{Error, Ok, Unknown, Warning};

    fn inside(allowed: bool, denied: bool, processes: Option<u64>, instances: Option<u64>) -> Inside {
        serde_json::from_value(json!({
            "policy": {"allowed": allowed, "denied": denied},
            "processes": processes, "inotify_instances": instances, "time": 1.5,
        }))
        .unwrap()
    }

    fn quotas(hard: serde_json::Value, used: serde_json::Value) -> Vec<ResourceQuota> {
        vec![serde_json::from_value(json!({"status": {"hard": hard, "used": used}})).unwrap()]
    }

    fn reviewed(allowed: &[&str], denied: &[&str]) -> Reviewed {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Reviewed {
            allowed: owned(allowed),
            denied: owned(denied),
        }
    }

    #[test]
    fn only_an_open_port_beside_a_closed_one_is_enforcement() {
        for (allowed, denied, status, enforced) in [
            (true, false, Ok, Some(true)),
            (true, true, Warning, Some(false)),
            (false, false, Unknown, None),
            (false, true, Unknown, None),
        ] {
            let (finding, seen) = network_policy(&inside(allowed, denied, None, None));
            assert_eq!((finding.status, seen), (status, enforced), "{finding:?}");
        }
    }

    #[test]
    fn rights_are_named() {
        assert_eq!(needed(&reviewed(&["a", "b"], &[])).found, "all 2 needed");
        let missing = needed(&reviewed(&["a"], &["delete pods in f"]));
        assert_eq!(
            (missing.status, missing.found.as_str()),
            (Error, "missing: delete pods in f")
        );
        assert_eq!(forbidden(&reviewed(&[], &["a"])).status, Ok);
        let present = forbidden(&reviewed(&["list secrets in f"], &[]));
        assert_eq!(
            (present.status, present.found.as_str()),
            (Error, "the manager may list secrets in f")
        );
    }

    #[test]
    fn limits_of_the_node_are_judged() {
        assert_eq!(process_limit(&inside(true, false, Some(512), None)).status, Ok);
        assert_eq!(process_limit(&inside(true, false, None, None)).status, Warning);
        for (instances, status) in [(Some(8192), Ok), (Some(128), Ok), (Some(127), Warning), (None, Unknown)] {
            assert_eq!(
                inotify(&inside(true, false, None, instances), 100).status,
                status,
                "{instances:?}"
            );
        }
    }

    #[test]
    fn quotas_warn_before_they_are_met() {
        for (hard, used, status) in [
            (json!({"pods": "10"}), json!({"pods": "8"}), Ok),
            (json!({"pods": "10"}), json!({"pods": "9"}), Warning),
            (
                json!({"limits.memory": "1Gi"}),
                json!({"limits.memory": "1000Mi"}),
                Warning,
            ),
            (json!({"requests.cpu": "2"}), json!({"requests.cpu": "1799m"}), Ok),
            (
                json!({"services.nodeports": "0"}),
                json!({"services.nodeports": "0"}),
                Ok,
            ),
        ] {
            let finding = quota(&quotas(hard, used));
            assert_eq!(finding.status, status, "{finding:?}");
        }
        assert_eq!(quota(&[]).status, Warning);
    }

    #[test]
    fn clocks_may_differ_by_seconds() {
        assert_eq!(clock(&[("API server", 1.0), ("node", -4.9)]).status, Ok);
        let finding = clock(&[("API server", -6.0)]);
        assert_eq!(
            (finding.status, finding.found.as_str()),
            (Warning, "against this machine: API server -6.0 s")
        );
        assert_eq!(clock(&[]).status, Unknown);
    }

    #[test]
    fn whatever_is_not_ok_has_a_remedy() {
        let seen = inside(true, true, None, Some(1));
        let all = [
            database(Some("away")),
            no_cluster(&ClusterError::Away("x".into())),
            version("v1.19.0", 19, false),
            version("v1.29.0", 29, true),
            needed(&reviewed(&[], &["a"])),
            forbidden(&reviewed(&["a"], &[])),
            network_policy(&seen).0,
            network_policy(&inside(false, false, None, None)).0,
            pod_security(None),
            process_limit(&seen),
            inotify(&seen, 100),
            registry_push(Some(("no", "yes"))),
            registry_pull(Some("no")),
            clock(&[]),
            gpu(&Gpu::Unschedulable("0/1".into()), "nvidia.com/gpu"),
            gpu(&Gpu::Unknown("?".into()), "nvidia.com/gpu"),
            quota(&[]),
        ];
        for finding in all {
            assert_ne!(finding.status, Ok, "{finding:?}");
            assert!(!finding.remedy.is_empty() && !finding.found.is_empty(), "{finding:?}");
        }
        for finding in [
            database(None),
            version("v1.33.1", 33, true),
            pod_security(Some("no")),
            registry_push(None),
            registry_pull(None),
            gpu(&Gpu::Scheduled("node-1".into()), "nvidia.com/gpu"),
        ] {
            assert_eq!((finding.status, finding.remedy.as_str()), (Ok, ""), "{finding:?}");
        }
    }
}
