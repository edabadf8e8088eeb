use std::io::Write;

use zip::write::SimpleFileOptions;

use super::*;

/// A tar entry with exactly these bytes as its name: the `tar` crate itself would refuse to write the bad ones.
pub(super) fn entry(name: &str, kind: tar::EntryType, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn tar_of(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries
        .iter()
        .flat_map(|(name, kind, content)| entry(name, *kind, content))
        .collect();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer
            .start_file(*name, SimpleFileOptions::default().unix_permissions(0o644))
            .unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

const FILE: tar::EntryType = tar::EntryType::Regular;
const DIR: tar::EntryType = tar::EntryType::Directory;

#[test]
fn plain_archives_are_read() {
    let tar = tar_of(&[
        ("./", DIR, b""),
        ("./main.py", FILE, b"x = 1"),
        ("pkg/", DIR, b""),
        ("pkg//a.py", FILE, b""),
    ]);
    let files = read_tar(&tar).unwrap();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["main.py", "pkg/a.py"]);
    assert_eq!(
        files["main.py"],
        CodeFile {
            content: b"x = 1".into(),
            executable: true
        }
    );
    assert_eq!(read_tar_gz(&gzip(&tar)).unwrap(), files);

    let zip = zip_of(&[
        ("main.py", b"x = 1"),
        ("__MACOSX/._main.py", b"noise"),
        ("a/.DS_Store", b"noise"),
    ]);
    assert_eq!(
        read_zip(&zip).unwrap()["main.py"],
        CodeFile {
            content: b"x = 1".into(),
            executable: false
        }
    );
    assert_eq!(read_zip(&zip).unwrap().len(), 1);
}

#[test]
fn hostile_tar_entries_are_refused() {
    let long = "a".repeat(99);
    for (entries, why) in [
        (vec![("/etc/passwd", FILE, b"".as_slice())], "absolute"),
        (vec![("a/../../etc/passwd", FILE, b"")], "`..`"),
        (vec![("..", DIR, b"")], "`..`"),
        (
            vec![("link", tar::EntryType::Symlink, b"")],
            "neither a file nor a directory",
        ),
        (
            vec![("link", tar::EntryType::Link, b"")],
            "neither a file nor a directory",
        ),
        (
            vec![("null", tar::EntryType::Char, b"")],
            "neither a file nor a directory",
        ),
        (
            vec![("disk", tar::EntryType::Block, b"")],
            "neither a file nor a directory",
        ),
        (
            vec![("pipe", tar::EntryType::Fifo, b"")],
            "neither a file nor a directory",
        ),
        (vec![("main.py", FILE, b"1"), ("./main.py", FILE, b"2")], "occurs twice"),
        (vec![("a", FILE, b"1"), ("a/b", FILE, b"2")], "a file and a directory"),
        (vec![("a/b", FILE, b"1"), ("a", FILE, b"2")], "a file and a directory"),
        (vec![("a", FILE, b"1"), ("a", DIR, b"")], "a file and a directory"),
        (vec![("a\\b", FILE, b"1")], "backslash"),
        (vec![("a\nb", FILE, b"1")], "control character"),
    ] {
        let error = read_tar(&tar_of(&entries)).unwrap_err();
        assert_eq!(error.fault, BuildFault::InvalidSource);
        assert!(error.problem.contains(why), "{entries:?}: {}", error.problem);
    }
    assert!(read_tar(&tar_of(&[(long.as_str(), FILE, b"")])).is_ok());
    let mut not_text = tar_of(&[("x", FILE, b"")]);
    not_text[0] = 0xff;
    assert!(read_tar(&not_text).is_err());
}

#[test]
fn names_beyond_the_limits_are_refused() {
    for bad in ["a".repeat(256), "a/".repeat(300)] {
        assert!(clean_path(bad.as_bytes()).unwrap_err().problem.contains("too long"));
    }
    assert_eq!(clean_path(b"./a//b/").unwrap(), "a/b");
}

/// As the real ones, but for a build without optimization.
pub(super) const SMALL: Limits = Limits {
    bytes: 1 << 20,
    entries: 100,
};

#[test]
fn bombs_are_refused_while_they_are_read() {
    let too_big = |read: Result<Files, BuildError>| assert_eq!(read.unwrap_err(), super::too_big());
    let zeros = vec![0; (SMALL.bytes + 1) as usize];
    let bomb = gzip(&tar_of(&[("zeros", FILE, &zeros)]));
    assert!(bomb.len() < 8 << 10);
    too_big(walk_tar(MultiGzDecoder::new(bomb.as_slice()), SMALL));
    // No more is taken in than the limit: what follows is never asked for.
    let endless = entry("zeros", FILE, &zeros[..1024]);
    let mut header = tar::Header::from_byte_slice(&endless[..512]).clone();
    header.set_size(1 << 40);
    header.set_cksum();
    too_big(walk_tar(header.as_bytes().chain(io::repeat(0)), SMALL));

    // A header that claims a name of many megabytes is read by the tar crate itself.
    let name = tar_of(&[("name", tar::EntryType::GNULongName, &vec![b'a'; 3 << 20])]);
    too_big(walk_tar(name.as_slice(), SMALL));
    let pax = tar_of(&[("name", tar::EntryType::XHeader, &vec![b'a'; 3 << 20])]);
    too_big(walk_tar(pax.as_slice(), SMALL));

    let half = vec![0; 600 << 10];
    too_big(walk_zip(&zip_of(&[("a", &half), ("b", &half)]), SMALL));
    assert!(walk_zip(&zip_of(&[("a", &half)]), SMALL).is_ok());

    let many: Vec<_> = (0..=SMALL.entries).map(|index| format!("f{index}")).collect();
    let entries: Vec<_> = many.iter().map(|name| (name.as_str(), FILE, b"".as_slice())).collect();
    assert!(
        walk_tar(tar_of(&entries).as_slice(), SMALL)
            .unwrap_err()
            .problem
            .contains("entries")
    );
}

#[test]
fn hostile_zip_entries_are_refused() {
    for (name, why) in [
        ("/etc/passwd", "absolute"),
        ("../main.py", "`..`"),
        ("a\\b", "backslash"),
    ] {
        let error = read_zip(&zip_of(&[(name, b"")])).unwrap_err();
        assert!(error.problem.contains(why), "{name}: {}", error.problem);
    }
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    writer
        .add_symlink("link", "/etc/passwd", SimpleFileOptions::default())
        .unwrap();
    let link = writer.finish().unwrap().into_inner();
    assert!(
        read_zip(&link)
            .unwrap_err()
            .problem
            .contains("neither a file nor a directory")
    );

    // Bit 0 of the flags, in the local header and in the central directory.
    let mut encrypted = zip_of(&[("main.py", b"x = 1")]);
    let central = encrypted.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    encrypted[6] |= 1;
    encrypted[central + 8] |= 1;
    assert!(read_zip(&encrypted).unwrap_err().problem.contains("encrypted"));
    // The same name twice, made from two names of one length.
    let mut twice = zip_of(&[("main.py", b"1"), ("mai2.py", b"2")]);
    while let Some(found) = twice.windows(7).position(|window| window == b"mai2.py") {
        twice[found + 3] = b'n';
    }
    assert!(read_zip(&twice).unwrap_err().problem.contains("twice"));
}
