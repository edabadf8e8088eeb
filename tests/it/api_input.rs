//! Bad input: a 4xx that names the field, and nothing half-done.

use octopus_tests::api::{Api, send};
use octopus_tests::function::declare;
use octopus_tests::postgres::Database;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

async fn rows(database: &Database) -> i64 {
    let query =
        "select (select count(*) from command) + (select count(*) from bundle) + (select count(*) from process)";
    sqlx::query_scalar(query).fetch_one(&database.owner).await.unwrap()
}

#[tokio::test]
async fn refused_declarations_name_the_field_and_store_nothing() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let source = |spec: Value| json!({"source": "print(1)", "spec": spec});
    for (name, body, status, fields) in [
        ("Upper", source(json!({})), 422, vec!["name"]),
        ("..%2f..%2fetc%2fpasswd", source(json!({})), 422, vec!["name"]),
        ("a%00b", source(json!({})), 422, vec!["name"]),
        ("kube.system", source(json!({})), 422, vec!["name"]),
        ("ok", source(json!({"port": 80})), 422, vec!["spec.port"]),
        ("ok", source(json!({"port": 70000})), 422, vec!["spec.port"]),
        ("ok", source(json!({"prot": 5000})), 422, vec!["spec.prot"]),
        (
            "ok",
            source(json!({"cluster": "A", "stop_grace_seconds": 0})),
            422,
            vec!["spec.cluster", "spec.stop_grace_seconds"],
        ),
        (
            "ok",
            source(json!({"env": [{"name": "A=B", "value": "x\u{0}"}]})),
            422,
            vec!["spec.env[0].name", "spec.env[0].value"],
        ),
        ("ok", source(json!({"env": [{"name": "A"}]})), 422, vec!["spec.env[0]"]),
        (
            "ok",
            source(json!({"resources": {"memory": "lots"}})),
            422,
            vec!["spec.resources.memory"],
        ),
        ("ok", json!({"source": "print(1)", "bogus": 1}), 422, vec!["bogus"]),
        ("ok", json!({}), 422, vec!["source"]),
        ("ok", json!({"source": ""}), 422, vec!["source"]),
        (
            "ok",
            json!({"source": "a", "source_base64": "YQ=="}),
            422,
            vec!["source_base64"],
        ),
        ("ok", json!({"source_base64": "!"}), 422, vec!["source_base64"]),
        ("ok", json!({"source_base64": "/w=="}), 422, vec!["source"]),
        ("ok", json!([{}, "print(1)"]), 422, vec!["body"]),
        ("ok", json!("print(1)"), 422, vec!["body"]),
    ] {
        let answer = api.put(&format!("/api/v1/functions/{name}"), &body).await;
        assert_eq!(answer.status, status, "{name} {body}: {}", answer.text());
        assert_eq!(answer.problem(), "invalid-input");
        assert_eq!(answer.fields(), fields, "{name} {body}: {}", answer.text());
    }
    assert_eq!(rows(&database).await, 0);
}

#[tokio::test]
async fn refused_bodies_and_addresses_say_why() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let put = |kind: &str, body: &'static str| {
        api.request(Method::PUT, "/api/v1/functions/a", &api.admin)
            .header("content-type", kind)
            .body(body)
    };
    let process = "/api/v1/processes/0192f0c0-0000-7000-8000-000000000000";
    let get = |path: &str| api.request(Method::GET, path, &api.admin);
    for (request, status, problem, field) in [
        (put("application/json", "{"), 400, "malformed-request", "body"),
        (put("text/plain", "print(1)"), 415, "unsupported-media-type", ""),
        (put("multipart/form-data", "x"), 400, "malformed-request", ""),
        (
            put("multipart/form-data; boundary=b", "--b\r\nbroken"),
            400,
            "malformed-request",
            "",
        ),
        (get("/api/v1/processes/not-a-uuid"), 400, "malformed-request", "id"),
        (get("/api/v1/commands/..%2f..%2fetc"), 400, "malformed-request", "id"),
        (
            get("/api/v1/commands/0192f0c0-0000-7000-8000-000000000000?wait=61"),
            400,
            "malformed-request",
            "wait",
        ),
        (get("/api/v1/processes?limit=0"), 400, "malformed-request", "limit"),
        (get("/api/v1/processes?limit=x"), 400, "malformed-request", "limit"),
        (
            get("/api/v1/processes?function=a%00"),
            400,
            "malformed-request",
            "query",
        ),
        (get("/api/v1/processes?state=dead"), 400, "malformed-request", "state"),
        (
            get(&format!("{process}/logs?tail=-1")),
            400,
            "malformed-request",
            "tail",
        ),
        (
            get(&format!("{process}/logs?after=x")),
            400,
            "malformed-request",
            "after",
        ),
        (
            get(&format!("{process}/logs?after=1.0&tail=1")),
            400,
            "malformed-request",
            "tail",
        ),
        (
            get(&format!("{process}/logs")).header("accept", "image/png"),
            406,
            "not-acceptable",
            "",
        ),
        (get("/api/v1/events?after=x"), 400, "malformed-request", "after"),
        (get(process), 404, "not-found", ""),
        (get(&format!("{process}/logs")), 404, "not-found", ""),
        (get(&format!("{process}/events")), 404, "not-found", ""),
        (get(&format!("{process}/manifest")), 404, "not-found", ""),
        (get("/api/v1/functions/a"), 404, "not-found", ""),
        (get("/api/v1/functions/a/revisions/1/build-log"), 404, "not-found", ""),
        (
            get("/api/v1/functions/a/revisions/x/build-log"),
            400,
            "malformed-request",
            "path",
        ),
        (get("/api/v1/clusters/a"), 404, "not-found", ""),
        (get("/api/v2"), 404, "no-route", ""),
        (
            api.request(Method::PATCH, "/api/v1/functions/a", &api.admin),
            405,
            "method-not-allowed",
            "",
        ),
        (api.anonymous(Method::POST, "/healthz"), 405, "method-not-allowed", ""),
    ] {
        let shown = format!("{request:?}");
        let answer = send(request).await;
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
        assert_eq!(answer.problem(), problem, "{shown}: {}", answer.text());
        let fields = answer.fields();
        assert_eq!(
            fields.first().map_or("", String::as_str),
            field,
            "{shown}: {}",
            answer.text()
        );
    }
    let unknown = send(get("/api/v1/processes?colour=red")).await;
    assert!(
        unknown.status == 400 && unknown.text().contains("colour"),
        "{}",
        unknown.text()
    );
    assert_eq!(rows(&database).await, 0);
}

#[tokio::test]
async fn starts_are_checked_field_by_field() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    declare(&api, "hello").await;
    let before = rows(&database).await;
    for (body, status, fields) in [
        (json!({}), 422, vec!["kind"]),
        (json!({"kind": "job"}), 422, vec!["kind"]),
        (json!({"kind": "task", "colour": 1}), 422, vec!["colour"]),
        (json!({"kind": "task", "revision": "x"}), 422, vec!["revision"]),
        (
            json!({"kind": "service", "timeout_seconds": 5, "retries": 1}),
            422,
            vec!["timeout_seconds", "retries"],
        ),
        (json!({"kind": "task", "args": ["a\u{0}"]}), 422, vec!["args"]),
        (json!({"kind": "task", "revision": 2}), 404, vec![]),
    ] {
        let answer = api.post("/api/v1/functions/hello/processes", &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.fields()),
            (status, fields.into_iter().map(str::to_owned).collect()),
            "{body}"
        );
    }
    let unknown = api
        .post("/api/v1/functions/unknown/processes", &json!({"kind": "task"}))
        .await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.problem().as_str()),
        (404, "not-found")
    );
    assert_eq!(rows(&database).await, before);
}

#[tokio::test]
async fn a_body_above_the_limit_is_answered_with_the_limit() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let put = || api.request(Method::PUT, "/api/v1/functions/big", &api.admin);
    let form = Form::new().part("source", Part::bytes(vec![b'#'; 10_000_000]).file_name("main.py"));
    let text = json!({"source": "#".repeat(10_000_000)});
    for request in [put().multipart(form), put().json(&text)] {
        let answer = send(request).await;
        assert_eq!(answer.status, 413);
        assert_eq!(answer.problem(), "too-large");
        assert!(
            answer.json()["detail"].as_str().unwrap().contains("8650752 bytes"),
            "{}",
            answer.text()
        );
    }
    let kill = api.request(Method::POST, "/api/v1/commands/x/cancel", &api.admin);
    assert_eq!(
        send(kill.body(vec![b' '; 2 << 20])).await.status,
        400,
        "the address is looked at first"
    );
    let largest = Form::new().part("source", Part::bytes(vec![b'#'; 8 << 20]));
    assert_eq!(send(put().multipart(largest)).await.status, 202);
    let above = Form::new().part("source", Part::bytes(vec![b'#'; (8 << 20) + 1]));
    let answer = send(put().multipart(above)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.fields()),
        (422, vec!["source".to_owned()])
    );
}

#[tokio::test]
async fn a_form_is_taken_in_whole_or_not() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let put = |form: Form| {
        send(
            api.request(Method::PUT, "/api/v1/functions/form", &api.admin)
                .multipart(form),
        )
    };
    let code = || Part::bytes(&b"print(1)"[..]).file_name("../../main.py");
    for (form, fields) in [
        (Form::new().text("spec", "{}"), vec!["source"]),
        (
            Form::new().part("source", code()).text("spec", r#"{"port": "x"}"#),
            vec!["spec.port"],
        ),
        (Form::new().part("source", code()).text("spec", "{"), vec!["spec"]),
        (
            Form::new().part("source", code()).part("source", code()),
            vec!["source"],
        ),
        (Form::new().part("source", code()).text("colour", "red"), vec!["colour"]),
    ] {
        let answer = put(form).await;
        assert!(answer.status.is_client_error(), "{}", answer.text());
        assert_eq!(answer.fields(), fields, "{}", answer.text());
    }
    assert_eq!(rows(&database).await, 0);
    put(Form::new().text("spec", r#"{"port": 5001}"#).part("source", code()))
        .await
        .accepted();
    assert_eq!(
        api.read("/api/v1/functions/form").await["revisions"][0]["spec"]["port"],
        5001
    );
}
