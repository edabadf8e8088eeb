//! Why an image could not be built, and whose move it is.

use std::fmt;

use super::away::Away;

/// A line of something that the user sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as users know it: `function.py` for a single file, else its path in the archive.
    pub file: String,
    /// Counts from 1.
    pub line: usize,
}

impl Place {
    pub(crate) fn new(file: &str, line: usize) -> Self {
        Self {
            file: file.into(),
            line,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of {}", self.line, self.file)
    }
}

/// What kind of thing went wrong. The ids never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BuildFault {
    /// The file or archive itself: not text, a hostile entry, too big, no `main.py`.
    InvalidSource,
    /// Not valid Python.
    InvalidPython,
    /// `config_str` or `dependencies` is not what the format says.
    InvalidConfig,
    /// An install line or a requirement that is not taken.
    RefusedInstall,
    /// A system package is asked for.
    SystemPackage,
    /// The package has no wheel for this Python and platform, and nothing of a user is run to build one.
    SourceDistribution,
    /// The index does not know the package or the version.
    UnknownPackage,
    /// The requirements contradict each other.
    Unsatisfiable,
    /// No base image is configured for the Python version.
    PythonVersion,
    /// The base image is not there or is not an image of Python for this platform.
    BaseImage,
    /// The registry or the index answered, and said no.
    Refused,
    /// The registry or the index does not answer, or fails itself.
    Unreachable,
    /// The machine that builds: its disk, its memory, its tools.
    Machine,
}

impl BuildFault {
    /// The stable id: what the API shows as the reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidSource => "invalid_source",
            Self::InvalidPython => "invalid_python",
            Self::InvalidConfig => "invalid_config",
            Self::RefusedInstall => "refused_install_line",
            Self::SystemPackage => "system_package",
            Self::SourceDistribution => "source_distribution",
            Self::UnknownPackage => "unknown_package",
            Self::Unsatisfiable => "unsatisfiable_requirements",
            Self::PythonVersion => "python_version_unavailable",
            Self::BaseImage => "base_image_unavailable",
            Self::Refused => "refused_by_registry",
            Self::Unreachable => "registry_or_index_unreachable",
            Self::Machine => "build_machine",
        }
    }
}

/// A build that ended without an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct BuildError {
    /// What kind it is.
    pub fault: BuildFault,
    /// The line that is to blame, where there is one.
    pub place: Option<Place>,
    /// What is wrong, for people. Holds no credentials.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
    /// The requirement that a wheel would have to be built for, where that is what is missing.
    pub(crate) source_only: Option<String>,
    /// The part that is away, where that is all.
    pub away: Option<Box<Away>>,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.problem),
            None => f.write_str(&self.problem),
        }
    }
}

impl BuildError {
    /// An error. What foreign programs and URLs brought into the problem is cleared of credentials here.
    pub(crate) fn new(fault: BuildFault, problem: impl AsRef<str>, remedy: impl Into<String>) -> Self {
        Self {
            fault,
            place: None,
            problem: mask(problem.as_ref()),
            remedy: remedy.into(),
            source_only: None,
            away: None,
        }
    }

    /// The same: a part is away, and as soon as it is back the build goes on.
    pub(crate) fn for_want_of(mut self, away: Away) -> Self {
        self.away = Some(Box::new(away));
        self
    }

    /// The same, with the line that is to blame.
    pub(crate) fn at(mut self, place: &Place) -> Self {
        self.place = Some(place.clone());
        self
    }

    /// The building machine failed.
    pub(crate) fn machine(what: &str, error: impl fmt::Display) -> Self {
        Self::new(
            BuildFault::Machine,
            format!("{what}: {error}"),
            "The manager's disk, memory and tools need a look.",
        )
    }

    /// Whether the same build may well succeed later without anybody changing the input.
    pub fn is_retryable(&self) -> bool {
        matches!(self.fault, BuildFault::Unreachable | BuildFault::Machine)
    }
}

/// The beginning of what a user wrote, fit for a message. Cleared of credentials before it is cut: half a URL hides its `@`.
pub(crate) fn excerpt(text: &str, characters: usize) -> String {
    let beginning: String = mask(text).chars().take(characters).collect();
    beginning.escape_debug().to_string()
}

/// Hides `user:password` in every URL of a text.
pub(crate) fn mask(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(found) = rest.find("://") {
        let (before, after) = rest.split_at(found + 3);
        masked.push_str(before);
        let authority = after
            .find(|c: char| c.is_whitespace() || "/?#\"'`<>".contains(c))
            .unwrap_or(after.len());
        match after[..authority].rfind('@') {
            Some(at) => {
                masked.push_str("***");
                rest = &after[at..];
            }
            None => rest = after,
        }
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_urls_are_hidden() {
        for (text, masked) in [
            (
                "see https://me:secret@host/simple/ now",
                "see https://***@host/simple/ now",
            ),
            ("http://a:b@c http://d:p@ss@e", "http://***@c http://***@e"),
            ("https://host/a@b", "https://host/a@b"),
            ("`https://token@host`", "`https://***@host`"),
            ("no url, a@b", "no url, a@b"),
            ("://", "://"),
        ] {
            assert_eq!(mask(text), masked);
            for characters in 0..text.len() {
                assert!(!excerpt(text, characters).contains("secret"), "{text}");
            }
        }
    }

    #[test]
    fn an_error_names_its_place_first() {
        let error = BuildError::new(BuildFault::SystemPackage, "no", "ask").at(&Place::new("function.py", 7));
        assert_eq!(error.to_string(), "line 7 of function.py: no");
        assert!(!error.is_retryable());
        assert!(BuildError::machine("disk", "full").is_retryable());
    }
}
