//! Server-sent events.

use reqwest::Response;

use crate::client::broken;
use crate::failure::Failure;

/// An event whose end does not come within so many bytes is none.
const MAX_EVENT_BYTES: usize = 4 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its kind.
    pub(crate) name: String,
    /// The place to resume after.
    pub(crate) id: String,
    /// What it says.
    pub(crate) data: String,
}

/// A stream of events.
#[derive(Debug)]
pub(crate) struct Events {
    path: String,
    response: Response,
    buffer: Vec<u8>,
}

impl Events {
    pub(crate) fn new(path: &str, response: Response) -> Self {
        Self {
            path: path.to_owned(),
            response,
            buffer: Vec::new(),
        }
    }

    /// The next event. None: the server has ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(event) = take(&mut self.buffer) {
                return Ok(Some(event));
            }
            if self.buffer.len() > MAX_EVENT_BYTES {
                return Err(Failure::new(
                    format!("{} does not speak server-sent events", self.path),
                    "OCTOPUS_URL",
                ));
            }
            match self
                .response
                .chunk()
                .await
                .map_err(|error| broken(&self.path, &error))?
            {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

/// The first whole event of a buffer; comments, which keep the connection alive, are skipped.
fn take(buffer: &mut Vec<u8>) -> Option<Event> {
    while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
        let block: Vec<u8> = buffer.drain(..end + 2).collect();
        let text = String::from_utf8_lossy(&block);
        let mut event = Event::default();
        let mut data = Vec::new();
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => event.name = value.to_owned(),
                "id" => event.id = value.to_owned(),
                "data" => data.push(value),
                _ => {}
            }
        }
        if !data.is_empty() {
            event.data = data.join("\n");
            return Some(event);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_at_empty_lines() {
        let mut buffer = b": hello\n\nid: 3\n\nevent: line\nid: 7.1\ndata: {\"a\":\ndata:  1}\n\ndata: x".to_vec();
        let event = Event {
            name: "line".into(),
            id: "7.1".into(),
            data: "{\"a\":\n 1}".into(),
        };
        assert_eq!(take(&mut buffer), Some(event));
        assert_eq!(take(&mut buffer), None);
        buffer.extend_from_slice(b"\n\n");
        assert_eq!(take(&mut buffer).map(|event| event.data), Some("x".into()));
        assert!(buffer.is_empty());
    }
}
