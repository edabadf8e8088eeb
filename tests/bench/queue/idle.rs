//! What the programs cost while there is nothing to do. Kubernetes' API server is a small one that has nothing.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use octopus_tests::postgres::Database;
use serde_json::json;
use sqlx::PgPool;
use std::collections::HashMap;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::run;

const WINDOW: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(60);
/// Sessions tell of what they did within this time.
const ROUND: Duration = Duration::from_secs(10);
/// How long this API server takes for an answer: claims are held meanwhile.
const ANSWER: Duration = Duration::from_millis(200);

/// The real programs on a database, as its owner.
pub(super) struct Programs {
    url: String,
    folder: TempDir,
}

impl Programs {
    pub(super) async fn new(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = Router::new().route("/version", get(version)).fallback(nothing);
        tokio::spawn(async move { axum::serve(listener, server).await });
        let folder = TempDir::new().expect("a folder");
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig.to_string()).expect("a file");
        Self {
            url: url.to_owned(),
            folder,
        }
    }

    pub(super) fn manager(&self) -> Child {
        self.start(
            "octopus-manager",
            "run",
            &[
                ("KUBECONFIG", self.folder.path().join("kubeconfig")),
                ("OCTOPUS_CACHE_DIR", self.folder.path().join("cache")),
                ("OCTOPUS_REGISTRY_PUSH", "http://127.0.0.1:1".into()),
                ("OCTOPUS_REGISTRY_PULL", "127.0.0.1:1".into()),
            ],
        )
    }

    fn api(&self) -> Child {
        self.start("octopus-api", "serve", &[])
    }

    fn start(&self, program: &str, subcommand: &str, settings: &[(&str, PathBuf)]) -> Child {
        let beside = std::env::current_exe().expect("our own file").with_file_name(program);
        Command::new(beside)
            .arg(subcommand)
            .env("DATABASE_URL", &self.url)
            .env("OCTOPUS_LISTEN", "127.0.0.1:0")
            .env("RUST_LOG", "error")
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the programs were built")
    }
}

async fn version() -> Response {
    axum::Json(json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "", "buildDate": "",
                      "goVersion": "", "compiler": "", "platform": ""}))
    .into_response()
}

/// An empty list, or a watch in which nothing happens.
async fn nothing(Query(query): Query<HashMap<String, String>>) -> Response {
    if query.contains_key("watch") {
        std::future::pending::<()>().await;
    }
    sleep(ANSWER).await;
    axum::Json(json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}))
        .into_response()
}

/// Until a manager has a lease.
pub(super) async fn ready(owner: &PgPool) {
    for _ in 0..300 {
        let leased: bool =
            sqlx::query_scalar("select exists (select from manager where lease_until > now() and stopped_at is null)")
                .fetch_one(owner)
                .await
                .expect("an answer");
        if leased {
            settled(owner).await;
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("the manager did not take a lease within 30 s");
}

pub(crate) async fn run_idle() {
    let database = Database::new().await;
    // So that Postgres has nothing to do by itself, which counts as well.
    run(
        &mut database.owner.acquire().await.expect("a connection"),
        "vacuum analyze",
    )
    .await;
    let programs = Programs::new(&database.url).await;
    let api = programs.api();
    settled(&database.owner).await;
    let alone = transactions(&database).await;
    let (api_share, _) = tokio::join!(share(&api), sleep(WINDOW));
    let alone = transactions(&database).await - alone;
    let manager = programs.manager();
    ready(&database.owner).await;
    // Each of its connections prepares each statement once, in a transaction of its own.
    sleep(SETTLE).await;
    let both = transactions(&database).await;
    let (manager_share, _) = tokio::join!(share(&manager), sleep(WINDOW));
    let both = transactions(&database).await - both;
    let seconds = WINDOW.as_secs_f64();
    println!(
        "nothing to do: API {:.2} transactions a second and {api_share:.2}% of a core; manager {:.2} and {manager_share:.2}%",
        alone / seconds,
        (both - alone) / seconds
    );
}

/// Waits until the database is given no less to do than in the round before: what a program does once, as it starts, is over.
async fn settled(owner: &PgPool) {
    let mut before = f64::INFINITY;
    for _ in 0..12 {
        let began = counted(owner).await;
        sleep(ROUND).await;
        let did = counted(owner).await - began;
        if did + 1.0 >= before {
            return;
        }
        before = did;
    }
    panic!("the programs did not come to rest within two minutes");
}

/// Transactions of the database so far, but for those that look.
async fn transactions(database: &Database) -> f64 {
    // Sessions tell of what they did with a delay of up to a second, or ten when they then do nothing.
    sleep(Duration::from_secs(1)).await;
    counted(&database.owner).await
}

async fn counted(owner: &PgPool) -> f64 {
    sqlx::query_scalar::<_, i64>(
        "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()",
    )
    .fetch_one(owner)
    .await
    .map(|count| {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        (count as f64)
    })
    .expect("an answer")
}

/// Percent of a core that a program takes within the window.
async fn share(program: &Child) -> f64 {
    let id = program.id().expect("it runs");
    // Ticks in user and kernel mode, a hundred in a second.
    let ticks = || -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("it runs");
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<f64>().expect("a number"))
            .sum()
    };
    let began = ticks();
    sleep(WINDOW).await;
    (ticks() - began) / WINDOW.as_secs_f64()
}
