//! `config_str`: what an octopus-format file says about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{BuildError, BuildFault, Place};
use super::python::Constant;
use super::settings::PythonVersion;

/// The JSON of `config_str`. Fields that are not known here are kept as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionConfig {
    /// Memory wanted per device, for example `cuda:0` -> `10GiB`.
    #[serde(default)]
    pub device_map: BTreeMap<String, String>,
    /// The Python that the function needs; the newest that is configured when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_python_version: Option<PythonVersion>,
    /// Models that the function loads, in whatever form its author chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Value>,
    /// What it can be asked to do.
    #[serde(default)]
    pub functions: Vec<DeclaredFunction>,
    /// The rest.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One entry of `functions`: its route is `/v1/<name>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeclaredFunction {
    /// Its name, a part of the route.
    pub name: String,
    /// Display name, description, parameters and types.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Reads `config_str`.
pub(crate) fn parse(constant: &Constant) -> Result<FunctionConfig, BuildError> {
    serde_json::from_str(&constant.text).map_err(|error| {
        let message = error.to_string();
        let message = message
            .rsplit_once(" at line ")
            .map_or(message.as_str(), |(message, _)| message);
        // Line 1 of the JSON is the line on which the string begins. serde_json's line 0: no place in the text.
        let line = constant.place.line + error.line().saturating_sub(1);
        let remedy = "config_str holds JSON: device_map, required_python_version, models, functions.";
        BuildError::new(
            BuildFault::InvalidConfig,
            format!("config_str is not what it should be: {message}"),
            remedy,
        )
        .at(&Place::new(&constant.place.file, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<FunctionConfig, BuildError> {
        parse(&Constant {
            text: text.into(),
            place: Place::new("function.py", 10),
        })
    }

    #[test]
    fn a_whole_config_is_read_and_written_back_unchanged() {
        let text = r#"{"device_map": {"cuda:0": "10GiB", "cpu": "30GiB"}, "required_python_version": "cp310",
            "models": ["m"], "functions": [{"name": "hello", "display_name": "H", "parameters": {"type": "object"}}],
            "author": "x"}"#;
        let config = read(text).unwrap();
        assert_eq!(config.required_python_version, Some(PythonVersion::Cp310));
        assert_eq!(config.device_map["cuda:0"], "10GiB");
        assert_eq!(config.functions[0].name, "hello");
        let again: Value = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(read("{}").unwrap(), FunctionConfig::default());
    }

    #[test]
    fn bad_json_is_named_with_its_line() {
        for (text, line, why) in [
            ("\n{\n  \"device_map\": {,}\n}", 12, "key must be a string"),
            ("{\"required_python_version\": \"cp39\"}", 10, "unknown variant `cp39`"),
            ("{\"functions\": [{}]}", 10, "missing field `name`"),
            ("[]", 10, "invalid"),
            ("", 10, "EOF"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.fault, BuildFault::InvalidConfig);
            assert!(error.problem.starts_with("config_str "), "{error}");
            assert!(error.problem.contains(why), "{error}");
            assert_eq!(error.place.unwrap().line, line, "{text}");
        }
    }

    #[test]
    fn deep_json_is_refused() {
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&"{\"a\":".repeat(100_000)).is_err());
    }
}
