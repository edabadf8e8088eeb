//! The real programs as child processes. Each logs into a file of its own.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::process::{Child, Command};

use super::client::until;
use super::containers::{REGISTRY_USER, base_images, scratch, target};
use super::namespace::Namespace;

const PASSWORD: &str = "test";

/// Starts the programs of one test.
pub struct Programs {
    name: String,
    owner_url: String,
    manager: Vec<(String, String)>,
    started: AtomicU32,
}

/// A running program. It is killed when it is dropped.
pub struct Program {
    child: Child,
    /// Where its health is served.
    pub address: String,
}

impl Program {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it was running")
    }

    /// SIGKILL: it does nothing more.
    pub async fn kill(mut self) {
        self.killed().await;
    }

    pub(super) async fn killed(&mut self) {
        self.child.kill().await.expect("it was running");
    }

    /// What its `/readyz` says: whether it is ready, and what is missing. None: it does not answer.
    pub async fn readiness(&self) -> Option<(bool, String)> {
        let answer = reqwest::get(format!("http://{}/readyz", self.address)).await.ok()?;
        Some((answer.status().is_success(), answer.text().await.ok()?))
    }

    /// Its metrics, as text. None: it does not answer.
    pub async fn metrics(&self) -> Option<String> {
        let answer = reqwest::get(format!("http://{}/metrics", self.address)).await.ok()?;
        answer.text().await.ok()
    }

    /// One of them, by its name and labels. None: it does not answer, or has never counted that.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let metrics = self.metrics().await?;
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| value.parse().expect("a number"))
    }

    /// Whether it ends by itself within a minute and a half, by SIGABRT.
    pub async fn aborts(mut self) -> bool {
        let ended = tokio::time::timeout(Duration::from_secs(90), self.child.wait()).await;
        ended.is_ok_and(|status| status.is_ok_and(|status| status.signal() == Some(6)))
    }

    /// Waits for its end, whenever that is. Whether it was SIGABRT.
    pub async fn aborted(&mut self) -> bool {
        let ended = self.child.wait().await;
        ended.is_ok_and(|status| status.signal() == Some(6))
    }

    /// A signal by its name: STOP and CONT let it sleep.
    pub async fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.id().to_string()])
            .status()
            .await
            .expect("kill is installed");
        assert!(sent.success());
    }

    /// SIGTERM, once it serves its health and so has its handlers, and waits for its end.
    pub async fn terminate(mut self) -> bool {
        until("the program to be up", 60, async || {
            tokio::net::TcpStream::connect(&self.address).await.ok().map(drop)
        })
        .await;
        self.signal("TERM").await;
        self.child.wait().await.expect("an exit status").success()
    }
}

impl Programs {
    pub(super) fn new(
        name: &str,
        id: &str,
        owner_url: String,
        (push, pull): (&str, &str),
        namespace: &Namespace,
    ) -> Self {
        let password = scratch().join("registry-password");
        std::fs::write(&password, REGISTRY_USER.1).expect("a file");
        let mut manager: Vec<(String, String)> = [
            ("DATABASE_URL", as_login(&owner_url, "octopus_manager_login", None)),
            ("KUBECONFIG", namespace.kubeconfig.display().to_string()),
            ("OCTOPUS_NAMESPACE", namespace.name.clone()),
            ("OCTOPUS_SYSTEM_PACKAGES", "ca-certificates".into()),
            ("OCTOPUS_BUILD_NAMESPACE", namespace.builds.clone()),
            ("OCTOPUS_REGISTRY_PUSH", push.to_owned()),
            ("OCTOPUS_REGISTRY_PUSH_USER", REGISTRY_USER.0.to_owned()),
            ("OCTOPUS_REGISTRY_PUSH_PASSWORD_FILE", password.display().to_string()),
            ("OCTOPUS_REGISTRY_PULL", pull.to_owned()),
            ("OCTOPUS_BASE_IMAGES", base_images(push)),
            (
                "OCTOPUS_UV",
                std::env::var("OCTOPUS_UV").unwrap_or_else(|_| "uv".into()),
            ),
            ("OCTOPUS_CACHE_DIR", target().join("e2e/cache").display().to_string()),
            ("OCTOPUS_LEASE_SECONDS", "4".into()),
            ("OCTOPUS_ORPHAN_GRACE_SECONDS", "10".into()),
            ("RUST_LOG", "info,octopus_manager=debug,kube=warn,sqlx=warn".into()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        if let Ok(bundle) = std::env::var("OCTOPUS_CA_BUNDLE") {
            manager.push(("OCTOPUS_CA_BUNDLE".into(), bundle));
        }
        Self {
            name: format!("{name}-{id}"),
            owner_url,
            manager,
            started: AtomicU32::new(0),
        }
    }

    pub(super) fn logs(&self) -> PathBuf {
        let path = scratch().join(&self.name);
        std::fs::create_dir_all(&path).expect("a folder");
        path
    }

    /// Migrates as the owner and sets the passwords of the logins.
    pub(super) async fn migrate(&self) {
        let mut command = self.command("octopus-api", "migrate");
        command.arg("migrate").env("DATABASE_URL", &self.owner_url);
        command
            .env("OCTOPUS_API_PASSWORD", PASSWORD)
            .env("OCTOPUS_MANAGER_PASSWORD", PASSWORD);
        let status = command.status().await.expect("octopus-api runs");
        assert!(
            status.success(),
            "octopus-api migrate failed: see {}",
            self.logs().display()
        );
    }

    pub(super) async fn token(&self, role: &str) -> String {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let output = Command::new(target().join("octopus-api"))
            .args(["token", "create", "--name", &format!("{role}-{number}"), "--role", role])
            .env("DATABASE_URL", &self.owner_url)
            .output()
            .await
            .expect("octopus-api runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// The API, at an address of its own or at that of one that died.
    pub(super) fn api(&self, address: Option<String>) -> Program {
        let mut command = self.command("octopus-api", "api");
        let address = address.unwrap_or_else(free_address);
        command
            .arg("serve")
            .env("DATABASE_URL", as_login(&self.owner_url, "octopus_api_login", None));
        command.env("OCTOPUS_LISTEN", &address);
        let child = command.spawn().expect("octopus-api runs");
        Program { child, address }
    }

    pub(super) async fn manager(&self, settings: &[(&str, &str)]) -> Program {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let mut command = self.command("octopus-manager", &format!("manager-{number}"));
        let address = free_address();
        command
            .arg("run")
            .envs(self.manager.iter().cloned())
            .envs(settings.iter().copied())
            .env("OCTOPUS_LISTEN", &address);
        Program {
            child: command.spawn().expect("octopus-manager runs"),
            address,
        }
    }

    /// Runs another subcommand of the manager to its end: its exit status, and what it prints as JSON.
    pub(super) async fn ask_manager(&self, arguments: &[&str], settings: &[(&str, &str)]) -> (bool, serde_json::Value) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let mut command = self.command("octopus-manager", &format!("{}-{number}", arguments[0]));
        command
            .args(arguments)
            .arg("--json")
            .envs(self.manager.iter().cloned())
            .envs(settings.iter().copied())
            .stdout(Stdio::piped());
        let output = command.output().await.expect("octopus-manager runs");
        let printed = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)));
        (output.status.success(), printed)
    }

    fn command(&self, program: &str, log: &str) -> Command {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.logs().join(log))
            .expect("a log file");
        let mut command = Command::new(Path::join(&target(), program));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true);
        command
    }
}

/// The URL of one of the logins: of the owner's database, or another one on its server.
pub(super) fn as_login(owner_url: &str, login: &str, database: Option<&str>) -> String {
    let mut url = reqwest::Url::parse(owner_url).expect("a URL");
    url.set_username(login).expect("a user");
    url.set_password(Some(PASSWORD)).expect("a password");
    if let Some(database) = database {
        url.set_path(database);
    }
    url.into()
}

/// An address that was free a moment ago.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}
