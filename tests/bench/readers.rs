//! What readers of the API wait for and cost: the end of a long log, and followers of one log.

use std::time::Instant;

use chrono::{TimeDelta, Utc};
use futures::future::join_all;
use octopus_shared::db::{CHANGE_CHANNEL, notify};
use octopus_tests::function::{manager, services, watch};
use octopus_tests::postgres::Database;
use octopus_tests::printed::Writer;
use octopus_tests::served::Served;
use uuid::Uuid;

use super::{quantile, resident_kib};

/// Chunks of 64 KiB: a gigabyte.
const CHUNKS: i64 = 16 << 10;
const CHUNK: usize = 64 << 10;
const READS: usize = 300;
/// Followers, of which the first ones pay for what is shared.
const FOLLOWERS: [usize; 2] = [200, 1000];

pub(super) async fn run() {
    let database = Database::new().await;
    let instance = manager(&database).await;
    let watch = watch(&database, instance).await;
    let processes = services(&database, "default", 2).await;
    let mut writers = Vec::new();
    for process in &processes {
        writers.push(Writer::new(&database.manager, &watch, *process).await);
    }
    let mut api = Served::start(&database).await;
    tail(&database, &mut writers[0], processes[0], &api).await;
    // What the reading of the other log took is not counted to followers.
    api.restart().await;
    followers(&database, &mut writers[1], processes[1], &api).await;
}

async fn tail(database: &Database, writer: &mut Writer, process: Uuid, api: &Served) {
    let begin = Utc::now() - TimeDelta::hours(1);
    let lines: Vec<_> = (0_i64..)
        .map(|number| {
            let mixed = number.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (
                begin + TimeDelta::milliseconds(number),
                format!("{number:08} {mixed:016x} a line as functions print them, of some eighty bytes"),
            )
        })
        .take(CHUNK / 80)
        .collect();
    writer.print(&lines).await;
    sqlx::query(
        "insert into log_chunk (process_id, seq, day, pod_uid, container, restart, lines, first_at, last_at, data, encoding, size)
         select process_id, seq + n, day, pod_uid, container, restart, lines, first_at, last_at, data, encoding, size
           from log_chunk, generate_series(1, $2) n where process_id = $1",
    )
    .bind(process)
    .bind(CHUNKS - 1)
    .execute(&database.owner)
    .await
    .expect("stored");
    sqlx::raw_sql("vacuum analyze log_chunk")
        .execute(&database.owner)
        .await
        .expect("vacuumed");
    let path = format!("/api/v1/processes/{process}/logs?tail=100");
    let mut waits = Vec::new();
    for _ in 0..READS {
        let began = Instant::now();
        let read = api.read(&path).await;
        waits.push(began.elapsed());
        assert_eq!(read.split(|byte| *byte == b'\n').count(), 101, "the last hundred lines");
    }
    waits.sort_unstable();
    let bytes: i64 = sqlx::query_scalar("select sum(size)::bigint from log_chunk where process_id = $1")
        .bind(process)
        .fetch_one(&database.owner)
        .await
        .expect("a number");
    println!(
        "the last 100 lines of a log of {} MB: p50 {:.1?}, p99 {:.1?} ({READS} reads, one after another)",
        bytes / 1_000_000,
        quantile(&waits, 0.5),
        quantile(&waits, 0.99)
    );
}

async fn followers(database: &Database, writer: &mut Writer, process: Uuid, api: &Served) {
    let path = format!("/api/v1/processes/{process}/logs?tail=0");
    let mut all = Vec::new();
    let mut resident = Vec::new();
    for number in FOLLOWERS {
        while all.len() < number {
            all.push(api.events(&path, None).await.expect("it answers"));
        }
        for line in 0..20 {
            writer.print(&[(Utc::now(), format!("line {line}"))]).await;
            notify(&database.manager, CHANGE_CHANNEL, &process.to_string())
                .await
                .expect("announced");
            let seen = join_all(all.iter_mut().map(octopus_tests::sse::Events::next)).await;
            assert!(seen.into_iter().all(|event| event.is_some()), "each got the line");
        }
        resident.push(resident_kib(api.id()));
    }
    let [few, many] = FOLLOWERS;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let each = (resident[1] - resident[0]) / (many - few) as f64;
    println!(
        "a follower of a log in the API: {each:.1} KiB ({:.1} MiB resident with {few}, {:.1} MiB with {many})",
        resident[0] / 1024.0,
        resident[1] / 1024.0
    );
}
