//! Settings with wrong types, odd values and unknown fields: each answer names what it refuses, in bounded words.

use octopus_shared::error::Invalid;
use octopus_shared::function::FunctionSpec;
use octopus_shared::process::ProcessSpec;
use proptest::prelude::*;
use proptest::sample::select;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::json::parse;

/// In letters. A longer refusal would send back what was sent.
const LONGEST: usize = 700;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec![
            "",
            "default",
            "64Mi",
            "1e400",
            "-1",
            "0.5",
            "99999999999999999999Gi",
            "/models",
            "/app/..",
            "a\0b",
            "cluster_ip",
            "task",
            "service",
            "10.0.0.0/8",
            "::/0",
            "\u{202e}",
            "sk-0123456789abcdef0123456789abcdef",
            "a.b-c",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
        (any::<char>(), 1_usize..5_000).prop_map(|(letter, times)| letter.to_string().repeat(times)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        2 => select(vec![0_i64, -1, 1, 80, 1024, 65_535, 65_536, i64::MAX, i64::MIN]).prop_map(Value::from),
        1 => Just(json!(u64::MAX)),
        1 => any::<f64>().prop_map(|number| json!(number)),
        3 => text().prop_map(Value::from),
    ];
    plain.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            object(inner.boxed()),
        ]
    })
}

/// Mostly fields that exist somewhere in the settings.
fn object(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        9 => select(vec![
            "cluster", "port", "env", "resources", "start_seconds", "stop_grace_seconds", "expose", "allow_from", "egress",
            "calls_functions", "volumes", "pull_secrets", "claim", "path", "read_only", "name", "value", "from_secret", "key",
            "kind", "args", "timeout_seconds", "retries", "cpu", "cpu_request", "memory", "ephemeral_storage", "gpus",
            "shared_memory", "cidr", "ports", "namespace", "functions",
        ]).prop_map(str::to_owned),
        1 => text(),
    ];
    prop::collection::vec((name, values), 0..4)
        .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()))
}

fn check_words(errors: &[Invalid], prefix: &str) -> Result<(), TestCaseError> {
    prop_assert!(!errors.is_empty());
    for error in errors {
        prop_assert!(error.field.starts_with(prefix) && !error.field.is_empty(), "{error}");
        prop_assert!(!error.problem.is_empty() && !error.remedy.is_empty(), "{error}");
        prop_assert!(
            error.field.chars().count() + error.problem.chars().count() <= LONGEST,
            "{} bytes",
            error.to_string().len()
        );
    }
    Ok(())
}

fn check<T: DeserializeOwned>(
    sent: &[u8],
    validate: impl Fn(&T) -> Result<(), Vec<Invalid>>,
    prefix: &str,
) -> Result<(), TestCaseError> {
    match parse::<T>(sent, prefix) {
        Ok(spec) => validate(&spec).or_else(|errors| check_words(&errors, prefix)),
        Err(problem) => check_words(problem.refused(), prefix),
    }
}

proptest! {
    #[test]
    fn odd_settings_are_taken_or_refused_by_field(sent in object(value())) {
        let sent = sent.to_string();
        check(sent.as_bytes(), FunctionSpec::validate, "spec")?;
        check(sent.as_bytes(), ProcessSpec::validate, "")?;
    }

    #[test]
    fn one_odd_field_is_the_one_that_is_refused(
        field in select(vec!["cluster", "port", "env", "resources", "start_seconds", "expose", "volumes", "pull_secrets"]),
        value in value(),
    ) {
        if let Err(problem) = parse::<FunctionSpec>(json!({ field: value }).to_string().as_bytes(), "spec") {
            check_words(problem.refused(), &format!("spec.{field}"))?;
        }
    }

    #[test]
    fn broken_json_is_refused(sent in object(value()), cut in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut sent = sent.to_string().into_bytes();
        let at = cut.index(sent.len());
        check(&sent[..at], FunctionSpec::validate, "spec")?;
        sent[at] = with;
        check(&sent, ProcessSpec::validate, "")?;
    }
}
