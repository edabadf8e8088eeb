//! Where the lines come from: the stored chunks, and, followed, those that are stored next.

use octopus_shared::db::view::{self, LogChunk};
use octopus_shared::log::{Cursor, lines};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::line::{End, Gap, Item};
use crate::changes::Waiter;
use crate::metrics::OpenStream;
use crate::state::App;

/// Chunks are up to 64 KiB or so: a page is what one reader holds in memory.
const PAGE: i64 = 32;

/// Which lines are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Lines after this place.
    pub(crate) after: Option<Cursor>,
    /// Of those, the last so many.
    pub(crate) tail: Option<i64>,
    /// Of those, the first so many.
    pub(crate) limit: Option<i64>,
    /// Whether to go on with what is printed next.
    pub(crate) follow: bool,
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
            kept(app, process).await?
        } else {
            None
        };
        let mut place = wanted.after.unwrap_or_default();
        if let Some(chunk) = &kept {
            end = Cursor {
                seq: chunk.seq,
                line: i32::try_from(lines(&chunk.data).count()).unwrap_or(i32::MAX),
            };
        }
        if let Some(tail) = wanted.tail {
            place = match &kept {
                Some(_) => Cursor {
                    seq: 0,
                    line: end.line - end.line.min(i32::try_from(tail).unwrap_or(i32::MAX)),
                },
                None if tail == 0 => end,
                None => view::tail_start(&app.pool, process, tail).await?,
            };
        }
        let cut = match wanted.limit {
            Some(limit) if kept.is_none() => view::advance(&app.pool, process, place, limit).await?,
            Some(limit) => Some(Cursor {
                seq: 0,
                line: place.line.saturating_add(i32::try_from(limit).unwrap_or(i32::MAX)),
            })
            .filter(|cut| *cut < end),
            None => None,
        };
        let until = cut.or((!wanted.follow).then_some(end.max(place)));
        Ok(Some(Self {
            process,
            place,
            until,
            reaches_end: cut.is_none_or(|cut| cut >= end),
            kept,
            waiter,
        }))
    }

    /// The place after the last line. None while following: nobody knows.
    pub(crate) fn end(&self) -> Option<Cursor> {
        self.until
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
        if self.until.is_some_and(|until| self.place >= until) {
            return Ok(None);
        }
        let until = self.until.map_or(i64::MAX, |until| until.seq);
        let chunks = match self.kept.take() {
            Some(chunk) => vec![chunk],
            None => view::chunks(&app.pool, self.process, self.place, until, PAGE).await?,
        };
        if chunks.is_empty() {
            return Ok(None);
        }
        Ok(Some(chunks.into_iter().map(|chunk| self.take(chunk)).collect()))
    }

    /// The part of a chunk that was asked for and not sent yet.
    fn take(&mut self, chunk: LogChunk) -> Item {
        let lines = |at: Cursor| usize::try_from(at.line).unwrap_or_default();
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
        Item::Lines { chunk, from, until }
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
        let mut items: Vec<Item> = streams.iter().flat_map(Gap::of).map(Item::Gap).collect();
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

/// The end of the log as a chunk before all others.
async fn kept(app: &App, process: Uuid) -> Result<Option<LogChunk>, sqlx::Error> {
    let data = view::kept(&app.pool, process).await?;
    Ok(data.map(|data| LogChunk {
        seq: 0,
        pod_uid: String::new(),
        container: String::new(),
        restart: 0,
        attempt: 1,
        data,
    }))
}
