//! A function namespace for one test, made from the very files that users apply (`k8s/`), and a manager's credential in it.

use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace as Kubernetes, Pod, ServiceAccount};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use serde_json::Value;

use super::containers::scratch;
use super::faulty::{self, Faulty};

/// What users apply to their cluster.
const APPLIED: [&str; 5] = [
    include_str!("../../../k8s/namespace.yaml"),
    include_str!("../../../k8s/rbac.yaml"),
    include_str!("../../../k8s/networkpolicy.yaml"),
    include_str!("../../../k8s/quota.yaml"),
    include_str!("../../../k8s/builds.yaml"),
];

/// The function namespace of one test.
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Name of the namespace of the builds.
    pub builds: String,
    /// Name of the namespace of the manager's service account, and of the account.
    pub managers: String,
    /// Kubeconfig of the manager's service account.
    pub kubeconfig: PathBuf,
    /// The administrator of the cluster.
    pub admin: kube::Client,
}

impl Namespace {
    /// Applies `k8s/` under names of its own and makes a credential.
    pub async fn create(admin_kubeconfig: &Path, id: &str) -> Self {
        let name = format!("functions-{id}");
        let managers = format!("managers-{id}");
        let builds = format!("builds-{id}");
        let kubeconfig = Kubeconfig::read_from(admin_kubeconfig).expect("the administrator's kubeconfig");
        let admin = client(kubeconfig.clone()).await;
        for document in APPLIED.iter().flat_map(|file| file.split("\n---\n")) {
            let document = format!("{document}\n")
                .replace("octopus-functions", &name)
                .replace("octopus-builds", &builds)
                .replace(": octopus-manager\n", &format!(": {managers}\n"))
                .replace("[octopus-manager]", &format!("[{managers}]"));
            apply(&admin, &document).await;
        }
        let token = token(&admin, &managers, &managers).await;
        let path = scratch().join(format!("manager-{id}.kubeconfig"));
        std::fs::write(&path, with_token(kubeconfig, token)).expect("a file");
        Self {
            name,
            builds,
            managers,
            kubeconfig: path,
            admin,
        }
    }

    /// Port of the API server, as the manager's kubeconfig has it.
    pub fn port(&self) -> u16 {
        let server = &self.kubeconfig()["clusters"][0]["cluster"]["server"];
        let port = server
            .as_str()
            .and_then(|server| server.rsplit_once(':'))
            .expect("a port")
            .1;
        port.trim_end_matches('/').parse().expect("a port")
    }

    /// Lets the manager reach the API server at another port of this machine.
    pub fn reach_at(&mut self, port: u16) {
        self.reach(&format!("https://127.0.0.1:{port}"));
    }

    /// Puts a proxy between the manager and the API server.
    pub async fn before(&self) -> Faulty {
        let (server, authority) = faulty::server(&self.kubeconfig());
        let faulty = Faulty::before(&server, &authority).await;
        self.reach(&format!("http://127.0.0.1:{}", faulty.port));
        faulty
    }

    fn reach(&self, server: &str) {
        let mut kubeconfig = self.kubeconfig();
        kubeconfig["clusters"][0]["cluster"]["server"] = server.into();
        std::fs::write(&self.kubeconfig, kubeconfig.to_string()).expect("a file");
    }

    fn kubeconfig(&self) -> Value {
        let text = std::fs::read_to_string(&self.kubeconfig).expect("the manager's kubeconfig");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Objects of a kind in the namespace, as the administrator.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.admin.clone(), &self.name)
    }

    /// Names of all pods.
    pub async fn pods(&self) -> Vec<String> {
        let pods = self.api::<Pod>().list(&ListParams::default()).await.expect("a list");
        pods.items.into_iter().filter_map(|pod| pod.metadata.name).collect()
    }

    /// The manager, with exactly its rights.
    pub async fn manager(&self) -> kube::Client {
        client(Kubeconfig::read_from(&self.kubeconfig).expect("the manager's kubeconfig")).await
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let (admin, names) = (self.admin.clone(), [self.name.clone(), self.builds.clone()]);
        // The next test does not wait for it; what is left when the run ends goes with the cluster.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let deletion = DeleteParams {
                    grace_period_seconds: Some(0),
                    ..DeleteParams::default()
                };
                for name in names {
                    let _ = Api::<Kubernetes>::all(admin.clone()).delete(&name, &deletion).await;
                }
            });
        }
    }
}

async fn client(kubeconfig: Kubeconfig) -> kube::Client {
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("a configuration");
    kube::Client::try_from(config).expect("a client")
}

async fn apply(admin: &kube::Client, document: &str) {
    let value: Value = serde_yaml_ng::from_str(document).expect("YAML");
    let object: DynamicObject = serde_json::from_value(value).expect("an object");
    let types = object.types.clone().expect("a kind");
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types).expect("a kind"));
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(admin.clone(), namespace, &resource),
        None => Api::all_with(admin.clone(), &resource),
    };
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => panic!("{} {:?}: {error}", types.kind, object.metadata.name),
    }
}

async fn token(admin: &kube::Client, namespace: &str, account: &str) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(24 * 3600),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let made = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .expect("a token");
    made.status.expect("a token").token
}

fn with_token(admin: Kubeconfig, token: String) -> String {
    let mut value = serde_json::to_value(admin).expect("JSON");
    for user in value["users"].as_array_mut().expect("users") {
        user["user"] = serde_json::json!({ "token": token });
    }
    serde_json::to_string(&value).expect("JSON")
}
