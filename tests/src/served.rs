//! The API as a program of its own on a database: what dies with it, and what it takes of the machine.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use octopus_api::admin::token;
use octopus_shared::db::view::TokenRole;
use tokio::process::{Child, Command};

use crate::postgres::Database;
use crate::sse::Events;
use crate::stack::client::until;
use crate::stack::containers::program;

/// A running `octopus-api serve`, and one who follows by it.
pub struct Served {
    /// Where it listens: it starts again at the same place.
    pub address: SocketAddr,
    database_url: String,
    token: String,
    client: reqwest::Client,
    child: Child,
}

impl Served {
    /// Starts one, and waits until it is ready.
    pub async fn start(database: &Database) -> Self {
        let mut connection = database.owner.acquire().await.expect("the database answers");
        let name = format!("follower-{}", uuid::Uuid::new_v4().simple());
        let token = token::create(&mut connection, &name, TokenRole::Viewer, None).await;
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let served = Self {
            address,
            database_url: database.url.clone(),
            token: token.expect("a token"),
            client: crate::api::client(),
            child: run(address, &database.url),
        };
        served.ready().await;
        served
    }

    /// SIGKILL, and another one in its place.
    pub async fn restart(&mut self) {
        self.child.kill().await.expect("it was running");
        self.child = run(self.address, &self.database_url);
        self.ready().await;
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it was running")
    }

    /// Follows a path as server-sent events. None: the connection was refused or lost.
    pub async fn events(&self, path: &str, last_event_id: Option<&str>) -> Option<Events> {
        let request = self.client.get(format!("http://{}{path}", self.address));
        let mut request = request.bearer_auth(&self.token).header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.ok()?;
        assert_eq!(response.status(), reqwest::StatusCode::OK, "{path}");
        Some(Events::new(response))
    }

    /// What a path answers.
    pub async fn read(&self, path: &str) -> Vec<u8> {
        let request = self.client.get(format!("http://{}{path}", self.address));
        let answer = request.bearer_auth(&self.token).send().await.expect("it answers");
        assert_eq!(answer.status(), reqwest::StatusCode::OK, "{path}");
        answer.bytes().await.expect("a body").to_vec()
    }

    async fn ready(&self) {
        until("the API to be ready", 30, async || {
            let answer = self.client.get(format!("http://{}/readyz", self.address)).send().await;
            answer.ok()?.status().is_success().then_some(())
        })
        .await;
    }
}

fn run(address: SocketAddr, database_url: &str) -> Child {
    Command::new(program("octopus-api"))
        .arg("serve")
        .env("DATABASE_URL", database_url)
        .env("OCTOPUS_LISTEN", address.to_string())
        .env("RUST_LOG", "error")
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the programs were built")
}
