//! What a line takes in Postgres: stored bytes for each printed one, indexes and TOAST with them.
//!
//! Time is simulated: batches are stored as a manager would hand them over at that rate, merged every 30 s of it, and vacuumed
//! once in its minute, as autovacuum does.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use octopus_shared::db::report::{self, Watch};
use octopus_tests::function::{manager, services, watch};
use octopus_tests::postgres::Database;
use octopus_tests::printed::Writer;
use uuid::Uuid;

const ROUND: i64 = 30;
const AGE: i64 = 60;

pub(super) async fn run() {
    for (processes, rate, batch, seconds) in [(1, 100, 15, 1200), (16, 1, 1, 3600)] {
        measure(processes, rate, batch, seconds).await;
    }
}

/// A line of Flask's access log: a few clients, as the addresses of an ingress are, some paths, and an id that is never the same.
fn line(index: i64, at: DateTime<Utc>) -> String {
    let mixed = index.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 8;
    let choose = |shift: u32, of: &[&'static str]| of[usize::try_from(mixed >> shift).unwrap_or_default() % of.len()];
    format!(
        "10.244.0.{} - - [{}] \"{}{} HTTP/1.1\" {} -",
        choose(0, &["7", "11", "12"]),
        at.format("%d/%b/%Y %H:%M:%S"),
        choose(
            8,
            &[
                "GET /api/v1/items/",
                "GET /api/v1/items/",
                "POST /api/v1/predict/",
                "GET /api/v1/users/"
            ]
        ),
        format_args!("{}?limit=50", (mixed >> 24) % 10_000),
        choose(44, &["200", "200", "200", "304", "404"]),
    )
}

async fn measure(processes: usize, rate: i64, batch: i64, seconds: i64) {
    let database = Database::new().await;
    let instance = manager(&database).await;
    let watch = watch(&database, instance).await;
    let mut writers = Vec::new();
    for process in services(&database, "default", processes).await {
        writers.push((Writer::new(&database.manager, &watch, process).await, process, 0));
    }
    let begin = Utc::now() - TimeDelta::hours(3);
    let mut printed = 0;
    let empty = stored(&database).await;
    for round in 0..seconds / ROUND {
        for index in (round * ROUND * rate..(round + 1) * ROUND * rate).step_by(usize::try_from(batch).expect("few")) {
            let lines: Vec<_> = (index..index + batch)
                .map(|index| {
                    let nanos = index * (1_000_000_000 / rate) + index.wrapping_mul(7_919_317) % 4_000_000;
                    let at = begin + TimeDelta::nanoseconds(nanos);
                    (at, line(index, at))
                })
                .collect();
            printed += processes * lines.iter().map(|(_, line)| line.len() + 1).sum::<usize>();
            let chunks: Vec<_> = writers.iter_mut().map(|(writer, ..)| writer.chunk(&lines)).collect();
            report::append_chunks(&database.manager, &watch, &chunks)
                .await
                .expect("stored");
        }
        let now = begin + TimeDelta::seconds((round + 1) * ROUND);
        merge(&database, &watch, &mut writers, now).await;
        if round % 2 == 1 {
            vacuum(&database).await;
        }
    }
    let at_once = stored(&database).await - empty;
    let later = begin + TimeDelta::seconds(seconds) + TimeDelta::hours(1);
    merge(&database, &watch, &mut writers, later).await;
    vacuum(&database).await;
    let after = stored(&database).await - empty;
    let chunks: i64 = sqlx::query_scalar("select count(*) from log_chunk")
        .fetch_one(&database.owner)
        .await
        .expect("a number");
    #[expect(clippy::cast_precision_loss, reason = "ratios")]
    let share = |bytes: i64| bytes as f64 / printed as f64;
    println!(
        "stored for each byte printed, {processes} processes of {rate} lines/s for {} min: {:.2} at once, {:.2} an hour later \
         ({} lines, {} kB printed, {chunks} chunks)",
        seconds / 60,
        share(at_once),
        share(after),
        rate * seconds * i64::try_from(processes).expect("few"),
        printed / 1000,
    );
}

/// Merges what is older than it has to be at a time that is past.
async fn merge(database: &Database, watch: &Watch, writers: &mut [(Writer, Uuid, i64)], now: DateTime<Utc>) {
    let age = (Utc::now() - now + TimeDelta::seconds(AGE))
        .to_std()
        .unwrap_or(Duration::ZERO);
    for process in report::unmerged(&database.manager, watch).await.expect("processes") {
        let done = writers.iter_mut().find(|(_, id, _)| *id == process.process_id);
        let (.., done) = done.expect("it is one of ours");
        *done = report::merge_step(&database.manager, watch, &process, *done, age)
            .await
            .expect("merged")
            .done;
    }
}

async fn vacuum(database: &Database) {
    sqlx::raw_sql("vacuum analyze log_chunk")
        .execute(&database.owner)
        .await
        .expect("vacuumed");
}

async fn stored(database: &Database) -> i64 {
    sqlx::query_scalar(
        "select sum(pg_total_relation_size(inhrelid))::bigint from pg_inherits where inhparent = 'log_chunk'::regclass",
    )
    .fetch_one(&database.owner)
    .await
    .expect("a size")
}
