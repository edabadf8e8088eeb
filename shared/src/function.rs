//! Functions: what a user declares.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Checker, Invalid};
use crate::process::{EnvVar, Resources, check_env};

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
    /// Plain environment variables. They are shown to everyone who may read; secrets do not belong here.
    pub env: Vec<EnvVar>,
    /// Limits of each pod.
    pub resources: Resources,
    /// Seconds between SIGTERM and SIGKILL when it is ended, 2 to 3600.
    pub stop_grace_seconds: i32,
    /// Whether its pods may call other functions inside the cluster. Everything else stays closed.
    pub calls_functions: bool,
}

impl Default for FunctionSpec {
    fn default() -> Self {
        Self {
            cluster: "default".into(),
            port: 5000,
            env: Vec::new(),
            resources: Resources::default(),
            stop_grace_seconds: 30,
            calls_functions: false,
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
            format!("`{}` is not a cluster name", self.cluster.escape_debug()),
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
        check_env(&mut checker, "spec.env", &self.env);
        self.resources.check(&mut checker, "spec.resources");
        checker.finish()
    }
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
    fn formats_are_told_by_their_first_bytes() {
        assert_eq!(SourceFormat::sniff(b"\x1f\x8b\x08"), SourceFormat::TarGz);
        assert_eq!(SourceFormat::sniff(b"PK\x03\x04"), SourceFormat::Zip);
        assert_eq!(SourceFormat::sniff(b"PK = 1"), SourceFormat::PythonFile);
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(SourceFormat::sniff(&tar), SourceFormat::Tar);
    }
}
