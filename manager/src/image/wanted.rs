//! What is to be installed, in words of our own: a user's text never reaches the resolver.

use std::collections::BTreeSet;
use std::str::FromStr;

use pep508_rs::{Requirement, VerbatimUrl, VersionOrUrl};
use url::Url;

use super::error::{BuildError, BuildFault, Place, excerpt};

/// The longest requirement that is read. Real ones with markers have some 200 letters.
const MAX_REQUIREMENT: usize = 1_000;
/// A resolver's work grows with the number; big applications have some 300.
const MAX_REQUIREMENTS: usize = 2_000;
/// Every index is asked for every package.
const MAX_INDEXES: usize = 8;

/// One package that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPackage {
    /// Its name in normal form.
    pub name: String,
    /// The requirement in normal form.
    pub requirement: String,
    /// Where it is asked for.
    pub place: Place,
}

/// A system package that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemPackage {
    /// Its name.
    pub name: String,
    /// Where it is asked for.
    pub place: Place,
}

/// Everything that the source wants installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The packages, in the order of the source.
    pub packages: Vec<WantedPackage>,
    /// System packages that the base image has to hold.
    pub system: Vec<SystemPackage>,
    /// Indexes that are asked beside the default one.
    pub indexes: Vec<Url>,
    /// Whether the source named an index in place of the default one for some line. Then what the named indexes have
    /// goes before what the default one has, whatever the versions.
    pub named_index_first: bool,
    /// Whether versions before a release may be chosen.
    pub prereleases: bool,
}

impl Wanted {
    /// Adds a requirement of the form that PEP 508 gives it, without a URL.
    pub(crate) fn add(&mut self, text: &str, place: &Place) -> Result<(), BuildError> {
        let package = parse_requirement(text, place)?;
        if self.packages.len() >= MAX_REQUIREMENTS {
            return Err(refused(
                &format!("more than {MAX_REQUIREMENTS} packages are asked for"),
                "Ask for fewer.",
                place,
            ));
        }
        if !self
            .packages
            .iter()
            .any(|known| known.requirement == package.requirement)
        {
            self.packages.push(package);
        }
        Ok(())
    }

    /// Adds a system package.
    pub(crate) fn add_system(&mut self, name: &str, place: &Place) {
        if !self.system.iter().any(|known| known.name == name) {
            self.system.push(SystemPackage {
                name: name.chars().take(100).collect(),
                place: place.clone(),
            });
        }
    }

    /// Refuses system packages that the base images are not known to hold.
    pub(crate) fn check_system(&self, allowed: &BTreeSet<String>) -> Result<(), BuildError> {
        let Some(missing) = self.system.iter().find(|package| !allowed.contains(&package.name)) else {
            return Ok(());
        };
        let problem = format!(
            "the system package `{}` is not among those that the base images hold",
            missing.name.escape_debug()
        );
        let remedy = "Ask the operator for base images with it, and to name it in OCTOPUS_SYSTEM_PACKAGES.";
        Err(BuildError::new(BuildFault::SystemPackage, problem, remedy).at(&missing.place))
    }

    /// Adds an index.
    pub(crate) fn add_index(&mut self, text: &str, instead: bool, place: &Place) -> Result<(), BuildError> {
        let url = parse_index(text, place)?;
        self.named_index_first |= instead;
        if !self.indexes.contains(&url) {
            self.indexes.push(url);
        }
        if self.indexes.len() > MAX_INDEXES {
            return Err(refused(
                &format!("more than {MAX_INDEXES} indexes are named"),
                "Name fewer.",
                place,
            ));
        }
        Ok(())
    }

    /// The text for the resolver.
    pub(crate) fn to_requirements_in(&self) -> String {
        self.packages
            .iter()
            .map(|package| format!("{}\n", package.requirement))
            .collect()
    }
}

fn parse_requirement(text: &str, place: &Place) -> Result<WantedPackage, BuildError> {
    let text = text.trim();
    let shown = excerpt(text, 120);
    // Before the parser: it knows URLs and expands variables of the environment in them.
    let local = text.starts_with(['.', '/', '-']) || text.contains("://") || text.contains('@');
    let archive = [".whl", ".zip", ".tar.gz", ".tar.bz2"]
        .iter()
        .any(|end| text.to_ascii_lowercase().ends_with(end));
    if local || archive {
        let problem = format!("`{shown}` is not a package of an index but a URL, a path or an option");
        return Err(refused(
            &problem,
            "Name a package and its version; only wheels of a package index are installed.",
            place,
        ));
    }
    let bad = |why: &str| {
        let problem = format!("`{shown}` is not a requirement: {why}");
        refused(&problem, "Write it as pip takes it, for example `Flask==3.1.0`.", place)
    };
    if text.len() > MAX_REQUIREMENT || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(bad("it is too long or holds letters that no package name has"));
    }
    // The parser panics on a name that ends in a dot, and may on more. Its errors' `Display` counts letters as bytes:
    // only the message is used.
    let name_end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c))
        .unwrap_or(text.len());
    if !text[..name_end].ends_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(bad("a name begins and ends with a letter or digit"));
    }
    let parsed = std::panic::catch_unwind(|| Requirement::<VerbatimUrl>::from_str(text))
        .map_err(|_| bad("it cannot be read"))?
        .map_err(|error| bad(&error.message.to_string()))?;
    if matches!(parsed.version_or_url, Some(VersionOrUrl::Url(_))) {
        return Err(bad("it is a URL"));
    }
    Ok(WantedPackage {
        name: parsed.name.to_string(),
        requirement: parsed.to_string(),
        place: place.clone(),
    })
}

fn parse_index(text: &str, place: &Place) -> Result<Url, BuildError> {
    let bad = |why: &str| {
        let problem = format!("`{}` is not taken as a package index: {why}", excerpt(text, 200));
        refused(&problem, "Name an index by its plain https URL.", place)
    };
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(bad("only http and https are spoken"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("a source that everybody can read is no place for credentials"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("an index has neither a query nor a fragment"));
    }
    Ok(url)
}

pub(crate) fn refused(problem: &str, remedy: &str, place: &Place) -> BuildError {
    BuildError::new(BuildFault::RefusedInstall, problem, remedy).at(place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> Place {
        Place::new("function.py", 3)
    }

    #[test]
    fn requirements_get_a_normal_form() {
        for (text, name, normal) in [
            ("Flask==3.1.0", "flask", "flask==3.1.0"),
            (" scikit_learn >= 1.2 , < 2 ", "scikit-learn", "scikit-learn>=1.2,<2"),
            ("uvicorn[standard]", "uvicorn", "uvicorn[standard]"),
            ("torch==2.1.0+cu121", "torch", "torch==2.1.0+cu121"),
            ("numpy~=1.26", "numpy", "numpy~=1.26"),
            ("a===1.0", "a", "a===1.0"),
            (
                "x==1.*; python_version<'3.12'",
                "x",
                "x==1.* ; python_full_version < '3.12'",
            ),
        ] {
            let package = parse_requirement(text, &place()).unwrap();
            assert_eq!((package.name.as_str(), package.requirement.as_str()), (name, normal));
            assert!(parse_requirement(normal, &place()).is_ok(), "{normal}");
        }
    }

    #[test]
    fn what_is_not_of_an_index_is_refused() {
        for bad in [
            "",
            "-e",
            "-r requirements.txt",
            "./x",
            "/x",
            "../x",
            "git+https://host/x",
            "x @ https://host/x.whl",
            "x@file:///x",
            "https://host/x.tar.gz",
            "x.whl",
            "X.WHL",
            "x.tar.gz",
            "--index-url=https://host",
            "x @ ${HOME}",
            "x==",
            "x=1",
            "x y",
            "x\ny",
            "x; os_name",
            "é",
            "x>out.txt",
            "x --hash=sha256:00",
            "(",
            "x[",
            "x;((((",
            "file:x",
            "a.*",
            "a.==1",
            "a-",
            "_a",
            ">=1",
        ] {
            let error = parse_requirement(bad, &place()).unwrap_err();
            assert_eq!(
                (error.fault, error.place),
                (BuildFault::RefusedInstall, Some(place())),
                "{bad}"
            );
        }
    }

    #[test]
    fn indexes_are_plain_urls() {
        let mut wanted = Wanted::default();
        wanted
            .add_index("https://download.pytorch.org/whl/cu121", false, &place())
            .unwrap();
        wanted
            .add_index("https://download.pytorch.org/whl/cu121", false, &place())
            .unwrap();
        assert_eq!(wanted.indexes.len(), 1);
        for bad in [
            "",
            "x",
            "file:///x",
            "ftp://h/x",
            "https://u:secret@h/x",
            "https://h/x?y",
            "https://h/x#y",
            "--help",
        ] {
            let error = wanted.add_index(bad, false, &place()).unwrap_err();
            assert!(!error.problem.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_system_package_that_is_missing_is_named_with_its_line() {
        let mut wanted = Wanted::default();
        wanted.add_system("ca-certificates", &Place::new("function.py", 1));
        wanted.add_system("pandoc", &place());
        let error = wanted.check_system(&["ca-certificates".to_owned()].into()).unwrap_err();
        assert_eq!(error.fault, BuildFault::SystemPackage);
        assert_eq!(
            error.to_string(),
            "line 3 of function.py: the system package `pandoc` is not among those that the base images hold"
        );
        assert!(error.remedy.contains("OCTOPUS_SYSTEM_PACKAGES"), "{}", error.remedy);
        wanted
            .check_system(&["ca-certificates".to_owned(), "pandoc".to_owned()].into())
            .unwrap();
    }

    #[test]
    fn the_same_twice_is_once() {
        let mut wanted = Wanted::default();
        for text in ["Flask==3.1.0", "flask == 3.1.0", "numpy"] {
            wanted.add(text, &place()).unwrap();
        }
        assert_eq!(wanted.to_requirements_in(), "flask==3.1.0\nnumpy\n");
    }

    proptest! {
        #[test]
        fn no_requirement_makes_it_panic(text in "(?s).{0,80}", near in "[a-z]{1,3}(\\[[a-z,]{0,4}\\]?)?[ <>=!~]{0,3}[0-9.*+a-z]{0,6}(;[ a-z_<>='\"()0-9.]{0,30})?") {
            for text in [text, near] {
                if let Ok(package) = parse_requirement(&text, &place()) {
                    prop_assert!(!package.requirement.contains('\n'));
                    prop_assert!(!package.requirement.starts_with('-'));
                }
            }
        }
    }
}
