//! Archives built entry by entry, of names, kinds and sizes that no packer writes.

use std::io::Write;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::tests::{SMALL, entry, gzip};
use super::*;

/// A vector that grows while it is read into doubles.
const LARGEST_READ: u64 = SMALL.bytes;

#[derive(Clone, Debug)]
struct Odd {
    name: String,
    kind: u8,
    content: Vec<u8>,
    /// The size that the header claims, when it lies.
    claims: Option<u64>,
}

fn name() -> impl Strategy<Value = String> {
    let part = select(vec![
        "a",
        "b",
        "main.py",
        "..",
        ".",
        "",
        "é",
        "a\\b",
        "C:",
        "__MACOSX",
        ".DS_Store",
        "a\nb",
        "~",
        "-rf",
        "pkg",
        "%2e%2e",
    ]);
    let path = prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
    prop_oneof![4 => path, 1 => "[ -~]{1,99}", 1 => Just("a".repeat(99))]
}

fn odd() -> impl Strategy<Value = Odd> {
    let kind =
        prop_oneof![4 => Just(b'0'), 2 => Just(b'5'), 3 => select(b"\x00123467gxLKSVDMNA".to_vec()), 1 => any::<u8>()];
    let content = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..64),
        1 => (0_usize..3).prop_map(|pieces| vec![0; pieces * (400 << 10)]),
        1 => select(vec![
            "30 path=../../etc/passwd\n", "19 path=/etc/passwd\n", "99999999999999999999 size=1\n", "9 size=-1\n",
            "24 size=99999999999999\n", "22 GNU.sparse.major=1\n", "= \n", "../../name",
        ]).prop_map(|text| text.as_bytes().to_vec()),
    ];
    let claims = prop::option::weighted(
        0.2,
        prop_oneof![0_u64..4096, Just(u64::MAX), Just(1 << 40), any::<u64>()],
    );
    (name(), kind, content, claims).prop_map(|(name, kind, content, claims)| Odd {
        name,
        kind,
        content,
        claims,
    })
}

fn tar_of(entries: &[Odd]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for odd in entries {
        let length = odd.name.len().min(100);
        let mut written = entry("", tar::EntryType::new(odd.kind), &odd.content);
        let mut header = tar::Header::from_byte_slice(&written[..512]).clone();
        header.as_mut_bytes()[..length].copy_from_slice(&odd.name.as_bytes()[..length]);
        if let Some(size) = odd.claims {
            header.set_size(size);
        }
        header.set_cksum();
        written[..512].copy_from_slice(header.as_bytes());
        bytes.extend(written);
    }
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

fn zip_of(entries: &[Odd]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for odd in entries {
        let options = zip::write::SimpleFileOptions::default();
        // A name that is there already is refused by the writer itself.
        let begun = match odd.kind {
            b'5' => writer.add_directory(odd.name.as_str(), options),
            b'2' => writer.add_symlink(odd.name.as_str(), "/etc/passwd", options),
            _ => writer.start_file(odd.name.as_str(), options.unix_permissions(u32::from(odd.kind))),
        };
        if begun.is_ok() && !matches!(odd.kind, b'5' | b'2') {
            writer.write_all(&odd.content).unwrap();
        }
    }
    writer.finish().unwrap().into_inner()
}

/// What comes out lies below one root and within the limits; what is refused is refused in bounded words.
fn check(read: Result<Files, BuildError>) -> Result<(), TestCaseError> {
    match read {
        Ok(files) => {
            let bytes: usize = files.values().map(|file| file.content.len()).sum();
            prop_assert!(bytes as u64 <= SMALL.bytes && files.len() <= SMALL.entries);
            for path in files.keys() {
                prop_assert!(
                    path.len() <= MAX_PATH_BYTES && !path.contains(['\\', '\0', '\n']),
                    "{path:?}"
                );
                prop_assert!(path.split('/').all(|name| !matches!(name, "" | "." | "..")), "{path:?}");
                prop_assert!(
                    path.match_indices('/').all(|(at, _)| !files.contains_key(&path[..at])),
                    "{path:?}"
                );
            }
        }
        Err(error) => {
            prop_assert_eq!(error.fault, BuildFault::InvalidSource);
            prop_assert!(!error.remedy.is_empty() && error.problem.len() < 2_000, "{}", error);
        }
    }
    Ok(())
}

/// A reader that says how much was taken from it.
struct Counted<'a>(&'a [u8], &'a mut u64);

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        *self.1 += read as u64;
        Ok(read)
    }
}

proptest! {
    #[test]
    fn a_tar_of_odd_entries_stays_within_its_root_and_its_limits(entries in prop::collection::vec(odd(), 0..8)) {
        let tar = tar_of(&entries);
        let mut taken = 0;
        check(walk_tar(Counted(&tar, &mut taken), SMALL))?;
        // The read that goes beyond the limit is the last one.
        prop_assert!(taken <= SMALL.bytes + SMALL.entries as u64 * TAR_BYTES_PER_ENTRY + LARGEST_READ, "{taken}");
        check(walk_tar(MultiGzDecoder::new(gzip(&tar).as_slice()), SMALL))?;
    }

    #[test]
    fn a_zip_of_odd_entries_stays_within_its_root_and_its_limits(entries in prop::collection::vec(odd(), 0..8)) {
        check(walk_zip(&zip_of(&entries), SMALL))?;
    }

    #[test]
    fn a_broken_archive_is_read_or_refused(
        entries in prop::collection::vec(odd(), 1..4), wrong in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4), cut in any::<Index>(),
    ) {
        for mut bytes in [tar_of(&entries), gzip(&tar_of(&entries)), zip_of(&entries)] {
            for (at, with) in &wrong {
                *at.get_mut(&mut bytes) = *with;
            }
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                check(walk_tar(bytes, SMALL))?;
                check(walk_tar(MultiGzDecoder::new(bytes), SMALL))?;
                check(walk_zip(bytes, SMALL))?;
            }
        }
    }
}
