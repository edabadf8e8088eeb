//! A manager dies at one place, and the next one, that finds what it left, at another: every pair of places, as far as the time
//! goes, in any order. At the end nothing shows that anybody died.

use std::sync::Mutex;
use std::time::Duration;

use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use rand::seq::SliceRandom;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::changes::settled;
use crate::crash_matrix::left;
use crate::functions::{PLAIN, small};
use crate::outages::soak;

type Pair = (&'static str, &'static str);

/// Places of a start, of a change, and of a kill, in the order in which a process comes by.
const PLACES: [&[&str]; 3] = [
    &[
        "start-claimed",
        "start-policy",
        "start-service",
        "start-created",
        "start-reported",
    ],
    &[
        "change-claimed",
        "change-stored",
        "change-policy",
        "change-deployment",
        "change-service",
        "change-made",
        "change-reported",
        "scale-put",
    ],
    &[
        "kill-claimed",
        "kill-stopping",
        "kill-deployment",
        "kill-taken-away",
        "kill-lowered",
        "kill-deleted",
        "kill-empty",
        "kill-gone",
    ],
];

/// What `make test` has the time for.
const SAMPLE: [Pair; 2] = [("start-service", "start-created"), ("change-stored", "kill-lowered")];

/// Every pair of places of which the second can come after the first.
fn pairs() -> Vec<Pair> {
    let verbs = PLACES.iter().enumerate();
    let all = verbs.flat_map(|(verb, firsts)| {
        let seconds = PLACES[verb..].iter().copied().flatten();
        firsts
            .iter()
            .flat_map(move |first| seconds.clone().map(|second| (*first, *second)))
    });
    all.collect()
}

/// The change that leads past a place.
fn change(place: &str) -> Option<(&'static str, Value)> {
    match place {
        "scale-put" => Some(("scale", json!({"replicas": 2}))),
        "change-made" => Some(("restart", json!({}))),
        place if place.starts_with("change-") => Some(("update", json!({"revision": 1}))),
        _ => None,
    }
}

/// Managers, one after another, of which the first two die at their places. Answers how many died.
async fn keep(stack: &Stack, (first, second): Pair, over: &CancellationToken) -> usize {
    for (deaths, place) in [Some(first), Some(second), None].into_iter().enumerate() {
        let failpoints = place.map(|place| format!("{place}=return")).unwrap_or_default();
        let settings = [("OCTOPUS_LEASE_SECONDS", "2"), ("FAILPOINTS", failpoints.as_str())];
        let mut manager = stack.manager_with(&settings).await;
        tokio::select! {
            aborted = manager.aborted() => assert!(aborted, "{first}, {second}: it ended otherwise"),
            () = over.cancelled() => return deaths,
        }
    }
    panic!("{first}, {second}: the last one died too")
}

/// The life of a service, as its user sees it.
async fn live(stack: &Stack, (first, second): Pair) {
    let about = format!("{first}, {second}");
    let process = stack.client.start("plain", json!({"kind": "service"})).await;
    settled(stack, process, 1).await;
    let mut changes: Vec<_> = [change(first), change(second)].into_iter().flatten().collect();
    changes.dedup();
    for (what, body) in &changes {
        let path = format!("/api/v1/processes/{process}/{what}");
        let (status, command) = stack.client.send(Method::POST, &path, body).await;
        assert_eq!(status, 202, "{about}: {command}");
        let command: Uuid = command["id"].as_str().unwrap().parse().unwrap();
        let ended = stack.client.ended(command, 120).await;
        assert_eq!(ended["state"], "succeeded", "{about}: {ended}");
    }
    let scaled = changes.iter().any(|(what, _)| *what == "scale");
    settled(stack, process, if scaled { 2 } else { 1 }).await;
    let events = stack.client.events(process).await;
    for (what, _) in &changes {
        let told = events
            .iter()
            .filter(|event| event["reason"] == format!("{what}_requested"));
        assert_eq!(told.count(), 1, "{about}: {events:?}");
    }
    let kill = stack.client.kill(process, json!({})).await;
    let ended = stack.client.ended(kill, 120).await;
    assert_eq!(ended["state"], "succeeded", "{about}: {ended}");
    let gone = stack.client.process(process).await;
    assert_eq!(
        (&gone["lifecycle"], &gone["state"]),
        (&json!("gone"), &json!("killed")),
        "{about}: {gone}"
    );
    until(&format!("{about}: nothing to be left"), 60, async || {
        (left(stack).await == [0; 5]).then_some(())
    })
    .await;
}

/// Takes pairs from the list until it is empty or the time is over. Answers how often the second manager died too.
async fn chain(number: usize, list: &Mutex<Vec<Pair>>, ends: Instant) -> usize {
    let stack = Stack::start(&format!("pairs-{number}")).await;
    let builder = stack.manager().await;
    stack.client.build("plain", PLAIN, small()).await;
    let mut other = small();
    other["env"] = json!([{"name": "OTHER", "value": "1"}]);
    stack.client.build("plain", PLAIN, other).await;
    assert!(builder.terminate().await);
    let mut both = 0;
    while Instant::now() < ends {
        let Some(pair) = list.lock().unwrap().pop() else { break };
        let over = CancellationToken::new();
        let lived = async {
            live(&stack, pair).await;
            over.cancel();
        };
        let (deaths, ()) = tokio::join!(keep(&stack, pair, &over), lived);
        assert!(
            deaths >= 1,
            "{pair:?}: nobody died: build the programs with --features octopus-manager/failpoints"
        );
        both += usize::from(deaths == 2);
    }
    // A start whose report died with its manager may be found when its process, which runs, has been told to end.
    let open: Vec<String> = sqlx::query_scalar(
        "select kind || ' ' || state || ' ' || coalesce(reason, '') from command
          where state <> 'succeeded' and not (kind = 'start_process' and state = 'cancelled' and reason = 'kill_requested')",
    )
    .fetch_all(&stack.owner)
    .await
    .unwrap();
    assert!(open.is_empty(), "every command was done: {open:?}");
    both
}

#[tokio::test(flavor = "multi_thread")]
async fn managers_that_die_at_any_two_places_leave_what_an_undisturbed_one_leaves() {
    let mut list = pairs();
    assert_eq!(list.len(), 5 * 21 + 8 * 16 + 8 * 8);
    let (minutes, chains) = if soak() {
        list.shuffle(&mut rand::rng());
        let minutes = std::env::var("OCTOPUS_PAIRS_MINUTES")
            .ok()
            .and_then(|text| text.parse().ok());
        (minutes.unwrap_or(60), 3)
    } else {
        list = SAMPLE.into();
        (10, SAMPLE.len())
    };
    let all = list.len();
    let list = Mutex::new(list);
    let since = Instant::now();
    let ends = since + Duration::from_secs(60 * minutes);
    let both: usize = futures::future::join_all((0..chains).map(|number| chain(number, &list, ends)))
        .await
        .into_iter()
        .sum();
    let done = all - list.lock().unwrap().len();
    println!(
        "{done} of {all} pairs in {:.0} s; in {both} of them both managers died",
        since.elapsed().as_secs_f64()
    );
    assert!(both > 0);
}
