//! The manager's rights: each that it needs, as k8s/rbac.yaml and k8s/builds.yaml grant them, and some that it must not
//! have. Whether it has one is asked of the API server, which any account may do for itself.

use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::authorization::v1::ResourceAttributes;

use crate::cluster::{Cluster, ClusterError};

/// Reviews that are asked for at once.
const PARALLEL: usize = 8;

/// Where a right holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// The namespace of the functions.
    Functions,
    /// The namespace of the builds.
    Builds,
    /// The namespace of the manager's account, for that account alone.
    Own,
    /// The same namespace, for another account.
    Others,
    /// The whole cluster.
    Everywhere,
}

/// A kind of objects and what is done with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Right {
    pub(super) place: Place,
    pub(super) group: &'static str,
    /// With its subresource: `pods/log`.
    pub(super) resource: &'static str,
    pub(super) verbs: &'static [&'static str],
}

const fn right(place: Place, group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Right {
    Right {
        place,
        group,
        resource,
        verbs,
    }
}

const CHANGED: &[&str] = &["create", "get", "list", "update", "delete"];

/// What the manager cannot do without.
pub(super) const NEEDED: [Right; 12] = [
    right(
        Place::Functions,
        "",
        "pods",
        &["create", "get", "list", "watch", "patch", "delete"],
    ),
    right(Place::Functions, "", "pods/log", &["get"]),
    right(Place::Functions, "", "events", &["list", "watch"]),
    right(Place::Functions, "apps", "deployments", CHANGED),
    right(Place::Functions, "apps", "replicasets", &["list", "delete"]),
    right(Place::Functions, "", "services", CHANGED),
    right(Place::Functions, "networking.k8s.io", "networkpolicies", CHANGED),
    right(Place::Functions, "networking.k8s.io", "ingresses", CHANGED),
    right(Place::Functions, "", "resourcequotas", &["list"]),
    right(Place::Own, "", "serviceaccounts/token", &["create"]),
    right(Place::Builds, "", "pods", &["create", "get", "delete"]),
    right(Place::Builds, "", "pods/portforward", &["get", "create"]),
];

const RBAC: &str = "rbac.authorization.k8s.io";

/// With any of these a mistake in a row of the database would reach further than the functions.
pub(super) const FORBIDDEN: [Right; 13] = [
    right(Place::Functions, "", "secrets", &["get", "list", "create"]),
    right(Place::Functions, "", "configmaps", &["get", "list"]),
    right(Place::Functions, "", "pods/exec", &["create", "get"]),
    right(Place::Functions, "", "pods/attach", &["create", "get"]),
    right(Place::Functions, "", "pods/portforward", &["create", "get"]),
    right(Place::Functions, "", "serviceaccounts/token", &["create"]),
    right(Place::Functions, RBAC, "rolebindings", &["create"]),
    right(Place::Others, "", "serviceaccounts/token", &["create"]),
    right(Place::Everywhere, "", "pods", &["list", "create", "delete"]),
    right(Place::Everywhere, "apps", "deployments", &["create", "delete"]),
    right(Place::Everywhere, "", "secrets", &["list"]),
    right(Place::Everywhere, "", "nodes", &["list", "delete"]),
    right(Place::Everywhere, RBAC, "clusterrolebindings", &["create"]),
];

/// The namespaces that [`Place`]s stand for.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) functions: String,
    pub(super) builds: Option<String>,
    /// Namespace and name; None when the manager does not come with a token.
    pub(super) account: Option<(String, String)>,
}

impl Places {
    /// What is asked of the API server for one verb. None: the settings have no such place.
    fn attributes(&self, right: &Right, verb: &str) -> Option<ResourceAttributes> {
        let (namespace, name) = match right.place {
            Place::Functions => (Some(self.functions.clone()), None),
            Place::Builds => (Some(self.builds.clone()?), None),
            Place::Own => {
                let (namespace, name) = self.account.clone()?;
                (Some(namespace), Some(name))
            }
            Place::Others => {
                let (namespace, name) = self.account.clone()?;
                (Some(namespace), Some(format!("not-{name}")))
            }
            Place::Everywhere => (None, None),
        };
        let (resource, subresource) = match right.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (right.resource, None),
        };
        Some(ResourceAttributes {
            group: Some(right.group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource,
            verb: Some(verb.to_owned()),
            namespace,
            name,
            ..ResourceAttributes::default()
        })
    }
}

/// One right, in words: `delete pods in octopus-functions`.
fn words(right: &Right, asked: &ResourceAttributes) -> String {
    let verb = asked.verb.as_deref().unwrap_or_default();
    let place = match (&asked.namespace, &asked.name) {
        (Some(namespace), Some(name)) => format!("for {name} in {namespace}"),
        (Some(namespace), None) => format!("in {namespace}"),
        (None, _) => "in all namespaces".to_owned(),
    };
    format!("{verb} {} {place}", right.resource)
}

/// What was asked for, and which of it the manager may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reviewed {
    pub(super) allowed: Vec<String>,
    pub(super) denied: Vec<String>,
}

/// Asks for each of `rights`.
pub(super) async fn review(cluster: &Cluster, places: &Places, rights: &[Right]) -> Result<Reviewed, ClusterError> {
    let asked = rights.iter().flat_map(|right| {
        right.verbs.iter().filter_map(move |verb| {
            let asked = places.attributes(right, verb)?;
            Some((words(right, &asked), asked))
        })
    });
    let answers: Vec<(String, bool)> = stream::iter(asked)
        .map(|(words, asked)| async move { Ok::<_, ClusterError>((words, cluster.may(asked).await?)) })
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    let mut reviewed = Reviewed::default();
    for (words, allowed) in answers {
        if allowed {
            reviewed.allowed.push(words);
        } else {
            reviewed.denied.push(words);
        }
    }
    Ok(reviewed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::rbac::v1::Role;
    use serde::Deserialize as _;

    use super::*;

    #[test]
    fn what_is_needed_is_what_the_files_grant() {
        let mut granted = BTreeSet::new();
        for file in [
            include_str!("../../../k8s/rbac.yaml"),
            include_str!("../../../k8s/builds.yaml"),
        ] {
            for document in serde_yaml_ng::Deserializer::from_str(file) {
                let value = serde_yaml_ng::Value::deserialize(document).unwrap();
                if value["kind"] != "Role" {
                    continue;
                }
                let role: Role = serde_yaml_ng::from_value(value).unwrap();
                let place = match role.metadata.namespace.as_deref() {
                    Some("octopus-functions") => Place::Functions,
                    Some("octopus-builds") => Place::Builds,
                    Some("octopus-manager") => Place::Own,
                    other => panic!("{other:?}"),
                };
                for rule in role.rules.unwrap() {
                    assert_eq!(rule.resource_names.is_some(), place == Place::Own);
                    for group in rule.api_groups.unwrap() {
                        for resource in rule.resources.iter().flatten() {
                            for verb in &rule.verbs {
                                granted.insert((place, group.clone(), resource.clone(), verb.clone()));
                            }
                        }
                    }
                }
            }
        }
        let needed: BTreeSet<_> = NEEDED
            .iter()
            .flat_map(|right| {
                right.verbs.iter().map(|verb| {
                    (
                        right.place,
                        right.group.to_owned(),
                        right.resource.to_owned(),
                        (*verb).to_owned(),
                    )
                })
            })
            .collect();
        assert_eq!(needed, granted);
    }

    #[test]
    fn a_right_is_asked_for_where_it_holds() {
        let places = Places {
            functions: "functions".into(),
            builds: None,
            account: Some(("managers".into(), "manager".into())),
        };
        let asked = |place, resource| {
            let right = right(place, "", resource, &["create"]);
            places.attributes(&right, "create").map(|asked| words(&right, &asked))
        };
        assert_eq!(
            asked(Place::Own, "serviceaccounts/token").as_deref(),
            Some("create serviceaccounts/token for manager in managers")
        );
        assert_eq!(
            asked(Place::Others, "serviceaccounts/token").as_deref(),
            Some("create serviceaccounts/token for not-manager in managers")
        );
        assert_eq!(
            asked(Place::Everywhere, "pods").as_deref(),
            Some("create pods in all namespaces")
        );
        assert_eq!(asked(Place::Builds, "pods"), None);
    }
}
