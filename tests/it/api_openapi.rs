//! The OpenAPI document: all of the surface, and committed.

use octopus_tests::api::{Api, send};
use octopus_tests::postgres::Database;
use reqwest::Method;
use serde_json::Value;

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let committed = include_str!("../../docs/openapi.json").trim_end();
    assert!(
        octopus_api::openapi::json().unwrap().trim_end() == committed,
        "docs/openapi.json is not up to date: octopus-api openapi > docs/openapi.json"
    );
}

#[test]
fn every_route_is_documented_with_its_errors_and_its_security() {
    let document = serde_json::to_value(octopus_api::openapi::document()).unwrap();
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            routes.push(format!("{} {path}", method.to_uppercase()));
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            let answers = operation["responses"].as_object().unwrap();
            let open =
                operation["security"] == serde_json::json!([{}]) || operation["security"] == serde_json::json!([]);
            let probe = path == "/healthz" || path == "/readyz";
            assert_eq!(open, probe, "{method} {path}: {}", operation["security"]);
            assert!(
                probe || answers.contains_key("401"),
                "{method} {path} does not say that it needs a token"
            );
            assert_eq!(
                answers.contains_key("202"),
                ["put", "post", "delete"].contains(&method.as_str()),
                "{method} {path}"
            );
            for parameter in operation["parameters"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default()
            {
                assert!(parameter["description"].is_string(), "{method} {path}: {parameter}");
            }
        }
    }
    routes.sort();
    assert_eq!(
        routes,
        [
            "DELETE /api/v1/functions/{name}",
            "GET /api/v1/clusters",
            "GET /api/v1/clusters/{name}",
            "GET /api/v1/commands/{id}",
            "GET /api/v1/events",
            "GET /api/v1/functions",
            "GET /api/v1/functions/{name}",
            "GET /api/v1/functions/{name}/revisions/{number}/build-log",
            "GET /api/v1/processes",
            "GET /api/v1/processes/{id}",
            "GET /api/v1/processes/{id}/events",
            "GET /api/v1/processes/{id}/logs",
            "GET /api/v1/processes/{id}/manifest",
            "GET /api/v1/processes/{id}/story",
            "GET /healthz",
            "GET /metrics",
            "GET /readyz",
            "POST /api/v1/commands/{id}/cancel",
            "POST /api/v1/commands/{id}/requeue",
            "POST /api/v1/functions/{name}/processes",
            "POST /api/v1/processes/{id}/kill",
            "POST /api/v1/processes/{id}/restart",
            "POST /api/v1/processes/{id}/scale",
            "POST /api/v1/processes/{id}/update",
            "PUT /api/v1/functions/{name}",
        ]
    );
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    references(&document, &document);
}

/// Every reference leads somewhere.
fn references(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                assert!(
                    document.pointer(target.trim_start_matches('#')).is_some(),
                    "{target} leads nowhere"
                );
            }
            fields.values().for_each(|field| references(document, field));
        }
        Value::Array(items) => items.iter().for_each(|item| references(document, item)),
        _ => {}
    }
}

#[tokio::test]
async fn the_page_works_without_any_other_host() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let page = send(api.anonymous(Method::GET, "/docs/")).await.text();
    assert!(!page.contains("http://") && !page.contains("https://"), "{page}");
    for file in page
        .split(['"', '\''])
        .filter(|word| word.ends_with(".js") || word.ends_with(".css"))
    {
        let file = send(api.anonymous(Method::GET, &format!("/docs/{}", file.trim_start_matches("./")))).await;
        assert_eq!(file.status, 200);
    }
    let served = send(api.anonymous(Method::GET, "/openapi.json")).await.json();
    assert_eq!(served, serde_json::to_value(octopus_api::openapi::document()).unwrap());
}

#[tokio::test]
async fn metrics_count_requests_and_commands() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    octopus_tests::function::declare(&api, "hello").await;
    api.get("/nowhere").await;
    let metrics = api.get("/metrics").await.text();
    for line in [
        r#"octopus_api_http_requests_total{method="PUT",route="/api/v1/functions/{name}",status="202"}"#,
        r#"octopus_api_http_requests_total{method="GET",route="unmatched",status="404"}"#,
        r#"octopus_api_commands_enqueued_total{kind="declare_function"}"#,
        r#"octopus_api_http_request_duration_seconds_bucket{"#,
        "octopus_api_listener_connected",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn readiness_is_the_database_and_health_is_the_process() {
    let empty = Database::empty().await;
    let database = Database::new().await;
    let api = Api::start(&database).await;
    assert_eq!(api.get("/readyz").await.status, 200);
    database.api.close().await;
    let away = api.get("/readyz").await;
    assert_eq!((away.status.as_u16(), away.problem().as_str()), (503, "unavailable"));
    assert!(away.headers.contains_key("retry-after"));
    assert_eq!(api.get("/healthz").await.status, 200);
    assert_eq!(api.get("/api/v1/functions").await.problem(), "unavailable");
    assert!(octopus_shared::db::outdated(&empty.owner).await.unwrap().is_some());
}
