//! How a service is reached: its kind of Service, its Ingress, and the address that callers are told.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    IngressTLS, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use octopus_shared::access::{Block, Expose};
use octopus_shared::db::report::ProcessRow;
use url::Url;

use super::gpu::Selector;

/// What the operator says about the ways to functions, and from them.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Address of the nodes as callers see them.
    pub node_address: Option<String>,
    /// URL of the ingress: its scheme, and the domain below which each process has a name.
    pub ingress_url: Option<Url>,
    /// Ingress class. None: the cluster's default one.
    pub ingress_class: Option<String>,
    /// Labels of the namespace of the ingress controller.
    pub ingress_from: Selector,
    /// Blocks that stay closed whatever a function's egress says.
    pub closed: Vec<String>,
}

impl Reach {
    /// The setting without which a function cannot be exposed so.
    pub fn missing(&self, expose: Expose) -> Option<&'static str> {
        match expose {
            Expose::NodePort if self.node_address.is_none() => Some("OCTOPUS_NODE_ADDRESS"),
            Expose::Ingress if self.ingress_url.is_none() => Some("OCTOPUS_INGRESS_URL"),
            Expose::Ingress if self.ingress_from.0.is_empty() => Some("OCTOPUS_INGRESS_NAMESPACE_LABELS"),
            _ => None,
        }
    }

    fn host(&self, process: &ProcessRow) -> Option<String> {
        let domain = self.ingress_url.as_ref()?.host_str()?;
        Some(format!("{}.{domain}", process.name))
    }
}

/// Reads a block of addresses.
///
/// # Errors
/// What is wrong with it.
pub fn block(text: &str) -> Result<String, String> {
    match Block::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("`{text}` is not a block of addresses, as 10.0.0.0/8 is")),
    }
}

/// Reads the URL of an ingress.
///
/// # Errors
/// What is wrong with it.
pub fn ingress_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let plain = matches!(url.scheme(), "http" | "https") && url.domain().is_some() && url.path() == "/";
    if plain && url.query().is_none() && url.username().is_empty() && url.password().is_none() {
        Ok(url)
    } else {
        Err("it is not a scheme and a domain, as https://functions.example.org is".into())
    }
}

/// Type of the Service. None: ClusterIP.
pub fn service_type(expose: Expose) -> Option<String> {
    (expose == Expose::NodePort).then(|| "NodePort".into())
}

/// The Ingress of a process that is exposed by one.
pub fn ingress(reach: &Reach, process: &ProcessRow, metadata: ObjectMeta) -> Option<Ingress> {
    if process.function_spec.expose != Expose::Ingress {
        return None;
    }
    let host = reach.host(process)?;
    let path = HTTPIngressPath {
        path: Some("/".into()),
        path_type: "Prefix".into(),
        backend: IngressBackend {
            service: Some(IngressServiceBackend {
                name: process.name.clone(),
                port: Some(ServiceBackendPort {
                    name: Some("http".into()),
                    number: None,
                }),
            }),
            resource: None,
        },
    };
    let encrypted = reach.ingress_url.as_ref().is_some_and(|url| url.scheme() == "https");
    Some(Ingress {
        metadata,
        spec: Some(IngressSpec {
            ingress_class_name: reach.ingress_class.clone(),
            rules: Some(vec![IngressRule {
                host: Some(host.clone()),
                http: Some(HTTPIngressRuleValue { paths: vec![path] }),
            }]),
            // No secret is named: the controller's own certificate covers the domain.
            tls: encrypted.then(|| {
                vec![IngressTLS {
                    hosts: Some(vec![host]),
                    secret_name: None,
                }]
            }),
            ..IngressSpec::default()
        }),
        ..Ingress::default()
    })
}

/// URL at which a service is called. `service` is as the cluster created it: it knows the node port.
pub fn endpoint(reach: &Reach, process: &ProcessRow, namespace: &str, service: &Service) -> String {
    let inside = format!(
        "http://{}.{namespace}.svc.cluster.local:{}",
        process.name, process.function_spec.port
    );
    let outside = match process.function_spec.expose {
        Expose::ClusterIp => None,
        Expose::NodePort => node_port(service)
            .zip(reach.node_address.as_ref())
            .map(|(port, address)| format!("http://{address}:{port}")),
        Expose::Ingress => reach.host(process).zip(reach.ingress_url.as_ref()).map(|(host, url)| {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{host}{port}", url.scheme())
        }),
    };
    outside.unwrap_or(inside)
}

fn node_port(service: &Service) -> Option<i32> {
    service.spec.as_ref()?.ports.as_ref()?.first()?.node_port
}

#[cfg(test)]
mod tests {
    use octopus_shared::function::FunctionSpec;
    use octopus_shared::process::ProcessKind;

    use super::*;
    use crate::cluster::object::tests::process;

    fn exposed(expose: Expose) -> ProcessRow {
        ProcessRow {
            function_spec: FunctionSpec {
                expose,
                ..FunctionSpec::default()
            },
            ..process(ProcessKind::Service)
        }
    }

    fn reach(url: &str) -> Reach {
        Reach {
            node_address: Some("192.0.2.7".into()),
            ingress_url: Some(ingress_url(url).unwrap()),
            ingress_from: "name=ingress".parse().unwrap(),
            ..Reach::default()
        }
    }

    #[test]
    fn callers_are_told_where() {
        let created: Service =
            serde_json::from_value(serde_json::json!({"spec": {"ports": [{"port": 5000, "nodePort": 30123}]}}))
                .unwrap();
        for (expose, url, expected) in [
            (
                Expose::ClusterIp,
                "http://f.test",
                "http://hello-ffffffffffff.functions.svc.cluster.local:5000",
            ),
            (Expose::NodePort, "http://f.test", "http://192.0.2.7:30123"),
            (
                Expose::Ingress,
                "http://f.test:8080",
                "http://hello-ffffffffffff.f.test:8080",
            ),
            (Expose::Ingress, "https://f.test", "https://hello-ffffffffffff.f.test"),
        ] {
            let told = endpoint(&reach(url), &exposed(expose), "functions", &created);
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn an_ingress_names_the_service() {
        let made = ingress(
            &reach("https://f.test"),
            &exposed(Expose::Ingress),
            ObjectMeta::default(),
        );
        insta::assert_yaml_snapshot!("ingress", made);
        assert_eq!(
            ingress(
                &reach("https://f.test"),
                &exposed(Expose::NodePort),
                ObjectMeta::default()
            ),
            None
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let none = Reach::default();
        assert_eq!(none.missing(Expose::ClusterIp), None);
        assert_eq!(none.missing(Expose::NodePort), Some("OCTOPUS_NODE_ADDRESS"));
        assert_eq!(none.missing(Expose::Ingress), Some("OCTOPUS_INGRESS_URL"));
        assert_eq!(reach("http://f.test").missing(Expose::Ingress), None);
    }

    #[test]
    fn an_ingress_url_is_a_scheme_and_a_domain() {
        for bad in [
            "f.test",
            "ftp://f.test",
            "http://10.0.0.1",
            "http://f.test/path",
            "http://u:p@f.test",
        ] {
            assert!(ingress_url(bad).is_err(), "{bad}");
        }
    }
}
