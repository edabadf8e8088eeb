//! Where the lines come from: the stored chunks, and, followed, those that are stored next; or a build.

mod build;

use std::sync::Arc;

use octopus_shared::db::view::{self, LogChunk};
use octopus_shared::log::Cursor;
use tokio::sync::mpsc;
use uuid::Uuid;

pub(crate) use self::build::Build;

use super::filter::Filter;
use super::followed::{Ending, Next};
use super::format::Stop;
use super::kept::kept;
use super::line::{Gap, Item, Lines};
use super::search;
use super::truncated::Read;
use crate::metrics::OpenStream;
use crate::state::App;

/// Chunks are up to 64 KiB or so: a page is what one reader holds in memory.
pub(super) const PAGE: i64 = 8;

/// Which lines are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// Lines after this place.
    pub(crate) after: Option<Cursor>,
    /// Of those, the last so many.
    pub(crate) tail: Option<i64>,
    /// Of those, the first so many. An answer that follows ends behind them.
    pub(crate) limit: Option<i64>,
    /// Whether to go on with what is printed next.
    pub(crate) follow: bool,
    /// Which of the lines.
    pub(crate) filter: Arc<Filter>,
}

/// The lines that were asked for, found but not read yet.
#[derive(Debug)]
pub(crate) struct Source {
    /// The process, or the revision whose build it is of.
    process: Uuid,
    build: Option<Build>,
    place: Cursor,
    /// The place is the end of a chunk.
    sent: bool,
    /// Where to stop. None: at the end of the log, when nothing can come any more.
    until: Option<Cursor>,
    /// Whether the lines reach up to the end of what is stored.
    reaches_end: bool,
    /// The end of the log, when the rest of it was dropped for its age; all that a build has printed.
    kept: Option<LogChunk>,
    /// What a search found: all that is sent, then.
    found: Option<Vec<Lines>>,
    filter: Arc<Filter>,
    /// How many lines a follower still gets. None: all.
    left: Option<usize>,
    /// Nothing could come any more before the lines were looked for.
    ended: bool,
    /// Whether it is said when all that is stored was sent.
    says_rests: bool,
}

/// Items on their way to a reader.
type Sender = mpsc::Sender<Result<Item, sqlx::Error>>;

impl Source {
    /// Finds the lines. None: there is no such process.
    pub(crate) async fn find(app: &App, process: Uuid, wanted: Selection) -> Result<Option<Self>, sqlx::Error> {
        // Asked before the lines are looked for: what is printed last is found after it was known to be the last.
        let Some(progress) = view::log_progress(&app.pool, process).await? else {
            return Ok(None);
        };
        let end = view::log_end(&app.pool, process).await?;
        let kept = if end == Cursor::default() {
            kept(&app.pool, process).await?
        } else {
            None
        };
        let source = Self {
            process,
            build: None,
            place: wanted.after.unwrap_or_default(),
            sent: false,
            until: None,
            reaches_end: true,
            kept,
            found: None,
            filter: wanted.filter.clone(),
            left: None,
            ended: progress.has_ended(),
            says_rests: false,
        };
        source.select(app, end, wanted).await.map(Some)
    }

    /// Finds what is wanted of it. `end`: the place after the last stored line.
    async fn select(mut self, app: &App, end: Cursor, wanted: Selection) -> Result<Self, sqlx::Error> {
        let process = self.process;
        let end = self.kept.as_ref().map_or(end, |chunk| chunk.span.end());
        let filter = &self.filter;
        if let Some(count) = wanted.tail {
            self.place = match &self.kept {
                Some(chunk) => tail_of(chunk, filter, count),
                None if count == 0 => end,
                None if filter.is_all() => view::tail_start(&app.pool, process, count).await?,
                None => search::tail(&app.pool, process, end, as_usize(count), filter).await?,
            };
        }
        if wanted.follow {
            // Counted as they are sent: not all of them need be stored yet.
            self.left = wanted.limit.map(as_usize);
            return Ok(self);
        }
        if !self.filter.is_all() {
            self.search(app, end, wanted.limit).await?;
            return Ok(self);
        }
        let place = self.place;
        let cut = match (wanted.limit, &self.kept) {
            (Some(limit), None) => view::advance(&app.pool, process, place, limit).await?,
            (Some(limit), Some(chunk)) => {
                let index = chunk.span.index(place).saturating_add(as_usize(limit));
                Some(chunk.span.place(index)).filter(|cut| *cut < end)
            }
            (None, _) => None,
        };
        self.until = Some(cut.unwrap_or(end.max(place)));
        self.reaches_end = cut.is_none_or(|cut| cut >= end);
        Ok(self)
    }

    /// Finds all lines before the answer begins.
    async fn search(&mut self, app: &App, end: Cursor, limit: Option<i64>) -> Result<(), sqlx::Error> {
        let limit = limit.map_or(usize::MAX, as_usize);
        let found = match self.kept.take() {
            Some(chunk) => {
                let lines = Lines {
                    from: chunk.span.index(self.place),
                    until: usize::MAX,
                    filter: self.filter.clone(),
                    chunk: Arc::new(chunk),
                };
                let (_, stopped) = lines.count(limit);
                let place = lines.place(stopped);
                search::Found {
                    place,
                    more: place < end,
                    lines: vec![Lines {
                        until: stopped,
                        ..lines
                    }],
                }
            }
            None => search::forward(&app.pool, self.process, self.place, end, limit, &self.filter).await?,
        };
        self.until = Some(found.place.max(self.place));
        self.reaches_end = !found.more;
        self.found = Some(found.lines);
        Ok(())
    }

    /// The place after the last line. None while following: nobody knows.
    pub(crate) fn stop(&self) -> Option<Stop> {
        self.until.map(|place| Stop {
            place,
            more: !self.reaches_end,
        })
    }

    /// Starts to send. The items end without an error when all was sent, when the reader is gone, or, following, when this
    /// process stops: the reader resumes at its last cursor then.
    pub(crate) fn send(self, app: App) -> mpsc::Receiver<Result<Item, sqlx::Error>> {
        // Few: a reader that is slow holds back the reading, not the memory.
        let (sender, receiver) = mpsc::channel(2);
        tokio::spawn(async move {
            let _open = OpenStream::new("logs");
            if let Err(error) = self.send_all(&app, &sender).await {
                tracing::warn!(error = %error, "a log broke off; its reader will resume it");
                let _ = sender.send(Err(error)).await;
            }
        });
        receiver
    }

    /// The same, and says when all that is stored was sent.
    pub(super) fn send_with_rests(self, app: App) -> mpsc::Receiver<Result<Item, sqlx::Error>> {
        let source = Self {
            says_rests: true,
            ..self
        };
        source.send(app)
    }

    async fn send_all(mut self, app: &App, sender: &Sender) -> Result<(), sqlx::Error> {
        if self.until.is_none() {
            return match self.build.clone() {
                Some(build) => self.follow_build(app, &build, sender).await,
                None => self.follow(app, sender).await,
            };
        }
        while let Some(items) = self.next_page(app).await? {
            if !send(items, sender).await {
                return Ok(());
            }
        }
        if !self.reaches_end {
            return Ok(());
        }
        if let Some(build) = &self.build {
            let log = if self.ended { build.log(&app.pool).await? } else { None };
            send(
                log.and_then(|log| build::end(&log))
                    .map(Item::End)
                    .into_iter()
                    .collect(),
                sender,
            )
            .await;
            return Ok(());
        }
        let mut items = self.truncated(app, None).await?;
        if self.ended {
            items.extend(Ending::of(app, self.process).await?.items());
        } else {
            let streams = view::log_streams(&app.pool, self.process).await?;
            items.extend(streams.iter().flat_map(Gap::at_end_of).map(Item::Gap));
        }
        send(items, sender).await;
        Ok(())
    }

    /// Sends what is stored, then what is stored next, until nothing can come any more.
    async fn follow(mut self, app: &App, sender: &Sender) -> Result<(), sqlx::Error> {
        let mut seen = app.followed.join(app, self.process);
        let mut rests = !self.says_rests;
        if let Some(chunk) = self.kept.take()
            && (!send(vec![self.take(Arc::new(chunk))], sender).await || self.has_all())
        {
            return Ok(());
        }
        loop {
            let next = seen.borrow_and_update().after(self.place);
            let chunks = match next {
                Next::Send { chunks, whole } => {
                    self.sent |= whole;
                    chunks
                }
                Next::Read(up_to) => {
                    let filter = &self.filter.chunks;
                    let chunks = view::chunks(&app.pool, self.process, self.place, i64::MAX, filter, PAGE).await?;
                    if chunks.is_empty() {
                        let dropped = self.truncated(app, None).await?;
                        if !send(dropped, sender).await {
                            return Ok(());
                        }
                        (self.place, self.sent) = (up_to, true);
                    }
                    chunks.into_iter().map(Arc::new).collect()
                }
                Next::End(ending) => {
                    let mut items = self.truncated(app, None).await?;
                    items.extend(ending.items());
                    send(items, sender).await;
                    return Ok(());
                }
                Next::Wait => {
                    if !rests && seen.borrow().has_begun() {
                        rests = true;
                        send(vec![Item::Rests], sender).await;
                    }
                    tokio::select! {
                        changed = seen.changed() => if changed.is_err() { return Ok(()) },
                        () = sender.closed() => return Ok(()),
                        () = app.stopping.cancelled() => return Ok(()),
                    }
                    continue;
                }
            };
            rests = !self.says_rests;
            for chunk in chunks {
                let mut items = self.truncated(app, Some(&chunk)).await?;
                self.sent = true;
                items.push(self.take(chunk));
                if !send(items, sender).await || self.has_all() {
                    return Ok(());
                }
            }
        }
    }

    /// The next chunks up to the end of the answer. None: there are no more.
    async fn next_page(&mut self, app: &App) -> Result<Option<Vec<Item>>, sqlx::Error> {
        if let Some(found) = &mut self.found {
            let found = std::mem::take(found);
            let Some(first) = found.first() else { return Ok(None) };
            let mut items = self.truncated(app, Some(&first.chunk)).await?;
            self.sent = true;
            items.extend(found.into_iter().map(Item::Lines));
            return Ok(Some(items));
        }
        let Some(until) = self.until.filter(|until| self.place < *until) else {
            return Ok(None);
        };
        let chunks = match self.kept.take() {
            Some(chunk) => vec![chunk],
            None => {
                view::chunks(
                    &app.pool,
                    self.process,
                    self.place,
                    until.seq,
                    &self.filter.chunks,
                    PAGE,
                )
                .await?
            }
        };
        let Some(first) = chunks.first() else { return Ok(None) };
        let mut items = self.truncated(app, Some(first)).await?;
        self.sent = true;
        items.extend(chunks.into_iter().map(|chunk| self.take(Arc::new(chunk))));
        Ok(Some(items))
    }

    /// What was dropped before the chunk that comes next.
    async fn truncated(&self, app: &App, next: Option<&LogChunk>) -> Result<Vec<Item>, sqlx::Error> {
        let read = if self.sent {
            Read::Chunk(self.place)
        } else {
            Read::Named(self.place)
        };
        let dropped = read.until(&app.pool, self.process, next, &self.filter).await?;
        Ok(dropped.into_iter().map(Item::Truncated).collect())
    }

    /// The part of a chunk that was asked for and not sent yet.
    fn take(&mut self, chunk: Arc<LogChunk>) -> Item {
        let mut lines = Lines {
            from: chunk.span.index(self.place),
            until: self.until.map_or(usize::MAX, |until| chunk.span.index(until)),
            chunk,
            filter: self.filter.clone(),
        };
        if let Some(left) = &mut self.left {
            let (count, stopped) = lines.count(*left);
            *left -= count;
            lines.until = stopped;
        }
        self.place = lines.chunk.span.end();
        Item::Lines(lines)
    }

    /// Whether a follower has as many lines as it asked for.
    fn has_all(&self) -> bool {
        self.left == Some(0)
    }
}

/// False: the reader is gone.
async fn send(items: Vec<Item>, sender: &Sender) -> bool {
    for item in items {
        if sender.send(Ok(item)).await.is_err() {
            return false;
        }
    }
    true
}

/// The place before the last lines of the end of a log that are wanted.
fn tail_of(chunk: &LogChunk, filter: &Filter, count: i64) -> Cursor {
    let wanted: Vec<usize> = (0..)
        .zip(chunk.text.lines())
        .filter(|(_, line)| filter.wants(line))
        .map(|(index, _)| index)
        .collect();
    let skipped = wanted.len().saturating_sub(as_usize(count));
    chunk
        .span
        .place(wanted.get(skipped).copied().unwrap_or(chunk.text.count()))
}

fn as_usize(count: i64) -> usize {
    usize::try_from(count).unwrap_or_default()
}
