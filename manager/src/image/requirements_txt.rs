//! `requirements.txt`, in the part of its grammar that needs no file, no URL and no code.

use super::error::{BuildError, Place};
use super::install_line::option;
use super::wanted::Wanted;

/// What messages call it.
const NAME: &str = "requirements.txt";

/// Adds what the file wants.
pub(crate) fn read(text: &str, wanted: &mut Wanted) -> Result<(), BuildError> {
    for (place, line) in logical_lines(text) {
        let mut words = line.split_whitespace().peekable();
        if !line.starts_with('-') {
            wanted.add(&line, &place)?;
            continue;
        }
        while let Some(word) = words.next() {
            option(word, &mut words, wanted, &place)?;
        }
    }
    Ok(())
}

/// Lines without comments, continued ones joined, each with the line on which it begins.
fn logical_lines(text: &str) -> Vec<(Place, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(Place, String)> = None;
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        // As in pip: a comment begins at the start of a line or behind white space, and ends a continuation.
        let comment = line
            .starts_with('#')
            .then_some(0)
            .or_else(|| line.find(" #"))
            .or_else(|| line.find("\t#"));
        let (body, goes_on) = match (comment, line.strip_suffix('\\')) {
            (Some(start), _) => (&line[..start], false),
            (None, Some(body)) => (body, true),
            (None, None) => (line, false),
        };
        let (_, joined) = open.get_or_insert_with(|| (Place::new(NAME, index + 1), String::new()));
        joined.push_str(body);
        if !goes_on {
            lines.extend(open.take());
        }
    }
    lines.extend(open);
    lines
        .into_iter()
        .map(|(place, line)| (place, line.trim().to_owned()))
        .filter(|(_, line)| !line.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::error::BuildFault;

    #[test]
    fn the_plain_part_is_read() {
        let text = "\u{feff}# comment\n\nFlask==3.1.0  # why\r\nscikit-learn \\\n  >=1.2 \\\n  ,<2\n\
                    x ; python_version < '3.12'\n--extra-index-url https://h/a\n--index-url=https://h/b --pre\n-i https://h/c\n";
        let mut wanted = Wanted::default();
        read(text, &mut wanted).unwrap();
        let got: Vec<_> = wanted
            .packages
            .iter()
            .map(|p| (p.requirement.as_str(), p.place.line))
            .collect();
        assert_eq!(
            got,
            [
                ("flask==3.1.0", 3),
                ("scikit-learn>=1.2,<2", 4),
                ("x ; python_full_version < '3.12'", 7)
            ]
        );
        let urls: Vec<_> = wanted.indexes.iter().map(url::Url::as_str).collect();
        assert_eq!(urls, ["https://h/a", "https://h/b", "https://h/c"]);
        assert!(wanted.prereleases && wanted.named_index_first);
    }

    #[test]
    fn the_rest_is_refused_with_its_line() {
        for line in [
            "-e .",
            "-e git+https://host/x#egg=x",
            "--editable=/path",
            "-r other.txt",
            "-rother.txt",
            "-c constraints.txt",
            "--find-links /tmp",
            "--trusted-host h",
            "https://host/x.whl",
            "x @ https://host/x.whl",
            "./x",
            "x==1 --hash=sha256:00",
            "x==1 \\\n--config-settings=a",
            "--index-url",
            "--index-url file:///etc",
            "-",
            "--",
        ] {
            let error = read(&format!("a\n{line}\nb"), &mut Wanted::default()).unwrap_err();
            assert_eq!(
                (error.fault, error.place.clone().unwrap().line),
                (BuildFault::RefusedInstall, 2),
                "{line}: {error}"
            );
        }
    }
}
