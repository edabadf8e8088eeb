//! What a command and its process wait for: nobody alive, the image, or their turn.

use std::time::Duration;

use chrono::DateTime;
use octopus_shared::command::CommandKind;
use octopus_shared::db::{claim, report};
use octopus_shared::preflight::{Finding, FindingStatus, Preflight};
use octopus_shared::shard;
use octopus_tests::api::Api;
use octopus_tests::function::{build, claim as take, declare, manager, start, watch};
use octopus_tests::postgres::Database;
use serde_json::{Value, json};

async fn waits(api: &Api, started: &Value) -> [Value; 2] {
    let command = api
        .read(&format!("/api/v1/commands/{}", started["id"].as_str().unwrap()))
        .await;
    let process = api
        .read(&format!(
            "/api/v1/processes/{}",
            started["process_id"].as_str().unwrap()
        ))
        .await;
    [command["waiting_for"].clone(), process["waiting_for"].clone()]
}

#[tokio::test]
async fn a_202_that_nobody_will_take_says_so() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let declared = declare(&api, "hello").await;
    assert_eq!(
        declared["waiting_for"],
        json!({"what": "manager", "cluster": "default", "since": declared["created_at"]})
    );
    let started = start(&api, "hello").await;
    for waits in waits(&api, &started)
        .await
        .iter()
        .chain([&started["waiting_for"], &started["process"]["waiting_for"]])
    {
        assert_eq!(
            (&waits["what"], &waits["since"]),
            (&json!("manager"), &started["created_at"])
        );
    }
    let listed = api.read("/api/v1/processes").await;
    assert_eq!(listed["items"][0]["waiting_for"]["what"], "manager");

    let instance = manager(&database).await;
    assert!(waits(&api, &started).await.iter().all(|waits| waits["what"] == "image"));
    let claimed = take(&database, instance, CommandKind::DeclareFunction).await;
    build(&database, &claimed).await;
    let [command, process] = waits(&api, &started).await;
    assert_eq!(
        (&command, &process["what"], &process["command"]),
        (&Value::Null, &json!("command"), &started["id"])
    );

    claim::sign_off(&database.manager, instance).await.unwrap();
    for waits in waits(&api, &started).await {
        assert_eq!(waits["what"], "manager");
        assert_ne!(waits["since"], started["created_at"], "since the last one left");
    }
}

#[tokio::test]
async fn a_build_that_stands_for_want_of_a_registry_says_so() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let declared = declare(&api, "hello").await;
    let started = start(&api, "hello").await;
    let instance = manager(&database).await;
    let claimed = take(&database, instance, CommandKind::DeclareFunction).await;
    let revision = claimed.revision_id.unwrap();
    report::build_started(&database.manager, &claimed, revision)
        .await
        .unwrap();
    assert!(waits(&api, &started).await.iter().all(|waits| waits["what"] == "image"));
    let why = (
        "registry_or_index_unreachable",
        "the registry h cannot be reached",
        "Check it.",
    );
    report::build_stands(&database.manager, &claimed, revision, why)
        .await
        .unwrap();
    let shown = async || {
        let declared = api
            .read(&format!("/api/v1/commands/{}", declared["id"].as_str().unwrap()))
            .await;
        let [command, process] = waits(&api, &started).await;
        [declared["waiting_for"].clone(), command, process].map(|waits| waits["what"].clone())
    };
    let registry = ["registry", "registry", "registry"].map(|what| json!(what));
    assert_eq!(shown().await, registry);
    // Given back, it waits as it did, and its end is the end of that.
    claim::give_back(&database.manager, &claimed, Duration::ZERO, false)
        .await
        .unwrap();
    assert_eq!(shown().await, registry);
    let claimed = take(&database, instance, CommandKind::DeclareFunction).await;
    assert_eq!(claimed.attempts, 0);
    build(&database, &claimed).await;
    assert_eq!(shown().await[1..], [Value::Null, json!("command")]);
    let function = api.read("/api/v1/functions/hello").await;
    assert_eq!(function["revisions"][0]["build_message"], Value::Null, "{function}");
}

#[tokio::test]
async fn a_command_that_no_manager_knows_waits_for_one_that_does() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    manager(&database).await;
    sqlx::query("update manager set kinds = kinds - 'declare_function'")
        .execute(&database.owner)
        .await
        .unwrap();
    assert_eq!(declare(&api, "hello").await["waiting_for"]["what"], "manager");
}

#[tokio::test]
async fn a_cluster_shows_its_managers_and_its_queue() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    assert_eq!(api.read("/api/v1/clusters").await["items"], json!([]));
    declare(&api, "hello").await;
    start(&api, "hello").await;
    let idle = api.read("/api/v1/clusters/default").await;
    assert_eq!((&idle["managers"], &idle["reachable"]), (&json!([]), &Value::Null));
    assert_eq!(
        (&idle["queue"]["waiting"], &idle["queue"]["waiting_for_image"]),
        (&json!(1), &json!(1))
    );
    assert!(idle["queue"]["oldest_waiting_seconds"].as_f64().unwrap() > 0.0);

    let instance = manager(&database).await;
    take(&database, instance, CommandKind::DeclareFunction).await;
    let watch = watch(&database, instance).await;
    let report = report::ClusterReport {
        reachable: true,
        version: Some("v1.33.1".into()),
        quota: json!({"pods": {"hard": "100", "used": "1"}}),
        ..Default::default()
    };
    report::report_cluster(&database.manager, &watch, &report)
        .await
        .unwrap();
    let served = api.read("/api/v1/clusters").await["items"][0].clone();
    assert_eq!(
        (&served["managers"][0]["instance"], &served["managers"][0]["shards"]),
        (&json!(instance), &json!((0..shard::COUNT).collect::<Vec<_>>()))
    );
    assert_eq!(
        (&served["reachable"], &served["version"], &served["policy_enforced"]),
        (&json!(true), &json!("v1.33.1"), &Value::Null)
    );
    assert_eq!(served["quota"]["pods"]["hard"], "100");
    assert_eq!(served["preflight"], Value::Null);
    assert_eq!(
        (&served["queue"]["waiting"], &served["queue"]["running"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(served["queue"]["oldest_waiting_seconds"], Value::Null);

    // A preflight is shown as it was stored, and what the watching manager reports later leaves it alone.
    let preflight = Preflight {
        at: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
        findings: vec![Finding::new(
            "network_policy",
            FindingStatus::Warning,
            "not enforced",
            "another network",
        )],
    };
    report::report_preflight(&database.manager, "default", None, Some(false), &preflight)
        .await
        .unwrap();
    report::report_cluster(&database.manager, &watch, &report)
        .await
        .unwrap();
    let served = api.read("/api/v1/clusters/default").await;
    assert_eq!(served["preflight"], serde_json::to_value(&preflight).unwrap());
    assert_eq!(
        (&served["policy_enforced"], &served["version"]),
        (&json!(false), &json!("v1.33.1"))
    );
}
