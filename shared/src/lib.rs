//! Words, tables and queries that octopus_server, the API and the manager share.
//!
//! octopus_server itself can depend on this crate to enqueue commands and to view what became of them
//! ([`db::enqueue`], [`db::view`]) without an HTTP call; it brings neither a web framework nor a Kubernetes client.

pub mod access;
pub mod command;
pub mod db;
pub mod env;
pub mod error;
pub mod function;
pub mod log;
pub mod pod;
pub mod preflight;
pub mod process;
pub mod reason;
pub mod resources;
pub mod service;
pub mod shard;
pub mod telemetry;
