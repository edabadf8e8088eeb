//! What `uv` says when it fails, as an error that names the user's own line.

use super::away::{Away, Part};
use super::error::{BuildError, BuildFault};
use super::settings::PythonVersion;
use super::uv::Ended;
use super::wanted::Wanted;

/// What a network that fails looks like in its words.
const NETWORK: [&str; 7] = [
    "error sending request",
    "Request failed after",
    "HTTP status server error",
    "429 Too Many Requests",
    "operation timed out",
    "connection closed",
    "error decoding response body",
];

/// The longest explanation that is passed on.
const EXPLANATION: usize = 1_000;

/// The error behind a run that ended badly.
pub(crate) fn explain(ended: &Ended, wanted: &Wanted, python: PythonVersion) -> BuildError {
    let text = &ended.text;
    let said = condense(text);
    let Some(code) = ended.code else {
        return BuildError::machine("uv was killed", "memory may have run out");
    };
    // 1 is its word for "there is no solution"; everything else is 2.
    if code != 1 {
        return if NETWORK.iter().any(|sign| text.contains(sign)) {
            let error = BuildError::new(
                BuildFault::Unreachable,
                format!("the package index cannot be reached: {said}"),
                "Check the manager's way to the package index; it is tried again.",
            );
            // One that the function names may never have been there: for that nobody waits for ever.
            let own = |url: &url::Url| url.host_str().is_some_and(|host| text.contains(host));
            if wanted.indexes.iter().any(own) {
                error
            } else {
                error.for_want_of(Away::new(Part::Index))
            }
        } else if text.contains("HTTP status client error") {
            let remedy = "Check the address of the index and whether it may be read without a password.";
            BuildError::new(
                BuildFault::Refused,
                format!("the package index says no: {said}"),
                remedy,
            )
        } else {
            BuildError::machine("uv failed", said)
        };
    }
    let named = |name: &str| wanted.packages.iter().find(|package| package.name == name);
    let dotted = python.dotted();
    let built = after(text, "Wheels are required for `");
    let blamed = built
        .as_deref()
        .and_then(named)
        .or_else(|| names(&said).find_map(|name| named(&name)));
    let subject = match (&built, blamed) {
        (Some(name), Some(package)) if package.name == *name => package.requirement.clone(),
        (Some(name), _) => format!("{name} (needed by another package)"),
        (None, Some(package)) => package.requirement.clone(),
        (None, None) => "a package".into(),
    };
    let (fault, problem, remedy) = if built.is_some() {
        (
            BuildFault::SourceDistribution,
            format!(
                "`{subject}` exists only as a source distribution, and building it would run its set-up code: {said}"
            ),
            format!(
                "Choose a version or a package with wheels for Python {dotted}, or ask the operator to let it be built (OCTOPUS_BUILD_NAMESPACE)."
            ),
        )
    } else if said.contains("no wheels with a matching") {
        (
            BuildFault::SourceDistribution,
            format!("`{subject}` has no wheel for Python {dotted} on x86-64 Linux: {said}"),
            "Choose another version of it, or another required_python_version.".into(),
        )
    } else if said.contains("was not found in the package registry") {
        (
            BuildFault::UnknownPackage,
            format!("`{subject}` is not known to the package index: {said}"),
            "Check the spelling, or name the index that has it by `--extra-index-url`.".into(),
        )
    } else if said.contains("there is no version of") {
        (
            BuildFault::UnknownPackage,
            format!("`{subject}`: {said}"),
            "Ask for a version that exists.".into(),
        )
    } else {
        (
            BuildFault::Unsatisfiable,
            format!("the requirements cannot be met together: {said}"),
            "Loosen one of the versions that the message names.".into(),
        )
    };
    let mut error = BuildError::new(fault, problem, remedy);
    if fault == BuildFault::SourceDistribution {
        error.source_only = match (&built, blamed) {
            (Some(name), Some(package)) if package.name != *name => exact(&said, name),
            (_, Some(package)) => Some(bare(&package.requirement)),
            (Some(name), None) => exact(&said, name),
            (None, None) => None,
        };
    }
    match blamed {
        Some(package) => error.at(&package.place),
        None => error,
    }
}

/// A requirement without extras and markers: those decide about other packages, and whether it is wanted at all.
fn bare(requirement: &str) -> String {
    let requirement = requirement.split(';').next().unwrap_or_default().trim();
    match (requirement.find('['), requirement.find(']')) {
        (Some(start), Some(end)) if start < end => {
            format!("{}{}", &requirement[..start], requirement[end + 1..].trim_start())
        }
        _ => requirement.to_owned(),
    }
}

/// A package that another one needs: at the version that the resolver speaks of, else any.
fn exact(said: &str, name: &str) -> Option<String> {
    let pinned = said.split_whitespace().find(|word| {
        word.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix("=="))
            .is_some_and(|version| {
                version
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || b".+!".contains(&c))
            })
    });
    Some(pinned.unwrap_or(name).to_owned())
}

/// One paragraph of what it said, without its labels.
fn condense(text: &str) -> String {
    let from = text.find("error: ").map_or(text, |start| &text[start..]);
    let lines = from
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("hint:"));
    let mut said = String::new();
    for line in lines {
        let (separator, line) = match line.strip_prefix("cause: ") {
            Some(cause) => (": ", cause),
            None => (" ", line.trim_start_matches("error: ")),
        };
        if line.is_empty() || line == "No solution found when resolving dependencies" {
            continue;
        }
        if !said.is_empty() {
            said.push_str(separator);
        }
        said.push_str(line);
    }
    if let Some((end, _)) = said.char_indices().nth(EXPLANATION) {
        said.truncate(end);
        said.push('…');
    }
    said
}

fn after(text: &str, sign: &str) -> Option<String> {
    let start = text.find(sign)? + sign.len();
    let end = text[start..].find('`')?;
    Some(text[start..start + end].to_owned())
}

/// Whatever might be a package's name, in order.
fn names(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split_whitespace().map(|word| {
        word.chars()
            .take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::super::error::Place;
    use super::*;

    fn error(code: Option<i32>, text: &str) -> BuildError {
        let mut wanted = Wanted::default();
        for (line, requirement) in [
            (3, "flask==99.0"),
            (4, "fasttext==0.9.3"),
            (5, "werkzeug<2"),
            (6, "torch==1.0.0"),
        ] {
            wanted.add(requirement, &Place::new("function.py", line)).unwrap();
        }
        explain(
            &Ended {
                code,
                text: text.into(),
            },
            &wanted,
            PythonVersion::Cp311,
        )
    }

    #[test]
    fn what_uv_says_becomes_a_line_and_a_remedy() {
        let none = "error: No solution found when resolving dependencies\n  cause: Because ";
        for (text, fault, line, words) in [
            (
                "fasttext==0.9.3 has no usable wheels and you require fasttext==0.9.3, we can conclude that your\n  \
                 requirements are unsatisfiable.\n\nhint: Wheels are required for `fasttext` because building",
                BuildFault::SourceDistribution,
                Some(4),
                "`fasttext==0.9.3` exists only as a source distribution",
            ),
            (
                "other==1 depends on inner and inner has no usable wheels\n\nhint: Wheels are required for `inner` because",
                BuildFault::SourceDistribution,
                None,
                "`inner (needed by another package)` exists only",
            ),
            (
                "torch==1.0.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) and you require torch==1.0.0",
                BuildFault::SourceDistribution,
                Some(6),
                "`torch==1.0.0` has no wheel for Python 3.11",
            ),
            (
                "flask was not found in the package registry and you require flask==99.0",
                BuildFault::UnknownPackage,
                Some(3),
                "`flask==99.0` is not known",
            ),
            (
                "there is no version of flask==99.0 and you require",
                BuildFault::UnknownPackage,
                Some(3),
                "no version of",
            ),
            (
                "x depends on werkzeug>=3.1 and you require werkzeug<2",
                BuildFault::Unsatisfiable,
                Some(5),
                "together",
            ),
        ] {
            let error = error(Some(1), &format!("{none}{text}"));
            assert_eq!(
                (error.fault, error.place.as_ref().map(|place| place.line)),
                (fault, line),
                "{error}"
            );
            assert!(error.problem.contains(words), "{error}");
            assert!(!error.problem.contains("hint") && !error.problem.contains('\n') && !error.is_retryable());
        }
    }

    #[test]
    fn a_network_that_fails_is_tried_again() {
        let refused = "error: Request failed after 3 retries in 8.8s\n  cause: Failed to fetch: `https://u:secret@h/simple/flask/`";
        let error_ = error(Some(2), refused);
        assert_eq!(error_.fault, BuildFault::Unreachable);
        assert!(error_.is_retryable() && !error_.problem.contains("secret"), "{error_}");
        assert!(error_.away.is_some_and(|away| away.part == Part::Index));
        assert!(
            !error(
                Some(2),
                "error: HTTP status client error (403 Forbidden) for url (https://h/)"
            )
            .is_retryable()
        );
        assert_eq!(error(Some(2), "error: unexpected argument").fault, BuildFault::Machine);
        assert_eq!(error(None, "").fault, BuildFault::Machine);
    }

    #[test]
    fn an_index_of_the_functions_own_is_not_waited_for_without_end() {
        let mut wanted = Wanted::default();
        wanted.indexes.push("https://own.example/simple".parse().unwrap());
        for (host, waited_for) in [("own.example", false), ("pypi.org", true)] {
            let text =
                format!("error: Request failed after 3 retries\n  cause: Failed to fetch: `https://{host}/simple/x/`");
            let error = explain(&Ended { code: Some(2), text }, &wanted, PythonVersion::Cp311);
            assert_eq!(
                (error.is_retryable(), error.away.is_some()),
                (true, waited_for),
                "{host}"
            );
        }
    }
}
