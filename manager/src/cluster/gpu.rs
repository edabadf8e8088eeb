//! Where pods with GPUs run: the operator's settings, read.

use std::collections::BTreeMap;
use std::str::FromStr;

use k8s_openapi::api::core::v1::Toleration;

/// What makes a pod reach a node with GPUs, and use them there.
#[derive(Clone, Debug)]
pub struct Gpus {
    /// The extended resource that the nodes' device plugin offers: `nvidia.com/gpu`.
    pub resource: String,
    /// Labels of the nodes that have them.
    pub selector: Selector,
    /// Taints of those nodes that are tolerated. None: whatever taint is named as the resource is.
    pub tolerations: Option<Tolerations>,
    /// Runtime class instead of the one that all pods have.
    pub runtime_class: Option<String>,
}

impl Gpus {
    /// What a pod with GPUs tolerates.
    pub fn tolerated(&self) -> Vec<Toleration> {
        match &self.tolerations {
            Some(tolerations) => tolerations.0.clone(),
            None => vec![toleration(&self.resource, None, None)],
        }
    }
}

/// Reads the name of an extended resource.
///
/// # Errors
/// What is wrong with it.
pub fn resource(text: &str) -> Result<String, String> {
    let named = |part: &str| {
        !part.is_empty() && part.len() <= 253 && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
    };
    match text.split_once('/') {
        Some((domain, name)) if named(domain) && named(name) => Ok(text.to_owned()),
        _ => Err(format!(
            "`{text}` is not the name of an extended resource, as nvidia.com/gpu is"
        )),
    }
}

/// Labels of nodes: `key=value,...`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub BTreeMap<String, String>);

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pair = |part: &str| match part.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(format!("`{part}` is not key=value")),
        };
        parts(text).map(pair).collect::<Result<_, _>>().map(Self)
    }
}

/// Tolerated taints: `key[=value][:effect],...`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tolerations(pub Vec<Toleration>);

impl FromStr for Tolerations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let one = |part: &str| {
            let (taint, effect) = match part.split_once(':') {
                Some((taint, effect @ ("NoSchedule" | "PreferNoSchedule" | "NoExecute"))) => (taint, Some(effect)),
                Some((_, effect)) => {
                    return Err(format!(
                        "`{effect}` is none of NoSchedule, PreferNoSchedule and NoExecute"
                    ));
                }
                None => (part, None),
            };
            let (key, value) = match taint.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (taint, None),
            };
            // An empty key would tolerate every taint.
            match key {
                "" => Err(format!("`{part}` names no taint")),
                key => Ok(toleration(key, value, effect)),
            }
        };
        parts(text).map(one).collect::<Result<_, _>>().map(Self)
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn toleration(key: &str, value: Option<&str>, effect: Option<&str>) -> Toleration {
    Toleration {
        key: Some(key.to_owned()),
        operator: Some(if value.is_some() { "Equal" } else { "Exists" }.into()),
        value: value.map(str::to_owned),
        effect: effect.map(str::to_owned),
        ..Toleration::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_nodes_are_pairs() {
        let read = |text: &str| text.parse::<Selector>().map(|selector| selector.0);
        assert_eq!(read(""), Ok(BTreeMap::new()));
        let both = [
            ("gpu".into(), "a100".into()),
            ("example.com/zone".into(), String::new()),
        ];
        assert_eq!(read("gpu=a100, example.com/zone="), Ok(both.into()));
        for bad in ["gpu", "=a100", "a=b,c"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn taints_are_read_with_and_without_value_and_effect() {
        let read = |text: &str| text.parse::<Tolerations>().map(|tolerations| tolerations.0);
        let all = [
            toleration("a", None, None),
            toleration("b", Some("c"), None),
            toleration("d", None, Some("NoExecute")),
            toleration("e", Some("f"), Some("NoSchedule")),
        ];
        assert_eq!(read("a,b=c,d:NoExecute,e=f:NoSchedule"), Ok(all.into()));
        assert_eq!(read(""), Ok(vec![]));
        for bad in [":NoSchedule", "=x", "a:Never"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
