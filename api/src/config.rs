//! Command line and environment, read once.

use std::net::SocketAddr;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand};
use octopus_shared::db::view::TokenRole;

/// REST API of the Octopus process manager: turns requests into rows of Postgres and rows into answers.
#[derive(Debug, Parser)]
#[command(name = "octopus-api", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API until SIGTERM or SIGINT; a second signal does not wait for requests under way.
    Serve(Serve),
    /// Make, list and revoke bearer tokens, with the owner's database credentials.
    Token(TokenCommand),
    /// Bring the database up to date, with the owner's credentials, and set the passwords of the two login roles.
    Migrate(Migrate),
    /// Print the OpenAPI document.
    Openapi,
}

/// The database.
#[derive(Args)]
pub struct Database {
    /// Postgres, as postgres://USER:PASSWORD@HOST:PORT/DATABASE. LISTEN needs a direct connection: no pooler in
    /// transaction mode in between.
    #[arg(
        id = "database_url",
        long = "database-url",
        value_name = "URL",
        env = "DATABASE_URL",
        hide_env_values = true
    )]
    pub url: String,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database(..)")
    }
}

/// Settings of `serve`.
#[derive(Args, Debug)]
pub struct Serve {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the help of the flattened arguments")]
    pub database: Database,
    /// Connections to the database at most, besides the one that listens.
    #[arg(
        long,
        value_name = "COUNT",
        env = "OCTOPUS_DATABASE_CONNECTIONS",
        default_value_t = 16
    )]
    pub database_connections: u32,
    /// Address to listen on. TLS is left to a reverse proxy.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "OCTOPUS_LISTEN",
        default_value = "127.0.0.1:8080"
    )]
    pub listen: SocketAddr,
    /// Log JSON instead of text. RUST_LOG chooses what is logged.
    #[arg(long, env = "OCTOPUS_LOG_JSON", value_parser = FalseyValueParser::new())]
    pub log_json: bool,
}

/// Settings of `migrate`.
#[derive(Args)]
pub struct Migrate {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the help of the flattened arguments")]
    pub database: Database,
    /// Password of the login role `octopus_api_login`, which is made or altered when this is set.
    #[arg(long, value_name = "PASSWORD", env = "OCTOPUS_API_PASSWORD", hide_env_values = true)]
    pub api_password: Option<String>,
    /// Password of the login role `octopus_manager_login`, which is made or altered when this is set.
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "OCTOPUS_MANAGER_PASSWORD",
        hide_env_values = true
    )]
    pub manager_password: Option<String>,
}

impl std::fmt::Debug for Migrate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Migrate(..)")
    }
}

/// `token ...`
#[derive(Args, Debug)]
pub struct TokenCommand {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the help of the flattened arguments")]
    pub database: Database,
    /// What to do.
    #[command(subcommand)]
    pub action: TokenAction,
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenAction {
    /// Make a token and print it. It is stored as a hash only: this is the one time that it is shown.
    Create {
        /// Who uses it: letters, digits and `_.@-`, at most 63. Shown as requested_by of commands.
        #[arg(long)]
        name: String,
        /// viewer reads; operator also starts and kills processes; admin also declares and deletes functions.
        #[arg(long, value_parser = role)]
        role: TokenRole,
        /// After which time it is refused: `90s`, `15m`, `12h`, `30d`, `8w`. Never, when left out.
        #[arg(long, value_name = "TIME", value_parser = time)]
        expires_in: Option<Duration>,
    },
    /// List the tokens, without the tokens themselves.
    List,
    /// Refuse a token from now on.
    Revoke {
        /// Its name.
        name: String,
    },
}

fn role(text: &str) -> Result<TokenRole, String> {
    [TokenRole::Viewer, TokenRole::Operator, TokenRole::Admin]
        .into_iter()
        .find(|role| role.as_str() == text)
        .ok_or_else(|| "choose viewer, operator or admin".to_owned())
}

fn time(text: &str) -> Result<Duration, String> {
    const REMEDY: &str = "write a number and s, m, h, d or w, for example 30d";
    let unit = text.chars().last().ok_or(REMEDY)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(REMEDY.to_owned()),
    };
    let count: u32 = text
        .strip_suffix(unit)
        .unwrap_or_default()
        .parse()
        .map_err(|_| REMEDY)?;
    if count == 0 {
        Err(REMEDY.to_owned())
    } else {
        Ok(Duration::from_secs(u64::from(count) * seconds))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "30", "d", "-1d", "0d", "1y", "1ü"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let cli = Cli::parse_from(["octopus-api", "serve", "--database-url", "postgres://u:geheim@h/d"]);
        assert!(!format!("{cli:?}").contains("geheim"));
    }
}
