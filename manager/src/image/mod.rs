//! Makes the OCI image of an AI function without a container daemon: base image + dependency layer + code layer.
//!
//! Data flows one way: a [`source`] becomes files ([`archive`]), `main.py` is read without being run ([`python`]), its
//! install lines become requirements in words of our own ([`install_line`], [`requirements_txt`], [`wanted`]), `uv`
//! makes a hashed [`lock`] of them and unpacks wheels, [`wheels`] and code become reproducible [`layer`]s, and the
//! [`registry`] gets what it does not have yet. Nothing of a user's is run on this machine, and nothing of an archive
//! becomes a path on it.

mod archive;
mod away;
mod builder;
mod config;
mod entry;
mod error;
mod function_config;
#[cfg(test)]
mod fuzz;
mod install_line;
mod layer;
mod lock;
mod nesting;
mod python;
mod registry;
mod requirements_txt;
mod retry;
mod settings;
mod source;
mod starter;
mod upload;
mod uv;
mod uv_fault;
mod wanted;
mod wheel;
mod wheels;
mod words;

use std::sync::Arc;

use futures::future::BoxFuture;
use octopus_shared::function::Entry;

pub use away::{Away, Part, Supplies};
pub use builder::Builder;
pub use error::{BuildError, BuildFault, Place};
pub use function_config::{DeclaredFunction, FunctionConfig};
pub use octopus_shared::function::{Source, SourceFormat};
pub use settings::{BaseImage, BaseImages, ImageSettings, PushRegistry, PythonVersion};
pub use starter::START_PATH;
pub use wanted::{Wanted, WantedPackage};
pub use wheel::{AUTHORITIES_PATH, MAX_WHEEL_BYTES, PROGRAM_PATH, Wheel, WheelMaker, WheelOrder};

/// What is to be built, decided without building.
#[derive(Clone, Debug)]
pub struct Plan {
    /// SHA-256 in hex over everything that decides what is in the image: source, base image, Python version, platform,
    /// index, and the form that this program gives to images. The function's name is not among it.
    pub input_hash: String,
    /// The Python of the image.
    pub python: PythonVersion,
    /// Manifest digest of the base image.
    pub base_digest: String,
    /// What is to be installed.
    pub wanted: Wanted,
    /// The function's own `config_str`, where it has one.
    pub config: Option<FunctionConfig>,
    /// What the source says about how it is run.
    pub entry: Entry,
    code: source::Code,
    base: Arc<registry::Base>,
}

/// An image in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltImage {
    /// Its repository, without a host and without the path that settings put before it.
    pub repository: String,
    /// Manifest digest: what pods are pinned to.
    pub digest: String,
    /// Manifest digest of its base image.
    pub base_digest: String,
    /// Compressed bytes of all layers, the base's included.
    pub size_bytes: u64,
}

/// A dependency layer that was pushed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedLayer {
    /// Of the compressed bytes.
    pub digest: String,
    /// Of the tar.
    pub diff_id: String,
    /// Compressed bytes.
    pub size: u64,
}

/// Remembers dependency layers. It is only a cache: whether the registry still has a layer is asked each time, and an
/// implementation that fails answers `None`.
pub trait LayerCache: Send + Sync {
    /// The layer of a key.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Option<CachedLayer>>;
    /// Remembers a layer that was pushed.
    fn put<'a>(&'a self, key: &'a str, layer: &'a CachedLayer) -> BoxFuture<'a, ()>;
}

/// Takes the steps of a build and what the resolver prints, line by line and without credentials.
pub trait BuildLog: Send + Sync {
    /// One line, without its end.
    fn line(&self, text: &str);
}
