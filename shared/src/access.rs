//! Who reaches a function, and what a function reaches.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error::Checker;

/// Label of a namespace whose pods may call every function that does not say otherwise: octopus_server's.
pub const CALLER: &str = "octopus-process-manager/caller";
/// Label of the pods of functions that may call other functions.
pub const CALLS_FUNCTIONS: &str = "octopus-process-manager/calls-functions";

/// How a service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Expose {
    /// At an address inside of the cluster.
    #[default]
    ClusterIp,
    /// At a port of every node as well.
    NodePort,
    /// At a host name of the cluster's ingress as well.
    Ingress,
}

/// Pods or addresses that may call a function. Either `cidr`, or labels of namespaces, of pods, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Peer {
    /// Labels of namespaces. Without it, `pods` means pods beside the function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<BTreeMap<String, String>>,
    /// Labels of pods. Without it, all pods of `namespaces`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<BTreeMap<String, String>>,
    /// A block of addresses: `10.0.0.0/8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
}

/// Addresses that a function may call. Names are always resolved; nothing else is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// A block of addresses: `192.0.2.0/24`.
    pub cidr: String,
    /// Blocks within it that stay closed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Ports. At least one.
    pub ports: Vec<Port>,
}

/// A port of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// 1 to 65535.
    pub port: u16,
    /// `tcp` unless said otherwise.
    #[serde(default)]
    pub protocol: Protocol,
}

/// What a port belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Who may call a function that says nothing: namespaces with the label [`CALLER`], and functions that may call others.
pub fn default_callers() -> Vec<Peer> {
    let labelled = |label: &str| Some([(label.to_owned(), "true".to_owned())].into());
    vec![
        Peer {
            namespaces: labelled(CALLER),
            ..Peer::default()
        },
        Peer {
            pods: labelled(CALLS_FUNCTIONS),
            ..Peer::default()
        },
    ]
}

pub(crate) fn check_peers(checker: &mut Checker, path: &str, peers: &[Peer]) {
    let few = peers.len() <= 50;
    checker.check(few, path, format!("{} are too many", peers.len()), "send at most 50");
    for (index, peer) in peers.iter().take(50).enumerate() {
        let path = format!("{path}[{index}]");
        let labels = [("namespaces", &peer.namespaces), ("pods", &peer.pods)];
        let labelled = labels.iter().any(|(_, labels)| labels.is_some());
        checker.check(
            labelled != peer.cidr.is_some(),
            path.clone(),
            "it needs either `cidr`, or `namespaces` or `pods`",
            "send an address block, or labels; an empty map of labels means all",
        );
        for (name, labels) in labels {
            for (key, value) in labels.iter().flatten() {
                checker.check(
                    is_label_key(key) && is_label_value(value),
                    format!("{path}.{name}"),
                    format!("`{}` is not a label", short(&format!("{key}={value}"))),
                    "labels are letters, digits, `-`, `_` and `.`, at most 63, with an optional prefix and `/` before the key",
                );
            }
        }
        if let Some(cidr) = &peer.cidr {
            check_cidr(checker, &format!("{path}.cidr"), cidr);
        }
    }
}

pub(crate) fn check_egress(checker: &mut Checker, path: &str, egress: &[Egress]) {
    let few = egress.len() <= 50;
    checker.check(few, path, format!("{} are too many", egress.len()), "send at most 50");
    for (index, open) in egress.iter().take(50).enumerate() {
        let path = format!("{path}[{index}]");
        check_cidr(checker, &format!("{path}.cidr"), &open.cidr);
        for (inner, except) in open.except.iter().take(50).enumerate() {
            let path = format!("{path}.except[{inner}]");
            check_cidr(checker, &path, except);
            if let (Some(block), Some(hole)) = (Block::parse(&open.cidr), Block::parse(except)) {
                checker.check(
                    block.contains(&hole) && block != hole,
                    path,
                    format!("{except} is not a part of {}", short(&open.cidr)),
                    "only what lies within `cidr` can be taken out of it",
                );
            }
        }
        checker.check(
            (1..=50).contains(&open.ports.len())
                && open.ports.iter().all(|port| port.port > 0)
                && open.except.len() <= 50,
            format!("{path}.ports"),
            "it needs 1 to 50 ports from 1 to 65535",
            "name the ports that the function calls: [{\"port\": 443}]",
        );
    }
}

fn check_cidr(checker: &mut Checker, path: &str, cidr: &str) {
    checker.check(
        Block::parse(cidr).is_some(),
        path,
        format!("`{}` is not a block of addresses", short(cidr)),
        "write the first address and the length of the prefix: `192.0.2.0/24`, `192.0.2.7/32`",
    );
}

fn short(text: &str) -> String {
    text.chars().take(60).collect::<String>().escape_debug().to_string()
}

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    first: u128,
    length: u8,
    bits: u8,
}

impl Block {
    /// Reads `192.0.2.0/24` or `2001:db8::/32`. None when it is malformed or has bits beyond its prefix.
    pub fn parse(cidr: &str) -> Option<Self> {
        let (address, length) = cidr.split_once('/')?;
        if length.len() > 3 || !length.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let length: u8 = length.parse().ok()?;
        let (first, bits) = match address.parse().ok()? {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let block = Self { first, length, bits };
        (length <= bits && first & !block.mask() == 0).then_some(block)
    }

    fn mask(&self) -> u128 {
        let all = if self.bits == 32 {
            u128::from(u32::MAX)
        } else {
            u128::MAX
        };
        all & !(all.checked_shr(u32::from(self.length)).unwrap_or(0))
    }

    /// Whether all of `other` lies within.
    pub fn contains(&self, other: &Self) -> bool {
        self.bits == other.bits && self.length <= other.length && other.first & self.mask() == self.first
    }

    /// Whether an address lies within.
    pub fn holds(&self, address: IpAddr) -> bool {
        let length = if address.is_ipv4() { 32 } else { 128 };
        Self::parse(&format!("{address}/{length}")).is_some_and(|one| self.contains(&one))
    }
}

fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key
        .rsplit_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(crate::env::is_object_name)
}

fn is_label_value(value: &str) -> bool {
    let edge = |c: Option<u8>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63
        && edge(value.bytes().next())
        && edge(value.bytes().last())
        && value.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_and_compared() {
        let block = |cidr| Block::parse(cidr).unwrap();
        assert!(block("10.0.0.0/8").contains(&block("10.1.2.0/24")));
        assert!(!block("10.1.2.0/24").contains(&block("10.0.0.0/8")));
        assert!(block("0.0.0.0/0").holds("8.8.8.8".parse().unwrap()));
        assert!(!block("0.0.0.0/0").holds("::1".parse().unwrap()));
        assert!(block("::/0").holds("::1".parse().unwrap()));
        assert!(block("2001:db8::/32").holds("2001:db8::7".parse().unwrap()));
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "a/8",
            "10.0.0.0/8/8",
            "::1/64",
        ] {
            assert_eq!(Block::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn peers_are_addresses_or_labels() {
        let peer = |value| serde_json::from_value::<Peer>(value).unwrap();
        let refused = |peer: Peer| {
            let mut checker = Checker::default();
            check_peers(&mut checker, "allow_from", &[peer]);
            checker.finish().is_err()
        };
        for good in [
            serde_json::json!({"cidr": "10.0.0.0/8"}),
            serde_json::json!({"namespaces": {}}),
            serde_json::json!({"namespaces": {"a.b/c": "d"}, "pods": {"e": ""}}),
        ] {
            assert!(!refused(peer(good.clone())), "{good}");
        }
        for bad in [
            serde_json::json!({}),
            serde_json::json!({"cidr": "10.0.0.0/8", "pods": {}}),
            serde_json::json!({"cidr": "everything"}),
            serde_json::json!({"pods": {"-": "x"}}),
            serde_json::json!({"pods": {"a": "b c"}}),
        ] {
            assert!(refused(peer(bad.clone())), "{bad}");
        }
    }

    #[test]
    fn egress_names_ports_and_holes_lie_within() {
        let refused = |value: serde_json::Value| {
            let mut checker = Checker::default();
            check_egress(&mut checker, "egress", &[serde_json::from_value(value).unwrap()]);
            checker.finish().is_err()
        };
        let port = serde_json::json!([{"port": 443}]);
        assert!(!refused(
            serde_json::json!({"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"], "ports": port})
        ));
        assert!(refused(
            serde_json::json!({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"], "ports": port})
        ));
        assert!(refused(serde_json::json!({"cidr": "10.0.0.0/8", "ports": []})));
        assert!(refused(
            serde_json::json!({"cidr": "10.0.0.0/8", "ports": [{"port": 0}]})
        ));
    }
}
