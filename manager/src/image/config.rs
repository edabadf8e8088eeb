//! Configuration and manifest of the finished image: pure functions of the base's and of the new layers.
//!
//! The configuration is edited as JSON and not through `oci-spec`'s types: those keep labels in a hash map, so that
//! one input would give many digests, and drop fields that they do not know.

use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE, IMAGE_DOCKER_LAYER_TAR_MEDIA_TYPE,
    IMAGE_LAYER_GZIP_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest,
};
use serde_json::{Map, Value, json};

use super::error::{BuildError, BuildFault};
use super::layer;
use super::settings::PythonVersion;
use super::starter::{PROGRAMS, START_PATH};
use super::wheels::SITE_PACKAGES;

/// Every image is as old as this, so that the same input is the same image.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// Runs the function as a task, for who starts the image by hand. `-u`: what it prints is in the log at once.
const COMMAND: [&str; 6] = ["python", "-I", "-u", START_PATH, "--", "/app/main.py"];
/// Nobody's: no account of any base image.
const USER: &str = "65532:65532";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The hash of all that went into the image.
const INPUT_HASH_LABEL: &str = "octopus.input-hash";

/// A layer on top of the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewLayer {
    pub(crate) digest: String,
    pub(crate) diff_id: String,
    pub(crate) size: u64,
    /// What the image's history calls it.
    pub(crate) made_by: &'static str,
}

/// The configuration, as the bytes that are pushed.
pub(crate) fn image_config(base: &Value, layers: &[NewLayer], input_hash: &str) -> Result<Vec<u8>, BuildError> {
    let mut image = base.clone();
    let fields = object(&mut image)?;
    // Docker's notes about the build of the base.
    for gone in ["container", "container_config", "docker_version", "id", "parent"] {
        fields.remove(gone);
    }
    fields.insert("created".into(), CREATED.into());
    let history = fields.entry("history").or_insert_with(|| json!([]));
    list(history)?.extend(
        layers
            .iter()
            .map(|layer| json!({"created": CREATED, "created_by": layer.made_by})),
    );
    let rootfs = object(fields.entry("rootfs").or_insert_with(|| json!({})))?;
    let diff_ids = list(rootfs.entry("diff_ids").or_insert_with(|| json!([])))?;
    diff_ids.extend(layers.iter().map(|layer| Value::from(layer.diff_id.as_str())));
    let config = fields.entry("config").or_insert_with(|| json!({}));
    if config.is_null() {
        *config = json!({});
    }
    run_config(object(config)?, input_hash)?;
    serde_json::to_vec(&image)
        .map_err(|error| BuildError::machine("the image's configuration cannot be written", error))
}

fn run_config(config: &mut Map<String, Value>, input_hash: &str) -> Result<(), BuildError> {
    config.remove("Entrypoint");
    config.insert("Cmd".into(), json!(COMMAND));
    config.insert("WorkingDir".into(), "/app".into());
    config.insert("User".into(), USER.into());
    let env = config.entry("Env").or_insert_with(|| json!([]));
    if env.is_null() {
        *env = json!([]);
    }
    environment(list(env)?);
    let labels = config.entry("Labels").or_insert_with(|| json!({}));
    if labels.is_null() {
        *labels = json!({});
    }
    object(labels)?.insert(INPUT_HASH_LABEL.into(), input_hash.into());
    Ok(())
}

/// Adds to the base's environment.
fn environment(env: &mut Vec<Value>) {
    let of_base = |env: &[Value], name: &str| {
        let found = env
            .iter()
            .filter_map(Value::as_str)
            .find_map(|pair| pair.strip_prefix(&format!("{name}="))?.into());
        found.map(str::to_owned)
    };
    let path = of_base(env, "PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let python_path = of_base(env, "PYTHONPATH").map_or_else(String::new, |path| format!(":{path}"));
    for (name, value) in [
        ("PATH", format!("{PROGRAMS}:{SITE_PACKAGES}/bin:{path}")),
        ("PYTHONPATH", format!("{SITE_PACKAGES}{python_path}")),
        // An octopus file runs its own `pip install` lines when it starts: they find everything in place, and must not
        // wait minutes for a network that is not there.
        ("PIP_NO_INDEX", "1".into()),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1".into()),
        // Else it warns of a home that cannot be written.
        ("PIP_NO_CACHE_DIR", "1".into()),
        ("PYTHONUNBUFFERED", "1".into()),
        // The root is read-only.
        ("PYTHONDONTWRITEBYTECODE", "1".into()),
    ] {
        env.retain(|pair| pair.as_str().is_none_or(|pair| !pair.starts_with(&format!("{name}="))));
        env.push(format!("{name}={value}").into());
    }
}

/// The manifest over the base's layers and the new ones.
pub(crate) fn manifest(
    base: &OciImageManifest,
    config: &[u8],
    layers: &[NewLayer],
) -> Result<OciImageManifest, BuildError> {
    let descriptor = |media_type: &str, digest: &str, size: u64| OciDescriptor {
        media_type: media_type.into(),
        digest: digest.into(),
        // An i64 holds every size that a registry takes.
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    };
    let mut all = Vec::with_capacity(base.layers.len() + layers.len());
    for layer in &base.layers {
        if layer.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
            return Err(bad_base("one of its layers lies outside its registry"));
        }
        // The same bytes under the name that an OCI manifest has for them.
        let media_type = match layer.media_type.as_str() {
            IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE => IMAGE_LAYER_GZIP_MEDIA_TYPE,
            IMAGE_DOCKER_LAYER_TAR_MEDIA_TYPE => IMAGE_LAYER_MEDIA_TYPE,
            other => other,
        };
        all.push(descriptor(
            media_type,
            &layer.digest,
            u64::try_from(layer.size).unwrap_or_default(),
        ));
    }
    all.extend(
        layers
            .iter()
            .map(|layer| descriptor(IMAGE_LAYER_GZIP_MEDIA_TYPE, &layer.digest, layer.size)),
    );
    Ok(OciImageManifest {
        schema_version: 2,
        media_type: Some(OCI_IMAGE_MEDIA_TYPE.into()),
        config: descriptor(IMAGE_CONFIG_MEDIA_TYPE, &layer::digest(config), config.len() as u64),
        layers: all,
        subject: None,
        artifact_type: None,
        annotations: None,
    })
}

/// Whether the base is what wheels are chosen for. Python's own images name their version in the environment; others
/// are believed.
pub(crate) fn check_base(base: &Value, python: PythonVersion) -> Result<(), BuildError> {
    let field = |name: &str| base.get(name).and_then(Value::as_str).unwrap_or("nothing");
    let (os, architecture) = (field("os"), field("architecture"));
    if (os, architecture) != ("linux", "amd64") {
        return Err(bad_base(&format!(
            "it is made for {os} on {architecture}, not for linux on amd64"
        )));
    }
    let env = base
        .pointer("/config/Env")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let found = env
        .filter_map(Value::as_str)
        .find_map(|pair| pair.strip_prefix("PYTHON_VERSION="));
    match found {
        Some(version) if !version.starts_with(&format!("{}.", python.dotted())) => {
            Err(bad_base(&format!("it holds Python {version}, not {}", python.dotted())))
        }
        _ => Ok(()),
    }
}

fn object(value: &mut Value) -> Result<&mut Map<String, Value>, BuildError> {
    value
        .as_object_mut()
        .ok_or_else(|| bad_base("its configuration is not what OCI says"))
}

fn list(value: &mut Value) -> Result<&mut Vec<Value>, BuildError> {
    if value.is_null() {
        *value = json!([]);
    }
    value
        .as_array_mut()
        .ok_or_else(|| bad_base("its configuration is not what OCI says"))
}

pub(crate) fn bad_base(why: &str) -> BuildError {
    let remedy = "The operator has to set another base image.";
    BuildError::new(
        BuildFault::BaseImage,
        format!("the base image cannot be used: {why}"),
        remedy,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Vec<NewLayer> {
        ["dependencies", "code"]
            .map(|made_by| NewLayer {
                digest: format!("sha256:{made_by}"),
                diff_id: format!("diff-{made_by}"),
                size: 7,
                made_by,
            })
            .into()
    }

    fn base() -> Value {
        json!({
            "architecture": "amd64", "os": "linux", "created": "2025-01-01T00:00:00Z", "container": "abc", "variant": "v1",
            "config": {
                "Env": ["PATH=/usr/local/bin:/usr/bin", "PYTHON_VERSION=3.11.2", "PYTHONPATH=/base"],
                "Entrypoint": ["/bin/echo"], "Cmd": ["python3"], "Labels": {"z": "1", "a": "2"}, "StopSignal": "SIGINT"
            },
            "history": [{"created": "2025-01-01T00:00:00Z", "created_by": "base"}],
            "rootfs": {"type": "layers", "diff_ids": ["sha256:base"]}
        })
    }

    #[test]
    fn configuration_is_the_bases_and_ours() {
        let config = image_config(&base(), &layers(), "abc123").unwrap();
        insta::assert_json_snapshot!(serde_json::from_slice::<Value>(&config).unwrap());
        assert_eq!(config, image_config(&base(), &layers(), "abc123").unwrap());
    }

    #[test]
    fn manifest_speaks_oci() {
        let base: OciImageManifest = serde_json::from_value(json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": "sha256:c", "size": 1},
            "layers": [{"mediaType": IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE, "digest": "sha256:base", "size": 5}]
        }))
        .unwrap();
        insta::assert_json_snapshot!(manifest(&base, b"{}", &layers()).unwrap());
    }

    #[test]
    fn a_base_may_have_next_to_nothing() {
        let empty =
            json!({"architecture": "amd64", "os": "linux", "config": {"Env": null, "Labels": null}, "history": null});
        assert!(image_config(&empty, &layers(), "h").is_ok());
        assert!(
            image_config(
                &json!({"architecture": "amd64", "os": "linux", "config": null}),
                &[],
                "h"
            )
            .is_ok()
        );
    }

    #[test]
    fn a_base_that_is_something_else_is_refused() {
        let python = PythonVersion::Cp311;
        assert!(check_base(&base(), python).is_ok());
        assert!(check_base(&json!({"architecture": "amd64", "os": "linux"}), python).is_ok());
        assert_eq!(
            check_base(&base(), PythonVersion::Cp312).unwrap_err().fault,
            BuildFault::BaseImage
        );
        for bad in [json!({"architecture": "arm64", "os": "linux"}), json!({}), json!([])] {
            assert_eq!(check_base(&bad, python).unwrap_err().fault, BuildFault::BaseImage);
        }
        for bad in [
            json!([]),
            json!({"config": 1}),
            json!({"rootfs": []}),
            json!({"history": 1}),
        ] {
            assert_eq!(image_config(&bad, &[], "h").unwrap_err().fault, BuildFault::BaseImage);
        }
    }
}
