//! The table of who may connect to whom, against the rendered NetworkPolicies as network-config-analyzer reads them: every
//! pair of pods and addresses, for every way in which a function can be declared.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use octopus_manager::cluster::expose::Reach;
use octopus_manager::cluster::gpu::Gpus;
use octopus_manager::cluster::object::{self, Surroundings};
use octopus_manager::cluster::policy::{Direction, Labels, Other, Row, decides, table};
use octopus_shared::access::{CALLER, Egress, Expose, Peer, Port, Protocol, default_callers};
use octopus_shared::db::report::ProcessRow;
use octopus_shared::function::FunctionSpec;
use octopus_shared::process::{Lifecycle, ProcessKind, ProcessSpec, ProcessState};
use serde_json::{Value, json};
use uuid::Uuid;

const FUNCTIONS: &str = "octopus-functions";
const PROBED: [(Protocol, u16); 5] = [
    (Protocol::Tcp, 5000),
    (Protocol::Udp, 5000),
    (Protocol::Tcp, 443),
    (Protocol::Tcp, 53),
    (Protocol::Udp, 53),
];
const ADDRESSES: [Ipv4Addr; 6] = [
    Ipv4Addr::new(10, 2, 0, 1),
    Ipv4Addr::new(10, 1, 0, 1),
    Ipv4Addr::new(10, 9, 0, 1),
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv4Addr::new(169, 254, 20, 10),
    Ipv4Addr::new(169, 254, 169, 254),
];

/// A pod of the cluster; that of a process has a table.
struct Member {
    name: String,
    namespace: &'static str,
    labels: Labels,
    rows: Option<Vec<Row>>,
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn namespaces() -> BTreeMap<&'static str, Labels> {
    [
        (
            FUNCTIONS,
            labels(&[("app.kubernetes.io/part-of", "octopus-process-manager")]),
        ),
        ("kube-system", Labels::new()),
        ("server", labels(&[(CALLER, "true")])),
        ("ingress", labels(&[("name", "ingress")])),
        ("strangers", Labels::new()),
    ]
    .into()
}

fn around() -> Surroundings {
    Surroundings {
        installation: Uuid::nil(),
        pull_secret: None,
        runtime_class: None,
        user_namespaces: false,
        gpus: Gpus {
            resource: "nvidia.com/gpu".into(),
            selector: Default::default(),
            tolerations: None,
            runtime_class: None,
        },
        reach: Reach {
            ingress_url: Some("http://functions.test".parse().unwrap()),
            ingress_from: "name=ingress".parse().unwrap(),
            closed: vec!["169.254.0.0/16".into(), "10.9.0.0/16".into()],
            ..Reach::default()
        },
    }
}

/// Every combination of what a function can say.
fn processes() -> Vec<ProcessRow> {
    let peer = |value| vec![serde_json::from_value::<Peer>(value).unwrap()];
    let callers = [
        Vec::new(),
        default_callers(),
        peer(json!({"namespaces": {}})),
        peer(json!({"namespaces": {}, "pods": {"role": "client"}})),
        peer(json!({"pods": {"octopus-process-manager/kind": "task"}})),
        peer(json!({"cidr": "10.0.0.0/8"})),
    ];
    let open = |cidr: &str, except: &[&str], protocol, port| Egress {
        cidr: cidr.into(),
        except: except.iter().map(ToString::to_string).collect(),
        ports: vec![Port { port, protocol }],
    };
    let egress = [
        Vec::new(),
        vec![
            open("0.0.0.0/0", &["10.0.0.0/8"], Protocol::Tcp, 443),
            open("10.1.0.0/16", &[], Protocol::Tcp, 443),
        ],
        vec![
            open("10.0.0.0/8", &[], Protocol::Udp, 5000),
            open("169.254.169.254/32", &[], Protocol::Tcp, 443),
        ],
    ];
    let mut rows = Vec::new();
    for kind in [ProcessKind::Service, ProcessKind::Task] {
        for expose in [Expose::ClusterIp, Expose::Ingress] {
            for allow_from in &callers {
                for egress in &egress {
                    for calls_functions in [false, true] {
                        let spec = FunctionSpec {
                            expose,
                            allow_from: allow_from.clone(),
                            egress: egress.clone(),
                            calls_functions,
                            ..FunctionSpec::default()
                        };
                        rows.push(process(rows.len(), kind, spec));
                    }
                }
            }
        }
    }
    rows
}

fn process(number: usize, kind: ProcessKind, function_spec: FunctionSpec) -> ProcessRow {
    ProcessRow {
        id: Uuid::from_u128(number as u128),
        name: format!("p{number}"),
        function: "function".into(),
        revision: 1,
        function_spec,
        entry: Default::default(),
        device_map: Default::default(),
        spec: ProcessSpec::new(kind),
        killed: false,
        kill_grace_seconds: None,
        kill_force: false,
        lifecycle: Lifecycle::Requested,
        state: ProcessState::Pending,
        attempt: 1,
        pod_seen: false,
        image: None,
        replicas: 1,
        restarted_at: None,
    }
}

fn pod(name: &str, namespace: &str, labels: &Labels) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
           "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn yaml(objects: &[Value]) -> String {
    let documents: Vec<_> = objects
        .iter()
        .map(|object| serde_yaml_ng::to_string(object).unwrap())
        .collect();
    documents.join("---\n")
}

/// Everything that is there, and the policies as they are sent.
fn cluster() -> (Vec<Member>, Vec<Value>) {
    let around = around();
    let stranger = |name: &str, namespace, labels| Member {
        name: name.into(),
        namespace,
        labels,
        rows: None,
    };
    let mut members = vec![
        stranger("octopus-server", "server", Labels::new()),
        stranger("controller", "ingress", Labels::new()),
        stranger("client", "strangers", labels(&[("role", "client")])),
        stranger("nobody", "strangers", Labels::new()),
        stranger("names", "kube-system", labels(&[("k8s-app", "kube-dns")])),
    ];
    let mut policies = Vec::new();
    for process in processes() {
        let labels = match process.spec.kind {
            ProcessKind::Task => object::task(&around, &process, "image").unwrap().metadata.labels,
            ProcessKind::Service => {
                let (_, deployment) = object::service(&around, &process, "image").unwrap();
                deployment.spec.unwrap().template.metadata.unwrap().labels
            }
        };
        if let Some(mut policy) = object::policy(&around, &process).unwrap() {
            policy.metadata.namespace = Some(FUNCTIONS.into());
            policies.push(json!(policy));
        }
        members.push(Member {
            rows: Some(table(&around.reach, &process)),
            name: process.name,
            namespace: FUNCTIONS,
            labels: labels.unwrap(),
        });
    }
    (members, policies)
}

/// What the analyser says is let through: for each pair of ends, what is open.
type Map = BTreeMap<String, Vec<(String, String)>>;

fn analysed(members: &[Member], policies: &[Value]) -> Map {
    let program = std::env::var("OCTOPUS_NCA").unwrap_or_else(|_| {
        panic!("OCTOPUS_NCA must name network-config-analyzer's nca: scripts/tools.sh nca installs it")
    });
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let of_namespace = include_str!("../../k8s/networkpolicy.yaml");
    write("policies.yaml", &format!("{of_namespace}---\n{}", yaml(policies)));
    let pods: Vec<_> = members
        .iter()
        .map(|member| pod(&member.name, member.namespace, &member.labels))
        .collect();
    write("pods.yaml", &yaml(&pods));
    let namespaces: Vec<_> = namespaces()
        .into_iter()
        .map(|(name, labels)| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))
        .collect();
    write("namespaces.yaml", &yaml(&namespaces));
    let output = Command::new(program)
        .current_dir(folder.path())
        .args([
            "--connectivity",
            "policies.yaml",
            "-p",
            "pods.yaml",
            "-n",
            "namespaces.yaml",
        ])
        .args(["-o", "txt_no_fw_rules", "--output_endpoints", "pods"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut map = Map::new();
    for line in text.lines() {
        if let Some((ends, open)) = line.split_once(" : ")
            && let Some((from, to)) = ends.split_once(" => ")
        {
            map.entry(from.to_owned())
                .or_default()
                .push((to.to_owned(), open.to_owned()));
        }
    }
    assert!(!map.is_empty(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    map
}

/// One end as the analyser prints it: `namespace/pod`, or a range of addresses.
fn is_end(printed: &str, end: &End<'_>) -> bool {
    match end {
        End::Member(member) => printed == format!("{}/{}", member.namespace, member.name),
        End::Address(address) => printed.split(',').any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<Ipv4Addr>(), last.parse::<Ipv4Addr>());
            matches!((first, last), (Ok(first), Ok(last)) if (first..=last).contains(address))
        }),
    }
}

/// `All connections`, or `{protocols:TCP,dst_ports:443,8000-8080}`.
fn is_open(printed: &str, protocol: Protocol, port: u16) -> bool {
    if printed == "All connections" {
        return true;
    }
    let Some(inside) = printed.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        panic!("the analyser printed {printed}");
    };
    let (protocols, ports) = inside.split_once(",dst_ports:").unwrap_or((inside, "1-65535"));
    let protocols = protocols.trim_start_matches("protocols:");
    let protocol = protocol.to_string().to_uppercase();
    protocols.split(", ").any(|one| one == protocol)
        && ports.split(',').any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (first.parse().unwrap()..=last.parse().unwrap()).contains(&port)
        })
}

enum End<'a> {
    Member(&'a Member),
    Address(Ipv4Addr),
}

/// What the tables of both ends say.
fn expected(from: &End<'_>, to: &End<'_>, protocol: Protocol, port: u16, namespaces: &BTreeMap<&str, Labels>) -> bool {
    let says = |own: &End<'_>, direction, other: &End<'_>| {
        let End::Member(Member { rows: Some(rows), .. }) = own else {
            return true;
        };
        let other = match other {
            End::Member(member) => Other::Pod {
                beside: member.namespace == FUNCTIONS,
                namespace: &namespaces[member.namespace],
                pod: &member.labels,
            },
            End::Address(address) => Other::Address(IpAddr::V4(*address)),
        };
        decides(rows, direction, &other, protocol, port)
    };
    says(from, Direction::Out, to) && says(to, Direction::In, from)
}

#[test]
fn the_table_is_what_the_policies_do() {
    let (members, policies) = cluster();
    let map = analysed(&members, &policies);
    let namespaces = namespaces();
    let none = Vec::new();
    let (mut allowed, mut refused) = (0, 0);
    let mut check = |from: &End<'_>, name: &str, to: &End<'_>, open: &[(String, String)]| {
        for (protocol, port) in PROBED {
            let actual = open
                .iter()
                .any(|(end, open)| is_end(end, to) && is_open(open, protocol, port));
            let expected = expected(from, to, protocol, port, &namespaces);
            let other = match to {
                End::Member(member) => member.name.clone(),
                End::Address(address) => address.to_string(),
            };
            assert_eq!(actual, expected, "{name} -> {other}, {protocol}/{port}");
            *if expected { &mut allowed } else { &mut refused } += 1;
        }
    };
    for from in &members {
        let open = map.get(&format!("{}/{}", from.namespace, from.name)).unwrap_or(&none);
        for to in members.iter().filter(|to| to.name != from.name) {
            let both_outside = from.rows.is_none() && to.rows.is_none();
            if !both_outside {
                let open: Vec<_> = open
                    .iter()
                    .filter(|(end, _)| is_end(end, &End::Member(to)))
                    .cloned()
                    .collect();
                check(&End::Member(from), &from.name, &End::Member(to), &open);
            }
        }
        for address in ADDRESSES {
            check(&End::Member(from), &from.name, &End::Address(address), open);
        }
    }
    for address in ADDRESSES {
        let from = End::Address(address);
        let open: Vec<_> = map
            .iter()
            .filter(|(end, _)| is_end(end, &from))
            .flat_map(|(_, open)| open.clone())
            .collect();
        for to in members.iter().filter(|member| member.rows.is_some()) {
            check(&from, &address.to_string(), &End::Member(to), &open);
        }
    }
    println!(
        "{} policies, {allowed} connections allowed and {refused} refused by both",
        policies.len()
    );
    assert!(allowed > 1000 && refused > 10_000);
}
