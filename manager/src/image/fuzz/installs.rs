use proptest::prelude::*;
use proptest::sample::select;

use crate::image::error::{BuildError, BuildFault, Place};
use crate::image::python::Constant;
use crate::image::wanted::Wanted;
use crate::image::{install_line, requirements_txt};

/// A requirement as people write it, with what surrounds the grammar: extras, versions, markers, URLs, hashes.
fn requirement() -> impl Strategy<Value = String> {
    let name = prop_oneof![4 => "[A-Za-z][A-Za-z0-9._-]{0,8}", 1 => ".{1,4}"];
    let extras = prop_oneof![3 => Just(String::new()), 1 => "\\[[a-z, ]{0,6}\\]?"];
    let versions = prop_oneof![
        1 => Just(String::new()),
        3 => "(==|>=|<=|~=|!=|<|>|===)[ ]?[0-9]{1,3}(\\.[0-9*]{1,4}){0,3}((a|rc|\\.post|\\.dev|\\+l)[0-9]{1,20})?(,<[0-9]{1,9})?",
        1 => "[=<>!~]{1,3}.{0,4}",
    ];
    let rest = prop_oneof![
        4 => Just(String::new()),
        2 => (select(vec!["python_version", "sys_platform", "extra", "platform_release", "os_name"]),
              select(vec!["<", "==", "not in", "~=", "in"]), "['\"]?[a-z0-9.]{0,6}['\"]?",
              select(vec!["", " and os_name == 'x'", " or (", ")"]))
            .prop_map(|(left, by, right, more)| format!(" ; {left} {by} {right}{more}")),
        1 => select(vec![" @ https://u:secret@h/x.whl", " @ file:///etc/passwd", " --hash=sha256:00", "\n-r /etc/passwd", "\0"])
            .prop_map(str::to_owned),
    ];
    (name, extras, versions, rest).prop_map(|(name, extras, versions, rest)| name + &extras + &versions + &rest)
}

fn option() -> impl Strategy<Value = String> {
    select(vec![
        "-q",
        "-U",
        "--upgrade",
        "--pre",
        "-i",
        "--index-url",
        "--index-url=https://h/simple",
        "--extra-index-url https://h/a",
        "--extra-index-url=https://u:secret@h/",
        "--index-url file:///etc",
        "-r",
        "-rother.txt",
        "-e .",
        "--target=/usr",
        "--",
        "-",
        "--no-cache-dir",
        "--hash=sha256:00",
        "-c c.txt",
        "--find-links /x",
    ])
    .prop_map(str::to_owned)
}

fn arguments() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop_oneof![3 => requirement(), 2 => option()], 0..6)
}

fn line() -> impl Strategy<Value = String> {
    let program = select(vec![
        "pip install",
        "pip3.12 install",
        "python -m pip install",
        "python3 -m pip --quiet install",
        "uv pip install",
        "apt-get install -y",
        "apt update",
        "pip",
        "pip uninstall",
        "sudo pip install",
        "sh -c",
        "",
    ]);
    let quote = select(vec!["", "", "'", "\""]);
    let command = (program, arguments(), quote).prop_map(|(program, arguments, quote)| {
        let words = arguments.iter().map(|word| format!("{quote}{word}{quote}"));
        words.fold(program.to_owned(), |line, word| line + " " + &word)
    });
    let between = select(vec![" && ", ";", "\n", " | ", " & ", " \\\n"]);
    (prop::collection::vec(command, 1..4), between).prop_map(|(commands, between)| commands.join(between))
}

fn read_line(text: &str) -> Result<Wanted, BuildError> {
    let (text, place) = (text.to_owned(), Place::new("function.py", 7));
    let mut wanted = Wanted::default();
    install_line::read(&Constant { text, place }, &mut wanted).map(|()| wanted)
}

fn read_file(text: &str) -> Result<Wanted, BuildError> {
    let mut wanted = Wanted::default();
    requirements_txt::read(text, &mut wanted).map(|()| wanted)
}

/// What the resolver is given is one plain requirement a line, without options, URLs and credentials; what is refused is
/// refused in bounded words that hold no credentials either.
fn check(read: Result<Wanted, BuildError>, lines: usize) -> Result<(), TestCaseError> {
    match read {
        Ok(wanted) => {
            let given = wanted.to_requirements_in();
            prop_assert!(given.lines().count() <= wanted.packages.len());
            for line in given.lines() {
                prop_assert!(
                    line.starts_with(|first: char| first.is_ascii_alphanumeric()),
                    "{line:?}"
                );
                prop_assert!(
                    !line.contains(['\0', '@', '\r', '\\']) && !line.contains("--"),
                    "{line:?}"
                );
            }
            for index in &wanted.indexes {
                prop_assert!(
                    matches!(index.scheme(), "https" | "http") && index.username().is_empty(),
                    "{index}"
                );
            }
        }
        Err(error) => {
            prop_assert!(
                matches!(error.fault, BuildFault::RefusedInstall | BuildFault::SystemPackage),
                "{error}"
            );
            prop_assert!(!error.remedy.is_empty() && error.problem.len() < 2_000, "{error}");
            prop_assert!(!error.problem.contains("secret"), "{error}");
            prop_assert!(error.place.is_some_and(|place| (1..=lines).contains(&place.line)));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn an_install_line_becomes_plain_requirements_or_is_refused(line in line()) {
        check(read_line(&line), 7)?;
    }

    #[test]
    fn a_requirements_file_becomes_plain_requirements_or_is_refused(
        lines in prop::collection::vec(prop_oneof![3 => requirement(), 1 => option(), 1 => "[ \t]*(#.{0,5})?\\\\?"], 0..8),
        end in select(vec!["\n", "\r\n", "\\\n"]),
    ) {
        let text = lines.join(end);
        check(read_file(&text), text.lines().count().max(1))?;
    }

    #[test]
    fn a_plain_requirement_is_wanted_as_it_is_written(
        name in "[a-z]{1,8}", version in "[0-9]{1,3}(\\.[0-9]{1,3}){0,2}", quote in select(vec!["", "'", "\""]),
    ) {
        let requirement = format!("{name}=={version}");
        for read in [read_line(&format!("pip install -q {quote}{requirement}{quote}")), read_file(&requirement)] {
            let wanted = read.unwrap();
            prop_assert_eq!(wanted.packages.len(), 1);
            prop_assert_eq!(&wanted.packages[0].name, &name);
            let prefix = format!("{name}==");
            prop_assert!(wanted.to_requirements_in().starts_with(&prefix));
        }
    }
}
