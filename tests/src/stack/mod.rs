//! The whole product for one test: a database and a function namespace of its own, the real binaries, and a client.
//!
//! Postgres, the registry and the cluster are shared by all tests of a run ([`Containers`]).

pub mod client;
pub mod containers;
pub mod namespace;
pub mod programs;

use std::path::PathBuf;

use sqlx::PgPool;

use crate::postgres::Database;
use crate::stack::client::Client;
use crate::stack::containers::{Containers, containers};
use crate::stack::namespace::Namespace;
use crate::stack::programs::{Program, Programs};

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
    programs: Programs,
    _api: Program,
    _database: Database,
}

impl Stack {
    /// Sets everything up but a manager.
    pub async fn start(name: &str) -> Self {
        // A second test in the same process finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let shared = containers().await;
        let id = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        let database = Database::empty().await;
        let namespace = Namespace::create(&shared.kubeconfig, &id).await;
        let programs = Programs::new(name, &id, database.url.clone(), shared, &namespace);
        programs.migrate().await;
        let token = programs.token("admin").await;
        let (api, url) = programs.api().await;
        let client = Client::new(url, token);
        client.ready().await;
        Self {
            shared,
            namespace,
            client,
            owner: database.owner.clone(),
            programs,
            _api: api,
            _database: database,
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

    /// A token of a role.
    pub async fn token(&self, role: &str) -> String {
        self.programs.token(role).await
    }

    /// Where the programs of this test log.
    pub fn logs(&self) -> PathBuf {
        self.programs.logs()
    }
}
