//! Tokens: who is let in, and for what.

use octopus_api::admin::token;
use octopus_shared::db::view::TokenRole;
use octopus_tests::api::{Answer, Api, send};
use octopus_tests::function::declare;
use octopus_tests::postgres::Database;
use octopus_tests::stack::client::until;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn without_a_valid_token_nothing_but_health_and_docs_answers() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let refused = |answer: &Answer| answer.status == 401 && answer.headers["www-authenticate"] == "Bearer";
    let open = ["/healthz", "/readyz", "/openapi.json", "/docs/"];
    for path in open {
        assert_eq!(send(api.anonymous(Method::GET, path)).await.status, 200, "{path}");
    }
    let document = serde_json::to_value(octopus_api::openapi::document()).unwrap();
    let mut tried = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        if open.contains(&path.as_str()) {
            continue;
        }
        for method in methods.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let answer = send(api.anonymous(method.clone(), &path.replace(['{', '}'], ""))).await;
            assert!(refused(&answer), "{method} {path}: {}", answer.status);
            assert_eq!(answer.problem(), "unauthenticated");
            tried += 1;
        }
    }
    assert!(tried >= 16, "{tried}");
    assert!(refused(&send(api.anonymous(Method::GET, "/nowhere")).await));
    for header in [
        "Bearer",
        "Bearer ",
        "Bearer octopus_0",
        "Basic dTpw",
        &format!("Token {}", api.admin),
    ] {
        let request = api
            .anonymous(Method::GET, "/api/v1/functions")
            .header("authorization", header);
        assert!(refused(&send(request).await), "{header}");
    }
}

#[tokio::test]
async fn a_role_allows_what_it_says() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let function = json!({"source": "print(1)"});
    let missing = "/api/v1/processes/00000000-0000-0000-0000-000000000000/kill";
    let cancel = "/api/v1/commands/00000000-0000-0000-0000-000000000000/cancel";
    let task = json!({"kind": "task"});
    let (viewer, operator, admin) = (&api.viewer, &api.operator, &api.admin);
    for (method, path, body, token, status, needed) in [
        (Method::GET, "/api/v1/functions", None, viewer, 200, ""),
        (Method::GET, "/metrics", None, viewer, 200, ""),
        (
            Method::PUT,
            "/api/v1/functions/a",
            Some(&function),
            viewer,
            403,
            "admin",
        ),
        (
            Method::PUT,
            "/api/v1/functions/a",
            Some(&function),
            operator,
            403,
            "admin",
        ),
        (Method::PUT, "/api/v1/functions/a", Some(&function), admin, 202, ""),
        (
            Method::POST,
            "/api/v1/functions/a/processes",
            Some(&task),
            viewer,
            403,
            "operator",
        ),
        (
            Method::POST,
            "/api/v1/functions/a/processes",
            Some(&task),
            operator,
            202,
            "",
        ),
        (Method::POST, missing, None, viewer, 403, "operator"),
        (Method::POST, missing, None, operator, 404, ""),
        (Method::POST, cancel, None, viewer, 403, "operator"),
        (Method::POST, cancel, None, operator, 404, ""),
        (Method::DELETE, "/api/v1/functions/a", None, operator, 403, "admin"),
        (Method::DELETE, "/api/v1/functions/a", None, admin, 202, ""),
    ] {
        let request = api.request(method.clone(), path, token);
        let answer = send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        if status == 403 {
            assert_eq!(answer.problem(), "forbidden");
            assert!(
                answer.json()["remedy"].as_str().unwrap().ends_with(needed),
                "{}",
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn an_expired_or_revoked_token_is_refused_at_once() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let mut owner = database.owner.acquire().await.unwrap();
    // Long enough for a first answer on a busy machine.
    let short = std::time::Duration::from_secs(5);
    let expiring = token::create(&mut owner, "short", TokenRole::Viewer, Some(short))
        .await
        .unwrap();
    let revoked = token::create(&mut owner, "leaked", TokenRole::Admin, None)
        .await
        .unwrap();
    let status = async |token: &str| send(api.request(Method::GET, "/api/v1/functions", token)).await.status;
    assert_eq!(
        (status(&expiring).await, status(&revoked).await),
        (200.try_into().unwrap(), 200.try_into().unwrap())
    );
    declare(&api, "hello").await;
    // Whose token it is may be remembered from here on; whether it holds may not.
    let path = "/api/v1/functions/hello/processes";
    let ask = async |key: &str| {
        let request = api.request(Method::POST, path, &revoked).json(&json!({"kind": "task"}));
        send(request.header("idempotency-key", key)).await
    };
    assert_eq!(ask("before").await.status, 202);
    token::revoke(&mut owner, "leaked").await.unwrap();
    assert_eq!(status(&revoked).await, 401);
    for key in ["before", "after"] {
        let refused = ask(key).await;
        assert_eq!(
            (refused.status.as_u16(), refused.problem()),
            (401, "unauthenticated".to_owned()),
            "{key}"
        );
    }
    let stored: i64 = sqlx::query_scalar("select count(*) from process")
        .fetch_one(&database.owner)
        .await
        .unwrap();
    assert_eq!(stored, 1);
    until("the token to expire", 20, async || {
        (status(&expiring).await == 401).then_some(())
    })
    .await;

    let table = token::list(&mut owner).await.unwrap();
    let state = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(
        state("short").ends_with("expired") && state("leaked").contains("revoked 2"),
        "{table}"
    );
    assert!(!table.contains(&expiring) && !table.contains(&revoked));
}

#[tokio::test]
async fn token_names_are_checked_and_unique_while_valid() {
    let database = Database::new().await;
    let mut owner = database.owner.acquire().await.unwrap();
    let mut create = async |name: &str| token::create(&mut owner, name, TokenRole::Viewer, None).await;
    create("a").await.unwrap();
    assert!(create("a").await.unwrap_err().to_string().contains("revoke it first"));
    assert!(
        create("no spaces")
            .await
            .unwrap_err()
            .to_string()
            .contains("is no name")
    );
    assert!(token::revoke(&mut owner, "b").await.is_err());
    token::revoke(&mut owner, "a").await.unwrap();
    token::create(&mut owner, "a", TokenRole::Viewer, None).await.unwrap();
}
