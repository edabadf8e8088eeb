//! Where the lines come from: the stored chunks, and, followed, those that are stored next.

use std::sync::Arc;

use octopus_shared::db::view::{self, LogChunk};
use octopus_shared::log::{Cursor, lines};
use sqlx::PgPool;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::filter::Filter;
use super::format::Stop;
use super::line::{End, Gap, Item, Lines};
use super::search;
use crate::changes::Waiter;
use crate::metrics::OpenStream;
use crate::state::App;

/// Chunks are up to 64 KiB or so: a page is what one reader holds in memory.
const PAGE: i64 = 32;

/// Which lines are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// Lines after this place.
    pub(crate) after: Option<Cursor>,
    /// Of those, the last so many.
    pub(crate) tail: Option<i64>,
    /// Of those, the first so many.
    pub(crate) limit: Option<i64>,
    /// Whether to go on with what is printed next.
    pub(crate) follow: bool,
    /// Which of the lines.
    pub(crate) filter: Arc<Filter>,
}

/// The lines that were asked for, found but not read yet.
#[derive(Debug)]
pub(crate) struct Source {
    process: Uuid,
    place: Cursor,
    /// Where to stop. None: at the end of the log, when nothing can come any more.
    until: Option<Cursor>,
    /// Whether the lines reach up to the end of what is stored.
    reaches_end: bool,
    /// The end of the log, when the rest of it was dropped for its age.
    kept: Option<LogChunk>,
    /// What a search found: all that is sent, then.
    found: Option<Vec<Lines>>,
    filter: Arc<Filter>,
    waiter: Waiter,
}

impl Source {
    /// Finds the lines. None: there is no such process.
    pub(crate) async fn find(app: &App, process: Uuid, wanted: Selection) -> Result<Option<Self>, sqlx::Error> {
        // Interest is registered before the first look, so that nothing that is stored in between is missed.
        let waiter = app.changes.subscribe();
        if view::log_progress(&app.pool, process).await?.is_none() {
            return Ok(None);
        }
        let mut end = view::log_end(&app.pool, process).await?;
        let kept = if end == Cursor::default() {
            kept(&app.pool, process).await?
        } else {
            None
        };
        let mut place = wanted.after.unwrap_or_default();
        if let Some(chunk) = &kept {
            end = Cursor {
                seq: 0,
                line: i32::try_from(lines(&chunk.data).count()).unwrap_or(i32::MAX),
            };
        }
        let filter = wanted.filter;
        if let Some(count) = wanted.tail {
            place = match &kept {
                Some(chunk) => tail_of(chunk, &filter, count),
                None if count == 0 => end,
                None if filter.is_all() => view::tail_start(&app.pool, process, count).await?,
                None => search::tail(&app.pool, process, end, as_usize(count), &filter).await?,
            };
        }
        let mut source = Self {
            process,
            place,
            until: None,
            reaches_end: true,
            kept,
            found: None,
            filter,
            waiter,
        };
        if !wanted.follow && !source.filter.is_all() {
            source.search(app, end, wanted.limit).await?;
            return Ok(Some(source));
        }
        let cut = match wanted.limit {
            Some(limit) if source.kept.is_none() => view::advance(&app.pool, process, place, limit).await?,
            Some(limit) => Some(Cursor {
                seq: 0,
                line: place.line.saturating_add(i32::try_from(limit).unwrap_or(i32::MAX)),
            })
            .filter(|cut| *cut < end),
            None => None,
        };
        source.until = cut.or((!wanted.follow).then_some(end.max(place)));
        source.reaches_end = cut.is_none_or(|cut| cut >= end);
        Ok(Some(source))
    }

    /// Finds all lines before the answer begins.
    async fn search(&mut self, app: &App, end: Cursor, limit: Option<i64>) -> Result<(), sqlx::Error> {
        let limit = limit.map_or(usize::MAX, as_usize);
        let found = match self.kept.take() {
            Some(chunk) => {
                let lines = Lines {
                    from: as_usize(self.place.line.into()),
                    until: usize::MAX,
                    filter: self.filter.clone(),
                    chunk,
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

    async fn send_all(
        mut self,
        app: &App,
        sender: &mpsc::Sender<Result<Item, sqlx::Error>>,
    ) -> Result<(), sqlx::Error> {
        loop {
            // Asked before the lines are read: what is printed last is read after it was known to be the last.
            let Some(progress) = view::log_progress(&app.pool, self.process).await? else {
                return Ok(());
            };
            let ended = progress.gone && progress.open_streams == 0;
            while let Some(items) = self.next_page(app).await? {
                for item in items {
                    if sender.send(Ok(item)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            if ended || self.until.is_some() {
                return self.send_end(app, ended, sender).await;
            }
            tokio::select! {
                _ = self.waiter.changed(Some(self.process)) => {}
                () = sender.closed() => return Ok(()),
                () = app.stopping.cancelled() => return Ok(()),
            }
        }
    }

    /// The next chunks. None: there are no more at the moment.
    async fn next_page(&mut self, app: &App) -> Result<Option<Vec<Item>>, sqlx::Error> {
        if let Some(found) = &mut self.found {
            let found = std::mem::take(found);
            return Ok((!found.is_empty()).then(|| found.into_iter().map(Item::Lines).collect()));
        }
        if self.until.is_some_and(|until| self.place >= until) {
            return Ok(None);
        }
        let until = self.until.map_or(i64::MAX, |until| until.seq);
        let chunks = match self.kept.take() {
            Some(chunk) => vec![chunk],
            None => view::chunks(&app.pool, self.process, self.place, until, &self.filter.chunks, PAGE).await?,
        };
        if chunks.is_empty() {
            return Ok(None);
        }
        Ok(Some(chunks.into_iter().map(|chunk| self.take(chunk)).collect()))
    }

    /// The part of a chunk that was asked for and not sent yet.
    fn take(&mut self, chunk: LogChunk) -> Item {
        let lines = |at: Cursor| as_usize(at.line.into());
        let from = if chunk.seq == self.place.seq {
            lines(self.place)
        } else {
            0
        };
        let until = self
            .until
            .filter(|until| until.seq == chunk.seq)
            .map_or(usize::MAX, lines);
        self.place = Cursor {
            seq: chunk.seq,
            line: i32::MAX,
        };
        Item::Lines(Lines {
            chunk,
            from,
            until,
            filter: self.filter.clone(),
        })
    }

    async fn send_end(
        &self,
        app: &App,
        ended: bool,
        sender: &mpsc::Sender<Result<Item, sqlx::Error>>,
    ) -> Result<(), sqlx::Error> {
        if !self.reaches_end {
            return Ok(());
        }
        let streams = view::log_streams(&app.pool, self.process).await?;
        let mut items: Vec<Item> = streams.iter().flat_map(Gap::at_end_of).map(Item::Gap).collect();
        if let Some(process) = view::process(&app.pool, self.process).await?.filter(|_| ended) {
            let complete = streams.iter().all(|stream| stream.seal.as_deref() == Some("complete"));
            items.push(Item::End(End {
                state: process.summary.state,
                complete,
                streams,
            }));
        }
        for item in items {
            if sender.send(Ok(item)).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// The place before the last lines of the end of a log that are wanted.
fn tail_of(chunk: &LogChunk, filter: &Filter, count: i64) -> Cursor {
    let wanted: Vec<usize> = lines(&chunk.data)
        .enumerate()
        .filter(|(_, line)| filter.wants(line))
        .map(|(index, _)| index)
        .collect();
    let line = match wanted.len().saturating_sub(as_usize(count)) {
        skipped if skipped < wanted.len() => wanted[skipped],
        _ => lines(&chunk.data).count(),
    };
    Cursor {
        seq: 0,
        line: i32::try_from(line).unwrap_or(i32::MAX),
    }
}

fn as_usize(count: i64) -> usize {
    usize::try_from(count).unwrap_or_default()
}

/// The end of the log as a chunk before all others.
pub(super) async fn kept(pool: &PgPool, process: Uuid) -> Result<Option<LogChunk>, sqlx::Error> {
    let data = view::kept(pool, process).await?;
    Ok(data.map(|data| LogChunk {
        seq: 0,
        pod_uid: String::new(),
        container: String::new(),
        restart: 0,
        attempt: 1,
        data,
        gaps: serde_json::json!([]),
    }))
}
