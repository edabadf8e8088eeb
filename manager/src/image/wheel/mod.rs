//! Wheels of packages that exist as source only. Their set-up code is a stranger's: it runs in a pod of its own, and here
//! only the finished wheel is taken, once for each input.

use std::collections::BTreeMap;
use std::path::Path;

use futures::future::BoxFuture;
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use sha2::{Digest, Sha256};
use url::Url;

use super::error::{BuildError, BuildFault, mask};
use super::layer::{self, Content, LayerFile};
use super::lock::PLATFORM;
use super::registry::REPOSITORY;
use super::{BuildLog, Builder, Plan, upload};

/// The program of the pod.
const PROGRAM: &str = include_str!("make_wheel.py");
/// Where it is in the pod's image.
pub const PROGRAM_PATH: &str = "/opt/octopus/make_wheel.py";
/// Where the certificate authorities of the settings are in the pod's image, if there are any.
pub const AUTHORITIES_PATH: &str = "/opt/octopus/ca.crt";
/// A wheel with compiled code for GPUs has some 200 MB.
pub const MAX_WHEEL_BYTES: u64 = 512 << 20;
/// Packages of one function that are built so. Each takes minutes.
pub(crate) const MAX_BUILDS: usize = 20;
/// Media type of a wheel as a layer of an artifact, and of the artifact.
const MEDIA_TYPE: &str = "application/vnd.octopus.wheel.v1";
const TITLE: &str = "org.opencontainers.image.title";

/// What is to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelOrder {
    /// Hash of all that decides what comes out: names the pod.
    pub key: String,
    /// Name and versions, without extras and markers: `docopt==0.6.2`.
    pub requirement: String,
    /// The index in place of PyPI, without its password.
    pub index: Option<String>,
    /// Indexes that the function's source names, without passwords.
    pub indexes: Vec<String>,
    /// Image of the pod, under the name that nodes pull.
    pub image: String,
    /// Whether the image holds certificate authorities.
    pub authorities: bool,
}

/// A wheel that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wheel {
    /// Its file name, which says for what it fits.
    pub file: String,
    /// The file.
    pub content: Vec<u8>,
}

/// Builds wheels where a stranger's code may run.
pub trait WheelMaker: Send + Sync {
    /// Builds one.
    fn make<'a>(&'a self, order: &'a WheelOrder, log: &'a dyn BuildLog) -> BoxFuture<'a, Result<Wheel, BuildError>>;
}

impl Builder {
    /// Puts the wheel of a package into `folder`: an earlier one with the same input, or a new one.
    pub(super) async fn wheel(
        &self,
        plan: &Plan,
        requirement: &str,
        maker: &dyn WheelMaker,
        folder: &Path,
        log: &dyn BuildLog,
    ) -> Result<(), BuildError> {
        let key = self.wheel_key(plan, requirement);
        let tag = format!("wheel-{key}");
        let wheel = match self.registries.wheel(&tag, MAX_WHEEL_BYTES).await? {
            Some(wheel) => {
                log.line(&format!("{requirement}: {} was built before", wheel.file));
                wheel
            }
            None => {
                log.line(&format!(
                    "{requirement} exists as source only: it is built in a pod of its own"
                ));
                let order = WheelOrder {
                    key,
                    requirement: requirement.into(),
                    index: self.settings.index_url.as_ref().map(without_password),
                    indexes: plan.wanted.indexes.iter().map(without_password).collect(),
                    image: self.wheel_image(plan, folder, log).await?,
                    authorities: self.settings.ca_bundle.is_some(),
                };
                let wheel = maker.make(&order, log).await?;
                check_name(&wheel.file, requirement)?;
                self.keep(&tag, &wheel).await?;
                log.line(&format!("{requirement}: {}, {} bytes", wheel.file, wheel.content.len()));
                wheel
            }
        };
        let path = folder.join(&wheel.file);
        let failed = |error| BuildError::machine("the wheel cannot be stored", error);
        tokio::fs::write(path, wheel.content).await.map_err(failed)
    }

    fn wheel_key(&self, plan: &Plan, requirement: &str) -> String {
        let mut parts = vec![
            "octopus wheel".to_owned(),
            layer::digest(PROGRAM.as_bytes()),
            requirement.into(),
            plan.base_digest.clone(),
            plan.python.tag().into(),
            PLATFORM.into(),
        ];
        parts.extend(self.settings.index_url.as_ref().map(|url| mask(url.as_str())));
        parts.extend(plan.wanted.indexes.iter().map(|url| mask(url.as_str())));
        hex::encode(Sha256::digest(parts.join("\n")))
    }

    /// The function's own base with uv and the program: what is built there fits where it will run.
    async fn wheel_image(&self, plan: &Plan, scratch: &Path, log: &dyn BuildLog) -> Result<String, BuildError> {
        let failed = |what: &str, error: std::io::Error| BuildError::machine(what, error);
        let uv = tokio::fs::canonicalize(self.uv_path()?)
            .await
            .map_err(|error| failed("uv cannot be found", error))?;
        let file = |content, executable| LayerFile { content, executable };
        let mut files = BTreeMap::from([
            ("opt/octopus/uv".to_owned(), file(Content::OnDisk(uv), true)),
            (
                PROGRAM_PATH.trim_start_matches('/').to_owned(),
                file(Content::Bytes(PROGRAM.into()), false),
            ),
        ]);
        if let Some(bundle) = &self.settings.ca_bundle {
            let path = AUTHORITIES_PATH.trim_start_matches('/').to_owned();
            files.insert(path, file(Content::OnDisk(bundle.clone()), false));
        }
        let at = scratch.to_owned();
        let layer = tokio::task::spawn_blocking(move || layer::write(&files, &at))
            .await
            .map_err(|error| BuildError::machine("the layer of the build's image", error))?
            .map_err(|error| failed("the layer of the build's image", error))?;
        let layer = self
            .push_layer(layer, "octopus: builds wheels", std::time::Instant::now(), log)
            .await?;
        let (digest, _) = self.push_image(plan, &[layer], "wheel-builder", log).await?;
        Ok(self.pull_reference(REPOSITORY, &digest))
    }

    /// The uv of the settings as a file: a bare name is looked up as the shell does.
    fn uv_path(&self) -> Result<std::path::PathBuf, BuildError> {
        let uv = &self.settings.uv;
        if uv.components().count() > 1 {
            return Ok(uv.clone());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|folder| folder.join(uv))
            .find(|file| file.is_file())
            .ok_or_else(|| BuildError::machine("uv is not in the PATH", uv.display()))
    }

    /// Stores a wheel as an artifact, so that the registry's garbage collection leaves it.
    async fn keep(&self, tag: &str, wheel: &Wheel) -> Result<(), BuildError> {
        let config = b"{}".as_slice();
        let (digest, size) = (layer::digest(&wheel.content), wheel.content.len() as u64);
        for (digest, content) in [
            (layer::digest(config), config),
            (digest.clone(), wheel.content.as_slice()),
        ] {
            let (length, content) = (content.len() as u64, upload::Content::Bytes(content));
            self.registries.put_blob(&digest, length, content).await?;
        }
        let descriptor = |media_type: &str, digest, size: u64| OciDescriptor {
            media_type: media_type.into(),
            digest,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        let manifest = OciImageManifest {
            media_type: Some(oci_client::manifest::OCI_IMAGE_MEDIA_TYPE.into()),
            config: descriptor("application/vnd.oci.empty.v1+json", layer::digest(config), 2),
            layers: vec![OciDescriptor {
                annotations: Some([(TITLE.to_owned(), wheel.file.clone())].into()),
                ..descriptor(MEDIA_TYPE, digest, size)
            }],
            artifact_type: Some(MEDIA_TYPE.into()),
            ..OciImageManifest::default()
        };
        self.registries.put_manifest(tag, &manifest).await.map(drop)
    }
}

/// The file name in a wheel's artifact.
pub(super) fn title(manifest: &OciImageManifest) -> Option<(&OciDescriptor, &str)> {
    let layer = manifest.layers.first().filter(|layer| layer.media_type == MEDIA_TYPE)?;
    Some((layer, layer.annotations.as_ref()?.get(TITLE)?))
}

fn without_password(url: &Url) -> String {
    let mut url = url.clone();
    // Both refuse only URLs that cannot have either.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.into()
}

/// What comes from the pod is a stranger's: a file name of one wheel of the package that was asked for, or nothing.
fn check_name(file: &str, requirement: &str) -> Result<(), BuildError> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.+".contains(&c);
    let normal = |name: &str| name.to_ascii_lowercase().replace(['-', '.'], "_");
    let wanted: String = requirement
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .collect();
    let name = file.split('-').next().unwrap_or_default();
    let parts = file.strip_suffix(".whl").map_or(0, |stem| stem.split('-').count());
    if file.len() <= 255 && file.bytes().all(plain) && matches!(parts, 5 | 6) && normal(name) == normal(&wanted) {
        return Ok(());
    }
    Err(BuildError::new(
        BuildFault::SourceDistribution,
        format!(
            "building `{requirement}` gave something that is no wheel of it: `{}`",
            file.escape_debug()
        ),
        "Check the package; its build does not do what it should.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_is_of_the_package_that_was_asked_for() {
        for (file, requirement, good) in [
            ("docopt-0.6.2-py2.py3-none-any.whl", "docopt==0.6.2", true),
            (
                "flash_attn-2.7.3-cp311-cp311-linux_x86_64.whl",
                "flash-attn==2.7.3",
                true,
            ),
            ("Flash.Attn-2.7.3-1-cp311-cp311-linux_x86_64.whl", "flash-attn>=2", true),
            ("other-0.6.2-py3-none-any.whl", "docopt==0.6.2", false),
            ("../docopt-0.6.2-py3-none-any.whl", "docopt", false),
            ("docopt-0.6.2-py3-none-any.whl/x", "docopt", false),
            ("docopt-0.6.2.tar.gz", "docopt", false),
            ("docopt.whl", "docopt", false),
            ("", "docopt", false),
        ] {
            assert_eq!(check_name(file, requirement).is_ok(), good, "{file}");
        }
    }

    #[test]
    fn passwords_stay_here() {
        let url = "https://user:secret@index.example.com/simple".parse().unwrap();
        assert_eq!(without_password(&url), "https://index.example.com/simple");
    }
}
