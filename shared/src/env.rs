//! Environment variables: plain values, which everyone may read, and references to secrets, which nobody here can.

use serde::{Deserialize, Serialize};

use crate::error::Checker;

const MOST: usize = 200;
const LONGEST: usize = 32 << 10;

/// An environment variable: either a plain `value` or `from_secret`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value, shown to everyone who may read the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// A key of a Kubernetes Secret that an operator made in the function namespace. It is only named here: neither the API
    /// nor the manager can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_secret: Option<SecretKey>,
}

/// A key of a Kubernetes Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretKey {
    /// The Secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
}

impl EnvVar {
    /// A variable with a plain value.
    pub fn plain(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: Some(value.into()),
            from_secret: None,
        }
    }

    /// A variable whose value is a key of a Secret.
    pub fn secret(name: impl Into<String>, secret: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: None,
            from_secret: Some(SecretKey {
                name: secret.into(),
                key: key.into(),
            }),
        }
    }
}

pub(crate) fn check_env(checker: &mut Checker, path: &str, env: &[EnvVar]) {
    checker.check(
        env.len() <= MOST,
        path,
        format!("{} variables are too many", env.len()),
        "send at most 200",
    );
    for (index, variable) in env.iter().take(MOST).enumerate() {
        let path = format!("{path}[{index}]");
        let shown: String = variable.name.chars().take(60).collect();
        checker.check(
            is_env_name(&variable.name),
            format!("{path}.name"),
            format!("`{}` is not the name of an environment variable", shown.escape_debug()),
            "use letters, digits and underscores, not beginning with a digit",
        );
        match (&variable.value, &variable.from_secret) {
            (Some(value), None) => check_value(checker, &path, &variable.name, value),
            (None, Some(key)) => check_key(checker, &path, key),
            _ => checker.check(
                false,
                path,
                "it needs either `value` or `from_secret`",
                "send one of the two",
            ),
        }
    }
}

fn check_value(checker: &mut Checker, path: &str, name: &str, value: &str) {
    checker.check(
        value.len() <= LONGEST && !value.contains('\0'),
        format!("{path}.value"),
        "it is longer than 32 KiB or holds a NUL",
        "pass large values in a file of the source",
    );
    // The value itself must not appear in the refusal.
    checker.check(
        !looks_secret(name, value),
        format!("{path}.value"),
        "it looks like a credential, and plain values are shown to everyone who may read",
        "put it into a Kubernetes Secret of the function namespace and send `from_secret: {name, key}` instead of `value`",
    );
}

fn check_key(checker: &mut Checker, path: &str, key: &SecretKey) {
    checker.check(
        is_object_name(&key.name),
        format!("{path}.from_secret.name"),
        "Kubernetes has no Secret of such a name",
        "use lower-case letters, digits, hyphens and dots, at most 253",
    );
    checker.check(
        !key.key.is_empty()
            && key.key.len() <= 253
            && key
                .key
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c)),
        format!("{path}.from_secret.key"),
        "a Secret has no such key",
        "use letters, digits, hyphens, underscores and dots, at most 253",
    );
}

fn is_env_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

/// A name that Kubernetes takes for a Secret or a PersistentVolumeClaim.
pub(crate) fn is_object_name(name: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|part| {
            part.bytes().next().is_some_and(edge)
                && part.bytes().last().is_some_and(edge)
                && part.bytes().all(|c| edge(c) || c == b'-')
        })
}

/// How the keys of well-known services begin.
const PREFIXES: [&str; 16] = [
    "sk-",
    "hf_",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "AKIA",
    "ASIA",
    "AIza",
    "ya29.",
    "npm_",
    "pypi-",
    "eyJhbGciOi",
];
/// Parts of names that only credentials have.
const NAMES: [&str; 9] = [
    "PASSWORD",
    "PASSWD",
    "SECRET",
    "TOKEN",
    "API_KEY",
    "APIKEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "CREDENTIALS",
];
/// What such a name may end with when its value is only about a credential.
const ABOUT: [&str; 8] = [
    "_FILE", "_PATH", "_URL", "_NAME", "_LIMIT", "_COUNT", "_TTL", "_SECONDS",
];

/// Whether a plain value is likely to be a credential: by a well-known beginning, a URL with a password, a key in PEM, or
/// a name that says so with a value that is more than a switch or a number.
fn looks_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let told = NAMES.iter().any(|part| name.contains(part))
        && !ABOUT.iter().any(|end| name.ends_with(end))
        && !name.contains("MAX_TOKEN")
        && !name.contains("TOKENIZER");
    let is_plain = value.len() < 6
        || value.parse::<f64>().is_ok()
        || matches!(
            value.to_ascii_lowercase().as_str(),
            "false" | "none" | "null" | "disabled"
        );
    let known = PREFIXES
        .iter()
        .any(|prefix| value.strip_prefix(prefix).is_some_and(|rest| rest.len() >= 12));
    let with_password = value.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .and_then(|(user, _)| user.split_once(':'))
            .is_some_and(|(_, password)| !password.is_empty())
    });
    known || with_password || value.contains("PRIVATE KEY-----") || (told && !is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(env: &[EnvVar]) -> Vec<String> {
        let mut checker = Checker::default();
        check_env(&mut checker, "env", env);
        let refused = checker.finish().err().unwrap_or_default();
        refused.into_iter().map(|invalid| invalid.field).collect()
    }

    #[test]
    fn names_and_values_are_checked_by_position() {
        let env = [EnvVar::plain("GOOD", ""), EnvVar::plain("1BAD", "a\0")];
        assert_eq!(refused(&env), ["env[1].name", "env[1].value"]);
    }

    #[test]
    fn a_variable_has_one_source() {
        let both = EnvVar {
            value: Some(String::new()),
            ..EnvVar::secret("A", "keys", "a")
        };
        let neither = EnvVar {
            name: "A".into(),
            ..EnvVar::default()
        };
        assert_eq!(refused(&[both, neither]), ["env[0]", "env[1]"]);
        assert_eq!(refused(&[EnvVar::secret("A", "keys", "a.b_c-d")]), Vec::<String>::new());
        assert_eq!(
            refused(&[EnvVar::secret("A", "../keys", "a/b")]),
            ["env[0].from_secret.name", "env[0].from_secret.key"]
        );
    }

    #[test]
    fn what_looks_like_a_credential_is_told_from_what_does_not() {
        for (name, value) in [
            ("OPENAI_API_KEY", "whatever-it-is"),
            ("DB_PASSWORD", "correct horse"),
            ("X", "sk-abcdefghijklmnop"),
            ("X", "hf_abcdefghijklmnopq"),
            ("DATABASE", "postgres://user:pw@host/db"),
            ("X", "-----BEGIN RSA PRIVATE KEY-----\nabc"),
        ] {
            assert!(looks_secret(name, value), "{name}");
        }
        for (name, value) in [
            ("MAX_TOKENS", "2048000"),
            ("TOKENIZERS_PARALLELISM", "false"),
            ("TOKENIZER_NAME", "bert-base"),
            ("PASSWORD_FILE", "/run/secrets/password"),
            ("TOKEN_URL", "https://host/token"),
            ("USE_SECRETS", "false"),
            ("SITE", "https://host/path"),
            ("MODE", "sk-"),
        ] {
            assert!(!looks_secret(name, value), "{name}");
        }
    }

    #[test]
    fn the_refusal_does_not_repeat_the_value() {
        let mut checker = Checker::default();
        check_env(&mut checker, "env", &[EnvVar::plain("API_KEY", "hunter2-hunter2")]);
        let text = format!("{:?}", checker.finish().unwrap_err());
        assert!(!text.contains("hunter2"), "{text}");
    }
}
