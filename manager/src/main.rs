//! `octopus-manager`: see `--help`.

use std::process::ExitCode;

use clap::Parser;
use octopus_manager::config::Config;

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    octopus_shared::telemetry::init(config.log_json);
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::error!("another TLS provider is already installed");
        return ExitCode::FAILURE;
    }
    match octopus_manager::run(config, octopus_manager::shutdown::signals()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "octopus-manager ends");
            ExitCode::FAILURE
        }
    }
}
