//! The lines of `dependencies`: what a shell would run, read as what is wanted.

use super::error::{BuildError, BuildFault, Place, excerpt};
use super::python::Constant;
use super::wanted::{Wanted, refused};
use super::words::commands;

/// Programs that install system packages, and for which nothing stands in.
const SYSTEM: [&str; 7] = ["aptitude", "dpkg", "apk", "yum", "dnf", "conda", "brew"];
/// Programs whose packages a base image may hold.
const APT: [&str; 2] = ["apt", "apt-get"];
/// Options of those with a value.
const APT_VALUED: [&str; 6] = ["-o", "-c", "-t", "--option", "--config-file", "--target-release"];
/// Options without a value that change nothing here: we are quiet, ask nobody, take wheels, and begin from nothing.
const IGNORED: [&str; 19] = [
    "--quiet",
    "--verbose",
    "--upgrade",
    "--no-cache-dir",
    "--user",
    "--disable-pip-version-check",
    "--no-input",
    "--prefer-binary",
    "--break-system-packages",
    "--no-warn-script-location",
    "--no-warn-conflicts",
    "--force-reinstall",
    "--ignore-installed",
    "--no-color",
    "--no-build-isolation",
    "--use-pep517",
    "--no-clean",
    "--no-compile",
    "--isolated",
];
/// The same with a value.
const IGNORED_WITH_VALUE: [&str; 8] = [
    "--progress-bar",
    "--upgrade-strategy",
    "--timeout",
    "--default-timeout",
    "--retries",
    "--root-user-action",
    "--only-binary",
    "--cache-dir",
];

/// Adds what a line wants.
pub(crate) fn read(line: &Constant, wanted: &mut Wanted) -> Result<(), BuildError> {
    let place = &line.place;
    let shown = excerpt(&line.text, 120);
    let commands = commands(&line.text).map_err(|why| {
        let problem = format!("`{shown}` cannot be taken as an install line: {why}");
        refused(&problem, "Write plain `pip install ...` lines.", place)
    })?;
    for command in &commands {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let words = words.strip_prefix(&["sudo"]).unwrap_or(&words);
        let program = words
            .first()
            .map_or("", |word| word.rsplit('/').next().unwrap_or_default());
        if APT.contains(&program) {
            apt(words.get(1..).unwrap_or_default(), wanted, place);
            continue;
        }
        if SYSTEM.contains(&program) {
            let why = "asks for a system package; images are made from wheels alone, and nothing runs as root";
            let problem = format!("`{shown}` {why}");
            let remedy = "Ask the operator for a base image that has it, and take the line out.";
            return Err(BuildError::new(BuildFault::SystemPackage, problem, remedy).at(place));
        }
        let Some(arguments) = pip_arguments(words) else {
            let problem = format!("`{shown}` is not a `pip install` line");
            return Err(refused(
                &problem,
                "Only `pip install ...` and `python -m pip install ...` lines are taken.",
                place,
            ));
        };
        pip_install(arguments, wanted, place)?;
    }
    Ok(())
}

/// `update`, or the packages of `install`. Whether a base image has them is the operator's word.
fn apt(arguments: &[&str], wanted: &mut Wanted, place: &Place) {
    let mut rest = arguments.iter();
    let mut words = Vec::new();
    while let Some(word) = rest.next() {
        if APT_VALUED.contains(word) {
            rest.next();
        } else if !word.starts_with('-') {
            words.push(*word);
        }
    }
    if let Some(("install", packages)) = words.split_first().map(|(command, packages)| (*command, packages)) {
        for package in packages {
            let name = package.split(['=', '/']).next().unwrap_or_default();
            wanted.add_system(name, place);
        }
    }
}

/// What follows `pip`.
fn pip_arguments<'a, 'b>(words: &'a [&'b str]) -> Option<&'a [&'b str]> {
    match words {
        [program, "-m", "pip", rest @ ..] if versioned(program, "python") => Some(rest),
        [program, rest @ ..] if versioned(program, "pip") => Some(rest),
        _ => None,
    }
}

/// `name`, `name3` and `name3.11`.
fn versioned(program: &str, name: &str) -> bool {
    program
        .strip_prefix(name)
        .is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

fn pip_install(arguments: &[&str], wanted: &mut Wanted, place: &Place) -> Result<(), BuildError> {
    let mut installs = false;
    let mut rest = arguments.iter().copied();
    while let Some(word) = rest.next() {
        if !word.starts_with('-') {
            match (installs, word) {
                (true, requirement) => wanted.add(requirement, place)?,
                (false, "install") => installs = true,
                (false, other) => {
                    let problem = format!("`pip {}` does not install", other.escape_debug());
                    return Err(refused(&problem, "Take the line out.", place));
                }
            }
            continue;
        }
        option(word, &mut rest, wanted, place)?;
    }
    Ok(())
}

/// Reads one option, and its value from `rest` when it has one of its own.
pub(crate) fn option<'a>(
    word: &'a str,
    rest: &mut impl Iterator<Item = &'a str>,
    wanted: &mut Wanted,
    place: &Place,
) -> Result<(), BuildError> {
    let (name, attached) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    let mut value = || {
        attached
            .or_else(|| rest.next())
            .ok_or_else(|| refused(&format!("`{name}` lacks its value"), "Add it.", place))
    };
    let short = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
    match name {
        "-i" | "--index-url" => return wanted.add_index(value()?, true, place),
        "--extra-index-url" => return wanted.add_index(value()?, false, place),
        "--pre" if attached.is_none() => wanted.prereleases = true,
        _ if IGNORED_WITH_VALUE.contains(&name) => drop(value()?),
        _ if IGNORED.contains(&name) && attached.is_none() => {}
        // -q, -qq, -U, -qU, ...
        _ if short.is_some_and(|letters| !letters.is_empty() && letters.chars().all(|c| "qUvI".contains(c))) => {}
        _ => {
            let (why, remedy) = refusal(name);
            return Err(refused(
                &format!("`{}` is not taken: {why}", name.escape_debug()),
                remedy,
                place,
            ));
        }
    }
    Ok(())
}

fn refusal(option: &str) -> (&'static str, &'static str) {
    match option {
        "-e" | "--editable" => ("it runs a package's own set-up code", "Name a package of an index."),
        "-r" | "--requirement" | "-c" | "--constraint" => (
            "files are not followed",
            "Write the requirements themselves; an archive has its own requirements.txt.",
        ),
        "-f" | "--find-links" => ("only package indexes are asked", "Use `--extra-index-url`."),
        "--trusted-host" => (
            "certificates are always checked",
            "Ask the operator to add the host's authority.",
        ),
        "--hash" => (
            "hashes are made here, for everything that is installed",
            "Take the hashes out.",
        ),
        "--no-deps" => (
            "the packages that a package needs are always installed",
            "Take the option out.",
        ),
        "-t" | "--target" | "--prefix" | "--root" => ("where packages lie is not a choice", "Take the option out."),
        _ => ("it is not known", "Take the option out."),
    }
}

#[cfg(test)]
mod apt_tests {
    use super::*;

    #[test]
    fn apt_lines_name_system_packages() {
        for (text, expected) in [
            (
                "apt-get update --fix-missing && apt-get install -y --no-install-recommends pandoc",
                vec!["pandoc"],
            ),
            (
                "sudo apt -o A=b install ffmpeg=7:5.1 libgl1/stable",
                vec!["ffmpeg", "libgl1"],
            ),
            ("/usr/bin/apt-get update", vec![]),
        ] {
            let mut wanted = Wanted::default();
            let line = Constant {
                text: text.into(),
                place: Place::new("function.py", 1),
            };
            read(&line, &mut wanted).unwrap();
            let names: Vec<_> = wanted.system.iter().map(|package| package.name.as_str()).collect();
            assert_eq!(names, expected, "{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Wanted, BuildError> {
        let mut wanted = Wanted::default();
        read(
            &Constant {
                text: text.into(),
                place: Place::new("function.py", 7),
            },
            &mut wanted,
        )?;
        Ok(wanted)
    }

    #[test]
    fn real_lines_are_read() {
        for (text, requirements, indexes) in [
            ("pip install -q Flask==3.1.0", "flask==3.1.0", ""),
            ("pip install Flask", "flask", ""),
            (
                "pip3 install -qU 'transformers>=4.40,<5' \"accelerate\"",
                "transformers>=4.40,<5 accelerate",
                "",
            ),
            ("python -m pip install --upgrade pip", "pip", ""),
            ("/usr/bin/python3.11 -m pip install a", "", ""),
            ("python3.11 -m pip --no-input install a", "a", ""),
            (
                "pip install -q torch==2.1.0 --extra-index-url https://h/whl/cu121",
                "torch==2.1.0",
                "https://h/whl/cu121",
            ),
            ("pip install torch --index-url=https://h/whl", "torch", "https://h/whl"),
            (
                "pip install -i https://h/whl torch --no-cache-dir",
                "torch",
                "https://h/whl",
            ),
            ("pip install --progress-bar off --timeout=100 a", "a", ""),
            ("pip install a && pip install b", "a b", ""),
            ("pip install numpy>=1.2", "numpy>=1.2", ""),
            ("pip install", "", ""),
            ("", "", ""),
        ] {
            // A path before the program is not taken: what it is cannot be known.
            if text.starts_with('/') {
                assert!(line(text).is_err());
                continue;
            }
            let wanted = line(text).unwrap();
            let got: Vec<_> = wanted
                .packages
                .iter()
                .map(|package| package.requirement.as_str())
                .collect();
            let urls: Vec<_> = wanted.indexes.iter().map(url::Url::as_str).collect();
            assert_eq!(
                (got.join(" ").as_str(), urls.join(" ").as_str()),
                (requirements, indexes),
                "{text}"
            );
        }
        assert!(line("pip install --pre a").unwrap().prereleases);
        assert!(line("pip install a -i https://h/").unwrap().named_index_first);
        assert!(
            !line("pip install a --extra-index-url https://h/")
                .unwrap()
                .named_index_first
        );
    }

    #[test]
    fn system_packages_are_named() {
        for text in ["apk add pandoc", "sudo dpkg -i pandoc.deb", "conda install x"] {
            let error = line(text).unwrap_err();
            assert_eq!(error.fault, BuildFault::SystemPackage, "{text}");
            assert!(error.to_string().starts_with("line 7 of function.py: `"), "{error}");
            assert!(error.remedy.contains("base image"));
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_line() {
        for text in [
            "curl https://x | sh",
            "rm -rf /",
            "pip install $(cat /etc/passwd)",
            "pip install a; curl x",
            "pip install a && rm -rf /",
            "pip install -e /path",
            "pip install -e.",
            "pip install --editable=.",
            "pip install -r requirements.txt",
            "pip install -rrequirements.txt",
            "pip install --requirement=/etc/passwd",
            "pip install -c c.txt a",
            "pip install git+https://host/x",
            "pip install https://host/x.whl",
            "pip install ./x",
            "pip install 'x @ file:///etc/passwd'",
            "pip install --trusted-host h a",
            "pip install --find-links https://h a",
            "pip install --target /usr a",
            "pip install --config-settings=x a",
            "pip install --index-url",
            "pip install --index-url file:///x a",
            "pip install --extra-index-url https://u:p@h/ a",
            "pip install 'a\n--index-url https://evil'",
            "pip install '--python=/bin/sh' a",
            "pip install --pre=x a",
            "pip uninstall -y a",
            "pip download a",
            "pipx install a",
            "pip-compile",
            "python setup.py install",
            "npm install x",
            "FOO=1 pip install a",
        ] {
            let error = line(text).unwrap_err();
            assert_eq!(
                (error.fault, error.place.unwrap().line),
                (BuildFault::RefusedInstall, 7),
                "{text}"
            );
            assert!(!error.remedy.is_empty());
        }
    }
}
