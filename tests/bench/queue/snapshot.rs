//! Whether a session that holds a snapshot for a minute slows the queue down: what was claimed since then stays in the tables.
//! A snapshot holds back its own database only, so another one on the same server is the comparison, at the same time.

use std::time::{Duration, Instant};

use super::{COMMANDS, Order, PAIRS, Queue, run};
use crate::spread;

const HELD: Duration = Duration::from_secs(60);

pub(crate) async fn run_snapshot() {
    let (Some(free), Some(held)) = (Queue::new("snapshot").await, Queue::new("snapshot").await) else {
        return;
    };
    let mut session = held.database.owner.acquire().await.expect("a connection");
    run(&mut session, "begin isolation level repeatable read; select 1").await;
    let began = Instant::now();
    let mut ratios = Vec::new();
    while began.elapsed() < HELD || ratios.len() < PAIRS {
        let mut rates = [0.0; 2];
        for (queue, rate) in [&free, &held].into_iter().zip(&mut rates) {
            queue.add(COMMANDS).await;
            *rate = queue.rate(COMMANDS, Order::Overlapping).await;
        }
        let [without, with] = rates;
        println!(
            "claim and finish per second, after {:.0} s: no snapshot {without:.0}, held {with:.0}",
            began.elapsed().as_secs_f64()
        );
        ratios.push(with / without);
    }
    run(&mut session, "commit").await;
    let last = ratios.split_off(ratios.len() - PAIRS);
    println!(
        "rate while a snapshot is held to the rate without, in the last {PAIRS} pairs of a minute: {} (median, least to most)",
        spread(last)
    );
}
