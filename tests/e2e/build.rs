//! Sources that cannot be built, and ones that need not be built again.

use std::io::Write;

use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::functions::{HELLO, WORK, small};

fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        // Written by hand: the library refuses the paths that this test is about.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

/// 512 MiB of zeros in half a megabyte.
fn bomb() -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut header = tar::Header::new_gnu();
    header.set_path("main.py").unwrap();
    header.set_size(512 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    gzip.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..512 {
        gzip.write_all(&zeros).unwrap();
    }
    gzip.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_input_is_built_once() {
    let stack = Stack::start("build-once").await;
    let _manager = stack.manager().await;
    let first = stack.client.build("hello", HELLO, json!({})).await;
    let second = stack.client.build("hello", HELLO, json!({})).await;
    assert_eq!((&first["number"], &second["number"]), (&json!(1), &json!(2)));
    assert_eq!(first["image"]["digest"], second["image"]["digest"]);
    let images: i64 = sqlx::query_scalar("select count(*) from image")
        .fetch_one(&stack.owner)
        .await
        .unwrap();
    assert_eq!(images, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_built_says_which_line_and_why() {
    let stack = Stack::start("build-refused").await;
    let _manager = stack.manager().await;
    let python = |line: &str| format!("import os\n\ndependencies = [\n    {line},\n]\n").into_bytes();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("invalid-python", b"def broken(:\n".to_vec(), &["line 1"]),
        (
            "bad-config",
            b"x = 1\nconfig_str = '''{\"device_map\": }'''\n".to_vec(),
            &["config_str"],
        ),
        (
            "no-such-package",
            python("\"pip install octopus-no-such-package-at-all==9.9.9\""),
            &["octopus-no-such-package-at-all"],
        ),
        (
            "system-package",
            python("\"apt-get update && apt-get install -y pandoc\""),
            &["line 4", "pandoc"],
        ),
        (
            "source-only",
            python("\"pip install fasttext==0.9.2\""),
            &["fasttext", "could not be built"],
        ),
        (
            "traversal",
            tar(&[
                ("main.py", b"x = 1\n"),
                ("requirements.txt", b""),
                ("../../etc/passwd", b"x"),
            ]),
            &["../../etc/passwd"],
        ),
        ("bomb", bomb(), &["unpacks to more than"]),
    ];
    let mut commands = Vec::new();
    for (name, source, words) in cases {
        let body = json!({ "spec": small(), "source_base64": base64(&source) });
        let (status, answer) = stack
            .client
            .send(Method::PUT, &format!("/api/v1/functions/{name}"), &body)
            .await;
        assert_eq!(status, StatusCode::ACCEPTED, "{name}: {answer}");
        let path = format!("/api/v1/functions/{name}/processes");
        let (status, started) = stack.client.send(Method::POST, &path, &json!({"kind": "task"})).await;
        // A build that has failed already refuses the start; one that has not fails it.
        let started = match status {
            StatusCode::ACCEPTED => Some(started["process"]["id"].as_str().unwrap().parse().unwrap()),
            StatusCode::CONFLICT => None,
            _ => panic!("{name}: {started}"),
        };
        commands.push((name, answer["id"].as_str().unwrap().parse().unwrap(), started, words));
    }
    for (name, command, started, words) in commands {
        let ended = stack.client.ended(command, 120).await;
        assert_eq!(ended["state"], "failed", "{name}: {ended}");
        let message = ended["message"].as_str().unwrap();
        for word in words {
            assert!(message.contains(word), "{name}: `{word}` is not in: {message}");
        }
        assert!(!ended["remedy"].as_str().unwrap().is_empty(), "{name}: {ended}");
        if let Some(started) = started {
            let process = stack.client.shows(started, "lifecycle", "gone", 30).await;
            let why = (&process["state"], &process["reason"]);
            assert_eq!(
                why,
                (&json!("failed"), &json!("image_build_failed")),
                "{name}: {process}"
            );
        }
        let function = stack.client.get(&format!("/api/v1/functions/{name}")).await;
        assert_eq!(function["revisions"][0]["build_state"], "failed", "{name}");
    }
    assert!(stack.namespace.pods().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_at_the_border() {
    let stack = Stack::start("border").await;
    let (status, problem) = stack
        .client
        .with_token("nobody's".into())
        .send(Method::GET, "/api/v1/functions", &Value::Null)
        .await;
    assert_eq!((status, &problem["status"]), (StatusCode::UNAUTHORIZED, &json!(401)));
    let viewer = stack.client.with_token(stack.token("viewer").await);
    let body = json!({ "source": WORK });
    let (status, problem) = viewer.send(Method::PUT, "/api/v1/functions/work", &body).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{problem}");
    let (status, problem) = stack
        .client
        .send(Method::PUT, "/api/v1/functions/No_Kubernetes_Name", &body)
        .await;
    assert_eq!(
        (status, &problem["errors"][0]["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("name")),
        "{problem}"
    );
    let large = json!({ "source": "#".repeat(10 << 20) });
    let (status, problem) = stack.client.send(Method::PUT, "/api/v1/functions/large", &large).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{problem}");
    let (status, problem) = stack
        .client
        .send(
            Method::POST,
            "/api/v1/functions/unknown/processes",
            &json!({"kind": "task"}),
        )
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{problem}");
    let rows: i64 = sqlx::query_scalar("select (select count(*) from command) + (select count(*) from bundle)")
        .fetch_one(&stack.owner)
        .await
        .unwrap();
    assert_eq!(rows, 0, "nothing half-done remains");
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exists_as_source_only_is_built_in_a_pod_once() {
    let stack = Stack::start("source-only").await;
    let _manager = stack.manager().await;
    let client = &stack.client;
    // A registry that is there already may know the source of an earlier run.
    let run = stack.namespace.name.clone();
    let source = |mark: &str| {
        format!(
            "# {run}\ndependencies = [\"pip install docopt==0.6.2\"]\nimport docopt\nprint('{mark}', docopt.__version__)\n"
        )
    };
    let log = async |name: &str| {
        client
            .get(&format!("/api/v1/functions/{name}/revisions/1/build-log"))
            .await
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let declared = client.declare("first", &source("first"), json!({})).await;
    let begun = until("lines of a build that goes on", 180, async || {
        let begun = log("first").await;
        let shown = client.get("/api/v1/functions/first").await;
        (shown["revisions"][0]["build_state"] == "building" && !begun.is_empty()).then_some(begun)
    })
    .await;
    assert_eq!(client.ended(declared, 600).await["state"], "succeeded");
    let built = log("first").await;
    assert!(
        built.len() > begun.len() && built.starts_with(&begun),
        "{begun}, {built}"
    );
    assert!(built.contains("docopt-0.6.2-py2.py3-none-any.whl"), "{built}");
    client.build("second", &source("second"), json!({})).await;
    let again = log("second").await;
    assert!(
        again.contains("was built before") || again.contains("as in an earlier image"),
        "{again}"
    );
    let process = client.start("second", json!({"kind": "task"})).await;
    client.shows(process, "lifecycle", "gone", 60).await;
    // Before it, Python may warn of what is old in the package.
    assert!(client.log(process).await.ends_with(b"second 0.6.2\n"));
    let builds: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(stack.namespace.admin.clone(), &stack.namespace.builds);
    octopus_tests::stack::client::until("the pod of the build to be gone", 30, async || {
        let left = builds.list(&kube::api::ListParams::default()).await.ok()?;
        left.items.is_empty().then_some(())
    })
    .await;
}
