//! The command line: what the manager is asked to do.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::diff::{self, DiffArgs};
use crate::login::{self, Login};
use crate::preflight::{self, PreflightArgs};
use crate::shutdown::Shutdown;

/// Claims commands from Postgres, builds images, drives one Kubernetes cluster, and writes back what it sees.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM.
    Run(Box<Config>),
    /// Make the manager's kubeconfig with an administrator's. The manager renews the token in it by itself.
    Login(Login),
    /// Look at everything that a cluster must have before functions run on it, print it, and store it for the API to show.
    /// It takes about half a minute, makes two pods and a policy in the function namespace, and removes them. The exit status
    /// is 1 when anything is an error.
    Preflight(Box<PreflightArgs>),
    /// Show what is not as it is wanted: rows against objects. With --apply, remove the objects that no row wants, which a
    /// manager leaves alone while it says `reconcile_halted`. The exit status is 1 when anything is left.
    Diff(Box<DiffArgs>),
}

impl Cli {
    /// Does what was asked for. Everything but the answer of a subcommand is logged to stderr.
    pub async fn perform(self) -> ExitCode {
        let done = match self.command {
            Command::Run(config) => {
                octopus_shared::telemetry::init(config.log_json);
                match Shutdown::on_signals() {
                    Ok(shutdown) => crate::run(*config, shutdown).await.map_err(|error| error.to_string()),
                    Err(error) => Err(format!("the handlers of SIGTERM and SIGINT: {error}")),
                }
            }
            Command::Login(login) => {
                octopus_shared::telemetry::init(false);
                let written = login::run(&login).await.map_err(|error| error.to_string());
                written.map(|path| {
                    tracing::info!(path = %path.display(), "the manager's kubeconfig is written, its token beside it");
                })
            }
            Command::Preflight(arguments) => {
                octopus_shared::telemetry::init(arguments.config.log_json);
                return preflight::run(&arguments).await;
            }
            Command::Diff(arguments) => {
                octopus_shared::telemetry::init(arguments.config.log_json);
                match diff::run(&arguments).await {
                    Ok(status) => return status,
                    Err(error) => Err(error),
                }
            }
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(error = %error, "octopus-manager ends");
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    /// Those without a default.
    const SETTINGS: [&str; 4] = [
        "--database-url=postgres://host/db",
        "--kubeconfig=file",
        "--registry-push=http://host",
        "--registry-pull=host",
    ];

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"octopus-manager").chain(arguments))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_the_settings() {
        let cli = parse(&[&["run"], SETTINGS.as_slice()].concat()).unwrap();
        assert!(matches!(cli.command, Command::Run(config) if config.registry_pull == "host"));
    }

    #[test]
    fn login_needs_none_of_the_settings() {
        let cli = parse(&["login", "--admin-kubeconfig=a", "--output=b"]).unwrap();
        assert!(matches!(cli.command, Command::Login(login) if login.token_seconds == 86_400));
        let short = parse(&["login", "--admin-kubeconfig=a", "--output=b", "--token-seconds=599"]);
        assert_eq!(short.unwrap_err().kind(), ErrorKind::ValueValidation);
    }
}
