//! What an operator sets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use oci_client::Reference;
use serde::{Deserialize, Serialize};
use url::Url;

/// Settings of the image builder. Not `Debug`: the index's URL may hold a password.
#[derive(Clone)]
pub struct ImageSettings {
    /// The registry that images are pushed to.
    pub push: PushRegistry,
    /// Where nodes pull from: `host[:port]` and, where the registry is a mirror or a project, a path. The manager
    /// never connects to it.
    pub pull: String,
    /// The base image of each Python version.
    pub bases: BaseImages,
    /// The `uv` program.
    pub uv: PathBuf,
    /// Any Python of 3.8 or newer, by its path or as a name in `/usr/local/bin`, `/usr/bin` or `/bin`. `uv` does not
    /// start without one, although it installs for others: it asks it for the layout of an installation, and runs
    /// nothing of a user's.
    pub python: PathBuf,
    /// What is kept between builds: `uv`'s wheels. Scratch directories are made here as well, so that wheels can be
    /// hard-linked.
    pub cache_dir: PathBuf,
    /// Authorities as a PEM file. The registries' are trusted beside the system's; for the package index `uv` trusts
    /// these alone, so that the file has to hold the public ones too where PyPI is asked.
    pub ca_bundle: Option<PathBuf>,
    /// System packages that every base image holds: what functions may ask for by `apt-get install`.
    pub system_packages: BTreeSet<String>,
    /// The package index, when it is not PyPI. May hold credentials; they are never shown.
    pub index_url: Option<Url>,
}

/// A registry that is pushed to.
#[derive(Clone)]
pub struct PushRegistry {
    /// Scheme, host and port.
    pub(crate) origin: Url,
    /// `host[:port]`, as image names have it.
    pub(crate) host: String,
    /// Path before every repository, without slashes at its ends; empty for most registries.
    pub(crate) prefix: String,
    /// User and password.
    pub(crate) credentials: Option<(String, String)>,
}

impl PushRegistry {
    /// From a URL such as `https://registry.example.com/project` and, where it wants them, user and password.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(url: &str, credentials: Option<(String, String)>) -> Result<Self, String> {
        let mut url = Url::parse(url).map_err(|error| format!("the registry's URL cannot be read: {error}"))?;
        let host = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https"));
        let host = host.ok_or("the registry's URL has to begin with http:// or https:// and name a host")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the registry's user and password are settings of their own, not parts of the URL".into());
        }
        let host = url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let prefix = url.path().trim_matches('/').to_owned();
        url.set_path("");
        Ok(Self {
            origin: url,
            host,
            prefix,
            credentials,
        })
    }

    pub(crate) fn plain_http(&self) -> bool {
        self.origin.scheme() == "http"
    }
}

impl fmt::Debug for PushRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.credentials.as_ref().map_or("nobody", |(user, _)| user);
        write!(f, "{}{} as {user}", self.origin, self.prefix)
    }
}

/// A Python version that functions may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PythonVersion {
    /// 3.10
    Cp310,
    /// 3.11
    Cp311,
    /// 3.12
    Cp312,
    /// 3.13
    Cp313,
}

impl PythonVersion {
    const ALL: [Self; 4] = [Self::Cp310, Self::Cp311, Self::Cp312, Self::Cp313];

    /// The tag that `required_python_version` holds.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Cp310 => "cp310",
            Self::Cp311 => "cp311",
            Self::Cp312 => "cp312",
            Self::Cp313 => "cp313",
        }
    }

    /// With a dot.
    pub fn dotted(self) -> &'static str {
        match self {
            Self::Cp310 => "3.10",
            Self::Cp311 => "3.11",
            Self::Cp312 => "3.12",
            Self::Cp313 => "3.13",
        }
    }
}

impl fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tag())
    }
}

impl FromStr for PythonVersion {
    type Err = String;

    fn from_str(tag: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|version| version.tag() == tag)
            .ok_or_else(|| format!("`{}` is none of cp310, cp311, cp312 and cp313", tag.escape_debug()))
    }
}

/// A base image by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseImage {
    /// Its name.
    pub reference: Reference,
    /// Whether its registry is spoken to without TLS.
    pub plain_http: bool,
}

impl FromStr for BaseImage {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let (plain_http, name) = match name.split_once("://") {
            Some(("http", name)) => (true, name),
            Some(("https", name)) => (false, name),
            Some(_) => return Err(format!("`{name}` begins with neither http:// nor https://")),
            None => (false, name),
        };
        let reference = name
            .parse()
            .map_err(|error| format!("`{name}` is no image name: {error}"))?;
        Ok(Self { reference, plain_http })
    }
}

/// The base image of each Python version, read from `cp311=docker.io/library/python:3.11-slim,cp312=...`; a name that
/// begins with `http://` is pulled without TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseImages(pub BTreeMap<PythonVersion, BaseImage>);

impl FromStr for BaseImages {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let mut bases = BTreeMap::new();
        for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (tag, name) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` is not of the form cp311=image"))?;
            if bases.insert(tag.trim().parse()?, name.trim().parse()?).is_some() {
                return Err(format!("{tag} is given twice"));
            }
        }
        if bases.is_empty() {
            Err("no base image is given".into())
        } else {
            Ok(Self(bases))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_images_are_read() {
        let BaseImages(bases) = "cp310=python:3.10-slim, cp311=http://registry:5000/base/python:3.11"
            .parse()
            .unwrap();
        let local = &bases[&PythonVersion::Cp311];
        assert_eq!((local.reference.registry(), local.plain_http), ("registry:5000", true));
        let public = &bases[&PythonVersion::Cp310];
        assert_eq!(
            (public.reference.whole().as_str(), public.plain_http),
            ("docker.io/library/python:3.10-slim", false)
        );
    }

    #[test]
    fn what_is_wrong_with_base_images_is_said() {
        for bad in [
            "",
            "python:3.11",
            "cp39=python:3.9",
            "cp311=ftp://a/b",
            "cp311=UPPER",
            "cp311=a,cp311=b",
        ] {
            assert!(bad.parse::<BaseImages>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_registry_is_a_url_without_credentials() {
        let registry = |url| PushRegistry::new(url, Some(("u".into(), "secret".into())));
        let team = registry("https://registry.example.com/team/a/").unwrap();
        assert_eq!(
            (team.host.as_str(), team.prefix.as_str()),
            ("registry.example.com", "team/a")
        );
        assert_eq!(format!("{team:?}"), "https://registry.example.com/team/a as u");
        let local = registry("http://127.0.0.1:5000").unwrap();
        assert_eq!((local.host.as_str(), local.prefix.as_str()), ("127.0.0.1:5000", ""));
        assert!(local.plain_http() && local.origin.as_str() == "http://127.0.0.1:5000/");
        for bad in ["registry:5000", "https://u:p@host", "unix:/run/registry", ""] {
            assert!(registry(bad).is_err(), "{bad}");
        }
    }
}
