//! A service whose pods Kubernetes refuses to make: what is shown of it, and by whom.

use octopus_shared::command::CommandKind;
use octopus_shared::db::report::{self, ReportError, Watch};
use octopus_shared::pod::Verdict;
use octopus_shared::process::ProcessState;
use octopus_shared::reason;
use octopus_tests::api::Api;
use octopus_tests::function::{build, claim, created, declare, manager, observed, pod, service, watch};
use octopus_tests::postgres::Database;
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn a_refused_pod_is_shown_until_there_is_one() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    declare(&api, "hello").await;
    build(
        &database,
        &claim(&database, instance, CommandKind::DeclareFunction).await,
    )
    .await;
    let started = api
        .post("/api/v1/functions/hello/processes", &json!({"kind": "service"}))
        .await
        .accepted();
    let process: Uuid = started["process_id"].as_str().unwrap().parse().unwrap();
    let path = format!("/api/v1/processes/{process}");
    let pool = &database.manager;
    let watch = watch(&database, instance).await;
    // The report of the cluster says whether there is one.
    let told = async || {
        let report = report::ClusterReport {
            quota: json!({}),
            ..Default::default()
        };
        report::report_cluster(pool, &watch, &report).await.unwrap()
    };
    assert!(
        report::hindered_services(pool, "default").await.unwrap().is_empty() && !told().await,
        "not created yet"
    );

    let claimed = claim(&database, instance, CommandKind::StartProcess).await;
    created(pool, &claimed, process, json!([])).await;
    assert_eq!(report::hindered_services(pool, "default").await.unwrap(), [process]);
    assert!(told().await);
    let why = Verdict::because(ProcessState::Failing, reason::QUOTA_EXCEEDED, "exceeded quota: pods=1");
    let stale = Watch {
        token: watch.token - 1,
        ..watch.clone()
    };
    assert!(matches!(
        report::pods_refused(pool, &stale, process, &why).await,
        Err(ReportError::Fenced)
    ));
    assert_eq!(api.read(&path).await["state"], "starting");

    assert!(report::pods_refused(pool, &watch, process, &why).await.unwrap());
    let shown = api.read(&path).await;
    assert_eq!(
        (&shown["state"], &shown["reason"], &shown["message"], &shown["remedy"]),
        (
            &json!("failing"),
            &json!("quota_exceeded"),
            &json!("exceeded quota: pods=1"),
            &json!(reason::QUOTA_EXCEEDED.remedy)
        )
    );
    assert!(
        !report::pods_refused(pool, &watch, process, &why).await.unwrap(),
        "shown already"
    );

    let first = pod(process, "u", "1", Verdict::plain(ProcessState::Starting));
    observed(pool, &watch, &first).await;
    assert!(report::hindered_services(pool, "default").await.unwrap().is_empty() && !told().await);
    // An answer of Kubernetes from before the pod came.
    assert!(!report::pods_refused(pool, &watch, process, &why).await.unwrap());
    let shown = api.read(&path).await;
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("starting"), &json!(null)));
}

#[tokio::test]
async fn what_the_second_pod_waits_for_is_shown_as_soon_as_it_is_known() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let process = service(&database, &api, instance).await;
    sqlx::query("update process set replicas = 2")
        .execute(&database.owner)
        .await
        .unwrap();
    let pool = &database.manager;
    let watch = watch(&database, instance).await;
    let ready = pod(process, "first", "1", Verdict::plain(ProcessState::Ready));
    observed(pool, &watch, &ready).await;
    let path = format!("/api/v1/processes/{process}");
    let shown = async || {
        let shown = api.read(&path).await;
        assert_eq!(
            (&shown["state"], &shown["reason"]),
            (&json!("ready"), &json!("partly_ready")),
            "{shown}"
        );
        shown["message"].as_str().unwrap().to_owned()
    };
    let fewer = shown().await;
    let why = Verdict::because(ProcessState::Failing, reason::QUOTA_EXCEEDED, "exceeded quota: pods=1");
    report::pods_refused(pool, &watch, process, &why).await.unwrap();
    let refused = format!("{fewer}: quota_exceeded: exceeded quota: pods=1");
    assert_eq!(shown().await, refused);
    observed(pool, &watch, &ready).await;
    assert_eq!(shown().await, refused, "another look at the first one says less");
    let no_room = Verdict::because(ProcessState::Starting, reason::UNSCHEDULABLE, "no room");
    observed(pool, &watch, &pod(process, "second", "1", no_room)).await;
    assert_eq!(shown().await, format!("{fewer}: unschedulable: no room"));
    let events = api.read(&format!("{path}/events")).await;
    let told = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["reason"] == "partly_ready");
    assert_eq!(told.count(), 1, "{events}");
}
