//! Writes a layer: the same files give the same bytes, whatever their order and age.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};
use tempfile::TempPath;

/// Counts up when the bytes of a layer change for the same files: layers of before are then not reused.
pub(crate) const FORMAT: u32 = 1;

/// The content of a file.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// In memory.
    Bytes(Vec<u8>),
    /// On disk. Read while the layer is written.
    OnDisk(PathBuf),
}

/// A file in a layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerFile {
    pub(crate) content: Content,
    pub(crate) executable: bool,
}

/// A written layer: gone from the disk when dropped.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) path: TempPath,
    /// Of the compressed bytes: what the manifest names.
    pub(crate) digest: String,
    /// Of the tar: what the configuration names.
    pub(crate) diff_id: String,
    /// Compressed bytes.
    pub(crate) size: u64,
}

/// Writes files, by path without a leading slash, to a temporary file in `scratch`.
pub(crate) fn write(files: &BTreeMap<String, LayerFile>, scratch: &Path) -> io::Result<Layer> {
    let target = tempfile::NamedTempFile::new_in(scratch)?;
    let compressed = Hashing::new(BufWriter::new(target.reopen()?));
    let encoder: GzEncoder<_> = GzBuilder::new()
        .mtime(0)
        .operating_system(255)
        .write(compressed, Compression::new(6));
    let mut archive = tar::Builder::new(Hashing::new(encoder));
    let mut made = BTreeSet::new();
    for (path, file) in files {
        for (slash, _) in path.match_indices('/') {
            if made.insert(&path[..slash]) {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                archive.append_data(&mut header, format!("{}/", &path[..slash]), io::empty())?;
            }
        }
        let mode = if file.executable { 0o755 } else { 0o644 };
        match &file.content {
            Content::Bytes(bytes) => {
                let mut header = header(tar::EntryType::Regular, mode, bytes.len() as u64);
                archive.append_data(&mut header, path, bytes.as_slice())?;
            }
            Content::OnDisk(source) => {
                let source = File::open(source)?;
                let size = source.metadata()?.len();
                let mut header = header(tar::EntryType::Regular, mode, size);
                // A file that grew meanwhile must not break the archive.
                archive.append_data(&mut header, path, source.take(size))?;
            }
        }
    }
    let tar = archive.into_inner()?;
    let diff_id = tar.digest();
    let compressed = tar.inner.finish()?;
    let (digest, size) = (compressed.digest(), compressed.bytes);
    compressed.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(Layer {
        path: target.into_temp_path(),
        digest,
        diff_id,
        size,
    })
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// `sha256:` and the hash of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Hashes and counts what passes.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", hex::encode(self.hash.clone().finalize()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    fn bytes(content: &[u8]) -> LayerFile {
        LayerFile {
            content: Content::Bytes(content.into()),
            executable: false,
        }
    }

    #[test]
    fn a_layer_holds_directories_files_and_fixed_metadata() {
        let scratch = tempfile::tempdir().unwrap();
        let on_disk = scratch.path().join("tool");
        std::fs::write(&on_disk, "#!/bin/sh").unwrap();
        let long = format!("app/{}", "d/".repeat(80) + "long.py");
        let files = BTreeMap::from([
            ("app/main.py".to_owned(), bytes(b"x = 1")),
            (
                "app/a/tool".to_owned(),
                LayerFile {
                    content: Content::OnDisk(on_disk),
                    executable: true,
                },
            ),
            (long.clone(), bytes(b"")),
        ]);
        let layer = write(&files, scratch.path()).unwrap();
        let compressed = std::fs::read(&layer.path).unwrap();
        assert_eq!(
            (layer.size, layer.digest.clone()),
            (compressed.len() as u64, digest(&compressed))
        );
        let mut tar = Vec::new();
        GzDecoder::new(compressed.as_slice()).read_to_end(&mut tar).unwrap();
        assert_eq!(layer.diff_id, digest(&tar));

        let mut archive = tar::Archive::new(tar.as_slice());
        let mut seen = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(
                (header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()),
                (0, 0, 0)
            );
            seen.insert(
                entry.path().unwrap().to_string_lossy().into_owned(),
                header.mode().unwrap(),
            );
        }
        assert_eq!(seen["app/"], 0o755);
        assert_eq!(seen["app/a/tool"], 0o755);
        assert_eq!(seen["app/main.py"], 0o644);
        assert!(seen.contains_key(&long));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_same_files_give_the_same_digest_in_any_order(
            mut files in prop::collection::vec(("[a-z]{1,3}", prop::collection::vec(any::<u8>(), 0..64)), 1..12),
        ) {
            files.sort();
            files.dedup_by(|a, b| a.0 == b.0);
            let scratch = tempfile::tempdir().unwrap();
            let one: BTreeMap<_, _> = files.iter().map(|(name, content)| (format!("app/{name}"), bytes(content))).collect();
            let other: BTreeMap<_, _> = files.iter().rev().map(|(name, content)| {
                let path = scratch.path().join(name);
                std::fs::write(&path, content).unwrap();
                (format!("app/{name}"), LayerFile { content: Content::OnDisk(path), executable: false })
            }).collect();
            let (one, other) = (write(&one, scratch.path()).unwrap(), write(&other, scratch.path()).unwrap());
            prop_assert_eq!((one.digest, one.diff_id), (other.digest, other.diff_id));
        }
    }
}
