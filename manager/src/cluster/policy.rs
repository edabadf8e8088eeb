//! Who may connect to a process, and where it may connect to: a table of rows, and the NetworkPolicy that makes a cluster
//! hold it. The policies of the namespace (k8s/networkpolicy.yaml) close everything; a process's own only opens.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use octopus_shared::access::{Block, Expose, Peer, Protocol};
use octopus_shared::db::report::ProcessRow;
use octopus_shared::process::ProcessKind;

use super::expose::Reach;
use super::label;

/// Where the node-local cache of names listens by convention; k8s/networkpolicy.yaml names it too.
const NODE_LOCAL_NAMES: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10));

/// Labels of a namespace or of a pod.
pub type Labels = BTreeMap<String, String>;

/// One line of the table: the first one that fits a connection decides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Who connects.
    pub from: End,
    /// To whom.
    pub to: End,
    /// At which ports.
    pub ports: Ports,
    /// Whether that is let through.
    pub allowed: bool,
}

/// Ends of a connection, as rows name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The pods of the process.
    Process,
    /// Pods by their labels.
    Pods {
        /// Labels of their namespace. None: beside the process.
        namespaces: Option<Labels>,
        /// Labels of their own.
        pods: Labels,
    },
    /// The name servers of the cluster.
    Names,
    /// Addresses.
    Block {
        /// The block.
        cidr: String,
        /// Blocks within it that do not belong to it.
        except: Vec<String>,
    },
    /// Everything.
    Anywhere,
}

/// Ports, as rows name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every port of every protocol.
    All,
    /// Every port of TCP.
    Tcp,
    /// These.
    Some(Vec<(Protocol, u16)>),
}

/// The other end of a connection of the process, as it really is.
#[derive(Clone, Debug)]
pub enum Other<'a> {
    /// A pod.
    Pod {
        /// Whether it is in the function namespace.
        beside: bool,
        /// Labels of its namespace.
        namespace: &'a Labels,
        /// Labels of its own.
        pod: &'a Labels,
    },
    /// An address outside of the cluster.
    Address(IpAddr),
}

/// Which way a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the process.
    In,
    /// From the process.
    Out,
}

/// What a process may: the whole table, from the top.
pub fn table(reach: &Reach, process: &ProcessRow) -> Vec<Row> {
    let spec = &process.function_spec;
    let mut rows = Vec::new();
    if process.spec.kind == ProcessKind::Service {
        let controller = (spec.expose == Expose::Ingress).then(|| End::Pods {
            namespaces: Some(reach.ingress_from.0.clone()),
            pods: Labels::new(),
        });
        let callers = spec.allow_from.iter().map(caller).chain(controller);
        rows.extend(callers.map(|from| Row {
            from,
            to: End::Process,
            ports: Ports::Some(vec![(Protocol::Tcp, spec.port)]),
            allowed: true,
        }));
    }
    let out = |to, ports, allowed| Row {
        from: End::Process,
        to,
        ports,
        allowed,
    };
    let names = vec![(Protocol::Udp, 53), (Protocol::Tcp, 53)];
    rows.push(out(End::Names, Ports::Some(names), true));
    if spec.calls_functions {
        let functions = [(label::MANAGED_BY.to_owned(), label::MANAGER.to_owned())];
        let functions = End::Pods {
            namespaces: None,
            pods: functions.into(),
        };
        rows.push(out(functions, Ports::Tcp, true));
    }
    rows.extend(reach.closed.iter().map(|cidr| {
        let block = End::Block {
            cidr: cidr.clone(),
            except: Vec::new(),
        };
        out(block, Ports::All, false)
    }));
    rows.extend(spec.egress.iter().map(|open| {
        let block = End::Block {
            cidr: open.cidr.clone(),
            except: open.except.clone(),
        };
        let ports = open.ports.iter().map(|port| (port.protocol, port.port)).collect();
        out(block, Ports::Some(ports), true)
    }));
    rows.push(out(End::Anywhere, Ports::All, false));
    rows.push(Row {
        from: End::Anywhere,
        to: End::Process,
        ports: Ports::All,
        allowed: false,
    });
    rows
}

fn caller(peer: &Peer) -> End {
    match &peer.cidr {
        Some(cidr) => End::Block {
            cidr: cidr.clone(),
            except: Vec::new(),
        },
        None => End::Pods {
            namespaces: peer.namespaces.clone(),
            pods: peer.pods.clone().unwrap_or_default(),
        },
    }
}

/// Whether a table lets a connection through on the side of its process. The other end may be a function that has a say too.
pub fn decides(rows: &[Row], direction: Direction, other: &Other<'_>, protocol: Protocol, port: u16) -> bool {
    let fits = |row: &&Row| {
        let (own, end) = match direction {
            Direction::In => (&row.to, &row.from),
            Direction::Out => (&row.from, &row.to),
        };
        *own == End::Process && end.is(other) && row.ports.hold(protocol, port)
    };
    rows.iter().find(fits).is_some_and(|row| row.allowed)
}

impl End {
    fn is(&self, other: &Other<'_>) -> bool {
        match (self, other) {
            (Self::Anywhere, _) => true,
            (Self::Pods { namespaces, pods }, Other::Pod { beside, namespace, pod }) => {
                let place = namespaces.as_ref().map_or(*beside, |wanted| has(namespace, wanted));
                place && has(pod, pods)
            }
            (Self::Names, Other::Address(address)) => *address == NODE_LOCAL_NAMES,
            (Self::Names, Other::Pod { pod, .. }) => pod.get("k8s-app").is_some_and(|app| app == "kube-dns"),
            (Self::Block { cidr, except }, Other::Address(address)) => {
                let holds = |cidr: &String| Block::parse(cidr).is_some_and(|block| block.holds(*address));
                holds(cidr) && !except.iter().any(holds)
            }
            _ => false,
        }
    }
}

fn has(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl Ports {
    fn hold(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Tcp => protocol == Protocol::Tcp,
            Self::Some(ports) => ports.contains(&(protocol, port)),
        }
    }
}

/// The policy of a process. None where the policies of the namespace say it all: nobody calls it, it calls nobody outside.
pub fn policy(reach: &Reach, process: &ProcessRow, metadata: ObjectMeta) -> Option<NetworkPolicy> {
    let rows = table(reach, process);
    let allowed = || rows.iter().filter(|row| row.allowed);
    let closed: Vec<&String> = reach.closed.iter().collect();
    let ingress: Vec<_> = allowed().filter_map(let_in).collect();
    let egress: Vec<_> = allowed().filter_map(|row| let_out(row, &closed)).collect();
    if ingress.is_empty() && egress.is_empty() {
        return None;
    }
    let mut annotations = metadata.annotations.unwrap_or_default();
    let lines: Vec<_> = rows.iter().map(Row::to_string).collect();
    annotations.insert(label::REACH.into(), lines.join("\n"));
    Some(NetworkPolicy {
        metadata: ObjectMeta {
            annotations: Some(annotations),
            ..metadata
        },
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(&[(label::PROCESS.to_owned(), process.id.to_string())].into())),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(ingress),
            egress: Some(egress),
        }),
    })
}

/// Whether a process has a policy of its own.
pub fn is_needed(reach: &Reach, process: &ProcessRow) -> bool {
    policy(reach, process, ObjectMeta::default()).is_some()
}

fn let_in(row: &Row) -> Option<NetworkPolicyIngressRule> {
    // A rule without a peer would let everybody in.
    Some(NetworkPolicyIngressRule {
        from: Some(vec![peer(&row.from, &[])?]),
        ports: ports(&row.ports),
    })
}

/// Names, and functions that call others, are let out by the policies of the namespace.
fn let_out(row: &Row, closed: &[&String]) -> Option<NetworkPolicyEgressRule> {
    match &row.to {
        end @ End::Block { .. } => Some(NetworkPolicyEgressRule {
            to: Some(vec![peer(end, closed)?]),
            ports: ports(&row.ports),
        }),
        _ => None,
    }
}

/// None where nothing is left of a block.
fn peer(end: &End, closed: &[&String]) -> Option<NetworkPolicyPeer> {
    match end {
        End::Pods { namespaces, pods } => Some(NetworkPolicyPeer {
            namespace_selector: namespaces.as_ref().map(selector),
            pod_selector: (namespaces.is_none() || !pods.is_empty()).then(|| selector(pods)),
            ..NetworkPolicyPeer::default()
        }),
        End::Block { cidr, except } => {
            let within = |outer: &str, inner: &str| {
                Block::parse(outer)
                    .zip(Block::parse(inner))
                    .is_some_and(|(outer, inner)| outer.contains(&inner))
            };
            if closed.iter().any(|closed| within(closed, cidr)) {
                return None;
            }
            let closed = closed
                .iter()
                .filter(|closed| within(cidr, closed))
                .map(|&closed| closed.clone());
            let except: Vec<_> = except.iter().cloned().chain(closed).collect();
            Some(NetworkPolicyPeer {
                ip_block: Some(IPBlock {
                    cidr: cidr.clone(),
                    except: (!except.is_empty()).then_some(except),
                }),
                ..NetworkPolicyPeer::default()
            })
        }
        End::Process | End::Names | End::Anywhere => None,
    }
}

fn selector(labels: &Labels) -> LabelSelector {
    LabelSelector {
        match_labels: (!labels.is_empty()).then(|| labels.clone()),
        ..LabelSelector::default()
    }
}

fn ports(ports: &Ports) -> Option<Vec<NetworkPolicyPort>> {
    match ports {
        Ports::All => None,
        Ports::Tcp => Some(vec![port(Protocol::Tcp, None)]),
        Ports::Some(ports) => Some(
            ports
                .iter()
                .map(|&(protocol, number)| port(protocol, Some(number)))
                .collect(),
        ),
    }
}

fn port(protocol: Protocol, number: Option<u16>) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_string().to_uppercase()),
        port: number.map(|number| IntOrString::Int(number.into())),
        ..NetworkPolicyPort::default()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allowed { "allowed" } else { "refused" };
        write!(f, "{} -> {}, {}: {verdict}", self.from, self.to, self.ports)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => f.write_str("this process"),
            Self::Pods { namespaces, pods } => {
                write!(f, "pods {}", listed(pods))?;
                match namespaces {
                    Some(labels) => write!(f, " of namespaces {}", listed(labels)),
                    None => f.write_str(" of this namespace"),
                }
            }
            Self::Names => f.write_str("name servers"),
            Self::Block { cidr, except } if except.is_empty() => f.write_str(cidr),
            Self::Block { cidr, except } => write!(f, "{cidr} without {}", except.join(" ")),
            Self::Anywhere => f.write_str("anything else"),
        }
    }
}

fn listed(labels: &Labels) -> String {
    if labels.is_empty() {
        return "of any label".into();
    }
    let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all ports"),
            Self::Tcp => f.write_str("tcp"),
            Self::Some(ports) => {
                let ports: Vec<_> = ports
                    .iter()
                    .map(|(protocol, port)| format!("{protocol}/{port}"))
                    .collect();
                f.write_str(&ports.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use octopus_shared::access::{Egress, Port};
    use octopus_shared::function::FunctionSpec;

    use super::*;
    use crate::cluster::object::tests::process;

    fn reach() -> Reach {
        Reach {
            closed: vec!["169.254.0.0/16".into(), "10.9.0.0/16".into()],
            ingress_from: "name=ingress".parse().unwrap(),
            ..Reach::default()
        }
    }

    fn open(cidr: &str, except: &[&str]) -> Egress {
        Egress {
            cidr: cidr.into(),
            except: except.iter().map(ToString::to_string).collect(),
            ports: vec![Port {
                port: 443,
                protocol: Protocol::Tcp,
            }],
        }
    }

    fn service(spec: FunctionSpec) -> ProcessRow {
        ProcessRow {
            function_spec: spec,
            ..process(ProcessKind::Service)
        }
    }

    #[test]
    fn a_policy_and_its_table() {
        let process = service(FunctionSpec {
            expose: Expose::Ingress,
            calls_functions: true,
            egress: vec![open("0.0.0.0/0", &["10.0.0.0/8"]), open("10.9.8.0/24", &[])],
            ..FunctionSpec::default()
        });
        insta::assert_yaml_snapshot!("policy", policy(&reach(), &process, ObjectMeta::default()));
    }

    #[test]
    fn who_calls_nobody_and_is_called_by_nobody_needs_none() {
        let nobody = FunctionSpec {
            allow_from: Vec::new(),
            ..FunctionSpec::default()
        };
        assert!(!is_needed(&reach(), &service(nobody)));
        assert!(!is_needed(&reach(), &process(ProcessKind::Task)));
        let closed = FunctionSpec {
            allow_from: Vec::new(),
            egress: vec![open("10.9.8.0/24", &[])],
            ..FunctionSpec::default()
        };
        assert!(!is_needed(&reach(), &service(closed)), "all of it stays closed");
        assert!(is_needed(&reach(), &service(FunctionSpec::default())));
    }

    #[test]
    fn the_first_row_that_fits_decides() {
        let rows = table(
            &reach(),
            &service(FunctionSpec {
                egress: vec![open("0.0.0.0/0", &["10.0.0.0/8"]), open("10.1.0.0/16", &[])],
                ..FunctionSpec::default()
            }),
        );
        let calls = |address: &str, port| {
            let other = Other::Address(address.parse().unwrap());
            decides(&rows, Direction::Out, &other, Protocol::Tcp, port)
        };
        assert!(calls("192.0.2.1", 443));
        assert!(!calls("192.0.2.1", 80), "not the port");
        assert!(!calls("10.2.0.1", 443), "taken out");
        assert!(calls("10.1.0.1", 443), "taken out of one block, opened by another");
        assert!(!calls("169.254.169.254", 443), "closed by the operator");
        let labels = Labels::from([(octopus_shared::access::CALLER.to_owned(), "true".to_owned())]);
        let none = Labels::new();
        let called = |beside, namespace| {
            let other = Other::Pod {
                beside,
                namespace,
                pod: &none,
            };
            decides(&rows, Direction::In, &other, Protocol::Tcp, 5000)
        };
        assert!(called(false, &labels));
        assert!(!called(false, &none));
        assert!(!called(true, &none), "a function that may call no other");
    }
}
