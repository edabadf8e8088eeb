//! The manager's token: `login` makes it, and the manager renews it before it ends, without any interruption.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use octopus_manager::cluster::token::{Claims, write};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use octopus_tests::stack::containers::{node_file, program, scratch};
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use tokio::process::Command;

use crate::functions::{WORK, small, task};

/// Where the stand-in and k3s keep the key that signs tokens.
const KEYS: [&str; 2] = [
    "/etc/kubernetes/pki/service-account.key",
    "/var/lib/rancher/k3s/server/tls/service.current.key",
];

/// `octopus-manager login` for this test's account; answers the kubeconfig and the file with the token.
async fn login(stack: &Stack, seconds: u32) -> (PathBuf, PathBuf) {
    let managers = &stack.namespace.managers;
    let folder = scratch().join(managers);
    std::fs::create_dir_all(&folder).unwrap();
    let output = Command::new(program("octopus-manager"))
        .arg("login")
        .arg("--admin-kubeconfig")
        .arg(&stack.shared.kubeconfig)
        .arg("--output")
        .arg(&folder)
        .args(["--service-account", managers, "--account-namespace", managers])
        .args([
            "--namespace",
            &stack.namespace.name,
            "--token-seconds",
            &seconds.to_string(),
        ])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (folder.join("manager.kubeconfig"), folder.join("manager.token"))
}

/// The same token with another life, signed with the cluster's own key.
fn signed_anew(token: &str, key: &[u8], issued_at: DateTime<Utc>, expires_at: DateTime<Utc>) -> String {
    let mut parts = token.split('.');
    let header = parts.next().unwrap();
    let payload = BASE64_URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap();
    let mut claims: Value = serde_json::from_slice(&payload).unwrap();
    claims["iat"] = issued_at.timestamp().into();
    claims["nbf"] = issued_at.timestamp().into();
    claims["exp"] = expires_at.timestamp().into();
    let text = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
    let key = rustls::crypto::ring::sign::any_supported_type(&PrivateKeyDer::from_pem_slice(key).unwrap()).unwrap();
    let signer = key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).unwrap();
    let signature = signer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

fn claims(path: &Path) -> Claims {
    Claims::of(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Replaces the token by one that ends soon, where the key of the cluster can be read.
async fn shorten(stack: &Stack, token: &Path) -> bool {
    for path in KEYS {
        if let Some(key) = node_file(stack.shared, path).await {
            let first = std::fs::read_to_string(token).unwrap();
            let now = Utc::now();
            write(token, &signed_anew(&first, &key, now, now + TimeDelta::seconds(24))).unwrap();
            return true;
        }
    }
    false
}

/// Every line of this test's managers.
fn logged(stack: &Stack) -> String {
    let mut all = String::new();
    for file in std::fs::read_dir(stack.logs()).unwrap() {
        let file = file.unwrap();
        if file.file_name().to_string_lossy().starts_with("manager") {
            all.push_str(&std::fs::read_to_string(file.path()).unwrap());
        }
    }
    all
}

/// Starts one task after another until `ends`, and demands that each succeeds.
async fn work_until(stack: &Stack, ends: DateTime<Utc>) -> u32 {
    let mut tasks = 0;
    while Utc::now() < ends {
        let process = stack.client.start("work", task(&["say", "on", "sleep", "1"])).await;
        let gone = stack.client.shows(process, "lifecycle", "gone", 60).await;
        assert_eq!(gone["state"], "succeeded", "{gone}");
        assert_eq!(stack.client.log(process).await, b"on\n");
        tasks += 1;
    }
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_beyond_the_life_of_the_first_token() {
    let stack = Stack::start("token").await;
    let (kubeconfig, token) = login(&stack, 600).await;
    // A token of 600 s, up to its end and beyond, is too long for a test and what `make soak` does.
    let soak = std::env::var_os("OCTOPUS_SOAK").is_some();
    let shortened = !soak && shorten(&stack, &token).await;
    let first = claims(&token);
    let kubeconfig = kubeconfig.display().to_string();
    let manager = stack
        .manager_with(&[("KUBECONFIG", &kubeconfig), ("OCTOPUS_TOKEN_SECONDS", "600")])
        .await;
    stack.client.build("work", WORK, small()).await;
    if !shortened && !soak {
        eprintln!("no key of this cluster: the end of a token is not awaited");
        work_until(&stack, Utc::now() + TimeDelta::seconds(5)).await;
        assert!(!logged(&stack).contains("Unauthorized"));
        return;
    }
    let beyond = TimeDelta::seconds(if soak { 300 } else { 15 });
    let tasks = work_until(&stack, first.expires_at + beyond).await;
    assert!(tasks > 3, "{tasks}");

    let renewed = claims(&token);
    assert!(renewed.expires_at > first.expires_at, "{renewed:?}");
    assert_eq!(renewed.account, stack.namespace.managers);
    let log = logged(&stack);
    assert!(log.contains("token in use"), "{log}");
    // Not "401": ids and times may hold these digits.
    for word in ["Unauthorized", "could not be renewed"] {
        assert!(!log.contains(word), "{word}: {log}");
    }
    let shown = manager.metric("octopus_token_expiry_timestamp_seconds").await;
    assert_eq!(shown, Some(renewed.expires_at.timestamp() as f64));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_named_and_a_new_login_is_taken_over() {
    let stack = Stack::start("expired").await;
    let (kubeconfig, token) = login(&stack, 600).await;
    if !shorten(&stack, &token).await {
        eprintln!("no key of this cluster: no token can be made that ends soon");
        return;
    }
    // Without the right to renew, the first token ends.
    let roles = kube::Api::<k8s_openapi::api::rbac::v1::RoleBinding>::namespaced(
        stack.namespace.admin.clone(),
        &stack.namespace.managers,
    );
    let binding = "octopus-manager-token";
    roles
        .delete(binding, &kube::api::DeleteParams::default())
        .await
        .unwrap();
    let kubeconfig = kubeconfig.display().to_string();
    let manager = stack.manager_with(&[("KUBECONFIG", &kubeconfig)]).await;
    let ready = async || {
        let answer = reqwest::get(format!("http://{}/readyz", manager.address)).await.ok()?;
        let status = answer.status();
        Some((status, answer.text().await.ok()?))
    };
    for word in ["cannot be renewed", "expired at"] {
        until(&format!("readiness to say `{word}`"), 60, async || {
            ready().await.filter(|(_, text)| text.contains(word)).map(|_| ())
        })
        .await;
    }
    login(&stack, 600).await;
    until("the new token to be taken over", 30, async || {
        ready().await.filter(|(status, _)| status.is_success()).map(|_| ())
    })
    .await;
}
