//! A fresh, migrated database for every test, on one server.
//!
//! The server is the one that `DATABASE_URL` names, when it lets us make databases; else a container that is started once
//! for each test binary and removed when the binary has ended, however it ended.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};
use testcontainers::core::IntoContainerPort;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::stack::link::Link;

/// Every container of the tests carries it, so that what a killed machine left can be found.
pub const LABEL: (&str, &str) = ("octopus-process-manager", "test");

static SERVER: OnceCell<Server> = OnceCell::const_new();
static DURABLE: AtomicBool = AtomicBool::new(false);

/// For benchmarks: a server that is started from now on flushes to disk at each commit, as a user's does.
pub fn flush_to_disk() {
    DURABLE.store(true, Ordering::Relaxed);
}

struct Server {
    options: PgConnectOptions,
    container: Option<ContainerAsync<GenericImage>>,
}

/// A database of one test's own. It is dropped with this value, or with its server.
#[derive(Debug)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// How the owner reaches it, password and all.
    pub url: String,
    /// As the one who migrated it.
    pub owner: PgPool,
    /// As the role `octopus_api`.
    pub api: PgPool,
    /// As the role `octopus_manager`.
    pub manager: PgPool,
    /// Id of its server's container, where that is ours.
    pub container: Option<String>,
    server: PgConnectOptions,
    /// Whether its server is removed with all that is in it.
    disposable: bool,
}

impl Database {
    /// Makes and migrates one.
    pub async fn new() -> Self {
        let database = Self::empty().await;
        let mut owner = database.owner.acquire().await.expect("a connection");
        octopus_api::admin::migrate::migrate(&mut owner)
            .await
            .expect("migrations");
        drop(owner);
        database
    }

    /// Makes one without any table.
    pub async fn empty() -> Self {
        SERVER.get_or_init(Server::find).await.database().await
    }

    /// The same on a server of its own, which may die and be cut off.
    pub async fn apart() -> (Self, Apart) {
        let server = Server::start().await;
        let link = Link::to(server.options.get_port()).await;
        let linked = Server {
            options: server.options.clone().port(link.port),
            container: server.container,
        };
        let database = linked.database().await;
        let apart = Apart {
            link,
            direct: server.options,
            container: linked.container.expect("it was started"),
        };
        (database, apart)
    }
}

/// A server that only one test uses, behind a link.
pub struct Apart {
    /// What its clients speak over.
    pub link: Link,
    direct: PgConnectOptions,
    container: ContainerAsync<GenericImage>,
}

impl Apart {
    /// Ends it as `pg_ctl stop -m immediate` does: every connection dies at once, and the next start recovers.
    pub async fn stop(&self) {
        docker(&["kill", "--signal", "QUIT", self.container.id()]).await;
        docker(&["wait", self.container.id()]).await;
    }

    /// Starts it again, and waits until it answers.
    pub async fn start(&self) {
        docker(&["start", self.container.id()]).await;
        // Docker has chosen another port.
        let port = self.container.get_host_port_ipv4(5432).await.expect("its port");
        wait_for(&self.direct.clone().port(port)).await;
        self.link.lead_to(port);
    }
}

async fn docker(arguments: &[&str]) {
    let done = tokio::process::Command::new("docker")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .await
        .expect("docker is installed");
    assert!(done.success(), "docker {arguments:?}");
}

impl Server {
    async fn database(&self) -> Database {
        let Self {
            options: server,
            container,
        } = self;
        let name = format!("octopus_it_{}", Uuid::now_v7().simple());
        let mut connection = server.connect().await.expect("the server answers");
        sqlx::raw_sql(AssertSqlSafe(format!("create database {name}")))
            .execute(&mut connection)
            .await
            .expect("a database");
        connection.close().await.expect("a clean end");
        let options = server.clone().database(&name);
        Database {
            url: options.to_url_lossy().to_string(),
            owner: pool(&options, None),
            api: pool(&options, Some("set role octopus_api")),
            manager: pool(&options, Some("set role octopus_manager")),
            name,
            server: server.clone(),
            container: container.as_ref().map(|container| container.id().to_owned()),
            disposable: container.is_some(),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.disposable {
            return;
        }
        let (server, name) = (self.server.clone(), self.name.clone());
        let (done, waiting) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .ok()?;
            runtime.block_on(async {
                let mut connection = server.connect().await.ok()?;
                let drop = format!("drop database if exists {name} with (force)");
                sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await.ok()
            })?;
            done.send(()).ok()
        });
        // Not for ever: the test's runtime stands still meanwhile, and a connection that it has half opened holds Postgres
        // back until it is given up there.
        let _ = waiting.recv_timeout(Duration::from_secs(5));
    }
}

fn pool(options: &PgConnectOptions, role: Option<&'static str>) -> PgPool {
    PgPoolOptions::new()
        .max_connections(8)
        .acquire_timeout(Duration::from_secs(20))
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if let Some(role) = role {
                    sqlx::raw_sql(role).execute(connection).await?;
                }
                Ok(())
            })
        })
        .connect_lazy_with(options.clone())
}

impl Server {
    async fn find() -> Self {
        match std::env::var("DATABASE_URL").ok().and_then(|url| url.parse().ok()) {
            Some(options) if may_create_databases(&options).await => Self {
                options,
                container: None,
            },
            Some(_) => {
                eprintln!("DATABASE_URL names a server where we may not make databases: starting one of our own");
                Self::start().await
            }
            None => Self::start().await,
        }
    }

    async fn start() -> Self {
        let image = std::env::var("POSTGRES_IMAGE").ok().filter(|image| !image.is_empty());
        let image = image.unwrap_or_else(|| "postgres:17".to_owned());
        let (name, tag) = image.rsplit_once(':').unwrap_or((&image, "latest"));
        let password = Uuid::new_v4().simple().to_string();
        let fsync = if DURABLE.load(Ordering::Relaxed) {
            "fsync=on"
        } else {
            "fsync=off"
        };
        let container = GenericImage::new(name, tag)
            .with_exposed_port(5432.tcp())
            .with_env_var("POSTGRES_PASSWORD", &password)
            .with_label(LABEL.0, LABEL.1)
            // The data outlives no test: no flushing to disk.
            .with_cmd([
                "postgres",
                "-c",
                fsync,
                "-c",
                "max_connections=300",
                "-c",
                // Benchmarks ask when something was committed.
                "track_commit_timestamp=on",
                "-c",
                // Tests ask how often it was asked what.
                "shared_preload_libraries=pg_stat_statements",
            ])
            .start()
            .await
            .expect("a container of Postgres; set DATABASE_URL to use a server that runs already");
        remove_when_we_end(container.id());
        let port = container.get_host_port_ipv4(5432).await.expect("its port");
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username("postgres")
            .password(&password)
            .database("postgres");
        wait_for(&options).await;
        Self {
            options,
            container: Some(container),
        }
    }
}

async fn may_create_databases(options: &PgConnectOptions) -> bool {
    let allowed = async {
        let mut connection: PgConnection = options.connect().await.ok()?;
        let query = "select rolsuper or rolcreatedb from pg_roles where rolname = current_user";
        sqlx::query_scalar::<_, bool>(query)
            .fetch_one(&mut connection)
            .await
            .ok()
    };
    tokio::time::timeout(Duration::from_secs(5), allowed)
        .await
        .ok()
        .flatten()
        .unwrap_or(false)
}

/// Until it answers twice in a row: an image that sets itself up runs a server for that first.
async fn wait_for(options: &PgConnectOptions) {
    let mut answers = 0;
    for _ in 0..600 {
        answers = if options.connect().await.is_ok() {
            answers + 1
        } else {
            0
        };
        if answers == 2 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("Postgres did not start within a minute");
}

/// A static is never dropped, and a killed test drops nothing: a shell that waits for the end of our pipe removes the
/// container.
pub(crate) fn remove_when_we_end(container: &str) {
    let script = format!("read -r _; docker rm --force --volumes {container} >/dev/null 2>&1");
    let watcher = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh starts");
    // The pipe stays open as long as we live.
    std::mem::forget(watcher);
}
