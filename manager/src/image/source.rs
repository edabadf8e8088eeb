//! A user's source as the files of the code layer.

use octopus_shared::function::{Source, SourceFormat};

use super::archive::{self, CodeFile, Files};
use super::error::{BuildError, BuildFault};

/// The file that is run.
const MAIN: &str = "main.py";
const REQUIREMENTS: &str = "requirements.txt";

/// What is in a source.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    /// What goes to `/app`, `main.py` among it.
    pub(crate) files: Files,
    /// The text of `main.py`.
    pub(crate) main: String,
    /// What messages call `main.py`.
    pub(crate) main_name: &'static str,
    /// The text of `requirements.txt`, where there is one.
    pub(crate) requirements: Option<String>,
}

/// Reads a source into memory. Its size is limited before and while it is unpacked.
pub(crate) fn read(source: &Source) -> Result<Code, BuildError> {
    let bytes = &source.content;
    let (files, main_name) = match source.format {
        SourceFormat::PythonFile => {
            // The user's own name of the file is not known here.
            (
                Files::from([(
                    MAIN.into(),
                    CodeFile {
                        content: bytes.clone(),
                        executable: false,
                    },
                )]),
                "function.py",
            )
        }
        SourceFormat::Tar => (at_root(archive::read_tar(bytes)?), MAIN),
        SourceFormat::TarGz => (at_root(archive::read_tar_gz(bytes)?), MAIN),
        SourceFormat::Zip => (at_root(archive::read_zip(bytes)?), MAIN),
    };
    let main = text(&files, MAIN, main_name)?.ok_or_else(|| {
        BuildError::new(
            BuildFault::InvalidSource,
            "the archive holds no `main.py` at its root or in its one top folder",
            "Name the file that is to be run main.py and pack its folder.",
        )
    })?;
    let requirements = match source.format {
        SourceFormat::PythonFile => None,
        _ => text(&files, REQUIREMENTS, REQUIREMENTS)?,
    };
    Ok(Code {
        files,
        main,
        main_name,
        requirements,
    })
}

/// Takes the one folder away in which many tools pack everything.
fn at_root(files: Files) -> Files {
    let Some((top, _)) = files.keys().next().and_then(|first| first.split_once('/')) else {
        return files;
    };
    let top = format!("{top}/");
    if files.contains_key(MAIN) || !files.keys().all(|path| path.starts_with(&top)) {
        return files;
    }
    files
        .into_iter()
        .map(|(path, file)| (path[top.len()..].to_owned(), file))
        .collect()
}

fn text(files: &Files, path: &str, name: &str) -> Result<Option<String>, BuildError> {
    let Some(file) = files.get(path) else { return Ok(None) };
    match std::str::from_utf8(&file.content) {
        Ok(text) if !text.contains('\0') => Ok(Some(text.to_owned())),
        _ => Err(BuildError::new(
            BuildFault::InvalidSource,
            format!("{name} is not UTF-8 text"),
            "Save it as UTF-8.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Files {
        paths
            .iter()
            .map(|path| {
                (
                    (*path).to_owned(),
                    CodeFile {
                        content: vec![],
                        executable: false,
                    },
                )
            })
            .collect()
    }

    fn names(files: Files) -> Vec<String> {
        files.into_keys().collect()
    }

    #[test]
    fn one_top_folder_is_taken_away() {
        assert_eq!(names(at_root(files(&["f/a/b.py", "f/main.py"]))), ["a/b.py", "main.py"]);
        assert_eq!(names(at_root(files(&["f/main.py", "g/x"]))), ["f/main.py", "g/x"]);
        assert_eq!(names(at_root(files(&["f/x", "main.py"]))), ["f/x", "main.py"]);
        assert_eq!(names(at_root(files(&[]))), Vec::<String>::new());
    }

    #[test]
    fn a_single_file_is_main_py() {
        let code = read(&Source {
            format: SourceFormat::PythonFile,
            content: b"x = 1".into(),
        })
        .unwrap();
        assert_eq!((code.main.as_str(), code.main_name), ("x = 1", "function.py"));
        assert_eq!(names(code.files), ["main.py"]);
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for (format, content) in [
            (SourceFormat::PythonFile, b"\xff".as_slice()),
            (SourceFormat::PythonFile, b"a\0b"),
            (SourceFormat::Zip, b"not a zip"),
            (SourceFormat::TarGz, b"not gzip"),
            (SourceFormat::Tar, &[0; 1024]),
        ] {
            let error = read(&Source {
                format,
                content: content.into(),
            })
            .unwrap_err();
            assert_eq!(error.fault, BuildFault::InvalidSource, "{error}");
        }
    }
}
