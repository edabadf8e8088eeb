//! Followers that come back, and followers that are slow: each line once, and nobody waits for another one.

use std::time::Duration;

use octopus_shared::db::{CHANGE_CHANNEL, notify};
use octopus_tests::api::Api;
use octopus_tests::function::process;
use octopus_tests::postgres::Database;
use octopus_tests::served::Served;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::api_logs::{end, store};

/// Stores a chunk of lines, and says so.
async fn print(database: &Database, process: Uuid, seq: i64, lines: &[String]) {
    store(database, process, seq, lines).await;
    notify(&database.manager, CHANGE_CHANNEL, &process.to_string())
        .await
        .unwrap();
}

/// Its connection breaks at any place, also within an event, and now and then the API dies and another one takes its place.
#[tokio::test]
async fn a_follower_that_reconnects_at_random_sees_each_line_once() {
    const RECONNECTS: usize = 50;
    let database = Database::new().await;
    let mut api = Served::start(&database).await;
    let id = process(&Api::start(&database).await).await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let (enough, mut is_enough) = tokio::sync::watch::channel(false);
    let writing = async {
        let mut printed = 0;
        for seq in 1.. {
            let lines: Vec<String> = (printed..printed + 20).map(|line| line.to_string()).collect();
            print(&database, id, seq, &lines).await;
            printed += lines.len();
            // The pace of a writer, slower than a reader of what is stored: most of it is followed.
            let paused = tokio::time::timeout(Duration::from_millis(5), is_enough.wait_for(|enough| *enough));
            if paused.await.is_ok() {
                break;
            }
        }
        end(&database, id, json!([])).await;
        printed
    };
    let reading = async {
        let path = format!("/api/v1/processes/{id}/logs");
        let (mut seen, mut last) = (Vec::new(), None::<String>);
        for connection in 0.. {
            let mut events = api.events(&path, last.as_deref()).await.unwrap();
            let most = random.random_range(1..120);
            let mut received = 0;
            while connection >= RECONNECTS || received < most {
                let event = events.next().await.unwrap();
                match event.event.as_str() {
                    "line" => {
                        seen.push(event.json()["line"].as_str().unwrap().parse::<usize>().unwrap());
                        last = event.id;
                        received += 1;
                    }
                    "end" => return (seen, connection),
                    other => panic!("{other}"),
                }
            }
            if connection + 1 == RECONNECTS {
                enough.send_replace(true);
            }
            if connection % 10 == 9 {
                api.restart().await;
            }
        }
        unreachable!()
    };
    let (printed, (seen, connections)) = tokio::join!(writing, reading);
    assert_eq!(seen, (0..printed).collect::<Vec<_>>(), "seed {seed}");
    assert_eq!(connections, RECONNECTS);
}

/// However its lines come: some are stored already, and filters leave some out.
#[tokio::test]
async fn a_follower_gets_as_many_lines_as_it_asked_for() {
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    let lines = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    print(&database, id, 1, &lines(&["a one", "b", "c one"])).await;
    let path = format!("/api/v1/processes/{id}/logs");
    let mut all = api.events(&format!("{path}?limit=4"), None).await;
    let mut some = api.events(&format!("{path}?limit=4&grep=one"), None).await;
    for (events, expected) in [
        (&mut all, &["a one", "b", "c one"][..]),
        (&mut some, &["a one", "c one"]),
    ] {
        for line in expected {
            assert_eq!(events.next().await.unwrap().json()["line"], *line);
        }
        assert!(events.is_silent(Duration::from_millis(200)).await);
    }
    print(&database, id, 2, &lines(&["d one", "e", "f one", "g one"])).await;
    assert_eq!(all.next().await.unwrap().json()["line"], "d one");
    assert_eq!(all.next().await, None);
    assert_eq!(some.next().await.unwrap().json()["line"], "d one");
    let last = some.next().await.unwrap();
    assert_eq!((&last.json()["line"], some.next().await), (&json!("f one"), None));

    // All of them are stored, also of one that goes on.
    let mut resumed = api
        .events(&format!("{path}?limit=1&grep=one"), last.id.as_deref())
        .await;
    assert_eq!(resumed.next().await.unwrap().json()["line"], "g one");
    assert_eq!(resumed.next().await, None);
    let tail = api.get(&format!("{path}?follow=true&tail=3&limit=2")).await;
    assert_eq!(tail.text(), "e\nf one\n");
    // There is an end sooner.
    end(&database, id, json!([])).await;
    let mut whole = api.events(&format!("{path}?limit=5&grep=one&tail=2"), None).await;
    for expected in ["line", "line", "end"] {
        assert_eq!(whole.next().await.unwrap().event, expected);
    }
}

/// A client that does not read, beside one that does: more than sockets and the API itself hold for it.
#[tokio::test]
async fn a_slow_follower_holds_nobody_back_and_misses_nothing() {
    const CHUNKS: i64 = 400;
    let database = Database::new().await;
    let api = Api::start(&database).await;
    let id = process(&api).await;
    let path = format!("/api/v1/processes/{id}/logs");
    let mut slow = TcpStream::connect(api.url.trim_start_matches("http://")).await.unwrap();
    let request = format!(
        "GET {path}?follow=true HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {}\r\naccept: text/plain\r\nconnection: close\r\n\r\n",
        api.viewer
    );
    slow.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    slow.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");

    let mut quick = api.events(&path, None).await;
    let filler = "x".repeat(64 << 10);
    for seq in 1..=CHUNKS {
        print(&database, id, seq, &[format!("{seq} {filler}")]).await;
        let line = quick.next().await.unwrap().json();
        assert_eq!(
            line["line"].as_str().unwrap().split(' ').next(),
            Some(&*seq.to_string())
        );
    }
    end(&database, id, json!([])).await;
    assert_eq!(quick.next().await.unwrap().event, "end");

    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    let text = String::from_utf8(rest).unwrap();
    let seen: Vec<i64> = text
        .lines()
        .filter_map(|line| line.split_once(' ').filter(|(_, text)| *text == filler))
        .map(|(number, _)| number.parse().unwrap())
        .collect();
    assert_eq!(seen, (1..=CHUNKS).collect::<Vec<_>>());
}
