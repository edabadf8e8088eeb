//! A live object and what is wanted -> what is sent instead of it. Pure. What we made of it is replaced as a whole, so a field
//! that is not wanted any more is gone; what others added beside it stays.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

use crate::cluster::label;

/// Keys of labels and annotations that are ours.
const OURS: &str = "octopus-process-manager/";

/// `wanted` in the place of `found`: under its uid and resource version, with the fencing token of this change.
pub fn replaced<K: Resource<DynamicType = ()>>(found: &K, mut wanted: K, fence: i64) -> K {
    let metadata = std::mem::take(wanted.meta_mut());
    *wanted.meta_mut() = merged(found.meta(), metadata, fence);
    wanted
}

/// The same for a Service, whose addresses and ports on the nodes were given by the cluster and stay.
pub fn replaced_service(found: &Service, wanted: Service, fence: i64) -> Service {
    let mut service = replaced(found, wanted, fence);
    let (Some(old), Some(new)) = (&found.spec, &mut service.spec) else {
        return service;
    };
    new.cluster_ip.clone_from(&old.cluster_ip);
    new.cluster_ips.clone_from(&old.cluster_ips);
    new.ip_families.clone_from(&old.ip_families);
    new.ip_family_policy.clone_from(&old.ip_family_policy);
    if new.type_.as_deref() == Some("NodePort") {
        for port in new.ports.iter_mut().flatten() {
            let same = old.ports.iter().flatten().find(|old| old.name == port.name);
            port.node_port = same.and_then(|old| old.node_port);
        }
    }
    service
}

/// Another number of pods and nothing else: they run on, whatever a newer release would make of them.
pub fn scaled(found: &Deployment, replicas: i32, fence: i64) -> Deployment {
    let mut deployment = found.clone();
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    annotations.insert(label::FENCE.into(), fence.to_string());
    deployment.metadata.managed_fields = None;
    deployment.status = None;
    if let Some(spec) = &mut deployment.spec {
        spec.replicas = Some(replicas);
    }
    deployment
}

fn merged(found: &ObjectMeta, wanted: ObjectMeta, fence: i64) -> ObjectMeta {
    let others = |all: &Option<BTreeMap<String, String>>| {
        let all = all.iter().flatten();
        all.filter(|(key, _)| !key.starts_with(OURS))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    let mut labels = others(&found.labels);
    labels.extend(wanted.labels.unwrap_or_default());
    let mut annotations = others(&found.annotations);
    annotations.extend(wanted.annotations.unwrap_or_default());
    annotations.insert(label::FENCE.into(), fence.to_string());
    ObjectMeta {
        labels: Some(labels),
        annotations: Some(annotations),
        managed_fields: None,
        ..found.clone()
    }
}

#[cfg(test)]
mod tests {
    use octopus_shared::access::Expose;
    use octopus_shared::db::report::ProcessRow;
    use octopus_shared::env::EnvVar;
    use octopus_shared::process::ProcessKind;
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::object::tests::{around, process};
    use crate::cluster::object::{CONTAINER, service};

    /// As an API server gives it back: with what it, controllers and people added.
    fn live(made: &Deployment) -> Deployment {
        let mut live = serde_json::to_value(made).unwrap();
        live["metadata"]["uid"] = json!("u");
        live["metadata"]["resourceVersion"] = json!("7");
        live["metadata"]["namespace"] = json!("functions");
        live["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = json!("1");
        live["metadata"]["labels"]["team"] = json!("x");
        live["spec"]["progressDeadlineSeconds"] = json!(600);
        live["status"] = json!({"readyReplicas": 1});
        serde_json::from_value(live).unwrap()
    }

    fn made(process: &ProcessRow) -> (Service, Deployment) {
        service(&around(), process, "registry/functions@sha256:0").unwrap()
    }

    #[test]
    fn what_is_not_wanted_any_more_is_gone_and_what_others_added_stays() {
        let mut before = process(ProcessKind::Service);
        before.function_spec.env.push(EnvVar::plain("OLD", "1"));
        before.restarted_at = chrono::DateTime::from_timestamp_micros(1_800_000_000_000_000);
        let found = live(&made(&before).1);
        let mut after = process(ProcessKind::Service);
        after.revision = 4;
        let sent = replaced(&found, made(&after).1, 9);

        let metadata = &sent.metadata;
        assert_eq!(
            (metadata.uid.as_deref(), metadata.resource_version.as_deref()),
            (Some("u"), Some("7"))
        );
        let labels = metadata.labels.as_ref().unwrap();
        assert_eq!((labels["team"].as_str(), labels[label::REVISION].as_str()), ("x", "4"));
        let annotations = metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations["deployment.kubernetes.io/revision"], "1");
        assert_eq!(annotations[label::FENCE], "9");
        assert!(!annotations.contains_key(label::RESTARTED_AT), "{annotations:?}");
        assert_eq!(sent.spec, made(&after).1.spec, "all of it is what is wanted");
        assert!(sent.status.is_none());
        assert_eq!(label::fence_of(metadata), 9);
        assert_eq!(label::wish_of(metadata), Some(after.wish()));
    }

    #[test]
    fn a_restart_changes_the_template_and_the_same_one_does_not() {
        let template = |process: &ProcessRow| made(process).1.spec.unwrap().template;
        let plain = process(ProcessKind::Service);
        let at = |micros| ProcessRow {
            restarted_at: chrono::DateTime::from_timestamp_micros(micros),
            ..process(ProcessKind::Service)
        };
        assert_ne!(template(&plain), template(&at(1)));
        assert_ne!(template(&at(1)), template(&at(2)));
        assert_eq!(template(&at(1)), template(&at(1)));
        let pod = template(&at(1)).metadata.unwrap();
        assert_eq!(label::wish_of(&pod), Some(at(1).wish()));
        assert_eq!(label::wish_of(&made(&at(1)).1.metadata), Some(at(1).wish()));
    }

    #[test]
    fn the_hash_is_of_the_template_and_not_of_the_number_of_pods() {
        let hash = |replicas| {
            let process = ProcessRow {
                replicas,
                ..process(ProcessKind::Service)
            };
            made(&process).1.metadata.annotations.unwrap()[label::SPEC_HASH].clone()
        };
        assert_eq!(hash(1), hash(3));
    }

    #[test]
    fn scaling_touches_nothing_but_the_number() {
        let mut found = live(&made(&process(ProcessKind::Service)).1);
        // As an earlier release made it.
        let template = |deployment: &Deployment| deployment.spec.as_ref().unwrap().template.clone();
        found.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some("old".into());
        let sent = scaled(&found, 3, 9);
        assert_eq!(sent.spec.as_ref().unwrap().replicas, Some(3));
        assert_eq!(template(&sent), template(&found));
        assert_eq!(sent.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(label::fence_of(&sent.metadata), 9);
    }

    #[test]
    fn a_service_keeps_its_address_and_its_port_on_the_nodes() {
        let mut row = process(ProcessKind::Service);
        row.function_spec.expose = Expose::NodePort;
        let mut found = serde_json::to_value(made(&row).0).unwrap();
        found["spec"]["clusterIP"] = json!("10.0.0.7");
        found["spec"]["clusterIPs"] = json!(["10.0.0.7"]);
        found["spec"]["ports"][0]["nodePort"] = json!(30123);
        let found: Service = serde_json::from_value(found).unwrap();
        row.function_spec.port = 8080;
        let sent = |row: &ProcessRow| serde_json::to_value(replaced_service(&found, made(row).0, 9)).unwrap();
        let spec = sent(&row)["spec"].clone();
        assert_eq!(
            (
                &spec["clusterIP"],
                &spec["ports"][0]["nodePort"],
                &spec["ports"][0]["port"]
            ),
            (&json!("10.0.0.7"), &json!(30123), &json!(8080))
        );
        row.function_spec.expose = Expose::ClusterIp;
        let spec = sent(&row)["spec"].clone();
        assert_eq!(
            (&spec["type"], &spec["ports"][0]["nodePort"]),
            (&Value::Null, &Value::Null)
        );
    }

    #[test]
    fn a_volume_and_a_limit_that_were_dropped_are_gone() {
        let mut before = process(ProcessKind::Service);
        before.function_spec.volumes = vec![octopus_shared::function::Volume {
            claim: "models".into(),
            path: "/models".into(),
            read_only: false,
        }];
        before.function_spec.resources.gpus = Some(1);
        let found = live(&made(&before).1);
        assert!(json!(found).to_string().contains("nvidia.com/gpu"));
        let sent = json!(replaced(&found, made(&process(ProcessKind::Service)).1, 9));
        let text = sent.to_string();
        for gone in ["models", "nvidia.com/gpu", "Recreate"] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        assert_eq!(sent["spec"]["template"]["spec"]["containers"][0]["name"], CONTAINER);
    }
}
