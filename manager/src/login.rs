//! `octopus-manager login`: the manager's kubeconfig, made with an administrator's.

use std::path::{Path, PathBuf};

use clap::Args;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use crate::cluster::{ClusterError, request_token, token};

/// What `login` asks for.
#[derive(Clone, Debug, Args)]
pub struct Login {
    /// Kubeconfig of an administrator of the cluster: its current context is used, once.
    #[arg(long)]
    pub admin_kubeconfig: PathBuf,
    /// Where the manager's kubeconfig is written: a file, or a folder in which it becomes manager.kubeconfig. Its token is a
    /// file beside it, which the manager renews: the folder has to be writable for it.
    #[arg(long)]
    pub output: PathBuf,
    /// Service account of the manager.
    #[arg(long, default_value = "octopus-manager")]
    pub service_account: String,
    /// Namespace of that account.
    #[arg(long, default_value = "octopus-manager")]
    pub account_namespace: String,
    /// Namespace of the functions.
    #[arg(long, env = "OCTOPUS_NAMESPACE", default_value = "octopus-functions")]
    pub namespace: String,
    /// URL at which the manager reaches the API server, when it is another than the administrator's.
    #[arg(long)]
    pub server: Option<String>,
    /// Life of the first token in seconds: until the manager is started. A cluster may grant less.
    #[arg(long, default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(600..))]
    pub token_seconds: u32,
}

/// Why there is no kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The administrator's kubeconfig.
    #[error("{}: {problem}", path.display())]
    Admin {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The API server gave no token.
    #[error("the service account {account} was given no token: {error}; apply k8s/ to the cluster first")]
    Token {
        /// Namespace and name.
        account: String,
        /// Why.
        error: ClusterError,
    },
    /// The result could not be stored.
    #[error("{}: {error}", path.display())]
    Write {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Writes the kubeconfig and its token; answers where.
///
/// # Errors
/// [`LoginError`].
pub async fn run(login: &Login) -> Result<PathBuf, LoginError> {
    let unusable = |problem: String| LoginError::Admin {
        path: login.admin_kubeconfig.clone(),
        problem,
    };
    let read = Kubeconfig::read_from(&login.admin_kubeconfig).map_err(|error| unusable(error.to_string()))?;
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .map_err(|error| unusable(error.to_string()))?;
    let server = login.server.clone().unwrap_or_else(|| config.cluster_url.to_string());
    let authorities = config.root_cert.clone().unwrap_or_default();
    let client = kube::Client::try_from(config).map_err(|error| unusable(error.to_string()))?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client, &login.account_namespace);
    let made = request_token(&accounts, &login.service_account, login.token_seconds)
        .await
        .map_err(|error| LoginError::Token {
            account: format!("{}/{}", login.account_namespace, login.service_account),
            error,
        })?;

    let path = if login.output.is_dir() {
        login.output.join("manager.kubeconfig")
    } else {
        login.output.clone()
    };
    let token_path = path.with_extension("token");
    let store = |path: &Path, content: &str| {
        token::write(path, content).map_err(|error| LoginError::Write {
            path: path.to_owned(),
            error,
        })
    };
    // The kubeconfig last: a manager that waits for it finds the token.
    store(&token_path, &made)?;
    store(&path, &kubeconfig(login, &server, &authorities, &token_path))?;
    Ok(path)
}

/// JSON is YAML, and quotes whatever has to be quoted.
fn kubeconfig(login: &Login, server: &str, authorities: &[Vec<u8>], token: &Path) -> String {
    let mut cluster = json!({ "server": server });
    if !authorities.is_empty() {
        cluster["certificate-authority-data"] = pem(authorities).into();
    }
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "cluster", "cluster": cluster }],
        // A name without a folder is looked for beside the kubeconfig, wherever that is mounted.
        "users": [{ "name": "octopus-manager", "user": { "tokenFile": token.file_name().map(|name| name.to_string_lossy()) } }],
        "contexts": [{
            "name": "manager",
            "context": { "cluster": "cluster", "user": "octopus-manager", "namespace": login.namespace },
        }],
        "current-context": "manager",
    });
    format!("{document:#}\n")
}

/// Certificates as a kubeconfig holds them: base64 of PEM.
fn pem(certificates: &[Vec<u8>]) -> String {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let body = BASE64_STANDARD.encode(certificate);
        for line in body.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    BASE64_STANDARD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubeconfig_names_the_token_beside_it_and_holds_the_authority() {
        let login = Login {
            admin_kubeconfig: "admin".into(),
            output: "out".into(),
            service_account: "octopus-manager".into(),
            account_namespace: "octopus-manager".into(),
            namespace: "octopus-functions".into(),
            server: None,
            token_seconds: 600,
        };
        let text = kubeconfig(
            &login,
            "https://cluster:6443/",
            &[vec![1; 100]],
            Path::new("/a/b/manager.token"),
        );
        let read: Kubeconfig = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(
            read.auth_infos[0].auth_info.as_ref().unwrap().token_file.as_deref(),
            Some("manager.token")
        );
        assert_eq!(read.current_context.as_deref(), Some("manager"));
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://cluster:6443/"));
        assert!(cluster.certificate_authority_data.is_some());
        assert!(!kubeconfig(&login, "https://c", &[], Path::new("t")).contains("certificate-authority"));
    }
}
