//! JSON bodies whose errors name the field.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use octopus_shared::error::Invalid;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use super::body::{MAX_BODY_BYTES, media_type, read_body};
use crate::error::{Kind, Problem};

/// A JSON object. An empty body counts as `{}`.
#[derive(Debug)]
pub(crate) struct Document {
    /// The object.
    pub(crate) value: Value,
    /// The body as it was sent.
    pub(crate) bytes: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for Document {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let kind = media_type(request.headers());
        let bytes = read_body(request.into_body(), MAX_BODY_BYTES).await?;
        if bytes.is_empty() {
            return Ok(Self {
                value: Value::Object(serde_json::Map::new()),
                bytes,
            });
        }
        if kind != "application/json" {
            return Err(unsupported(&kind, "application/json"));
        }
        Ok(Self {
            value: parse(&bytes, "")?,
            bytes,
        })
    }
}

pub(crate) fn unsupported(kind: &str, wanted: &str) -> Problem {
    let shown: String = kind.chars().take(60).collect();
    Problem::new(Kind::UNSUPPORTED_MEDIA_TYPE, format!("`{shown}` is not taken here"))
        .remedy(format!("send Content-Type: {wanted}"))
}

/// Reads a JSON object. `prefix` is put before the names of refused fields.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], prefix: &str) -> Result<T, Problem> {
    // serde would take a list for a struct, field by field.
    if bytes
        .trim_ascii_start()
        .first()
        .is_some_and(|first| matches!(first, b'[' | b'"' | b'0'..=b'9' | b'-' | b't' | b'f' | b'n'))
    {
        let field = if prefix.is_empty() { "body" } else { prefix };
        return Err(Problem::invalid(vec![Invalid::new(
            field,
            "it is no JSON object",
            "send {...}",
        )]));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        // A null where a word belongs is a syntax error to serde_json.
        let is_json = error.inner().is_data() || serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
        refuse(&error, prefix, is_json)
    })?;
    match reader.end() {
        Ok(()) => Ok(read),
        Err(error) => Err(malformed(prefix, &error)),
    }
}

/// Reads a part of JSON that was read before.
pub(crate) fn parse_value<T: DeserializeOwned>(value: Value, prefix: &str) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| refuse(&error, prefix, true))
}

fn refuse(error: &serde_path_to_error::Error<serde_json::Error>, prefix: &str, is_json: bool) -> Problem {
    if is_json {
        let problem = error.inner().to_string();
        let field = field(prefix, &error.path().to_string(), &problem);
        return Problem::invalid(vec![Invalid::new(
            shorten(&field),
            shorten(&problem),
            "see /docs for the fields and their types",
        )]);
    }
    malformed(prefix, error.inner())
}

/// serde repeats what it was given, however long; its own words stand before and behind that.
fn shorten(text: &str) -> String {
    const FIRST: usize = 60;
    /// As long as the list of the fields that a function has.
    const LAST: usize = 240;
    let letters = text.chars().count();
    if letters <= FIRST + LAST {
        return text.to_owned();
    }
    let (first, last) = (text.chars().take(FIRST), text.chars().skip(letters - LAST));
    first.chain("...".chars()).chain(last).collect()
}

fn malformed(prefix: &str, error: &serde_json::Error) -> Problem {
    let field = if prefix.is_empty() { "body" } else { prefix };
    Problem::malformed(field, format!("it is not JSON: {error}"), "send valid JSON in UTF-8")
}

/// The field's path. serde names a missing or unknown one in its words only.
fn field(prefix: &str, path: &str, problem: &str) -> String {
    let path = if path == "." { "" } else { path };
    let named = ["missing field `", "unknown field `"]
        .into_iter()
        .find_map(|words| problem.strip_prefix(words)?.split('`').next())
        .filter(|name| path.rsplit('.').next() != Some(name));
    let parts = [prefix, path, named.unwrap_or_default()];
    let joined = parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(".");
    if joined.is_empty() { "body".to_owned() } else { joined }
}

#[cfg(test)]
mod tests {
    use octopus_shared::function::FunctionSpec;
    use octopus_shared::process::ProcessSpec;

    use super::*;

    fn fields<T: DeserializeOwned + std::fmt::Debug>(text: &str, prefix: &str) -> Vec<String> {
        let problem = parse::<T>(text.as_bytes(), prefix).unwrap_err();
        problem.refused().iter().map(|error| error.field.clone()).collect()
    }

    #[test]
    fn errors_name_the_field() {
        assert_eq!(fields::<FunctionSpec>(r#"{"port":"x"}"#, "spec"), ["spec.port"]);
        assert_eq!(fields::<FunctionSpec>(r#"{"prot":1}"#, "spec"), ["spec.prot"]);
        assert_eq!(fields::<FunctionSpec>(r#"{"expose":null}"#, "spec"), ["spec.expose"]);
        assert_eq!(
            fields::<FunctionSpec>(r#"{"resources":{"gpu":1}}"#, ""),
            ["resources.gpu"]
        );
        assert_eq!(fields::<ProcessSpec>(r#"{}"#, ""), ["kind"]);
        assert_eq!(
            fields::<ProcessSpec>(r#"{"kind":"task","env":[{"name":"A","value":"1"},{"value":"B"}]}"#, ""),
            ["env[1].name"]
        );
        assert_eq!(fields::<ProcessSpec>(r#"{"kind":"job"}"#, ""), ["kind"]);
        assert_eq!(fields::<ProcessSpec>("{", ""), ["body"]);
        assert_eq!(fields::<FunctionSpec>("{} x", "spec"), ["spec"]);
        assert_eq!(fields::<FunctionSpec>("7", ""), ["body"]);
    }
}
