//! The manager's token: where it stands, what it says of itself, and how the client of the API server carries it.
//!
//! kube reads a `tokenFile` once a minute, and an inline token never again. So the client is built without either, and each
//! request takes the token that is newest at that moment: a renewal holds at once, for watches and log streams too.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tower::util::{MapRequestLayer, MapResponseLayer};

use super::{ClusterError, patience};

/// What a token of a service account says of itself. The API server checks it; here it is only read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Namespace of the account.
    pub namespace: String,
    /// Name of the account.
    pub account: String,
    /// When it was made.
    pub issued_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

impl Claims {
    /// Reads them. None: it is no token of a service account, or one without an end.
    pub fn of(token: &str) -> Option<Self> {
        let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&payload).ok()?;
        let (namespace, account) = claims["sub"]
            .as_str()?
            .strip_prefix("system:serviceaccount:")?
            .split_once(':')?;
        let time = |name: &str| DateTime::from_timestamp(claims[name].as_i64()?, 0);
        Some(Self {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            issued_at: time("iat").or_else(|| time("nbf"))?,
            expires_at: time("exp")?,
        })
    }

    /// Half of its life: from then on it is renewed. The other half is there for whatever goes wrong.
    pub fn renew_at(&self) -> DateTime<Utc> {
        self.issued_at + (self.expires_at - self.issued_at) / 2
    }
}

/// A token as the kubeconfig gives it.
#[derive(Clone, PartialEq, Eq)]
pub struct Found {
    /// The token.
    pub token: String,
    /// The file that holds it; None when the kubeconfig itself does.
    pub file: Option<PathBuf>,
}

/// The token that requests carry, shared by all who use the client.
#[derive(Clone, Default)]
pub struct Bearer(Arc<RwLock<Option<HeaderValue>>>);

impl Bearer {
    /// Requests carry this token from now on.
    ///
    /// # Errors
    /// [`ClusterError::Kubeconfig`] when it holds characters that no token has.
    pub fn set(&self, token: &str) -> Result<(), ClusterError> {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| ClusterError::Kubeconfig("the token holds characters that no token has".into()))?;
        value.set_sensitive(true);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    fn sign(&self, mut request: Request<Body>) -> Request<Body> {
        if let Some(value) = &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        request
    }
}

/// Reads the kubeconfig: how the API server is reached, and the token, if that is how it knows us.
///
/// # Errors
/// [`ClusterError::Kubeconfig`] when it, or the token's file, is not there or cannot be used.
pub async fn read(kubeconfig: &Path) -> Result<(kube::Config, Option<Found>), ClusterError> {
    let unusable = |error: &dyn std::fmt::Display| {
        ClusterError::Kubeconfig(format!("KUBECONFIG {}: {error}", kubeconfig.display()))
    };
    let read = Kubeconfig::read_from(kubeconfig).map_err(|error| unusable(&error))?;
    let mut config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .map_err(|error| unusable(&error))?;
    let inline = config.auth_info.token.take();
    let file = config.auth_info.token_file.take().map(PathBuf::from);
    let found = match (inline, file) {
        (Some(token), _) => Some(Found {
            token: token.expose_secret().trim().to_owned(),
            file: None,
        }),
        (None, Some(file)) => {
            let token = std::fs::read_to_string(&file)
                .map_err(|error| unusable(&format!("tokenFile {}: {error}", file.display())))?;
            Some(Found {
                token: token.trim().to_owned(),
                file: Some(file),
            })
        }
        (None, None) => None,
    };
    Ok((config, found))
}

/// A client whose requests carry what `bearer` holds at that moment.
///
/// # Errors
/// When the certificates cannot be used.
pub fn client(config: kube::Config, bearer: &Bearer) -> Result<Client, kube::Error> {
    let bearer = bearer.clone();
    let layer = MapRequestLayer::new(move |request| bearer.sign(request));
    let builder = ClientBuilder::try_from(config)?.with_layer(&layer);
    Ok(builder.with_layer(&MapResponseLayer::new(patience::told)).build())
}

/// Writes a file that only its owner reads, in one step: a reader sees the old one or the new one.
///
/// # Errors
/// When its folder cannot be written to.
pub fn write(path: &Path, content: &str) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    fn token(claims: &Value) -> String {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2ln", part("{}"), part(&claims.to_string()))
    }

    #[test]
    fn a_token_names_its_account_and_its_end() {
        let claims = Claims::of(&token(&json!({
            "sub": "system:serviceaccount:octopus-manager:octopus-manager", "iat": 1000, "nbf": 1000, "exp": 1600
        })))
        .unwrap();
        assert_eq!(
            (claims.namespace.as_str(), claims.account.as_str()),
            ("octopus-manager", "octopus-manager")
        );
        assert_eq!(claims.expires_at.timestamp(), 1600);
        assert_eq!(claims.renew_at().timestamp(), 1300);
    }

    #[test]
    fn other_tokens_have_no_claims() {
        for claims in [
            json!({"sub": "system:serviceaccount:a:b", "iat": 1}),
            json!({"sub": "jane", "iat": 1, "exp": 2}),
            json!({"sub": "system:serviceaccount:a", "iat": 1, "exp": 2}),
            json!([]),
        ] {
            assert_eq!(Claims::of(&token(&claims)), None, "{claims}");
        }
        for text in ["", "opaque", "a.b.c", "..", "a.!.c"] {
            assert_eq!(Claims::of(text), None, "{text}");
        }
    }

    #[test]
    fn requests_carry_the_newest_token_and_do_not_show_it() {
        let bearer = Bearer::default();
        let sent = |bearer: &Bearer| {
            bearer
                .sign(Request::new(Body::empty()))
                .headers()
                .get(AUTHORIZATION)
                .cloned()
        };
        assert_eq!(sent(&bearer), None);
        bearer.set("one").unwrap();
        bearer.clone().set("two").unwrap();
        let value = sent(&bearer).unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer two");
        assert!(!format!("{value:?}").contains("two"));
        assert!(bearer.set("a\nb").is_err());
    }

    #[test]
    fn a_written_file_is_its_owners_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manager.token");
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_kubeconfig_holds_its_token_or_names_a_file_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manager.kubeconfig");
        let with = |user: Value| {
            json!({
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x",
            })
            .to_string()
        };
        write(&path, &with(json!({"token": "inline"}))).unwrap();
        let (config, found) = read(&path).await.unwrap();
        assert!(config.auth_info.token.is_none());
        assert!(found.is_some_and(|found| found.token == "inline" && found.file.is_none()));

        write(&path, &with(json!({"tokenFile": "manager.token"}))).unwrap();
        assert!(
            read(&path)
                .await
                .is_err_and(|error| error.to_string().contains("manager.token"))
        );
        let beside = folder.path().join("manager.token");
        write(&beside, "filed\n").unwrap();
        let (config, found) = read(&path).await.unwrap();
        assert!(config.auth_info.token_file.is_none());
        assert!(found.is_some_and(|found| found.token == "filed" && found.file == Some(beside)));

        write(&path, &with(json!({}))).unwrap();
        assert!(read(&path).await.unwrap().1.is_none());
    }
}
