//! Reads server-sent events as a client of the API would.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its `event:`.
    pub event: String,
    /// Its `id:`.
    pub id: Option<String>,
    /// Its `data:`.
    pub data: String,
}

impl Event {
    /// The data as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).expect("JSON")
    }
}

/// Events of one connection.
pub struct Events {
    bytes: BoxStream<'static, Option<Bytes>>,
    buffer: Vec<u8>,
}

impl Events {
    /// The events of an answer.
    pub fn new(response: reqwest::Response) -> Self {
        Self::of(response.bytes_stream())
    }

    /// The events of a body.
    pub fn of<E: 'static>(body: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> Self {
        Self {
            bytes: body.map(Result::ok).boxed(),
            buffer: Vec::new(),
        }
    }

    /// The next event that is not a comment. None: the connection has ended.
    ///
    /// # Panics
    /// After 20 seconds without one.
    pub async fn next(&mut self) -> Option<Event> {
        tokio::time::timeout(Duration::from_secs(20), self.read())
            .await
            .expect("an event within 20 seconds")
    }

    /// Whether nothing comes for a while.
    pub async fn is_silent(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.read()).await.is_err()
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(event) = parse(&String::from_utf8(block).expect("UTF-8")) {
                    return Some(event);
                }
            }
            self.buffer.extend_from_slice(&self.bytes.next().await??);
        }
    }
}

fn parse(block: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut empty = true;
    for line in block.lines() {
        let Some((field, value)) = line.split_once(':').filter(|(field, _)| !field.is_empty()) else {
            continue;
        };
        let value = value.strip_prefix(' ').unwrap_or(value);
        empty = false;
        match field {
            "event" => event.event = value.to_owned(),
            "id" => event.id = Some(value.to_owned()),
            "data" => event.data += value,
            _ => {}
        }
    }
    (!empty).then_some(event)
}
