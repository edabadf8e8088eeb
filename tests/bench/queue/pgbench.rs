//! pgbench within the container of the server.

use std::process::Stdio;

use octopus_tests::postgres::Database;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{BATCH, COMMANDS};

/// Where the images of Postgres, upstream's and the stand-in, have it.
const PGBENCH: &str = "$(command -v pgbench || ls /usr/lib/postgresql/*/bin/pgbench | tail -n 1)";

/// What it needs to know.
pub(super) struct Pgbench {
    container: String,
    inside: String,
}

impl Pgbench {
    pub(super) fn of(database: &Database) -> Self {
        let options: PgConnectOptions = database.url.parse().expect("a URL");
        let mut inside = options.host("127.0.0.1").port(5432).to_url_lossy();
        // sqlx's own options, which libpq does not know.
        inside.set_query(None);
        Self {
            container: database.container.clone().expect("a server of our own"),
            inside: inside.to_string(),
        }
    }

    /// Commands per second of a script that claims and finishes one batch, by one client.
    pub(super) async fn batches(&self, script: &str) -> f64 {
        let options = format!("--protocol=prepared --client=1 --transactions={}", COMMANDS / BATCH);
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        (self.run(script, &options).await * BATCH as f64)
    }

    /// Runs of a script per second.
    pub(super) async fn run(&self, script: &str, options: &str) -> f64 {
        let run = format!(
            "cat > /tmp/script.sql && {PGBENCH} --no-vacuum {options} --file=/tmp/script.sql '{}'",
            self.inside
        );
        let mut child = Command::new("docker")
            .args(["exec", "--interactive", &self.container, "sh", "-c", &run])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker is installed");
        if let Some(mut input) = child.stdin.take() {
            input.write_all(script.as_bytes()).await.expect("docker reads");
        }
        let output = child.wait_with_output().await.expect("docker ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .find_map(|line| {
                line.strip_prefix("tps = ")?
                    .split_whitespace()
                    .next()?
                    .parse::<f64>()
                    .ok()
            })
            .unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
    }
}
