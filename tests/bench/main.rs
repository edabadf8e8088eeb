//! `make bench`: what this machine does in this run, each rate beside the raw limit measured in the same run.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has failed")]
#![expect(clippy::print_stdout, reason = "it prints its results")]

mod create;
mod image;
mod logs;

use std::time::Duration;

use octopus_tests::stack::Stack;

#[tokio::main]
async fn main() {
    println!(
        "machine: {} cores",
        std::thread::available_parallelism().map_or(0, usize::from)
    );
    let stack = Stack::start("bench").await;
    image::run(&stack).await;
    create::run(&stack).await;
    logs::run(&stack).await;
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
