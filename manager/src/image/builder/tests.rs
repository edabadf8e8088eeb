//! The builder against a registry in this process: what is sent, what is not, and what happens when it says no.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use octopus_shared::function::SourceFormat;
use serde_json::{Value, json};

use super::*;

/// A registry that keeps everything in memory and wants a token.
#[derive(Default)]
struct Fake {
    blobs: Mutex<HashMap<String, Bytes>>,
    manifests: Mutex<HashMap<String, Bytes>>,
    /// Method and path of every request that writes.
    writes: Mutex<Vec<String>>,
    /// How many uploads fail first.
    failures: AtomicUsize,
    /// What it then asks for, in `Retry-After`.
    patience: Option<&'static str>,
    /// Answered to every mount: 201 or 202.
    mounts: bool,
}

const TOKEN: &str = "Bearer opensesame";

async fn answer(State(fake): State<Arc<Fake>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    if path == "/token" {
        return axum::Json(json!({"token": "opensesame"})).into_response();
    }
    if headers.get(header::AUTHORIZATION).is_none_or(|token| token != TOKEN) {
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"fake\"");
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    }
    if matches!(method, Method::POST | Method::PUT) {
        fake.writes.lock().unwrap().push(format!("{method} {path}"));
    }
    let last = path.rsplit('/').next().unwrap_or_default().to_owned();
    let digest = |query: &str| {
        let pair = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "digest" || name == "mount");
        pair.map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let found = |body: Option<Bytes>, kind: &str| match body {
        Some(body) => {
            let headers = [
                (header::CONTENT_TYPE, kind.to_owned()),
                ("docker-content-digest".parse().unwrap(), layer::digest(&body)),
            ];
            (headers, body).into_response()
        }
        None => (
            StatusCode::NOT_FOUND,
            axum::Json(json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "", "detail": null}]})),
        )
            .into_response(),
    };
    match method {
        Method::POST if query.contains("mount=") && fake.mounts => StatusCode::CREATED.into_response(),
        // A relative address with a state of its own, as real ones give.
        Method::POST => (
            StatusCode::ACCEPTED,
            [(header::LOCATION, format!("{path}session?_state=a%3D"))],
        )
            .into_response(),
        Method::PUT if path.contains("/uploads/session") => {
            let failing = fake
                .failures
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok();
            if failing {
                let busy = (StatusCode::SERVICE_UNAVAILABLE, "busy");
                return match fake.patience {
                    Some(seconds) => ([(header::RETRY_AFTER, seconds)], busy).into_response(),
                    None => busy.into_response(),
                };
            }
            assert!(query.starts_with("_state=a%3D&digest="), "{query}");
            assert_eq!(digest(&query), layer::digest(&body));
            fake.blobs.lock().unwrap().insert(digest(&query), body);
            (StatusCode::CREATED, [(header::LOCATION, "/done")]).into_response()
        }
        Method::PUT => {
            let mut manifests = fake.manifests.lock().unwrap();
            manifests.insert(layer::digest(&body), body.clone());
            manifests.insert(last, body);
            (StatusCode::CREATED, [(header::LOCATION, "/done")]).into_response()
        }
        _ if path.contains("/manifests/") => found(
            fake.manifests.lock().unwrap().get(&last).cloned(),
            "application/vnd.oci.image.manifest.v1+json",
        ),
        // Blobs of the base are in the base's repository alone.
        _ if path.contains("/blobs/") => {
            let blob = fake.blobs.lock().unwrap().get(&last).cloned();
            let ours = path.contains(REPOSITORY);
            let sent = fake.writes.lock().unwrap().iter().any(|write| write.starts_with("PUT"));
            found(blob.filter(|_| !ours || sent), "application/octet-stream")
        }
        _ => StatusCode::OK.into_response(),
    }
}

/// Serves the fake with a base image in it, and returns its address.
async fn serve(fake: Arc<Fake>) -> String {
    let put = |bytes: Vec<u8>| {
        let digest = layer::digest(&bytes);
        fake.blobs.lock().unwrap().insert(digest.clone(), bytes.into());
        digest
    };
    let config = json!({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": ["sha256:b"]}});
    let config = put(serde_json::to_vec(&config).unwrap());
    let base_layer = put(b"a layer".to_vec());
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 10},
        "layers": [{"mediaType": kind, "digest": base_layer, "size": 7}]
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let entry = |digest: &str, architecture: &str| {
        let platform = json!({"os": "linux", "architecture": architecture});
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1, "platform": platform})
    };
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(&layer::digest(b"other"), "arm64"), entry(&layer::digest(&manifest), "amd64")]
    });
    let index = serde_json::to_vec(&index).unwrap();
    let known = [
        (layer::digest(&manifest), manifest.into()),
        ("3.11".into(), index.into()),
    ];
    fake.manifests.lock().unwrap().extend(known);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().fallback(answer).with_state(fake);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn builder(address: &str, cache: &TempDir) -> Builder {
    rustls::crypto::ring::default_provider().install_default().ok();
    Builder::new(ImageSettings {
        push: super::super::PushRegistry::new(&format!("http://{address}"), Some(("u".into(), "secret".into())))
            .unwrap(),
        pull: "registry.example.com/mirror/".into(),
        bases: format!("cp311=http://{address}/base/python:3.11").parse().unwrap(),
        uv: "/nonexistent".into(),
        python: "/nonexistent".into(),
        cache_dir: cache.path().to_owned(),
        ca_bundle: None,
        system_packages: Default::default(),
        index_url: None,
    })
    .unwrap()
}

fn source(text: &str) -> Source {
    Source {
        format: SourceFormat::PythonFile,
        content: text.into(),
    }
}

struct NoCache;

impl LayerCache for NoCache {
    fn get<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, Option<CachedLayer>> {
        Box::pin(async { None })
    }

    fn put<'a>(&'a self, _key: &'a str, _layer: &'a CachedLayer) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

struct NoLog;

impl BuildLog for NoLog {
    fn line(&self, _text: &str) {}
}

#[tokio::test]
async fn an_image_is_pushed_once() {
    for (mounts, failures) in [(true, 0), (false, 1)] {
        let fake = Arc::new(Fake {
            mounts,
            failures: failures.into(),
            ..Fake::default()
        });
        let address = serve(Arc::clone(&fake)).await;
        let cache = tempfile::tempdir().unwrap();
        let builder = builder(&address, &cache);
        let plan = builder.plan(&source("print('hello')")).await.unwrap();
        let built = builder.build(&plan, &NoCache, None, &NoLog).await.unwrap();
        assert_eq!(built.base_digest, plan.base_digest);
        let pinned = builder.pull_reference(&built.repository, &built.digest);
        assert_eq!(
            pinned,
            format!("registry.example.com/mirror/octopus/functions@{}", built.digest)
        );
        let manifest: Value = serde_json::from_slice(&fake.manifests.lock().unwrap()[&plan.input_hash]).unwrap();
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
        assert_eq!(built.size_bytes, manifest["layers"][1]["size"].as_u64().unwrap() + 7);

        let writes = fake.writes.lock().unwrap().len();
        let again = builder.build(&plan, &NoCache, None, &NoLog).await.unwrap();
        assert_eq!((again, fake.writes.lock().unwrap().len()), (built, writes));
        assert_eq!(std::fs::read_dir(cache.path().join("scratch")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_refused_mount_becomes_an_upload_into_what_it_opened() {
    let fake = Arc::new(Fake::default());
    let address = serve(Arc::clone(&fake)).await;
    let cache = tempfile::tempdir().unwrap();
    let builder = builder(&address, &cache);
    let base = builder.base(PythonVersion::Cp311).await.unwrap();
    assert!(
        builder
            .registries
            .put_base_layer(&base, &base.manifest.layers[0])
            .await
            .unwrap()
    );
    let uploads = format!("/v2/{REPOSITORY}/blobs/uploads/");
    assert_eq!(
        *fake.writes.lock().unwrap(),
        [format!("POST {uploads}"), format!("PUT {uploads}session")]
    );
}

#[tokio::test]
async fn the_input_decides_and_nothing_else() {
    let fake = Arc::new(Fake::default());
    let address = serve(Arc::clone(&fake)).await;
    let cache = tempfile::tempdir().unwrap();
    let builder = builder(&address, &cache);
    let hash = async |text: &str| builder.plan(&source(text)).await.unwrap().input_hash;
    assert_eq!(hash("x = 1").await, hash("x = 1").await);
    assert_ne!(hash("x = 1").await, hash("x = 2").await);
    let missing = builder
        .plan(&source("config_str = '{\"required_python_version\": \"cp312\"}'"))
        .await
        .unwrap_err();
    assert_eq!(missing.fault, BuildFault::PythonVersion);
    assert!(fake.writes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_registry_that_is_away_is_another_matter_than_one_that_says_no() {
    let cache = tempfile::tempdir().unwrap();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let away = builder(&closed, &cache).plan(&source("x = 1")).await.unwrap_err();
    assert!(away.is_retryable() && away.fault == BuildFault::Unreachable, "{away}");

    let fake = Arc::new(Fake::default());
    let address = serve(Arc::clone(&fake)).await;
    fake.manifests.lock().unwrap().clear();
    let absent = builder(&address, &cache).plan(&source("x = 1")).await.unwrap_err();
    assert!(
        !absent.is_retryable() && absent.fault == BuildFault::BaseImage,
        "{absent}"
    );
    assert!(!absent.to_string().contains("secret"));
}

#[tokio::test]
async fn a_registry_that_asks_for_patience_is_left_alone() {
    let fake = Arc::new(Fake {
        failures: 1.into(),
        patience: Some("30"),
        ..Fake::default()
    });
    let address = serve(Arc::clone(&fake)).await;
    let cache = tempfile::tempdir().unwrap();
    let builder = builder(&address, &cache);
    let plan = builder.plan(&source("x = 1")).await.unwrap();
    let asked = |error: &BuildError| error.away.as_ref().unwrap().asked.as_secs();
    let busy = builder.build(&plan, &NoCache, None, &NoLog).await.unwrap_err();
    assert_eq!((busy.fault, asked(&busy)), (BuildFault::Unreachable, 30), "{busy}");
    builder
        .supplies()
        .missed(busy.away.as_ref().unwrap(), &busy.to_string());
    assert_eq!(builder.supplies().missing(), [busy.to_string()]);

    // Other builds leave it alone too, and make no request.
    let writes = fake.writes.lock().unwrap().len();
    let left = builder.build(&plan, &NoCache, None, &NoLog).await.unwrap_err();
    assert!((1..=30).contains(&asked(&left)), "{left}");
    assert_eq!(fake.writes.lock().unwrap().len(), writes);

    builder.supplies().had(&Part::Registry(address));
    builder.build(&plan, &NoCache, None, &NoLog).await.unwrap();
    assert!(builder.supplies().missing().is_empty());
}
