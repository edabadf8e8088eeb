//! `make bench`: what this machine does in this run, each rate beside the raw limit measured in the same run. Arguments
//! choose parts: `queue`, `history`, `snapshot`, `pickup`, `enqueue`, `idle`, `storage`, `readers`, `image`, `create`, `ends`,
//! `processes`, `logs`, `drain`, `streams`.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has failed")]
#![expect(clippy::print_stdout, reason = "it prints its results")]

mod create;
mod idle_node;
mod image;
mod logs;
mod processes;
mod queue;
mod readers;
mod storage;
mod streams;

use std::time::Duration;

use octopus_tests::stack::Stack;

#[tokio::main]
async fn main() {
    println!(
        "machine: {} cores",
        std::thread::available_parallelism().map_or(0, usize::from)
    );
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let wants = |part: &str| chosen.is_empty() || chosen.iter().any(|name| name == part);
    octopus_tests::postgres::flush_to_disk();
    if wants("queue") {
        queue::run_rates().await;
    }
    if wants("history") {
        queue::history::run_history().await;
    }
    if wants("snapshot") {
        queue::snapshot::run_snapshot().await;
    }
    if wants("pickup") {
        queue::pickup::run_pickup().await;
    }
    if wants("enqueue") {
        queue::enqueue::run_enqueue().await;
    }
    if wants("idle") {
        queue::idle::run_idle().await;
    }
    if wants("storage") {
        storage::run().await;
    }
    if wants("readers") {
        readers::run().await;
    }
    if wants("streams") {
        streams::run().await;
    }
    if !["image", "create", "ends", "processes", "logs", "drain"]
        .into_iter()
        .any(wants)
    {
        return;
    }
    let stack = Stack::start("bench").await;
    if wants("image") {
        image::run(&stack).await;
    }
    if wants("create") {
        create::run(&stack).await;
    }
    if wants("ends") {
        processes::run_ends(&stack).await;
    }
    if wants("processes") {
        processes::run_many(&stack).await;
    }
    if wants("logs") {
        logs::run(&stack).await;
    }
    if wants("drain") {
        logs::drain::run(&stack).await;
    }
}

/// The value below which a share of the sorted values lies.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

/// Median, and the smallest and largest, of ratios.
fn spread(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    match (ratios.first(), ratios.get(ratios.len() / 2), ratios.last()) {
        (Some(least), Some(median), Some(most)) => format!("{median:.2} ({least:.2} to {most:.2})"),
        _ => "nothing was measured".into(),
    }
}

/// Resident memory of a program, from the kernel's own accounts.
fn resident_kib(program: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{program}/status")).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("the kernel counts");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}
