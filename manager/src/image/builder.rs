//! From a source to an image in the registry: decide (plan), then act (build).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};
use octopus_shared::function::{Entry, Source};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::away::{Part, Supplies};
use super::config::{self, NewLayer};
use super::error::{BuildError, BuildFault, mask};
use super::layer::{self, Content, Layer, LayerFile};
use super::lock::{self, Lock, Locks, PLATFORM};
use super::registry::{Base, REPOSITORY, Registries, layer_bytes};
use super::retry;
use super::settings::{ImageSettings, PythonVersion};
use super::upload;
use super::wanted::Wanted;
use super::wheels;
use super::{
    BuildLog, BuiltImage, CachedLayer, LayerCache, Plan, WheelMaker, function_config, install_line, python,
    requirements_txt, source, starter, wheel,
};

/// How long a base image's tag is taken to mean the same. Starting many functions asks once; a new base is seen soon.
const BASE_AGE: Duration = Duration::from_secs(5 * 60);
/// Scratch directories of managers that were killed are removed when they are older than any build.
const SCRATCH_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Layers of a base that are sent at once.
const PARALLEL: usize = 3;

/// Builds images. One for the whole process.
pub struct Builder {
    pub(super) settings: ImageSettings,
    pub(super) registries: Registries,
    bases: Mutex<HashMap<PythonVersion, (Instant, Arc<Base>)>>,
    locks: Locks,
    supplies: Supplies,
}

impl Builder {
    /// Prepares the clients and the cache directory. Connects to nothing.
    ///
    /// # Errors
    /// The cache directory cannot be written, or the authorities cannot be read.
    pub fn new(settings: ImageSettings) -> Result<Self, BuildError> {
        let scratch = settings.cache_dir.join("scratch");
        std::fs::create_dir_all(&scratch).map_err(|error| BuildError::machine("the cache directory", error))?;
        remove_old(&scratch);
        let registries = Registries::new(&settings)?;
        Ok(Self {
            settings,
            registries,
            bases: Mutex::default(),
            locks: Locks::default(),
            supplies: Supplies::default(),
        })
    }

    /// What its builds miss.
    pub fn supplies(&self) -> &Supplies {
        &self.supplies
    }

    /// Fails when a registry that was missed is still away.
    async fn expect(&self, host: &str) -> Result<(), BuildError> {
        let part = Part::Registry(host.to_owned());
        let Some(patience) = self.supplies.left_alone(&part) else {
            return Ok(());
        };
        if !patience.is_zero() {
            let mut error = retry::unreachable(host, "it asked for patience");
            error.away.iter_mut().for_each(|away| away.asked = patience);
            return Err(error);
        }
        self.registries.ask(host).await
    }

    /// The image reference for a pod.
    pub fn pull_reference(&self, repository: &str, digest: &str) -> String {
        format!("{}/{repository}@{digest}", self.settings.pull.trim_end_matches('/'))
    }

    /// Reads the source and looks the base image up. Nothing is built, and nothing of the source is run.
    ///
    /// # Errors
    /// What the user wrote, with its line; or the base image's registry.
    pub async fn plan(&self, source: &Source) -> Result<Plan, BuildError> {
        let content = source.clone();
        let read = tokio::task::spawn_blocking(move || read_source(&content)).await;
        let (code, wanted, config, entry) =
            read.map_err(|error| BuildError::machine("reading the source", error))??;
        wanted.check_system(&self.settings.system_packages)?;
        let required = config.as_ref().and_then(|config| config.required_python_version);
        let python = choose_python(&self.settings, required)?;
        let base = self.base(python).await?;
        let input_hash = input_hash(&self.settings, source, python, &base.digest)?;
        Ok(Plan {
            input_hash,
            python,
            base_digest: base.digest.clone(),
            wanted,
            config,
            entry,
            code,
            base,
        })
    }

    /// Builds and pushes the image of a plan, or finds it already there.
    ///
    /// # Errors
    /// The user's requirements; the registry or the index; or this machine.
    pub async fn build(
        &self,
        plan: &Plan,
        cache: &dyn LayerCache,
        maker: Option<&dyn WheelMaker>,
        log: &dyn BuildLog,
    ) -> Result<BuiltImage, BuildError> {
        let built = |digest: String, size_bytes| BuiltImage {
            repository: REPOSITORY.into(),
            digest,
            base_digest: plan.base_digest.clone(),
            size_bytes,
        };
        let push = Part::Registry(self.settings.push.host.clone());
        self.expect(&self.settings.push.host).await?;
        if let Some((digest, size)) = self.registries.image(&plan.input_hash).await? {
            self.supplies.had(&push);
            log.line(&format!("the same source was built before: {digest}"));
            return Ok(built(digest, size));
        }
        log.line(&format!("base image: {}", plan.base.reference.whole()));
        let scratch = TempDir::new_in(self.settings.cache_dir.join("scratch"));
        let scratch = scratch.map_err(|error| BuildError::machine("no scratch directory", error))?;
        let mut layers = Vec::new();
        layers.extend(self.dependency_layer(plan, scratch.path(), (cache, maker), log).await?);
        layers.push(self.code_layer(plan, scratch.path(), log).await?);

        let (digest, size) = self.push_image(plan, &layers, &plan.input_hash, log).await?;
        self.supplies.had(&push);
        log.line(&format!("image: {digest}"));
        Ok(built(digest, size))
    }

    /// Sends what is missing of the base, then configuration and manifest over it and `layers`.
    pub(super) async fn push_image(
        &self,
        plan: &Plan,
        layers: &[NewLayer],
        tag: &str,
        log: &dyn BuildLog,
    ) -> Result<(String, u64), BuildError> {
        let mut sending = Vec::with_capacity(plan.base.manifest.layers.len());
        for layer in &plan.base.manifest.layers {
            sending.push(self.registries.put_base_layer(&plan.base, layer));
        }
        let sent: Vec<bool> = stream::iter(sending).buffer_unordered(PARALLEL).try_collect().await?;
        log.line(&format!(
            "base layers: {}, {} of them sent",
            sent.len(),
            sent.iter().filter(|sent| **sent).count()
        ));
        let config = config::image_config(&plan.base.config, layers, tag)?;
        let manifest = config::manifest(&plan.base.manifest, &config, layers)?;
        let content = upload::Content::Bytes(&config);
        self.registries
            .put_blob(&manifest.config.digest, config.len() as u64, content)
            .await?;
        let digest = self.registries.put_manifest(tag, &manifest).await?;
        Ok((digest, layer_bytes(&manifest)))
    }

    /// The base image of a Python version, remembered for some minutes.
    async fn base(&self, python: PythonVersion) -> Result<Arc<Base>, BuildError> {
        let known = |bases: &HashMap<_, (Instant, Arc<Base>)>| {
            bases
                .get(&python)
                .filter(|(seen, _)| seen.elapsed() < BASE_AGE)
                .map(|(_, base)| Arc::clone(base))
        };
        if let Some(base) = known(&self.bases.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(base);
        }
        let image = self
            .settings
            .bases
            .0
            .get(&python)
            .ok_or_else(|| no_base(&self.settings, python))?;
        let host = image.reference.registry();
        self.expect(host).await?;
        let base = Arc::new(self.registries.base(image).await?);
        if host != self.settings.push.host {
            self.supplies.had(&Part::Registry(host.to_owned()));
        }
        config::check_base(&base.config, python)?;
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        bases.insert(python, (Instant::now(), Arc::clone(&base)));
        Ok(base)
    }

    /// The layer with the packages; none when nothing is wanted.
    async fn dependency_layer(
        &self,
        plan: &Plan,
        scratch: &Path,
        (cache, maker): (&dyn LayerCache, Option<&dyn WheelMaker>),
        log: &dyn BuildLog,
    ) -> Result<Option<NewLayer>, BuildError> {
        let made_by = "octopus: dependencies";
        if plan.wanted.packages.is_empty() {
            log.line("nothing is to be installed");
            return Ok(None);
        }
        for package in &plan.wanted.packages {
            log.line(&format!("wanted: {} ({})", package.requirement, package.place));
        }
        let started = Instant::now();
        let lock = self.lock(plan, scratch, maker, log).await?;
        let key = layer_key(plan, &lock);
        if let Some(CachedLayer { digest, diff_id, size }) = cache.get(&key).await
            && self.registries.has_blob(&digest).await?
        {
            log.line(&format!(
                "dependency layer: {} packages, as in an earlier image",
                lock.packages
            ));
            return Ok(Some(NewLayer {
                digest,
                diff_id,
                size,
                made_by,
            }));
        }
        let root = lock::install(&self.settings, plan.python, &plan.wanted, scratch, log).await?;
        let at = scratch.to_owned();
        let layer = write(scratch, move || {
            let files = wheels::collect(&root)?;
            layer::write(&files, &at)
        })
        .await?;
        let layer = self.push_layer(layer, made_by, started, log).await?;
        let cached = CachedLayer {
            digest: layer.digest.clone(),
            diff_id: layer.diff_id.clone(),
            size: layer.size,
        };
        cache.put(&key, &cached).await;
        Ok(Some(layer))
    }

    /// Resolves what is wanted. What exists as source only is built first, one package after the other as the resolver
    /// comes upon them.
    async fn lock(
        &self,
        plan: &Plan,
        scratch: &Path,
        maker: Option<&dyn WheelMaker>,
        log: &dyn BuildLog,
    ) -> Result<Lock, BuildError> {
        let key = lock::key(&self.settings, plan.python, &plan.wanted, scratch);
        if let Some(lock) = self.locks.get(&key) {
            log.line("resolved a short while ago: the same versions");
            lock::put_down(&lock, scratch).await?;
            return Ok(lock);
        }
        let mut built = Vec::new();
        loop {
            let error = match lock::lock(&self.settings, plan.python, &plan.wanted, scratch, log).await {
                Ok(lock) => {
                    self.supplies.had(&Part::Index);
                    // What was built here lies in this scratch directory alone.
                    if built.is_empty() {
                        self.locks.put(key, lock.clone());
                    }
                    return Ok(lock);
                }
                Err(error) => error,
            };
            let (Some(maker), Some(requirement)) = (maker, error.source_only.clone()) else {
                return Err(error);
            };
            if built.contains(&requirement) || built.len() == wheel::MAX_BUILDS {
                return Err(error);
            }
            let folder = scratch.join(lock::WHEELS);
            let failed = |error| BuildError::machine("no folder for wheels", error);
            tokio::fs::create_dir_all(&folder).await.map_err(failed)?;
            self.wheel(plan, &requirement, maker, &folder, log)
                .await
                .map_err(|mut fault| {
                    fault.problem = format!("`{requirement}`: {}", fault.problem);
                    fault.place = error.place.clone();
                    fault
                })?;
            built.push(requirement);
        }
    }

    async fn code_layer(&self, plan: &Plan, scratch: &Path, log: &dyn BuildLog) -> Result<NewLayer, BuildError> {
        let started = Instant::now();
        let (files, at) = (plan.code.files.clone(), scratch.to_owned());
        let layer = write(scratch, move || {
            let files: BTreeMap<_, _> = files
                .into_iter()
                .map(|(path, file)| {
                    let content = Content::Bytes(file.content);
                    (
                        format!("app/{path}"),
                        LayerFile {
                            content,
                            executable: file.executable,
                        },
                    )
                })
                .chain(starter::files())
                .collect();
            layer::write(&files, &at)
        })
        .await?;
        self.push_layer(layer, "octopus: code", started, log).await
    }

    pub(super) async fn push_layer(
        &self,
        layer: Layer,
        made_by: &'static str,
        started: Instant,
        log: &dyn BuildLog,
    ) -> Result<NewLayer, BuildError> {
        let content = upload::Content::File(&layer.path);
        let sent = self.registries.put_blob(&layer.digest, layer.size, content).await?;
        let how = if sent { "sent" } else { "already there" };
        let seconds = started.elapsed().as_secs_f64();
        log.line(&format!(
            "{made_by}: {} bytes compressed, {how}, {seconds:.1} s",
            layer.size
        ));
        Ok(NewLayer {
            digest: layer.digest,
            diff_id: layer.diff_id,
            size: layer.size,
            made_by,
        })
    }
}

/// Compresses beside the runtime's threads.
async fn write(
    scratch: &Path,
    layer: impl FnOnce() -> std::io::Result<Layer> + Send + 'static,
) -> Result<Layer, BuildError> {
    let failed =
        |error: &dyn std::fmt::Display| BuildError::machine(&format!("a layer in {}", scratch.display()), error);
    let written = tokio::task::spawn_blocking(layer)
        .await
        .map_err(|error| failed(&error))?;
    written.map_err(|error| failed(&error))
}

type Read = (source::Code, Wanted, Option<function_config::FunctionConfig>, Entry);

fn read_source(source: &Source) -> Result<Read, BuildError> {
    let code = source::read(source)?;
    let module = python::read(&code.main, code.main_name)?;
    let config = module.config.as_ref().map(function_config::parse).transpose()?;
    let mut wanted = Wanted::default();
    for line in &module.dependencies {
        install_line::read(line, &mut wanted)?;
    }
    if let Some(text) = &code.requirements {
        requirements_txt::read(text, &mut wanted)?;
    }
    Ok((code, wanted, config, module.entry))
}

/// What the function asks for, else the newest that there is.
fn choose_python(settings: &ImageSettings, required: Option<PythonVersion>) -> Result<PythonVersion, BuildError> {
    let bases = &settings.bases.0;
    match required {
        Some(version) if bases.contains_key(&version) => Ok(version),
        Some(version) => Err(no_base(settings, version)),
        None => bases.keys().next_back().copied().ok_or_else(|| {
            let remedy = "The operator has to set a base image.";
            BuildError::new(BuildFault::PythonVersion, "no base image is configured", remedy)
        }),
    }
}

fn no_base(settings: &ImageSettings, version: PythonVersion) -> BuildError {
    let known: Vec<_> = settings.bases.0.keys().map(|version| version.tag()).collect();
    let problem = format!(
        "config_str asks for {version}, and there are base images for {} only",
        known.join(", ")
    );
    let remedy = "Ask for one of these in required_python_version, or the operator for a base image.";
    BuildError::new(BuildFault::PythonVersion, problem, remedy)
}

/// Everything that decides what is in the image. The lock does not: what was built once for a source stays.
fn input_hash(
    settings: &ImageSettings,
    source: &Source,
    python: PythonVersion,
    base_digest: &str,
) -> Result<String, BuildError> {
    // Without its password: a new one is no new input, and a hash that everybody sees must not be made of it.
    let index = settings.index_url.as_ref().map(|url| mask(url.as_str()));
    // What a new version of this program writes into every image is a new input.
    let ours = config::image_config(&serde_json::json!({}), &[], "")?;
    let parts = [
        &format!("octopus image {}", layer::FORMAT),
        &layer::digest(&ours),
        &layer::digest(starter::text().as_bytes()),
        source.format.as_str(),
        &hex::encode(source.sha256()),
        base_digest,
        python.tag(),
        PLATFORM,
        index.as_deref().unwrap_or_default(),
    ];
    Ok(hex::encode(Sha256::digest(parts.join("\n"))))
}

fn layer_key(plan: &Plan, lock: &Lock) -> String {
    let parts = [
        &format!("octopus dependencies {}", layer::FORMAT),
        plan.base_digest.as_str(),
        plan.python.tag(),
        PLATFORM,
        lock.text.as_str(),
    ];
    hex::encode(Sha256::digest(parts.join("\n")))
}

/// Best effort: what cannot be removed is left to the operator.
fn remove_old(scratch: &Path) {
    let Ok(entries) = std::fs::read_dir(scratch) else {
        return;
    };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified
            .ok()
            .and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if age.is_some_and(|age| age > SCRATCH_AGE) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
