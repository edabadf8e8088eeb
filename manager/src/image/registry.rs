//! The registries: base images are read from theirs, finished images are pushed to ours.

use std::time::Duration;

use oci_client::Reference;
use oci_client::client::{
    Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol, linux_amd64_resolver,
};
use oci_client::manifest::{OciDescriptor, OciImageManifest, OciManifest};
use oci_client::secrets::RegistryAuth;
use serde_json::Value;

use super::away::{Away, Part};
use super::config::bad_base;
use super::error::{BuildError, BuildFault};
use super::retry::{self, oci_error, within};
use super::settings::{BaseImage, ImageSettings, PushRegistry};
use super::upload::{Content, Upload};
use super::wheel::{self, Wheel};

/// The one repository of all images. Blobs are kept per repository, so that a dependency layer is there for every
/// function once one has it, and only the base's layers are mounted from elsewhere. Images are told apart by their
/// tag, the hash of their input.
pub(crate) const REPOSITORY: &str = "octopus/functions";

/// A configuration has some KiB; this is what is read into memory of a registry that somebody else runs.
const MAX_CONFIG_BYTES: i64 = 4 << 20;
/// One small request and its answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Whether it answers at all, where it did not a moment ago.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// One wheel, which may be large.
const WHEEL_LIMIT: Duration = Duration::from_secs(10 * 60);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Silence in the middle of an answer.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// A base image as its registry has it.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// Pinned by digest.
    pub(crate) reference: Reference,
    /// Of the manifest for linux on amd64.
    pub(crate) digest: String,
    pub(crate) manifest: OciImageManifest,
    pub(crate) config: Value,
}

/// Speaks to all registries of the settings.
pub(crate) struct Registries {
    client: Client,
    http: reqwest::Client,
    push: PushRegistry,
    push_auth: RegistryAuth,
    /// Hosts that are spoken to without TLS.
    plain: Vec<String>,
    /// With the path of the registry's URL before it.
    repository: String,
}

impl Registries {
    pub(crate) fn new(settings: &ImageSettings) -> Result<Self, BuildError> {
        let failed = |error: &dyn std::fmt::Display| BuildError::machine("the registry client cannot be made", error);
        let push = settings.push.clone();
        let bases = settings
            .bases
            .0
            .values()
            .filter(|base| base.plain_http)
            .map(|base| base.reference.resolve_registry());
        let plain: Vec<String> = bases
            .chain(push.plain_http().then_some(push.host.as_str()))
            .map(str::to_owned)
            .collect();
        let authorities = match &settings.ca_bundle {
            Some(path) => {
                let what = format!("the authorities in {}", path.display());
                certificates(&std::fs::read(path).map_err(|error| BuildError::machine(&what, error))?)
            }
            None => Vec::new(),
        };
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(READ_LIMIT);
        let parsed: Result<Vec<_>, _> = authorities
            .iter()
            .map(|der| reqwest::Certificate::from_der(&der.data))
            .collect();
        http = http.tls_certs_merge(parsed.map_err(|error| failed(&error))?);
        let client = Client::try_from(ClientConfig {
            protocol: ClientProtocol::HttpsExcept(plain.clone()),
            extra_root_certificates: authorities,
            platform_resolver: Some(Box::new(linux_amd64_resolver)),
            connect_timeout: Some(CONNECT_LIMIT),
            read_timeout: Some(READ_LIMIT),
            user_agent: concat!("octopus-manager/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        })
        .map_err(|error| failed(&error))?;
        let push_auth = match push.credentials.clone() {
            Some((user, password)) => RegistryAuth::Basic(user, password),
            None => RegistryAuth::Anonymous,
        };
        let repository = format!("{}/{REPOSITORY}", push.prefix)
            .trim_start_matches('/')
            .to_owned();
        Ok(Self {
            client,
            http: http.build().map_err(|error| failed(&error))?,
            push,
            push_auth,
            plain,
            repository,
        })
    }

    fn auth(&self, reference: &Reference) -> RegistryAuth {
        if reference.resolve_registry() == self.push.host {
            self.push_auth.clone()
        } else {
            RegistryAuth::Anonymous
        }
    }

    /// Whether a registry answers, whatever it says: one that was silent would keep a build for long. It may ask for patience.
    pub(crate) async fn ask(&self, host: &str) -> Result<(), BuildError> {
        let scheme = if self.plain.iter().any(|plain| plain == host) {
            "http"
        } else {
            "https"
        };
        let at = if host == "docker.io" { "index.docker.io" } else { host };
        let asked = self.http.get(format!("{scheme}://{at}/v2/")).timeout(ASK_LIMIT);
        let answer = asked.send().await.map_err(|error| retry::request_error(host, error))?;
        let patience = answer.headers().get(reqwest::header::RETRY_AFTER);
        let away = Away::new(Part::Registry(host.to_owned())).asking(patience.and_then(|asked| asked.to_str().ok()));
        if away.asked.is_zero() || answer.status().is_success() {
            return Ok(());
        }
        Err(retry::unreachable(host, &format!("status {}", answer.status().as_u16())).for_want_of(away))
    }

    fn tagged(&self, tag: &str) -> Reference {
        Reference::with_tag(self.push.host.clone(), self.repository.clone(), tag.into())
    }

    /// Reads a base image's manifest and configuration.
    pub(crate) async fn base(&self, image: &BaseImage) -> Result<Base, BuildError> {
        let reference = &image.reference;
        let auth = self.auth(reference);
        let found = retry::while_unreachable(|| {
            let pulled = self.client.pull_image_manifest(reference, &auth);
            within(REQUEST_LIMIT, reference.registry(), async {
                pulled.await.map_err(|error| oci_error(reference, error))
            })
        });
        let (manifest, digest) = found.await.map_err(|error| match error.fault {
            BuildFault::Refused => {
                let problem = format!("the base image {} cannot be had: {}", reference.whole(), error.problem);
                BuildError::new(
                    BuildFault::BaseImage,
                    problem,
                    "The operator has to check the base images of the settings.",
                )
            }
            _ => error,
        })?;
        if manifest.config.size > MAX_CONFIG_BYTES {
            return Err(bad_base("its configuration is too big"));
        }
        let config = retry::while_unreachable(|| {
            within(REQUEST_LIMIT, reference.registry(), async {
                let mut bytes = Vec::new();
                let pulled = self.client.pull_blob(reference, &manifest.config, &mut bytes).await;
                pulled.map(|()| bytes).map_err(|error| oci_error(reference, error))
            })
        });
        let config = serde_json::from_slice(&config.await?).map_err(|_| bad_base("its configuration is not JSON"))?;
        Ok(Base {
            reference: reference.clone_with_digest(digest.clone()),
            digest,
            manifest,
            config,
        })
    }

    /// The image that is there under a tag: its digest and the compressed bytes of its layers.
    pub(crate) async fn image(&self, tag: &str) -> Result<Option<(String, u64)>, BuildError> {
        let reference = self.tagged(tag);
        let found = retry::while_unreachable(|| {
            within(REQUEST_LIMIT, &self.push.host, async {
                match self.client.pull_image_manifest(&reference, &self.push_auth).await {
                    Ok((manifest, digest)) => Ok(Some((digest, layer_bytes(&manifest)))),
                    Err(error) if retry::is_absent(&error) => Ok(None),
                    Err(error) => Err(oci_error(&reference, error)),
                }
            })
        });
        found.await
    }

    /// The wheel that is there under a tag.
    pub(crate) async fn wheel(&self, tag: &str, most: u64) -> Result<Option<Wheel>, BuildError> {
        let reference = self.tagged(tag);
        let found = retry::while_unreachable(|| {
            within(WHEEL_LIMIT, &self.push.host, async {
                let manifest = match self.client.pull_image_manifest(&reference, &self.push_auth).await {
                    Ok((manifest, _)) => manifest,
                    Err(error) if retry::is_absent(&error) => return Ok(None),
                    Err(error) => return Err(oci_error(&reference, error)),
                };
                let small = |layer: &OciDescriptor| u64::try_from(layer.size).is_ok_and(|size| size <= most);
                let Some((layer, file)) = wheel::title(&manifest).filter(|(layer, _)| small(layer)) else {
                    return Ok(None);
                };
                let mut content = Vec::new();
                let pulled = self.client.pull_blob(&reference, layer, &mut content).await;
                pulled.map_err(|error| oci_error(&reference, error))?;
                let file = file.to_owned();
                Ok(Some(Wheel { file, content }))
            })
        });
        found.await
    }

    /// Whether a blob is in the repository.
    pub(crate) async fn has_blob(&self, digest: &str) -> Result<bool, BuildError> {
        let reference = self.tagged("latest");
        self.client.store_auth_if_needed(&self.push.host, &self.push_auth).await;
        retry::while_unreachable(|| {
            within(REQUEST_LIMIT, &self.push.host, async {
                self.client
                    .blob_exists(&reference, digest)
                    .await
                    .map_err(|error| oci_error(&reference, error))
            })
        })
        .await
    }

    /// Puts a blob into the repository unless it is there. True when bytes were sent.
    pub(crate) async fn put_blob(&self, digest: &str, size: u64, content: Content<'_>) -> Result<bool, BuildError> {
        if self.has_blob(digest).await? {
            return Ok(false);
        }
        retry::while_unreachable(|| self.upload(digest, size, content)).await
    }

    /// Puts a layer of a base image into the repository: by a mount when it is the same registry, else through this
    /// process as a stream.
    pub(crate) async fn put_base_layer(&self, base: &Base, layer: &OciDescriptor) -> Result<bool, BuildError> {
        let size = u64::try_from(layer.size).map_err(|_| bad_base("a layer has no size"))?;
        self.put_blob(
            &layer.digest,
            size,
            Content::Pulled {
                client: &self.client,
                from: &base.reference,
                layer,
            },
        )
        .await
    }

    async fn upload(&self, digest: &str, size: u64, content: Content<'_>) -> Result<bool, BuildError> {
        let reference = self.tagged("latest");
        let mount_from = match content {
            Content::Pulled { from, .. } if from.resolve_registry() == self.push.host => Some(from.repository()),
            _ => None,
        };
        let upload = Upload {
            http: &self.http,
            registry: &self.push.origin,
            repository: &self.repository,
            authorization: self.authorization(&reference).await?,
        };
        upload.put(digest, size, mount_from, content).await
    }

    /// What a request that writes has to carry.
    async fn authorization(&self, reference: &Reference) -> Result<RegistryAuth, BuildError> {
        let token = within(REQUEST_LIMIT, &self.push.host, async {
            let token = self
                .client
                .auth(reference, &self.push_auth, oci_client::RegistryOperation::Push)
                .await;
            token.map_err(|error| oci_error(reference, error))
        });
        Ok(token
            .await?
            .map_or_else(|| self.push_auth.clone(), RegistryAuth::Bearer))
    }

    /// Pushes the manifest under a tag, once all that it names is there. Returns its digest.
    pub(crate) async fn put_manifest(&self, tag: &str, manifest: &OciImageManifest) -> Result<String, BuildError> {
        let reference = self.tagged(tag);
        self.client.store_auth_if_needed(&self.push.host, &self.push_auth).await;
        let image = OciManifest::Image(manifest.clone());
        retry::while_unreachable(|| {
            within(REQUEST_LIMIT, &self.push.host, async {
                let pushed = self.client.push_manifest(&reference, &image).await;
                pushed.map_err(|error| oci_error(&reference, error))?;
                // What pods are pinned to is what the registry says that it has, and not what we believe to have sent.
                let digest = self.client.fetch_manifest_digest(&reference, &self.push_auth).await;
                digest.map_err(|error| oci_error(&reference, error))
            })
        })
        .await
    }
}

/// Compressed bytes of all layers.
pub(crate) fn layer_bytes(manifest: &OciImageManifest) -> u64 {
    manifest
        .layers
        .iter()
        .filter_map(|layer| u64::try_from(layer.size).ok())
        .sum()
}

/// Every certificate of a PEM bundle: the clients take one at a time.
fn certificates(bundle: &[u8]) -> Vec<Certificate> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::pem_slice_iter(bundle)
        .flatten()
        .map(|der| Certificate {
            encoding: CertificateEncoding::Der,
            data: der.to_vec(),
        })
        .collect()
}
