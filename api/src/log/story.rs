//! Transitions and printed lines of one process, merged in order of time.
//!
//! Both have an order of their own, which is kept: a transition comes before the first line that the node did not receive
//! earlier than it was recorded. So a place is a place in each of the two, and a page goes on where the one before ended,
//! whatever came in between.

mod follow;

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use octopus_shared::db::view::{self, ChunkFilter, EventView};
use octopus_shared::log::Cursor;
use serde::Serialize;
use sqlx::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

pub(crate) use self::follow::follow;

use super::filter::Filter;
use super::kept::kept;
use super::line::{End, Entry, Gap, Line, Lines};
use super::truncated::{Read, TruncatedStart};

/// Chunks that are read at once.
const PAGE: i64 = 16;
/// Bytes of printed lines in a page, or a little more.
const BYTES: usize = 8 << 20;

/// A place in a story: after a transition and after a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    event: i64,
    log: Cursor,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.event, self.log)
    }
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const REFUSED: &str = "it is no cursor of a story";
        let (event, log) = text.split_once('-').ok_or(REFUSED)?;
        let place = Self {
            event: event.parse().map_err(|_| REFUSED)?,
            log: log.parse().map_err(|_| REFUSED)?,
        };
        let is_place = place.event >= 0 && place.log.seq >= 0 && place.log.line >= 0;
        is_place.then_some(place).ok_or(REFUSED)
    }
}

/// One thing that happened. Just one of `event`, `line`, `gap`, `truncated` and `end` is there.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Told {
    /// The place after it: `after` or `Last-Event-ID` of a reader that goes on.
    pub(super) cursor: String,
    /// A transition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) event: Option<EventView>,
    /// A printed line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<Line>,
    /// A known hole before the next line of its container, or behind its last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gap: Option<Gap>,
    /// What was dropped of the beginning of the log of a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) truncated: Option<TruncatedStart>,
    /// Nothing comes after it: the seals of all streams. Of a story that is followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<End>,
    #[serde(skip)]
    content: Vec<u8>,
}

impl Told {
    /// It as a line of text, without a newline.
    pub(crate) fn text(&self) -> Vec<u8> {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Nanos, true);
        let mut text = Vec::new();
        if let Some(line) = &self.line {
            text.extend_from_slice(time(line.at).as_bytes());
            text.push(b' ');
            text.extend_from_slice(&self.content);
        }
        if let Some(event) = &self.event {
            text.extend_from_slice(format!("{} === {}", time(event.at), event.state.as_str()).as_bytes());
            for words in [&event.reason, &event.message].into_iter().flatten() {
                text.extend_from_slice(format!(": {}", words.replace(['\n', '\r'], " ")).as_bytes());
            }
        }
        if let Some(gap) = &self.gap {
            text.extend_from_slice(gap.mark().as_bytes());
        }
        if let Some(start) = &self.truncated {
            text.extend_from_slice(start.mark().as_bytes());
        }
        text
    }
}

/// A part of a story.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) told: Vec<Told>,
    pub(crate) place: Place,
    /// There is or may be more behind it.
    pub(crate) more: bool,
    left: usize,
    room: usize,
}

impl Page {
    /// `limit`: transitions and lines that it has at most; `room`: bytes of lines that fill it.
    fn new(place: Place, limit: usize, room: usize) -> Self {
        Self {
            told: Vec::new(),
            place,
            more: false,
            left: limit,
            room,
        }
    }

    /// Transitions until a time. True: the page is full.
    fn events_until(&mut self, events: &mut VecDeque<EventView>, at: Option<DateTime<Utc>>) -> bool {
        while self.left > 0
            && let Some(event) = events.pop_front_if(|event| at.is_none_or(|at| event.at <= at))
        {
            self.place.event = event.number;
            self.left -= 1;
            self.push(Told {
                cursor: self.place.to_string(),
                event: Some(event),
                ..Told::default()
            });
        }
        self.is_full()
    }

    /// The lines of a chunk, with the transitions before each. True: the page is full.
    fn lines(&mut self, events: &mut VecDeque<EventView>, lines: &Lines, mut dropped: Vec<TruncatedStart>) -> bool {
        let mut gaps = Vec::new();
        for entry in lines.entries() {
            let printed = match entry {
                Entry::Gap(gap) => {
                    gaps.push(gap);
                    continue;
                }
                Entry::Line(printed) => printed,
            };
            if self.events_until(events, Some(printed.line.at)) {
                return true;
            }
            self.truncated(dropped.drain(..));
            for gap in gaps.drain(..) {
                self.gap(gap);
            }
            self.place.log = lines.place(printed.index + 1);
            self.left -= 1;
            self.room = self.room.saturating_sub(printed.line.content.len());
            self.push(Told {
                cursor: self.place.to_string(),
                line: Some(lines.describe(&printed)),
                content: printed.line.content.to_vec(),
                ..Told::default()
            });
            if self.is_full() {
                return true;
            }
        }
        false
    }

    fn gap(&mut self, gap: Gap) {
        self.push(Told {
            cursor: self.place.to_string(),
            gap: Some(gap),
            ..Told::default()
        });
    }

    fn truncated(&mut self, dropped: impl Iterator<Item = TruncatedStart>) {
        for start in dropped {
            self.push(Told {
                cursor: self.place.to_string(),
                truncated: Some(start),
                ..Told::default()
            });
        }
    }

    fn push(&mut self, told: Told) {
        self.told.push(told);
    }

    fn is_full(&self) -> bool {
        self.left == 0 || self.room == 0
    }
}

/// Up to `limit` transitions and lines after a place.
pub(crate) async fn page(pool: &PgPool, process: Uuid, from: Place, limit: i64) -> Result<Page, sqlx::Error> {
    let mut page = Page::new(from, usize::try_from(limit).unwrap_or_default(), BYTES);
    let mut events = VecDeque::from(view::events(pool, process, from.event, limit).await?);
    let end = view::log_end(pool, process).await?;
    let mut kept = if end == Cursor::default() {
        kept(pool, process).await?
    } else {
        None
    };
    let filter = Arc::new(Filter::default());
    loop {
        let before = page.place.log;
        let chunks = match kept.take() {
            Some(chunk) => vec![chunk],
            None => view::chunks(pool, process, page.place.log, end.seq, &ChunkFilter::default(), PAGE).await?,
        };
        for chunk in chunks {
            let place = page.place.log;
            let read = if place == from.log {
                Read::Named(place)
            } else {
                Read::Chunk(place)
            };
            let dropped = read.until(pool, process, Some(&chunk), &filter).await?;
            let lines = Lines {
                from: chunk.span.index(place),
                until: usize::MAX,
                chunk: Arc::new(chunk),
                filter: filter.clone(),
            };
            if page.lines(&mut events, &lines, dropped) {
                page.more = true;
                return Ok(page);
            }
        }
        if page.place.log == before {
            break;
        }
    }
    page.more = page.events_until(&mut events, None);
    if !page.more {
        let read = if page.place.log == from.log {
            Read::Named(from.log)
        } else {
            Read::Chunk(page.place.log)
        };
        page.truncated(read.until(pool, process, None, &filter).await?.into_iter());
        let streams = view::log_streams(pool, process).await?;
        for gap in streams.iter().flat_map(Gap::at_end_of) {
            page.gap(gap);
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_the_way_through_a_client() {
        let place = Place {
            event: 3,
            log: Cursor { seq: 7, line: 2 },
        };
        assert_eq!(place.to_string().parse(), Ok(place));
        for hostile in ["", "3", "-1-2.3", "3-x", "3--7.2", "3-7.-2", "99999999999999999999-1.1"] {
            assert!(hostile.parse::<Place>().is_err(), "{hostile}");
        }
    }
}
