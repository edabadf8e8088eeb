//! Logs while everything that reads and stores them dies, again and again.

use std::time::Duration;

use octopus_tests::stack::Stack;
use octopus_tests::stack::link::Line;
use tokio::time::{Instant, sleep};

use crate::flood::{WHOLE, accounted, flood, talker};
use crate::functions::TALK;
use crate::log_spool::{folder, has_begun, spooling};
use crate::outages::soak;

const BYTES_PER_LINE: usize = 200;
/// From one fault to the next.
const EVERY: Duration = Duration::from_secs(5);

/// The manager is killed each time; besides, by turns, nothing, the connections to the API server, or Postgres.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_outlives_managers_connections_and_databases() {
    let rates: &[usize] = if soak() {
        &[500_000, 5_000_000, 20_000_000]
    } else {
        &[500_000]
    };
    let seconds = if soak() { 60 } else { 30 };
    for rate in rates {
        let (stack, links) = Stack::linked("log-faults").await;
        let folder = folder("log-faults");
        let mut manager = spooling(&stack, &folder, &[WHOLE]).await;
        stack.client.build("talk", TALK, talker()).await;
        let lines = seconds * rate / BYTES_PER_LINE;
        let process = flood(&stack, lines, *rate).await;
        has_begun(&stack, process).await;
        let printing = Duration::from_secs(u64::try_from(seconds).unwrap());
        let (begun, mut faults) = (Instant::now(), 0);
        while begun.elapsed() < printing {
            sleep(EVERY).await;
            match faults % 3 {
                1 => {
                    links.cluster.set(Line::Cut);
                    links.cluster.set(Line::Open);
                }
                2 => {
                    links.postgres.stop().await;
                    links.postgres.start().await;
                }
                _ => {}
            }
            manager.kill().await;
            manager = spooling(&stack, &folder, &[WHOLE]).await;
            faults += 1;
        }
        let missing = accounted(&stack, process, lines).await;
        println!("log faults: {faults}, {rate} bytes/s: {missing} of {lines} lines missing");
    }
}
