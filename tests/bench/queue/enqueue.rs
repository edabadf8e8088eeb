//! Starts that 32 clients ask the API for, beside the same route of axum with the bare INSERT alone, and beside pgbench with
//! that INSERT.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use octopus_shared::command::CommandKind;
use octopus_tests::api::Api;
use octopus_tests::function::{build, claim, declare};
use octopus_tests::postgres::Database;
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::pgbench::Pgbench;
use super::{PAIRS, Queue, run};
use crate::spread;

const CLIENTS: usize = 32;
const WINDOW: Duration = Duration::from_secs(3);

const INSERT: &str = "insert into command (id, kind, version, function_name, process_id, payload, requested_by)
values ($1, 'start_process', 1, $2, $3, $4, 'bench')";

pub(crate) async fn run_enqueue() {
    let Some(queue) = Queue::new("enqueue").await else {
        return;
    };
    let database = &queue.database;
    let api = Api::start(database).await;
    declare(&api, "hello").await;
    build(
        database,
        &claim(database, queue.instance, CommandKind::DeclareFunction).await,
    )
    .await;
    let bare = bare(database).await;
    let pgbench = Pgbench::of(database);
    let script = INSERT
        .replace("$1", "gen_random_uuid()")
        .replace("$2", "'hello'")
        .replace("$3", "gen_random_uuid()")
        // A colon and a letter would be a variable.
        .replace("$4", &format!("'{}'", payload(&body()).to_string().replace(':', ": ")));
    let options = format!(
        "--protocol=prepared --client={CLIENTS} --jobs=2 --time={}",
        WINDOW.as_secs()
    );

    let (mut to_bare, mut to_pgbench) = (Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        let ours = rate(&api.client, &api.url, &api.admin).await;
        let alone = rate(&api.client, &bare, "").await;
        let direct = pgbench.run(&script, &options).await;
        if pair == 0 {
            // Plans that were made on empty tables are made anew, as they are within a minute of any server's life.
            run(
                &mut database.owner.acquire().await.expect("a connection"),
                "vacuum analyze",
            )
            .await;
            continue;
        }
        println!(
            "starts stored per second, {CLIENTS} clients, pair {pair}: API {ours:.0}, bare INSERT by axum {alone:.0}, by pgbench \
             {direct:.0}"
        );
        to_bare.push(ours / alone);
        to_pgbench.push(ours / direct);
    }
    println!(
        "starts over HTTP: ratio to the bare INSERT by axum {}, to pgbench {} (medians of {PAIRS} pairs, least to most)",
        spread(to_bare),
        spread(to_pgbench)
    );
}

fn body() -> Value {
    json!({"kind": "task"})
}

/// What the API makes of it.
fn payload(spec: &Value) -> Value {
    json!({"kind": "task", "revision": null, "spec": spec})
}

/// Answers the bare route's address.
async fn bare(database: &Database) -> String {
    let router = Router::new()
        .route("/api/v1/functions/{name}/processes", post(insert))
        .with_state(database.api.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn insert(
    State(pool): State<PgPool>,
    Path(name): Path<String>,
    axum::Json(spec): axum::Json<Value>,
) -> StatusCode {
    sqlx::query(INSERT)
        .bind(Uuid::now_v7())
        .bind(name)
        .bind(Uuid::now_v7())
        .bind(payload(&spec))
        .execute(&pool)
        .await
        .expect("stored");
    StatusCode::ACCEPTED
}

/// Requests that were answered in a second.
async fn rate(client: &Client, url: &str, token: &str) -> f64 {
    let began = Instant::now();
    let clients = (0..CLIENTS).map(|_| {
        let request = client
            .post(format!("{url}/api/v1/functions/hello/processes"))
            .bearer_auth(token)
            .json(&body());
        tokio::spawn(async move {
            let mut answered = 0_u32;
            while began.elapsed() < WINDOW {
                let answer = request.try_clone().expect("a body").send().await.expect("an answer");
                assert_eq!(answer.status(), StatusCode::ACCEPTED);
                answer.bytes().await.expect("a body");
                answered += 1;
            }
            answered
        })
    });
    let answered: u32 = futures::future::join_all(clients)
        .await
        .into_iter()
        .map(|answered| answered.expect("no panic"))
        .sum();
    f64::from(answered) / began.elapsed().as_secs_f64()
}
