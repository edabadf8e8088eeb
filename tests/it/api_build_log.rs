//! The log of a build is read like that of a process, while it is written.

use octopus_shared::command::CommandKind;
use octopus_shared::db::claim::Claim;
use octopus_shared::db::{CHANGE_CHANNEL, notify, report};
use octopus_tests::api::Api;
use octopus_tests::function::{build, claim, declare, manager};
use octopus_tests::postgres::Database;
use octopus_tests::sse::Events;
use serde_json::{Value, json};

const PATH: &str = "/api/v1/functions/hello/revisions/1/build-log";

/// Lines as a build stores them.
fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers
        .map(|number| format!("2026-01-02T03:04:{number:02}.006Z step {number}\n"))
        .collect()
}

async fn print(database: &Database, claim: &Claim, text: &str, dropped: i64, begins: bool) {
    let revision = claim.revision_id.unwrap();
    report::build_printed(&database.manager, claim, revision, (text, dropped, begins))
        .await
        .unwrap();
    notify(&database.manager, CHANGE_CHANNEL, &revision.to_string())
        .await
        .unwrap();
}

async fn next(events: &mut Events) -> (String, Option<String>, Value) {
    let event = events.next().await.unwrap();
    let json = event.json();
    (event.event, event.id, json)
}

#[tokio::test]
async fn a_build_is_followed_resumed_and_sealed() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let manager = manager(&database).await;
    declare(&api, "hello").await;
    assert_eq!(api.get(PATH).await.text(), "");
    let mut events = api.events(PATH, None).await;
    let claim = claim(&database, manager, CommandKind::DeclareFunction).await;
    let revision = claim.revision_id.unwrap();
    report::build_started(&database.manager, &claim, revision)
        .await
        .unwrap();

    // A first try, of which a reader has one line, and another one.
    print(&database, &claim, &lines(0..1), 0, true).await;
    let (_, cursor, line) = next(&mut events).await;
    assert_eq!(
        (&line["line"], &line["attempt"], &line["container"]),
        (&json!("step 0"), &json!(1), &json!("build"))
    );
    assert_eq!(line["at"], "2026-01-02T03:04:00.006Z");
    let mut few = api.events(&format!("{PATH}?limit=2&grep=step"), None).await;
    assert_eq!(next(&mut few).await.2["line"], "step 0");
    print(&database, &claim, &lines(0..2), 0, false).await;
    assert_eq!(next(&mut events).await.2["line"], "step 1");
    assert_eq!(next(&mut few).await.2["line"], "step 1");
    assert_eq!(few.next().await, None);
    let mut resumed = api.events(PATH, cursor.as_deref()).await;
    assert_eq!(next(&mut resumed).await.2["line"], "step 1");
    print(&database, &claim, &lines(5..8), 0, true).await;
    for events in [&mut events, &mut resumed] {
        for number in 5..8 {
            let (_, _, line) = next(events).await;
            assert_eq!(
                (&line["line"], &line["attempt"]),
                (&json!(format!("step {number}")), &json!(2))
            );
        }
    }
    print(&database, &claim, &lines(5..9), 3, false).await;
    build(&database, &claim).await;
    // That one ends it with other words, as long.
    let (kind, _, end) = loop {
        let event = next(&mut events).await;
        if event.0 != "line" {
            break event;
        }
    };
    assert_eq!(
        (kind.as_str(), &end["state"], &end["complete"]),
        ("end", &json!("succeeded"), &json!(false))
    );
    assert_eq!(end["streams"][0]["seal"], "truncated");
}

#[tokio::test]
async fn a_build_is_searched_and_cut_like_any_log() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let manager = manager(&database).await;
    declare(&api, "hello").await;
    let claim = claim(&database, manager, CommandKind::DeclareFunction).await;
    let revision = claim.revision_id.unwrap();
    report::build_started(&database.manager, &claim, revision)
        .await
        .unwrap();
    print(&database, &claim, &lines(0..20), 0, true).await;
    for (query, expected) in [
        ("", (0..20).collect::<Vec<_>>()),
        ("?tail=2", vec![18, 19]),
        ("?limit=3", vec![0, 1, 2]),
        ("?after=1.17", vec![17, 18, 19]),
        ("?after=1.4&limit=2", vec![4, 5]),
        ("?grep=step%201&tail=3", vec![17, 18, 19]),
        ("?regex=5$", vec![5, 15]),
        ("?since=2026-01-02T03:04:18Z", vec![18, 19]),
        ("?until=2026-01-02T03:04:02Z", vec![0, 1]),
        ("?container=function", vec![]),
    ] {
        let text: String = expected.iter().map(|number| format!("step {number}\n")).collect();
        assert_eq!(api.get(&format!("{PATH}{query}")).await.text(), text, "{query}");
    }
    report::build_failed(
        &database.manager,
        &claim,
        revision,
        ("machine", "no room", "make room"),
        &lines(0..2),
    )
    .await
    .unwrap();
    let shown = api.read_as(PATH, "application/x-ndjson").await;
    let end: Value = serde_json::from_str(shown.lines().last().unwrap()).unwrap();
    let end = &end["end"];
    assert_eq!(
        (&end["state"], &end["complete"]),
        (&json!("failed"), &json!(true)),
        "{shown}"
    );
    let stream = &end["streams"][0];
    assert_eq!(
        (&stream["lines"], &stream["bytes"], &stream["seal"]),
        (&json!(2), &json!(14), &json!("complete"))
    );
    // Each line with the hash of those before it.
    let hash = ["step 0", "step 1"].iter().fold(Vec::new(), |hash, line| {
        octopus_shared::log::chained(&hash, line.as_bytes())
    });
    let hash: Vec<String> = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(stream["sha256"], hash.concat());
}
