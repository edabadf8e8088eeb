//! Runs `uv`: with an environment of its own, for a bounded time, its output read to the end and shown.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::BuildLog;
use super::error::{BuildError, BuildFault, mask};
use super::settings::ImageSettings;

/// What of its output is kept to explain a failure. A resolver's explanation is at most a few KiB.
const KEPT_BYTES: usize = 64 << 10;
/// Longer lines are cut: nobody reads them.
const LINE_BYTES: usize = 2_000;
/// A company's proxy is the one thing of the manager's own environment that `uv` needs.
const PASSED_ON: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// `None`: by a signal.
    pub(crate) code: Option<i32>,
    /// The end of what it printed.
    pub(crate) text: String,
}

/// Runs it in `scratch`, which is its home as well, and shows every line that it prints.
pub(crate) async fn run(
    settings: &ImageSettings,
    scratch: &Path,
    arguments: &[String],
    limit: Duration,
    log: &dyn BuildLog,
) -> Result<Ended, BuildError> {
    let mut command = Command::new(&settings.uv);
    command
        .args(arguments)
        .current_dir(scratch)
        .env_clear()
        .envs(
            PASSED_ON
                .into_iter()
                .filter_map(|name| std::env::var_os(name).map(|value| (name, value))),
        )
        // For the interpreter, where the setting is a bare name.
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", scratch)
        .env("LANG", "C.UTF-8")
        .env("NO_COLOR", "1")
        .env("UV_CACHE_DIR", settings.cache_dir.join("uv"))
        .env("UV_NO_CONFIG", "1")
        .env("UV_NO_PROGRESS", "1")
        .env("UV_PYTHON_DOWNLOADS", "never")
        .env("UV_KEYRING_PROVIDER", "disabled")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A Ctrl-C is for the manager, which ends its builds in its own order.
        .process_group(0)
        .kill_on_drop(true);
    if let Some(bundle) = &settings.ca_bundle {
        command.env("SSL_CERT_FILE", bundle);
    }
    if let Some(index) = &settings.index_url {
        // Not an argument: those are shown to everybody on the machine.
        command.env("UV_DEFAULT_INDEX", index.as_str());
    }
    let mut child = command
        .spawn()
        .map_err(|error| BuildError::machine("uv cannot be started", error))?;
    let output = child.stderr.take();
    let ended = async {
        let text = match output {
            Some(output) => show(output, log).await,
            None => String::new(),
        };
        let status = child
            .wait()
            .await
            .map_err(|error| BuildError::machine("uv was lost", error))?;
        Ok(Ended {
            code: status.code(),
            text,
        })
    };
    tokio::time::timeout(limit, ended).await.unwrap_or_else(|_| {
        let problem = format!("the packages could not be had within {} minutes", limit.as_secs() / 60);
        Err(BuildError::new(
            BuildFault::Unreachable,
            problem,
            "Check the way to the package index; it is tried again.",
        ))
    })
}

/// Shows each line and returns the end of all.
async fn show(mut output: impl AsyncRead + Unpin, log: &dyn BuildLog) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut line: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 8 << 10];
    loop {
        let read = output.read(&mut buffer).await.unwrap_or(0);
        for byte in &buffer[..read] {
            if *byte == b'\n' {
                log.line(&mask(&String::from_utf8_lossy(&line)));
                line.clear();
            } else if line.len() < LINE_BYTES {
                line.push(*byte);
            }
        }
        kept.extend_from_slice(&buffer[..read]);
        if kept.len() > KEPT_BYTES {
            kept.drain(..kept.len() - KEPT_BYTES);
        }
        if read == 0 {
            break;
        }
    }
    if !line.is_empty() {
        log.line(&mask(&String::from_utf8_lossy(&line)));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl BuildLog for Lines {
        fn line(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }

    #[tokio::test]
    async fn output_is_shown_masked_and_bounded() {
        let mut output = b"one\nhttps://u:secret@h/\n".to_vec();
        output.extend(vec![b'x'; 200_000]);
        let lines = Lines::default();
        let text = show(output.as_slice(), &lines).await;
        let lines = lines.0.into_inner().unwrap();
        assert_eq!(lines[..2], ["one", "https://***@h/"]);
        assert_eq!(lines[2].len(), LINE_BYTES);
        assert_eq!(text.len(), KEPT_BYTES);
    }
}
