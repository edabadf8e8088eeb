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
/// Transitions that are read at once.
const TRANSITIONS: i64 = 500;

type Sender = mpsc::Sender<Result<Vec<Told>, sqlx::Error>>;

/// Tells what comes after a place, as it comes, until nothing can come any more or this process stops: the reader resumes at its
/// last cursor then. None: there is no such process.
pub(crate) async fn follow(
    app: App,
    process: Uuid,
    from: Place,
) -> Result<Option<mpsc::Receiver<Result<Vec<Told>, sqlx::Error>>>, sqlx::Error> {
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
    let teller = Teller {
        seen: app.followed.join(&app, process),
        app: app.clone(),
        process,
        place: from,
        read: from.event,
        transitions: VecDeque::new(),
        waiting: None,
        dropped: Vec::new(),
    };
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        let _open = OpenStream::new("stories");
        if let Err(error) = teller.tell(source.send(app), &sender).await {
            tracing::warn!(error = %error, "a story broke off; its reader will resume it");
            let _ = sender.send(Err(error)).await;
        }
    });
    Ok(Some(receiver))
}

struct Teller {
    app: App,
    process: Uuid,
    seen: watch::Receiver<Seen>,
    /// After what was told.
    place: Place,
    /// Number of the last transition that was read.
    read: i64,
    /// Those that were read and not told yet.
    transitions: VecDeque<EventView>,
    /// Since when the first of them waits for lines.
    waiting: Option<Instant>,
    /// What was dropped before the next line.
    dropped: Vec<TruncatedStart>,
}

impl Teller {
    async fn tell(
        mut self,
        mut items: mpsc::Receiver<Result<Item, sqlx::Error>>,
        sender: &Sender,
    ) -> Result<(), sqlx::Error> {
        self.read_on().await?;
        loop {
            let read = self.read;
            let waiting = self.waiting;
            let late = async {
                match waiting {
                    Some(since) => sleep_until(since + LATE).await,
                    None => std::future::pending().await,
                }
            };
            let told = tokio::select! {
                item = items.recv() => match item {
                    Some(item) => self.item(item?, sender).await?,
                    None => return Ok(()),
                },
                true = async { self.seen.wait_for(|seen| seen.transitions() > read).await.is_ok() } => {
                    self.read_on().await?;
                    Vec::new()
                }
                () = late => self.no_lines().await?,
                () = sender.closed() => return Ok(()),
            };
            if !told.is_empty() && sender.send(Ok(told)).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn item(&mut self, item: Item, sender: &Sender) -> Result<Vec<Told>, sqlx::Error> {
        let mut page = match item {
            Item::Lines(lines) => return self.lines(&lines).await,
            Item::Truncated(start) => {
                self.dropped.push(start);
                return Ok(Vec::new());
            }
            Item::Gap(gap) => {
                let mut page = self.page();
                page.gap(gap);
                page
            }
            Item::End(end) => {
                // Whatever was recorded last was recorded before the end was seen.
                while self.read_on().await? {
                    let page = self.rest();
                    if sender.send(Ok(self.told(page))).await.is_err() {
                        return Ok(Vec::new());
                    }
                }
                let mut page = self.rest();
                page.push(Told {
                    cursor: page.place.to_string(),
                    end: Some(end),
                    ..Told::default()
                });
                page
            }
        };
        page.truncated(self.dropped.drain(..));
        Ok(self.told(page))
    }

    async fn lines(&mut self, lines: &Lines) -> Result<Vec<Told>, sqlx::Error> {
        let last = lines.chunk.text.lines().map(|line| line.at).max();
        while self.may_lack(last) && self.read_on().await? {}
        let mut page = self.page();
        page.lines(&mut self.transitions, lines, std::mem::take(&mut self.dropped));
        Ok(self.told(page))
    }

    /// Transitions have waited for long enough, and those behind them need not wait.
    async fn no_lines(&mut self) -> Result<Vec<Told>, sqlx::Error> {
        let page = self.rest();
        let (told, waiting) = (self.told(page), self.waiting);
        if self.read < self.seen.borrow().transitions() {
            self.read_on().await?;
            self.waiting = waiting.or(self.waiting);
        }
        Ok(told)
    }

    /// Whether a transition until a time may not be read yet.
    fn may_lack(&self, at: Option<DateTime<Utc>>) -> bool {
        let read_until = self.transitions.back().map(|last| last.at);
        self.read < self.seen.borrow().transitions() && read_until <= at
    }

    /// Reads the next transitions. False: there are no more.
    async fn read_on(&mut self) -> Result<bool, sqlx::Error> {
        let next = view::events(&self.app.pool, self.process, self.read, TRANSITIONS).await?;
        let is_full = next.len() as i64 == TRANSITIONS;
        self.read = next.last().map_or(self.read, |last| last.number);
        self.transitions.extend(next);
        self.wait();
        Ok(is_full)
    }

    fn page(&self) -> Page {
        Page::new(self.place, usize::MAX, usize::MAX)
    }

    /// All transitions that were read.
    fn rest(&mut self) -> Page {
        let mut page = self.page();
        page.events_until(&mut self.transitions, None);
        page
    }

    fn told(&mut self, page: Page) -> Vec<Told> {
        self.place = page.place;
        self.wait();
        page.told
    }

    fn wait(&mut self) {
        self.waiting = match self.transitions.is_empty() {
            true => None,
            false => self.waiting.or_else(|| Some(Instant::now())),
        };
    }
}
