//! From what is wanted to wheels on disk: a hashed lock first, then exactly that, and nothing of it is run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::BuildLog;
use super::error::{BuildError, BuildFault};
use super::settings::{ImageSettings, PythonVersion};
use super::uv;
use super::uv_fault::explain;
use super::wanted::Wanted;

/// What wheels must fit: 64-bit x86 with the glibc of Debian 12, which is the oldest that a base image may have.
pub(crate) const PLATFORM: &str = "x86_64-manylinux_2_36";

/// Folder, in the scratch directory, of wheels that were built from source.
pub(crate) const WHEELS: &str = "wheels";
/// Metadata of some hundred packages; minutes only when the index is slow.
const LOCK_LIMIT: Duration = Duration::from_secs(5 * 60);
/// Some gigabytes of wheels over a slow line.
const INSTALL_LIMIT: Duration = Duration::from_secs(30 * 60);

/// How long what was resolved is not resolved again.
const LOCK_AGE: Duration = Duration::from_secs(10 * 60);
/// Locks that are remembered at most, some tens of kilobytes each.
const LOCKS: usize = 200;

/// Every package at one version, with the hashes of its wheels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) text: String,
    pub(crate) packages: usize,
}

/// What was resolved lately. Who changes the code again and again waits for no index each time, and a new version of a package
/// is seen soon.
#[derive(Default)]
pub(crate) struct Locks(Mutex<HashMap<String, (Instant, Lock)>>);

impl Locks {
    /// The lock of a [`key`], if it is young.
    pub(crate) fn get(&self, key: &str) -> Option<Lock> {
        let locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (made, lock) = locks.get(key)?;
        (made.elapsed() < LOCK_AGE).then(|| lock.clone())
    }

    /// Remembers a lock, and forgets the old ones.
    pub(crate) fn put(&self, key: String, lock: Lock) {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, (made, _)| made.elapsed() < LOCK_AGE);
        if locks.len() < LOCKS {
            locks.insert(key, (Instant::now(), lock));
        }
    }
}

/// Everything that a lock is made from, but what the indexes have.
pub(crate) fn key(settings: &ImageSettings, python: PythonVersion, wanted: &Wanted, scratch: &Path) -> String {
    let mut parts = common(settings, python, wanted, scratch);
    parts.extend(settings.index_url.iter().map(ToString::to_string));
    parts.push(wanted.to_requirements_in());
    hex::encode(Sha256::digest(parts.join("\n")))
}

/// Puts a lock where [`install`] looks for it.
pub(crate) async fn put_down(lock: &Lock, scratch: &Path) -> Result<(), BuildError> {
    let failed = |error| BuildError::machine("the lock cannot be written", error);
    tokio::fs::write(scratch.join("requirements.lock"), &lock.text)
        .await
        .map_err(failed)
}

/// Resolves what is wanted.
pub(crate) async fn lock(
    settings: &ImageSettings,
    python: PythonVersion,
    wanted: &Wanted,
    scratch: &Path,
    log: &dyn BuildLog,
) -> Result<Lock, BuildError> {
    let (input, output) = (scratch.join("requirements.in"), scratch.join("requirements.lock"));
    let failed = |error| BuildError::machine("the lock cannot be made", error);
    tokio::fs::write(&input, wanted.to_requirements_in())
        .await
        .map_err(failed)?;
    let mut arguments = vec!["pip".to_owned(), "compile".into(), "--generate-hashes".into()];
    arguments.extend(["--no-header", "--no-annotate", "--output-file", "requirements.lock"].map(String::from));
    arguments.extend(common(settings, python, wanted, scratch));
    arguments.push("requirements.in".into());
    let ended = uv::run(settings, scratch, &arguments, LOCK_LIMIT, log).await?;
    if ended.code != Some(0) {
        return Err(explain(&ended, wanted, python));
    }
    check(tokio::fs::read_to_string(&output).await.map_err(failed)?)
}

/// Unpacks the wheels of a lock that [`lock`] left in `scratch`, and returns where.
pub(crate) async fn install(
    settings: &ImageSettings,
    python: PythonVersion,
    wanted: &Wanted,
    scratch: &Path,
    log: &dyn BuildLog,
) -> Result<PathBuf, BuildError> {
    let mut arguments = vec![
        "pip".to_owned(),
        "install".into(),
        "--require-hashes".into(),
        "--no-deps".into(),
    ];
    arguments.extend(["--target", "site-packages"].map(String::from));
    arguments.extend(common(settings, python, wanted, scratch));
    arguments.extend(["--requirements".into(), "requirements.lock".into()]);
    let ended = uv::run(settings, scratch, &arguments, INSTALL_LIMIT, log).await?;
    if ended.code != Some(0) {
        return Err(explain(&ended, wanted, python));
    }
    Ok(scratch.join("site-packages"))
}

fn common(settings: &ImageSettings, python: PythonVersion, wanted: &Wanted, scratch: &Path) -> Vec<String> {
    let mut arguments = vec!["--no-config".to_owned(), "--only-binary".into(), ":all:".into()];
    arguments.extend(["--python".into(), settings.python.to_string_lossy().into_owned()]);
    arguments.extend(["--python-version", python.dotted(), "--python-platform", PLATFORM].map(String::from));
    // pip takes the best version of all indexes, and files are written for pip. With `--index-url` it asks one index
    // alone; here that index goes first, so that other lines still find theirs. `uv`'s own default hides newer
    // versions behind whatever index has the name.
    let strategy = if wanted.named_index_first {
        "unsafe-first-match"
    } else {
        "unsafe-best-match"
    };
    arguments.extend(["--index-strategy", strategy].map(String::from));
    if wanted.prereleases {
        arguments.extend(["--prerelease", "allow"].map(String::from));
    }
    if scratch.join(WHEELS).exists() {
        arguments.extend(["--find-links", WHEELS].map(String::from));
    }
    arguments.extend(wanted.indexes.iter().map(|index| format!("--extra-index-url={index}")));
    arguments
}

/// Holds the lock to its form: names, versions and hashes, and no URL, path or option.
fn check(text: String) -> Result<Lock, BuildError> {
    let mut packages = 0;
    for line in text.lines() {
        let line = line.trim_end().trim_end_matches('\\').trim_end();
        let pinned = || {
            let (name, version) = line.split_once("==")?;
            let plain = |part: &str| !part.is_empty() && !part.contains([' ', '/', '@', ':']);
            let version = version.split(" ;").next().unwrap_or_default();
            (plain(name) && plain(version) && !name.starts_with('-')).then_some(())
        };
        match line.strip_prefix("    --hash=sha256:") {
            Some(hash) if packages > 0 && hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {}
            None if pinned().is_some() => packages += 1,
            _ => {
                let problem = format!(
                    "the resolver wrote something that is no pinned package: `{}`",
                    line.escape_debug()
                );
                return Err(BuildError::new(
                    BuildFault::Machine,
                    problem,
                    "Check the version of uv.",
                ));
            }
        }
    }
    Ok(Lock { text, packages })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::PushRegistry;
    use crate::image::error::Place;

    #[test]
    fn a_lock_is_remembered_for_the_same_wishes_only() {
        let none = Path::new("/nowhere");
        let of = |python: &str, requirement: &str, index: Option<&str>| {
            let settings = ImageSettings {
                push: PushRegistry::new("http://registry.example", None).unwrap(),
                pull: "registry.example".into(),
                bases: "cp312=http://registry.example/base:1".parse().unwrap(),
                uv: "uv".into(),
                python: "python3".into(),
                cache_dir: "/nowhere".into(),
                ca_bundle: None,
                system_packages: Default::default(),
                index_url: index.map(|url| url.parse().unwrap()),
            };
            let mut wanted = Wanted::default();
            wanted.add(requirement, &Place::new("function.py", 1)).unwrap();
            key(&settings, python.parse().unwrap(), &wanted, none)
        };
        let first = of("cp312", "flask", None);
        assert_eq!(of("cp312", "flask", None), first);
        for (name, other) in [
            ("python", of("cp311", "flask", None)),
            ("package", of("cp312", "flask<3", None)),
            ("index", of("cp312", "flask", Some("https://index.example/simple"))),
        ] {
            assert_ne!(other, first, "{name}");
        }
        let locks = Locks::default();
        assert_eq!(locks.get(&first), None);
        let lock = check("a==1.0 \\\n".into()).unwrap();
        locks.put(first.clone(), lock.clone());
        assert_eq!(locks.get(&first), Some(lock));
    }

    #[test]
    fn a_lock_is_names_versions_and_hashes() {
        let hash = "a".repeat(64);
        let good = format!(
            "a==1.0 \\\n    --hash=sha256:{hash} \\\n    --hash=sha256:{hash}\nb-c==2 ; sys_platform == 'linux' \\\n    --hash=sha256:{hash}\n"
        );
        assert_eq!(check(good).unwrap().packages, 2);
        assert_eq!(check(String::new()).unwrap().packages, 0);
        for bad in [
            "a",
            "a @ https://h/a.whl",
            "-e .",
            "--index-url https://h",
            "./a==1",
            "    --hash=sha256:00",
            "a==1 --hash=md5:1",
        ] {
            assert!(check(bad.into()).is_err(), "{bad}");
        }
    }
}
