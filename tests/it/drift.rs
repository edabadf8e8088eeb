//! The view `drift`: what is not seen as it is wanted, and nothing else.

use octopus_shared::command::CommandKind;
use octopus_shared::db::claim::Outcome;
use octopus_shared::db::report::{self, Change};
use octopus_shared::pod::Verdict;
use octopus_shared::process::ProcessState;
use octopus_shared::reason;
use octopus_tests::api::Api;
use octopus_tests::function::{claim as take, finish, manager, observed, pod, service, watch};
use octopus_tests::postgres::Database;
use serde_json::json;

async fn seen(database: &Database) -> Vec<String> {
    let drift = report::drift(&database.manager, "default").await.unwrap();
    let counts = report::drift_counts(&database.manager, "default").await.unwrap();
    let counted: i64 = counts.iter().map(|(_, count)| count).sum();
    assert_eq!(counted, i64::try_from(drift.len()).unwrap());
    let hand = |in_hand| if in_hand { ", in hand" } else { "" };
    drift
        .iter()
        .map(|one| format!("{}: {}{}", one.what, one.words, hand(one.in_hand)))
        .collect()
}

#[tokio::test]
async fn what_is_not_as_it_is_wanted_is_shown_until_it_is() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let instance = manager(&database).await;
    let process = service(&database, &api, instance).await;
    let pool = &database.manager;
    let watch = watch(&database, instance).await;
    let observe = async |uid: &str, wish: &str, state: ProcessState| {
        let seen = pod(process, uid, wish, Verdict::plain(state));
        observed(pool, &watch, &seen).await;
    };
    assert_eq!(seen(&database).await, ["missing: 0 pods of the 1 that are wanted"]);
    observe("one", "1", ProcessState::Ready).await;
    assert!(seen(&database).await.is_empty());
    observe("two", "1", ProcessState::Ready).await;
    assert_eq!(seen(&database).await, ["extra: 2 pods instead of 1"]);
    report::mark_missing(pool, &watch, &["two".into()]).await.unwrap();
    assert!(seen(&database).await.is_empty());

    // A restart: the wish of the pods, as their annotation has it and as SQL makes it of the row, is one text.
    let path = format!("/api/v1/processes/{process}");
    api.post(&format!("{path}/restart"), &json!({})).await.accepted();
    assert!(seen(&database).await.is_empty(), "not before it is carried out");
    let claimed = take(&database, instance, CommandKind::RestartProcess).await;
    let why = (reason::RESTART_REQUESTED, "new pods");
    let change = Change::Restart(claimed.created_at);
    assert!(report::change(pool, &claimed, process, &change, why).await.unwrap());
    assert_eq!(
        seen(&database).await,
        [
            "different: 1 pods are of an earlier revision or restart, in hand",
            "missing: 0 pods of the 1 that are wanted, in hand"
        ]
    );
    finish(pool, &claimed, &Outcome::Succeeded).await.unwrap();
    let wish = report::process(pool, process).await.unwrap().wish();
    let crashing = pod(
        process,
        "three",
        &wish,
        Verdict::because(ProcessState::Failing, reason::CRASH_LOOP, "exit code 3"),
    );
    observed(pool, &watch, &crashing).await;
    assert_eq!(
        seen(&database).await,
        [
            "different: 1 pods are of an earlier revision or restart",
            "stuck: rollout_hindered: crash_loop: exit code 3"
        ]
    );
    observe("three", &wish, ProcessState::Ready).await;
    report::mark_missing(pool, &watch, &["one".into()]).await.unwrap();
    assert!(seen(&database).await.is_empty());

    api.post(&format!("{path}/kill"), &json!({})).await.accepted();
    assert_eq!(
        seen(&database).await,
        ["extra: it was asked to end and is created, in hand"]
    );
    let kill = take(&database, instance, CommandKind::KillProcess).await;
    let verdict = Verdict::plain(ProcessState::Killed);
    report::gone(pool, &kill, process, &verdict).await.unwrap();
    assert!(seen(&database).await.is_empty());
}
