//! What every image holds besides the function: the container's first process, and what stands before `apt-get`.

use super::layer::{Content, LayerFile};

/// The container's first process.
const START: &str = include_str!("start.py");
/// Answers a function's own `apt-get` lines.
const APT_GET: &str = include_str!("apt_get.py");

/// Where the first process is.
pub const START_PATH: &str = "/opt/octopus/start.py";
/// Folder that comes first in the image's `PATH`.
pub(crate) const PROGRAMS: &str = "/opt/octopus/bin";

/// The files, by their path in the layer.
pub(crate) fn files() -> impl Iterator<Item = (String, LayerFile)> {
    let file = |path: &str, text: &str, executable| {
        let content = Content::Bytes(text.into());
        (
            path.trim_start_matches('/').to_owned(),
            LayerFile { content, executable },
        )
    };
    [
        file(START_PATH, START, false),
        file(&format!("{PROGRAMS}/apt-get"), APT_GET, true),
        file(&format!("{PROGRAMS}/apt"), APT_GET, true),
    ]
    .into_iter()
}

/// All of it: a part of an image's input.
pub(crate) fn text() -> String {
    [START, APT_GET].concat()
}

#[cfg(test)]
mod tests;
