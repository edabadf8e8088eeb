//! The whole product for one test: a database and a function namespace of its own, the real binaries, and a client.
//!
//! Postgres, the registry and the cluster are shared by all tests of a run ([`Containers`]).

pub mod client;
pub mod containers;
pub mod faulty;
pub mod link;
pub mod namespace;
pub mod programs;
mod turn;

use std::path::PathBuf;

use sqlx::PgPool;

use crate::postgres::{Apart, Database};
use crate::stack::client::Client;
use crate::stack::containers::{Containers, containers};
use crate::stack::faulty::Faulty;
use crate::stack::link::Link;
use crate::stack::namespace::Namespace;
use crate::stack::programs::{Program, Programs};
use crate::stack::turn::Turn;

/// The whole product for one test.
pub struct Stack {
    /// What all tests share.
    pub shared: &'static Containers,
    /// The function namespace, and the rights of its managers.
    pub namespace: Namespace,
    /// The API, with an administrator's token.
    pub client: Client,
    /// Postgres, as the owner: for what no role of the product may do.
    pub owner: PgPool,
    /// Postgres, as the programs are told to reach it: as the owner.
    pub database_url: String,
    programs: Programs,
    api: Program,
    _database: Database,
    _turn: Turn,
}

/// What stands between the programs of one test and everything else: all of it can be cut.
pub struct Links {
    /// A Postgres of the test's own.
    pub postgres: Apart,
    /// Between managers and the API server.
    pub cluster: Link,
    /// Between managers and the registry. Nodes pull beside it.
    pub registry: Link,
}

impl Stack {
    /// Sets everything up but a manager.
    pub async fn start(name: &str) -> Self {
        Self::started(name, Turn::beside().await).await
    }

    /// The same for a test that takes the whole node: no other runs beside it.
    pub async fn alone(name: &str) -> Self {
        Self::started(name, Turn::alone().await).await
    }

    /// The same as [`Stack::start`], with links that can be cut, and a Postgres that can be stopped.
    pub async fn linked(name: &str) -> (Self, Links) {
        let turn = Turn::beside().await;
        let shared = containers().await;
        let id = id();
        let (database, postgres) = Database::apart().await;
        let mut namespace = Namespace::create(&shared.kubeconfig, &id).await;
        let cluster = Link::to(namespace.port()).await;
        namespace.reach_at(cluster.port);
        let (place, port) = shared.registry_push.rsplit_once(':').expect("a port");
        let registry = Link::to(port.parse().expect("a port")).await;
        let push = format!("{place}:{}", registry.port);
        let links = Links {
            postgres,
            cluster,
            registry,
        };
        (Self::set_up(name, &id, database, namespace, &push, turn).await, links)
    }

    async fn started(name: &str, turn: Turn) -> Self {
        let shared = containers().await;
        let id = id();
        let namespace = Namespace::create(&shared.kubeconfig, &id).await;
        let push = &shared.registry_push;
        Self::set_up(name, &id, Database::empty().await, namespace, push, turn).await
    }

    /// The same as [`Stack::start`], with a proxy between managers and the API server that can replace answers.
    pub async fn faulty(name: &str) -> (Self, Faulty) {
        let turn = Turn::beside().await;
        let shared = containers().await;
        let id = id();
        let namespace = Namespace::create(&shared.kubeconfig, &id).await;
        let faulty = namespace.before().await;
        let push = &shared.registry_push;
        let stack = Self::set_up(name, &id, Database::empty().await, namespace, push, turn).await;
        (stack, faulty)
    }

    async fn set_up(name: &str, id: &str, database: Database, namespace: Namespace, push: &str, turn: Turn) -> Self {
        let shared = containers().await;
        let programs = Programs::new(
            name,
            id,
            database.url.clone(),
            (push, &shared.registry_pull),
            &namespace,
        );
        programs.migrate().await;
        let token = programs.token("admin").await;
        let api = programs.api(None);
        let client = Client::new(format!("http://{}", api.address), token);
        client.ready().await;
        Self {
            shared,
            namespace,
            client,
            owner: database.owner.clone(),
            database_url: database.url.clone(),
            programs,
            api,
            _database: database,
            _turn: turn,
        }
    }

    /// Starts a manager. It ends when it is dropped.
    pub async fn manager(&self) -> Program {
        self.programs.manager(&[]).await
    }

    /// The same with further settings.
    pub async fn manager_with(&self, settings: &[(&str, &str)]) -> Program {
        self.programs.manager(settings).await
    }

    /// Runs `octopus-manager preflight` with further settings: whether it found no error, and what it printed.
    pub async fn preflight(&self, settings: &[(&str, &str)]) -> (bool, serde_json::Value) {
        self.programs.ask_manager(&["preflight"], settings).await
    }

    /// Runs `octopus-manager diff` with further arguments: whether everything is as it is wanted, and what it printed.
    pub async fn diff(&self, arguments: &[&str]) -> (bool, serde_json::Value) {
        self.programs.ask_manager(&[&["diff"], arguments].concat(), &[]).await
    }

    /// SIGKILL to the API, and another one in its place.
    pub async fn restart_api(&mut self) {
        let address = self.api.address.clone();
        self.api.killed().await;
        self.api = self.programs.api(Some(address));
        self.client.ready().await;
    }

    /// A token of a role.
    pub async fn token(&self, role: &str) -> String {
        self.programs.token(role).await
    }

    /// Answers a setting for managers of another database on the same server: they log in as always.
    pub fn database_of_managers(&self, name: &str) -> String {
        programs::as_login(&self.database_url, "octopus_manager_login", Some(name))
    }

    /// Where the programs of this test log.
    pub fn logs(&self) -> PathBuf {
        self.programs.logs()
    }
}

fn id() -> String {
    // A second test in the same process finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    uuid::Uuid::new_v4().simple().to_string()[..8].to_owned()
}
