//! Those who follow what a pod prints.

use futures::future::join_all;
use octopus_tests::sse::Events;
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use uuid::Uuid;

use crate::functions::{TALK, small, task};

/// The number of the next line. None: the log has ended, and all of it is stored.
async fn next_line(events: &mut Events) -> Option<usize> {
    let event = events.next().await.unwrap();
    let shown = event.json();
    match event.event.as_str() {
        "line" => Some(number(&shown)),
        "end" => {
            assert_eq!(shown["complete"], true, "{shown}");
            None
        }
        other => panic!("{other}: {shown}"),
    }
}

fn number(line: &Value) -> usize {
    let line = line["line"].as_str().unwrap();
    line.strip_prefix("line ")
        .and_then(|number| number.parse().ok())
        .unwrap()
}

async fn ticking(stack: &Stack, rate: &str) -> Uuid {
    stack.client.build("talk", TALK, small()).await;
    let process = stack.client.start("talk", task(&["tick", "1000000", rate])).await;
    until("its first line", 120, async || {
        (stack.client.process(process).await["log_streams"][0]["lines"].as_u64()? > 0).then_some(process)
    })
    .await
}

/// It leaves at any place, and each tenth time the API is killed under it.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_comes_back_again_and_again_sees_each_line_once() {
    const RECONNECTS: usize = 50;
    let mut stack = Stack::start("followers").await;
    let _manager = stack.manager().await;
    let process = ticking(&stack, "50").await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let path = format!("/api/v1/processes/{process}/logs");
    let (mut seen, mut last) = (Vec::new(), None::<String>);
    for connection in 0..RECONNECTS {
        let mut events = stack.client.events_of(&path, last.as_deref()).await;
        for _ in 0..random.random_range(1..40) {
            let event = events.next().await.unwrap();
            assert_eq!(event.event, "line", "{event:?}");
            seen.push(number(&event.json()));
            last = event.id;
        }
        if connection % 10 == 9 {
            stack.restart_api().await;
            while let Some(event) = events.next().await {
                assert_eq!(event.event, "line", "{event:?}");
                seen.push(number(&event.json()));
                last = event.id;
            }
        }
    }
    stack.client.kill(process, Value::Null).await;
    let mut events = stack.client.events_of(&path, last.as_deref()).await;
    while let Some(line) = next_line(&mut events).await {
        seen.push(line);
    }
    assert_eq!(seen, (0..seen.len()).collect::<Vec<_>>(), "seed {seed}");
    let stored = &stack.client.process(process).await["log_streams"][0]["lines"];
    assert_eq!(*stored, seen.len());
}

/// Statements that the API has asked for so far.
async fn statements(stack: &Stack) -> i64 {
    sqlx::query_scalar(
        "select coalesce(sum(calls), 0)::bigint from pg_stat_statements s join pg_roles r on r.oid = s.userid
          where s.dbid = (select oid from pg_database where datname = current_database()) and r.rolname like 'octopus_api%'",
    )
    .fetch_one(&stack.owner)
    .await
    .unwrap()
}

/// Statements of the time in which so many lines come to all who follow.
async fn cost(stack: &Stack, followers: &mut [Events]) -> i64 {
    const LINES: usize = 50;
    let first = join_all(followers.iter_mut().map(next_line)).await;
    let last = first.into_iter().max().flatten().unwrap() + LINES;
    let before = statements(stack).await;
    join_all(
        followers
            .iter_mut()
            .map(async |events| while next_line(events).await.unwrap() < last {}),
    )
    .await;
    statements(stack).await - before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_followers_cost_postgres_what_one_does() {
    let stack = Stack::start("thousand").await;
    sqlx::raw_sql("create extension if not exists pg_stat_statements")
        .execute(&stack.owner)
        .await
        .unwrap();
    let _manager = stack.manager().await;
    let process = ticking(&stack, "5").await;
    let path = format!("/api/v1/processes/{process}/logs?tail=1");
    let mut followers = vec![stack.client.events_of(&path, None).await];
    let one = cost(&stack, &mut followers).await;
    followers.extend(join_all((1..1000).map(|_| stack.client.events_of(&path, None))).await);
    let thousand = cost(&stack, &mut followers).await;
    println!(
        "50 lines: {one} statements for one follower, {thousand} for {}",
        followers.len()
    );
    assert!(one >= 10, "{one} statements are not all");
    // The thousand take longer, and a look is made each second or two whatever comes.
    assert!(
        thousand <= one * 2,
        "{thousand} statements for a thousand followers, {one} for one"
    );
}
