//! Functions: what a user declares.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::access::{Egress, Expose, Peer, check_egress, check_peers, default_callers};
use crate::env::{EnvVar, check_env, is_object_name};
use crate::error::{Checker, Invalid};
use crate::resources::Resources;

/// Largest source that is taken, in bytes.
pub const MAX_SOURCE_BYTES: usize = 8 << 20;

/// Settings of a function. A revision keeps them as they were declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct FunctionSpec {
    /// The cluster whose managers build and run it.
    pub cluster: String,
    /// Port on which the function answers HTTP.
    pub port: u16,
    /// Environment variables: plain values, which everyone may read, and references to secrets.
    pub env: Vec<EnvVar>,
    /// Limits of each pod. What is left out comes from the `device_map` of the function's file, then from defaults.
    pub resources: Resources,
    /// Seconds that a service may take from the start of its container until it listens and its set-up is performed, 10 to
    /// 86400.
    pub start_seconds: i32,
    /// Seconds between SIGTERM and SIGKILL when it is ended, 2 to 3600.
    pub stop_grace_seconds: i32,
    /// How its services are reached.
    pub expose: Expose,
    /// Who may call it. Left out: pods of namespaces that are labelled `octopus-process-manager/caller=true`, and functions
    /// with `calls_functions`. An empty list: nobody.
    pub allow_from: Vec<Peer>,
    /// Addresses outside of the function namespace that its pods may call. Everything else stays closed.
    pub egress: Vec<Egress>,
    /// Whether its pods may call other functions inside the cluster.
    pub calls_functions: bool,
    /// Volumes that outlive its pods and its revisions, for models for one.
    pub volumes: Vec<Volume>,
    /// Secrets of type dockerconfigjson in the function namespace, for nodes that pull its images, beside the manager's own.
    pub pull_secrets: Vec<String>,
}

/// A PersistentVolumeClaim that an operator made in the function namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Name of the claim.
    pub claim: String,
    /// Where it is seen in the container. The caches of model libraries (`HF_HOME`, `TORCH_HOME`) lie on the first volume that
    /// can be written.
    pub path: String,
    /// Whether it cannot be written.
    #[serde(default)]
    pub read_only: bool,
}

/// What a function's source says about how it is run, found without running it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Route that sets it up, asked once with POST after each start: `/v1/setup`.
    pub set_up: Option<String>,
    /// Route that answers 200 to GET while it is well: `/v1/health-check`.
    pub health: Option<String>,
    /// Whether it expects `--host` and `--port`, as octopus_server's rewriting makes it.
    pub takes_address: bool,
}

impl Default for FunctionSpec {
    fn default() -> Self {
        Self {
            cluster: "default".into(),
            port: 5000,
            env: Vec::new(),
            resources: Resources::default(),
            start_seconds: 600,
            stop_grace_seconds: 30,
            expose: Expose::default(),
            allow_from: default_callers(),
            egress: Vec::new(),
            calls_functions: false,
            volumes: Vec::new(),
            pull_secrets: Vec::new(),
        }
    }
}

impl FunctionSpec {
    /// Checks everything that can be checked without asking anybody.
    ///
    /// # Errors
    /// Every field that is refused, with the remedy.
    pub fn validate(&self) -> Result<(), Vec<Invalid>> {
        let mut checker = Checker::default();
        checker.check(
            is_dns_label(&self.cluster, 40),
            "spec.cluster",
            format!(
                "`{}` is not a cluster name",
                self.cluster.chars().take(60).collect::<String>().escape_debug()
            ),
            NAME_REMEDY,
        );
        checker.check(
            self.port >= 1024,
            "spec.port",
            format!("port {} is privileged, and functions do not run as root", self.port),
            "choose a port from 1024 to 65535",
        );
        checker.check(
            (2..=3600).contains(&self.stop_grace_seconds),
            "spec.stop_grace_seconds",
            format!("{} is out of range", self.stop_grace_seconds),
            "choose 2 to 3600 seconds",
        );
        checker.check(
            (10..=86_400).contains(&self.start_seconds),
            "spec.start_seconds",
            format!("{} is out of range", self.start_seconds),
            "choose 10 to 86400 seconds",
        );
        check_env(&mut checker, "spec.env", &self.env);
        self.resources.check(&mut checker, "spec.resources");
        check_peers(&mut checker, "spec.allow_from", &self.allow_from);
        check_egress(&mut checker, "spec.egress", &self.egress);
        self.check_names(&mut checker);
        checker.finish()
    }

    /// Names of Kubernetes objects that somebody else makes.
    fn check_names(&self, checker: &mut Checker) {
        const REMEDY: &str = "use lower-case letters, digits, hyphens and dots, at most 253";
        checker.check(
            self.volumes.len() <= 20 && self.pull_secrets.len() <= 20,
            "spec.volumes",
            "more than 20 volumes or pull secrets",
            "send at most 20 of each",
        );
        for (index, volume) in self.volumes.iter().take(20).enumerate() {
            checker.check(
                is_object_name(&volume.claim),
                format!("spec.volumes[{index}].claim"),
                "Kubernetes has no claim of such a name",
                REMEDY,
            );
            let taken = self.volumes[..index].iter().any(|other| other.path == volume.path);
            checker.check(
                is_mount_path(&volume.path) && !taken,
                format!("spec.volumes[{index}].path"),
                format!(
                    "nothing can be mounted at `{}`",
                    volume.path.chars().take(60).collect::<String>().escape_debug()
                ),
                "use an absolute path of its own outside of the system's and the function's folders: `/models`",
            );
        }
        for (index, secret) in self.pull_secrets.iter().take(20).enumerate() {
            checker.check(
                is_object_name(secret),
                format!("spec.pull_secrets[{index}]"),
                "Kubernetes has no Secret of such a name",
                REMEDY,
            );
        }
    }
}

/// Whether a volume may be mounted there: nowhere above, in or upon what the image or the node puts into a container.
fn is_mount_path(path: &str) -> bool {
    const TAKEN: [&str; 17] = [
        "app", "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "proc", "root", "run", "sbin", "sys", "tmp",
        "usr", "var", "opt",
    ];
    let Some(relative) = path.strip_prefix('/') else {
        return false;
    };
    let mut parts = relative.split('/');
    let plain = |part: &str| {
        !part.is_empty()
            && part.len() <= 100
            && !part.starts_with('.')
            && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
    };
    path.len() <= 255 && relative.split('/').all(plain) && parts.next().is_some_and(|top| !TAKEN.contains(&top))
}

const NAME_REMEDY: &str =
    "use lower-case letters, digits and hyphens, at most 40, beginning with a letter and not ending with a hyphen";

/// Checks a function's name: it begins the names of Kubernetes objects.
///
/// # Errors
/// The field `name`, with the remedy.
pub fn validate_name(name: &str) -> Result<(), Vec<Invalid>> {
    let mut checker = Checker::default();
    let shown: String = name.chars().take(60).collect();
    checker.check(
        is_dns_label(name, 40),
        "name",
        format!("Kubernetes would refuse `{}` as a name", shown.escape_debug()),
        NAME_REMEDY,
    );
    checker.finish()
}

fn is_dns_label(name: &str, longest: usize) -> bool {
    name.len() <= longest
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

/// How a function's source is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SourceFormat {
    /// One octopus-format Python file.
    PythonFile,
    /// An uncompressed tar archive with `main.py` and `requirements.txt`.
    Tar,
    /// The same, compressed with gzip.
    TarGz,
    /// The same as a zip archive.
    Zip,
}

impl SourceFormat {
    /// The spelling of the `format` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PythonFile => "python_file",
            Self::Tar => "tar",
            Self::TarGz => "tar_gz",
            Self::Zip => "zip",
        }
    }

    /// The format that the `format` column spells.
    pub fn parse(format: &str) -> Option<Self> {
        [Self::PythonFile, Self::Tar, Self::TarGz, Self::Zip]
            .into_iter()
            .find(|known| known.as_str() == format)
    }

    /// The format of an uploaded file, by its first bytes: names lie.
    pub fn sniff(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, ..] => Self::TarGz,
            [b'P', b'K', 3 | 5, 4 | 6, ..] => Self::Zip,
            _ if bytes.get(257..262) == Some(b"ustar") => Self::Tar,
            _ => Self::PythonFile,
        }
    }
}

/// A function's code.
#[derive(Clone, Debug)]
pub struct Source {
    /// How it is packed.
    pub format: SourceFormat,
    /// The bytes as they were sent.
    pub content: Vec<u8>,
}

impl Source {
    /// The source's address.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.content).into()
    }

    /// Checks the size and, for a single file, that it is text.
    ///
    /// # Errors
    /// The field `source`, with the remedy.
    pub fn validate(&self) -> Result<(), Vec<Invalid>> {
        let mut checker = Checker::default();
        checker.check(
            !self.content.is_empty(),
            "source",
            "it is empty",
            "send the Python file or an archive of its folder",
        );
        checker.check(
            self.content.len() <= MAX_SOURCE_BYTES,
            "source",
            format!("{} bytes are more than {MAX_SOURCE_BYTES}", self.content.len()),
            "models and data belong on a volume, not into the source",
        );
        if self.format == SourceFormat::PythonFile {
            checker.check(
                std::str::from_utf8(&self.content).is_ok_and(|text| !text.contains('\0')),
                "source",
                "it is neither UTF-8 text nor a tar, tar.gz or zip archive",
                "save the file as UTF-8",
            );
        }
        checker.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        for good in ["a", "hello", "hello-2", &"a".repeat(40)] {
            assert!(validate_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "1a", "a.b", "ä", "a/../b", &"a".repeat(41)] {
            assert!(validate_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_refused_field_is_named() {
        let spec = FunctionSpec {
            port: 80,
            stop_grace_seconds: 0,
            ..FunctionSpec::default()
        };
        let fields: Vec<_> = spec
            .validate()
            .unwrap_err()
            .into_iter()
            .map(|invalid| invalid.field)
            .collect();
        assert_eq!(fields, ["spec.port", "spec.stop_grace_seconds"]);
    }

    #[test]
    fn volumes_are_mounted_where_nothing_is() {
        for good in ["/models", "/data/models", "/mnt/a.b_c-d"] {
            assert!(is_mount_path(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "models",
            "/app",
            "/opt/octopus",
            "/tmp/x",
            "/dev/shm",
            "/a/../b",
            "/a//b",
            "/a:b",
            "/a/",
            "/\u{e4}",
        ] {
            assert!(!is_mount_path(bad), "{bad}");
        }
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        assert_eq!(SourceFormat::sniff(b"\x1f\x8b\x08"), SourceFormat::TarGz);
        assert_eq!(SourceFormat::sniff(b"PK\x03\x04"), SourceFormat::Zip);
        assert_eq!(SourceFormat::sniff(b"PK = 1"), SourceFormat::PythonFile);
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(SourceFormat::sniff(&tar), SourceFormat::Tar);
    }
}
