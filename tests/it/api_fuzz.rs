//! Every route, by what the OpenAPI document says of it: requests in its grammar and beside it, made by schemathesis. No
//! answer is a 5xx, and each has a status, a media type and a form that the document names.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use octopus_tests::api::Api;
use octopus_tests::function;
use octopus_tests::postgres::Database;
use tokio::net::TcpListener;
use tokio::process::Command;

const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/it/schemathesis.toml");
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
/// For one run in `make soak`, far beyond what one takes.
const LONGEST: Duration = Duration::from_secs(3600);

/// Whether all checks passed, and what was said.
async fn schemathesis(document: &str, url: &str, token: &str, examples: &str) -> (bool, String) {
    let Ok(program) = std::env::var("OCTOPUS_SCHEMATHESIS") else {
        panic!(
            "OCTOPUS_SCHEMATHESIS does not name schemathesis: `scripts/tools.sh schemathesis` installs it, `make test` sets it"
        );
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("openapi.json");
    std::fs::write(&file, document).unwrap();
    let run = Command::new(program)
        .args(["--no-color", "--config-file", CONFIGURATION, "run"])
        .arg(&file)
        .args(["--url", url, "--header", &format!("Authorization: Bearer {token}")])
        .args([
            "--checks",
            CHECKS,
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            examples,
        ])
        .args([
            "--seed",
            "1",
            "--request-timeout",
            "20",
            "--continue-on-failure",
            "--no-shrink",
        ])
        // It keeps what it found, which a later run would begin with.
        .current_dir(folder.path())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LONGEST, run).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said.into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_as_its_document_says() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    // Something that can be found, so that not each name ends in a 404.
    function::declare(&api, "hello").await;
    let examples = std::env::var("OCTOPUS_SOAK").map_or("10", |_| "500");
    let document = octopus_api::openapi::json().unwrap();
    let (passed, said) = schemathesis(&document, &api.url, &api.admin, examples).await;
    assert!(passed, "{said}");
    assert!(said.contains("25 selected / 25 total"), "{said}");
}

/// The test above can fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_error_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let broken = Router::new().route("/healthz", get(async || StatusCode::INTERNAL_SERVER_ERROR));
    let server = tokio::spawn(async move { axum::serve(listener, broken).await });
    let mut document = serde_json::to_value(octopus_api::openapi::document()).unwrap();
    document["paths"]
        .as_object_mut()
        .unwrap()
        .retain(|path, _| path == "/healthz");
    let (passed, said) = schemathesis(&document.to_string(), &url, "none", "1").await;
    server.abort();
    assert!(!passed && said.contains("Server error"), "{said}");
}
