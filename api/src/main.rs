//! `octopus-api`: serves the REST surface, and keeps its tokens and its database.

use std::process::ExitCode;

use clap::Parser;
use octopus_api::config::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    match octopus_api::execute(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("octopus-api: {error}");
            ExitCode::FAILURE
        }
    }
}
