//! A story that goes on: the followed log, with each transition where it belongs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use octopus_shared::db::view::{self, EventView};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{Page, Place, Told};
use crate::log::filter::Filter;
use crate::log::followed::Seen;
use crate::log::line::{Item, Lines};
use crate::log::source::{Selection, Source};
use crate::log::truncated::TruncatedStart;
use crate::metrics::OpenStream;
use crate::state::App;

/// How long a transition waits for lines that were printed before it and are stored after it: a log is stored a moment later.
const LATE: Duration = Duration::from_secs(1);
/// Transitions that are read at once, and wait at most.
const TRANSITIONS: usize = 500;

type Parts = Result<Vec<Told>, sqlx::Error>;

/// Tells what comes after a place, as it comes, until nothing can come any more or this process stops: the reader resumes at its
/// last cursor then. None: there is no such process.
pub(crate) async fn follow(app: App, process: Uuid, from: Place) -> Result<Option<mpsc::Receiver<Parts>>, sqlx::Error> {
    let log = Selection {
        after: Some(from.log),
        tail: None,
        limit: None,
        follow: true,
        filter: Arc::new(Filter::default()),
    };
    let Some(source) = Source::find(&app, process, log).await? else {
        return Ok(None);
    };
    let (sender, receiver) = mpsc::channel(2);
    let teller = Teller {
        seen: app.followed.join(&app, process),
        app: app.clone(),
        process,
        sender: sender.clone(),
        place: from,
        read: from.event,
        transitions: VecDeque::new(),
        rests: false,
        since: Instant::now(),
        dropped: Vec::new(),
    };
    tokio::spawn(async move {
        let _open = OpenStream::new("stories");
        if let Err(Broken::Off(error)) = teller.tell(source.send_with_rests(app)).await {
            tracing::warn!(error = %error, "a story broke off; its reader will resume it");
            let _ = sender.send(Err(error)).await;
        }
    });
    Ok(Some(receiver))
}

struct Teller {
    app: App,
    process: Uuid,
    sender: mpsc::Sender<Parts>,
    seen: watch::Receiver<Seen>,
    /// After what was told.
    place: Place,
    /// Number of the last transition that was read.
    read: i64,
    /// Those that were read and not told yet.
    transitions: VecDeque<EventView>,
    /// All lines that are stored were told.
    rests: bool,
    /// When that began, or the last transition was read.
    since: Instant,
    /// What was dropped before the next line.
    dropped: Vec<TruncatedStart>,
}

/// Why a story does not go on.
enum Broken {
    /// Its reader has left.
    Left,
    Off(sqlx::Error),
}

impl From<sqlx::Error> for Broken {
    fn from(error: sqlx::Error) -> Self {
        Self::Off(error)
    }
}

impl Teller {
    async fn tell(mut self, mut items: mpsc::Receiver<Result<Item, sqlx::Error>>) -> Result<(), Broken> {
        self.read_on().await?;
        loop {
            let (read, has_room) = (self.read, self.transitions.len() < TRANSITIONS);
            let waits = self.rests && !self.transitions.is_empty();
            tokio::select! {
                biased;
                () = self.sender.closed() => return Err(Broken::Left),
                item = items.recv() => match item {
                    Some(item) => self.item(item?).await?,
                    None => return Ok(()),
                },
                true = async { self.seen.wait_for(|seen| seen.transitions() > read).await.is_ok() }, if has_room => {
                    self.read_on().await?;
                }
                () = sleep_until(self.since + LATE), if waits => self.all_transitions().await?,
            }
        }
    }

    async fn item(&mut self, item: Item) -> Result<(), Broken> {
        let page = match item {
            Item::Lines(lines) => return self.lines(&lines).await,
            Item::Truncated(start) => {
                self.dropped.push(start);
                return Ok(());
            }
            Item::Rests => {
                (self.rests, self.since) = (true, Instant::now());
                return Ok(());
            }
            Item::Gap(gap) => {
                self.all_transitions().await?;
                let mut page = self.page();
                page.truncated(self.dropped.drain(..));
                page.gap(gap);
                page
            }
            Item::End(end) => {
                // Whatever was recorded last was recorded before the end was seen, and holes behind the last line come with it.
                self.all_transitions().await?;
                let mut page = self.page();
                page.truncated(self.dropped.drain(..));
                page.push(Told {
                    cursor: page.place.to_string(),
                    end: Some(end),
                    ..Told::default()
                });
                page
            }
        };
        self.send(page).await
    }

    async fn lines(&mut self, lines: &Lines) -> Result<(), Broken> {
        let times = || lines.chunk.text.lines().map(|line| line.at);
        let (first, last) = (times().min(), times().max());
        while self.may_lack(last) && self.read_on().await? {
            let mut page = self.page();
            page.events_until(&mut self.transitions, first);
            self.send(page).await?;
        }
        let mut page = self.page();
        page.lines(&mut self.transitions, lines, std::mem::take(&mut self.dropped));
        self.rests = false;
        self.send(page).await
    }

    /// Tells the transitions that are known: no line that was printed before them is on its way any more.
    async fn all_transitions(&mut self) -> Result<(), Broken> {
        loop {
            let more = self.read_on().await?;
            let mut page = self.page();
            page.events_until(&mut self.transitions, None);
            self.send(page).await?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Whether a transition until a time may not be read yet.
    fn may_lack(&self, at: Option<DateTime<Utc>>) -> bool {
        let read_until = self.transitions.back().map(|last| last.at);
        self.read < self.seen.borrow().transitions() && read_until <= at
    }

    /// Reads the next transitions. False: there are no more.
    async fn read_on(&mut self) -> Result<bool, sqlx::Error> {
        let known = self.seen.borrow().transitions();
        let next = view::events(&self.app.pool, self.process, self.read, TRANSITIONS as i64).await?;
        let is_full = next.len() == TRANSITIONS;
        self.read = next.last().map_or(self.read, |last| last.number);
        if !is_full {
            // What is older than events are kept is there no more.
            self.read = self.read.max(known);
        }
        if !next.is_empty() {
            self.since = Instant::now();
        }
        self.transitions.extend(next);
        Ok(is_full)
    }

    fn page(&self) -> Page {
        Page::new(self.place, usize::MAX, usize::MAX)
    }

    async fn send(&mut self, page: Page) -> Result<(), Broken> {
        self.place = page.place;
        if page.told.is_empty() {
            return Ok(());
        }
        self.sender.send(Ok(page.told)).await.map_err(|_| Broken::Left)
    }
}
