//! `octopus-manager`: see `--help`.

use std::process::ExitCode;

use clap::Parser;
use octopus_manager::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("another TLS provider is already installed");
        return ExitCode::FAILURE;
    }
    cli.perform().await
}
