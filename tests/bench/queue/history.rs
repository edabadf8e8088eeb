//! Whether what has ended slows the queue down: the rate of claims and ends, and the pages that a claim reads, with ten million
//! ended commands and with none.

use serde_json::Value;

use super::{COMMANDS, Order, PAIRS, Queue, run};
use crate::spread;

const ENDED: i64 = 10_000_000;
/// Claims whose pages are counted.
const CLAIMS: u32 = 20;

pub(crate) async fn run_history() {
    let (Some(empty), Some(full)) = (Queue::new("history").await, Queue::new("history").await) else {
        return;
    };
    let mut connection = full.database.owner.acquire().await.expect("a connection");
    run(&mut connection, "set session_replication_role = replica").await;
    let ended = format!(
        "insert into command (id, cluster, kind, requested_by, state, finished_at)
         select lpad(to_hex(g), 32, '0')::uuid, 'default', 'kill_process', 'bench', 'succeeded', now()
           from generate_series(1, {ENDED}) g"
    );
    run(&mut connection, &ended).await;
    run(&mut connection, "reset session_replication_role").await;
    run(&mut connection, "vacuum analyze command").await;
    run(&mut connection, "checkpoint").await;

    let mut ratios = Vec::new();
    for pair in 0..=PAIRS {
        let mut rates = [0.0; 2];
        for (queue, rate) in [&empty, &full].into_iter().zip(&mut rates) {
            queue.add(COMMANDS).await;
            *rate = queue.rate(COMMANDS, Order::Overlapping).await;
        }
        let [without, with] = rates;
        if pair == 0 {
            continue;
        }
        println!("claim and finish per second, pair {pair}: nothing ended {without:.0}, {ENDED} ended {with:.0}");
        ratios.push(with / without);
    }
    println!(
        "rate with {ENDED} ended commands to the rate with none: {} (median of {PAIRS} pairs, least to most); pages that a \
         claim of fifty touches: {:.0} with, {:.0} without",
        spread(ratios),
        pages(&full).await,
        pages(&empty).await
    );
}

/// Pages that a claim touches, in the cache or not.
async fn pages(queue: &Queue) -> f64 {
    let owner = &queue.database.owner;
    let mut connection = owner.acquire().await.expect("a connection");
    for table in ["command_ready", "command_lease"] {
        run(&mut connection, &format!("vacuum {table}")).await;
    }
    queue.add(COMMANDS).await;
    let explain = format!(
        "explain (analyze, buffers, format json) select * from {}",
        queue.claim_sql()
    );
    let mut touched = 0.0;
    for claim in 0..=CLAIMS {
        let plan: Value = sqlx::query_scalar(sqlx::AssertSqlSafe(explain.clone()))
            .fetch_one(&mut *connection)
            .await
            .expect("a plan");
        let count = |what: &str| plan[0]["Plan"][what].as_f64().expect("a count");
        // The first one makes the plan.
        if claim > 0 {
            touched += count("Shared Hit Blocks") + count("Shared Read Blocks");
        }
    }
    run(&mut connection, "truncate command_ready, command_lease").await;
    touched / f64::from(CLAIMS)
}
