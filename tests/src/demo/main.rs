//! `octopus-demo`: plays the main job against a running stack, as any client of the REST API could, and prints what it
//! sees. Its exit status is 0 only when it saw every step.

mod client;
mod failure;
mod print;
mod process;
mod sse;
mod stage;
mod steps;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::client::Client;
use crate::failure::Failure;
use crate::print::Out;
use crate::stage::Stage;

/// Declares functions, starts, calls, follows and kills them, and prints it as it happens.
#[derive(Debug, Parser)]
#[command(name = "octopus-demo", version)]
struct Arguments {
    /// Address of the REST API.
    #[arg(long, env = "OCTOPUS_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Bearer token of the role admin.
    #[arg(long, env = "OCTOPUS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File with the token, instead.
    #[arg(long, env = "OCTOPUS_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The cluster to run on.
    #[arg(long, env = "OCTOPUS_CLUSTER", default_value = "default")]
    cluster: String,
}

impl Arguments {
    fn token(&self) -> Result<String, Failure> {
        let given = self.token.clone().unwrap_or_default();
        let text = match &self.token_file {
            Some(path) if given.is_empty() => std::fs::read_to_string(path).map_err(|error| {
                Failure::new(
                    format!("{} cannot be read: {error}", path.display()),
                    "mend OCTOPUS_TOKEN_FILE",
                )
            })?,
            _ => given,
        };
        match text.trim() {
            "" => Err(Failure::new(
                "no token was given",
                "set OCTOPUS_TOKEN or OCTOPUS_TOKEN_FILE; `octopus-api token create --name demo --role admin`, run with the \
                 owner's DATABASE_URL, makes a token",
            )),
            token => Ok(token.to_owned()),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let out = Out::new();
    match demonstrate(&arguments, out).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out.failure(&failure);
            ExitCode::FAILURE
        }
    }
}

async fn demonstrate(arguments: &Arguments, out: Out) -> Result<(), Failure> {
    let client = Client::new(&arguments.url, &arguments.token()?)?;
    let stage = Stage::new(client, out, &arguments.cluster);
    out.title(&format!("The main job, against {}, run {}", arguments.url, stage.run));
    let played = steps::play(&stage).await;
    if played.is_err() {
        stage.explain_and_clear().await;
    }
    played
}
