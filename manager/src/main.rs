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
    // Reads FAILPOINTS, and holds to the end.
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    cli.perform().await
}
