//! Reads a user's archive without unpacking it: nothing of it ever becomes a path on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Read};

use flate2::read::MultiGzDecoder;

use super::error::{BuildError, BuildFault};

/// How much an archive may hold.
#[derive(Clone, Copy)]
struct Limits {
    /// Of all files together.
    bytes: u64,
    /// Files and directories.
    entries: usize,
}

/// A function's code is text. The largest source that is taken is 8 MiB, and text shrinks to a fourth or fifth; models
/// and data belong on a volume. More entries than any one function has cost memory here and an inode on every node.
const LIMITS: Limits = Limits {
    bytes: 64 << 20,
    entries: 10_000,
};
/// Paths in the image get `/app/` in front, and PATH_MAX is 4096; nobody writes these by hand.
const MAX_PATH_BYTES: usize = 512;
/// NAME_MAX of every file system that nodes use.
const MAX_NAME_BYTES: usize = 255;
/// What a header of the tar format and a long name take for each entry. Beyond it a header itself is the bomb.
const TAR_BYTES_PER_ENTRY: u64 = 2048;

/// A plain file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CodeFile {
    pub(crate) content: Vec<u8>,
    pub(crate) executable: bool,
}

/// Plain files by their path, without a leading `/`, `.` or `..`.
pub(crate) type Files = BTreeMap<String, CodeFile>;

/// The files of a tar archive.
pub(crate) fn read_tar(bytes: &[u8]) -> Result<Files, BuildError> {
    walk_tar(bytes, LIMITS)
}

/// The files of a tar archive compressed with gzip.
pub(crate) fn read_tar_gz(bytes: &[u8]) -> Result<Files, BuildError> {
    walk_tar(MultiGzDecoder::new(bytes), LIMITS)
}

fn walk_tar(bytes: impl Read, limits: Limits) -> Result<Files, BuildError> {
    let mut walk = Walk::new(limits);
    let left = limits.bytes + limits.entries as u64 * TAR_BYTES_PER_ENTRY;
    let mut archive = tar::Archive::new(Bounded { inner: bytes, left });
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let kind = entry.header().entry_type();
        // `git archive` begins with one; it names no file.
        if kind == tar::EntryType::XGlobalHeader {
            continue;
        }
        let raw = entry.path_bytes().into_owned();
        let Some(path) = walk.enter(&raw)? else { continue };
        match kind {
            tar::EntryType::Directory => walk.directory(&path)?,
            tar::EntryType::Regular => {
                let executable = entry.header().mode().map_err(unreadable)? & 0o100 != 0;
                walk.file(path, executable, &mut entry)?;
            }
            other => {
                return Err(refused(
                    &path,
                    &format!("is neither a file nor a directory (tar type {other:?})"),
                ));
            }
        }
    }
    Ok(walk.files)
}

/// The files of a zip archive.
pub(crate) fn read_zip(bytes: &[u8]) -> Result<Files, BuildError> {
    walk_zip(bytes, LIMITS)
}

fn walk_zip(bytes: &[u8], limits: Limits) -> Result<Files, BuildError> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(unreadable)?;
    if archive.has_duplicate_names() {
        return Err(invalid(
            "the archive holds the same name twice",
            "Pack the folder again.",
        ));
    }
    let mut walk = Walk::new(limits);
    for index in 0..archive.len() {
        let entry = archive.by_index_data(index).map_err(unreadable)?;
        let Some(path) = walk.enter(entry.name_raw())? else {
            continue;
        };
        if entry.encrypted() {
            return Err(refused(&path, "is encrypted"));
        }
        // The upper bits of a Unix mode are the file's type: 0 (made elsewhere), plain file, directory.
        let mode = entry.unix_mode().unwrap_or(0);
        let directory = entry.is_dir();
        match (mode & 0o170_000, directory) {
            (0 | 0o100_000, false) => {
                let mut entry = archive.by_index(index).map_err(unreadable)?;
                walk.file(path, mode & 0o100 != 0, &mut entry)?;
            }
            (0 | 0o040_000, true) => walk.directory(&path)?,
            _ => return Err(refused(&path, "is neither a file nor a directory")),
        }
    }
    Ok(walk.files)
}

/// What has been seen of an archive.
struct Walk {
    limits: Limits,
    files: Files,
    /// Every directory, named itself or implied by a file in it.
    directories: BTreeSet<String>,
    entries: usize,
    bytes: u64,
}

impl Walk {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            files: Files::new(),
            directories: BTreeSet::new(),
            entries: 0,
            bytes: 0,
        }
    }

    /// Counts an entry and checks its path. `None`: what macOS adds to archives, and the archive's own root.
    fn enter(&mut self, raw: &[u8]) -> Result<Option<String>, BuildError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(invalid(
                &format!("the archive holds more than {} entries", self.limits.entries),
                "Leave out virtual environments, caches and version control folders.",
            ));
        }
        let path = clean_path(raw)?;
        let noise =
            path.is_empty() || path.starts_with("__MACOSX/") || path.ends_with(".DS_Store") || path == "__MACOSX";
        Ok((!noise).then_some(path))
    }

    fn directory(&mut self, path: &str) -> Result<(), BuildError> {
        if self.files.contains_key(path) {
            return Err(refused(path, "is a file and a directory at once"));
        }
        self.directories.insert(path.to_owned());
        self.parents(path)
    }

    fn parents(&mut self, path: &str) -> Result<(), BuildError> {
        for (slash, _) in path.match_indices('/') {
            let parent = &path[..slash];
            if self.files.contains_key(parent) {
                return Err(refused(parent, "is a file and a directory at once"));
            }
            self.directories.insert(parent.to_owned());
        }
        Ok(())
    }

    fn file(&mut self, path: String, executable: bool, content: &mut impl Read) -> Result<(), BuildError> {
        if self.directories.contains(&path) {
            return Err(refused(&path, "is a file and a directory at once"));
        }
        self.parents(&path)?;
        let mut bytes = Vec::new();
        // Sizes in headers are claims: what counts is what comes out, and reading stops one byte behind the limit.
        let left = self.limits.bytes - self.bytes;
        content.take(left + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > left {
            return Err(too_big());
        }
        self.bytes += bytes.len() as u64;
        if self
            .files
            .insert(
                path.clone(),
                CodeFile {
                    content: bytes,
                    executable,
                },
            )
            .is_some()
        {
            return Err(refused(&path, "occurs twice in the archive"));
        }
        Ok(())
    }
}

/// A relative path of plain names, or why it is refused.
fn clean_path(raw: &[u8]) -> Result<String, BuildError> {
    let shown = String::from_utf8_lossy(&raw[..raw.len().min(120)]).into_owned();
    let path = std::str::from_utf8(raw).map_err(|_| refused(&shown, "is a name that is not UTF-8"))?;
    if path.starts_with('/') {
        return Err(refused(&shown, "is an absolute path"));
    }
    if path.chars().any(|c| c.is_control() || c == '\\') {
        return Err(refused(&shown, "holds a backslash or a control character in its name"));
    }
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.contains(&"..") {
        return Err(refused(&shown, "leaves the archive by `..`"));
    }
    if path.len() > MAX_PATH_BYTES || names.iter().any(|name| name.len() > MAX_NAME_BYTES) {
        return Err(refused(&shown, "is too long a name"));
    }
    Ok(names.join("/"))
}

/// A reader that ends in an error: a header may claim, and decompress to, anything.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other(TooBig))?;
        Ok(read)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("unpacks to more than is taken")]
struct TooBig;

fn too_big() -> BuildError {
    invalid(
        &format!("the archive unpacks to more than {} MiB", LIMITS.bytes >> 20),
        "Models and data belong on a volume, not into the source.",
    )
}

fn unreadable(error: impl std::error::Error + 'static) -> BuildError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        let inner = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if current.is::<TooBig>() || inner.is_some_and(|inner| inner.is::<TooBig>()) {
            return too_big();
        }
        cause = current.source();
    }
    invalid(
        &format!("the archive cannot be read: {error}"),
        "Pack the folder again, as tar, tar.gz or zip.",
    )
}

fn refused(path: &str, why: &str) -> BuildError {
    invalid(
        &format!("`{}` in the archive {why}", path.escape_debug()),
        "An archive holds plain files and directories below one root, each once.",
    )
}

fn invalid(problem: &str, remedy: &str) -> BuildError {
    BuildError::new(BuildFault::InvalidSource, problem, remedy)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
