//! Following a log by server-sent events.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::sse::Event;
use crate::stage::Stage;

/// One printed line.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Line {
    pub(super) cursor: String,
    line: Option<String>,
}

impl Line {
    /// The line; empty when it is not text.
    pub(super) fn text(&self) -> &str {
        self.line.as_deref().unwrap_or_default()
    }
}

/// The end of a log to which nothing can be added any more.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct End {
    complete: bool,
    streams: Vec<Stream>,
}

/// The log of one run of a container.
#[derive(Clone, Debug, Deserialize)]
struct Stream {
    seal: Option<String>,
    seal_reason: Option<String>,
}

impl End {
    /// What is known of its completeness. None: lines may be missing, and nobody says why.
    pub(super) fn completeness(&self) -> Option<String> {
        if self.complete {
            return Some("complete".to_owned());
        }
        let holes = self
            .streams
            .iter()
            .filter(|stream| stream.seal.as_deref() != Some("complete"));
        let reasons: Option<Vec<_>> = holes.map(|stream| stream.seal_reason.clone()).collect();
        reasons
            .filter(|reasons| !reasons.is_empty())
            .map(|reasons| format!("a recorded gap ({})", reasons.join(", ")))
    }
}

/// A known hole.
#[derive(Deserialize)]
struct Hole {
    gap: Gap,
}

#[derive(Deserialize)]
struct Gap {
    reason: String,
}

/// What was seen of a log.
#[derive(Debug, Default)]
pub(super) struct Followed {
    pub(super) lines: Vec<Line>,
    pub(super) end: Option<End>,
}

/// Shows the lines after `last` as they come, until one of them is the last that is wanted or the log ends. A connection
/// that breaks off is taken up again after the last line.
pub(super) async fn follow(
    stage: &Stage,
    path: &str,
    last: Option<&str>,
    mut is_last: impl FnMut(&Line) -> bool,
) -> Result<Followed, Failure> {
    let mut followed = Followed::default();
    let mut last = last.map(str::to_owned);
    loop {
        let from = last
            .as_deref()
            .map(|last| format!(" from after {last} on"))
            .unwrap_or_default();
        stage.out.say(format!("GET {path} as text/event-stream{from}"));
        let mut events = stage.client.follow(path, last.as_deref()).await?;
        while let Some(event) = events.next().await? {
            match event.name.as_str() {
                "line" => {
                    let line: Line = read(path, &event)?;
                    stage.out.quote(line.text());
                    last = Some(line.cursor.clone());
                    followed.lines.push(line.clone());
                    if is_last(&line) {
                        return Ok(followed);
                    }
                }
                "gap" => {
                    let hole: Hole = read(path, &event)?;
                    stage.out.say(format!("lines may be missing here: {}", hole.gap.reason));
                }
                "end" => {
                    followed.end = Some(read(path, &event)?);
                    return Ok(followed);
                }
                _ => {}
            }
        }
    }
}

fn read<T: DeserializeOwned>(path: &str, event: &Event) -> Result<T, Failure> {
    let Event { name, data, .. } = event;
    serde_json::from_str(data).map_err(|error| {
        Failure::new(
            format!("{path} sent an event `{name}` that cannot be read: {error}"),
            "GET /docs",
        )
    })
}
