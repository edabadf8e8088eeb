//! The unpacked wheels as the files of the dependency layer, without what is the building machine's own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::layer::{Content, LayerFile};

/// Where dependencies lie in the image.
pub(crate) const SITE_PACKAGES: &str = "/opt/octopus/site-packages";

/// The interpreter of scripts: found in the base image, wherever it is.
const SHEBANG: &str = "#!/usr/bin/env python3";

/// All files below `root`, by their path in the image.
pub(crate) fn collect(root: &Path) -> io::Result<BTreeMap<String, LayerFile>> {
    let mut files = BTreeMap::new();
    let mut scripts = BTreeSet::new();
    let mut directories = vec![(root.to_owned(), String::new())];
    while let Some((directory, prefix)) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::other(format!("a wheel holds a name that is not UTF-8: {}", name.display()))
            })?;
            let path = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                // Bytecode is of the interpreter that made it, and holds times.
                if name != "__pycache__" {
                    directories.push((entry.path(), format!("{path}/")));
                }
                continue;
            }
            if !kind.is_file() {
                return Err(io::Error::other(format!(
                    "a wheel holds `{path}`, which is neither a file nor a directory"
                )));
            }
            if path == ".lock" {
                continue;
            }
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            let mut content = Content::OnDisk(entry.path());
            if prefix == "bin/"
                && let Some(script) = portable(&std::fs::read(entry.path())?)
            {
                scripts.insert(path.clone());
                content = Content::Bytes(script);
            }
            files.insert(path, LayerFile { content, executable });
        }
    }
    for (path, file) in &mut files {
        if path.ends_with(".dist-info/RECORD")
            && let Content::OnDisk(record) = &file.content
        {
            let record = std::fs::read_to_string(record)?;
            file.content = Content::Bytes(without_hashes(&record, &scripts).into_bytes());
        }
    }
    let root = SITE_PACKAGES.trim_start_matches('/');
    Ok(files
        .into_iter()
        .map(|(path, file)| (format!("{root}/{path}"), file))
        .collect())
}

/// A Python script that begins with the building machine's interpreter, with the portable line instead. For a long
/// path that beginning is a little shell program of three lines.
fn portable(script: &[u8]) -> Option<Vec<u8>> {
    let rest = |text: &[u8]| {
        text.iter()
            .position(|byte| *byte == b'\n')
            .map(|end| text[end + 1..].to_vec())
    };
    let first = script.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let program = std::str::from_utf8(first).ok()?.split_whitespace().next()?;
    let mut body = rest(script)?;
    if program == "/bin/sh" && body.starts_with(b"'''exec'") {
        body = rest(&rest(&body)?)?;
    } else if !program
        .rsplit('/')
        .next()
        .is_some_and(|name| name.starts_with("python"))
    {
        return None;
    }
    Some([SHEBANG.as_bytes(), b"\n", &body].concat())
}

/// A RECORD whose rewritten scripts have neither hash nor size, which its format allows: those that stand there are of
/// what was there before, and differ between building machines.
fn without_hashes(record: &str, scripts: &BTreeSet<String>) -> String {
    let mut lines = String::with_capacity(record.len());
    for line in record.lines() {
        match line.split_once(',') {
            Some((path, _)) if scripts.contains(path) => lines.extend([path, ",,\n"]),
            _ => lines.extend([line, "\n"]),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_lose_the_builders_path() {
        for (script, portable_) in [
            ("#!/home/b/bin/python3.12\nx\n", Some("#!/usr/bin/env python3\nx\n")),
            (
                "#!/bin/sh\n'''exec' '/a b/python' \"$0\" \"$@\"\n' '''\nx\n",
                Some("#!/usr/bin/env python3\nx\n"),
            ),
            ("#!/bin/sh\necho\n", None),
            ("#!/usr/bin/perl\n", None),
            ("\u{7f}ELF", None),
            ("", None),
        ] {
            assert_eq!(
                portable(script.as_bytes()).as_deref(),
                portable_.map(str::as_bytes),
                "{script}"
            );
        }
    }

    #[test]
    fn a_tree_is_taken_without_what_is_the_builders() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put(".lock", "");
        put("bin/flask", "#!/x/python\nx\n");
        put("flask/__init__.py", "");
        put("flask/__pycache__/a.pyc", "");
        put(
            "flask-3.dist-info/RECORD",
            "bin/flask,sha256=x,9\nflask/__init__.py,sha256=y,0\n",
        );
        let files = collect(root.path()).unwrap();
        let paths: Vec<_> = files
            .keys()
            .map(|path| path.trim_start_matches("opt/octopus/site-packages/"))
            .collect();
        assert_eq!(paths, ["bin/flask", "flask-3.dist-info/RECORD", "flask/__init__.py"]);
        let Content::Bytes(record) = &files["opt/octopus/site-packages/flask-3.dist-info/RECORD"].content else {
            panic!()
        };
        assert_eq!(
            std::str::from_utf8(record).unwrap(),
            "bin/flask,,\nflask/__init__.py,sha256=y,0\n"
        );

        std::os::unix::fs::symlink("/etc/passwd", root.path().join("link")).unwrap();
        assert!(collect(root.path()).is_err());
    }
}
