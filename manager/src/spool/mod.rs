//! What was read of logs and cannot be stored yet, on this manager's own disk. It outlives the manager.

mod files;
mod record;

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use octopus_shared::db::report::{LogMessage, StreamKey};
use tokio::sync::Notify;
use uuid::Uuid;

use self::files::Files;

/// A spool in a folder that no other manager uses.
#[derive(Debug)]
pub(crate) struct Spool {
    /// Its name, kept in the folder: whoever reads on where this manager stopped says by it who may have more.
    pub(crate) id: Uuid,
    queues: Arc<Mutex<Queues>>,
    level: Arc<Level>,
    /// Streams of which something was put aside: what comes later of them belongs behind it.
    waiting: Mutex<HashSet<StreamKey>>,
    /// Told when something was appended.
    filled: Notify,
    /// Told when there is room again.
    room: Notify,
    /// Held as long as the manager lives.
    _lock: File,
}

/// How much a spool holds.
#[derive(Debug)]
pub(crate) struct Level {
    /// Its name.
    pub(crate) id: Uuid,
    /// Bytes that wait for Postgres.
    pub(crate) bytes: AtomicU64,
    /// Bytes at most.
    pub(crate) limit: u64,
    /// Whether readers wait for room.
    pub(crate) full: AtomicBool,
}

#[derive(Debug)]
struct Queues {
    /// In the order in which they came.
    messages: Files,
    /// Those that only another manager may store at the moment: they hold nothing up.
    aside: Files,
}

/// Which of its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    /// What waits for Postgres.
    Messages,
    /// What waits for another manager.
    Aside,
}

impl Queues {
    fn bytes(&self) -> u64 {
        self.messages.bytes() + self.aside.bytes()
    }

    fn of(&mut self, queue: Queue) -> &mut Files {
        match queue {
            Queue::Messages => &mut self.messages,
            Queue::Aside => &mut self.aside,
        }
    }
}

impl Spool {
    /// Opens a folder, with what an earlier manager left in it.
    pub(crate) fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("lock"))?;
        lock.try_lock().map_err(|refused| match refused {
            TryLockError::WouldBlock => io::Error::other("another manager uses this folder: each needs its own"),
            TryLockError::Error(error) => error,
        })?;
        let queues = Queues {
            messages: Files::open(folder)?,
            aside: Files::open(&folder.join("aside"))?,
        };
        let id = id(folder)?;
        let level = Level {
            id,
            bytes: AtomicU64::new(queues.bytes()),
            limit,
            full: false.into(),
        };
        let spool = Self {
            id,
            queues: Arc::new(Mutex::new(queues)),
            level: Arc::new(level),
            waiting: Mutex::default(),
            filled: Notify::new(),
            room: Notify::new(),
            _lock: lock,
        };
        metrics::gauge!("octopus_spool_bytes").set(spool.bytes() as f64);
        if spool.bytes() > 0 {
            tracing::info!(spool.id = %spool.id, spool.bytes = spool.bytes(), "logs of an earlier time wait for Postgres");
        }
        Ok(spool)
    }

    /// How much it holds, for those who show it.
    pub(crate) fn level(&self) -> Arc<Level> {
        self.level.clone()
    }

    fn bytes(&self) -> u64 {
        self.level.bytes.load(Ordering::Relaxed)
    }

    /// Whether nothing waits for Postgres: what comes may be stored at once.
    pub(crate) fn is_empty(&self) -> bool {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.messages.is_empty()
    }

    /// Appends messages as far as there is room, and takes them away.
    pub(crate) async fn append(&self, mut messages: Vec<LogMessage>) -> (Vec<LogMessage>, io::Result<()>) {
        let limit = self.level.limit;
        let appended = self
            .on_disk(move |queues| {
                let room = limit.saturating_sub(queues.bytes());
                let appended = queues.messages.append(&mut messages, room);
                Ok((messages, appended))
            })
            .await;
        let (left, appended) = appended.unwrap_or_else(|error| (Vec::new(), Err(error)));
        self.level.full.store(!left.is_empty(), Ordering::Relaxed);
        self.filled.notify_one();
        (left, appended)
    }

    /// What had no room in it is stored without it.
    pub(crate) fn was_passed(&self) {
        self.level.full.store(false, Ordering::Relaxed);
    }

    /// The next messages of a queue and their bytes there; they stay until [`Spool::done`].
    pub(crate) async fn front(&self, queue: Queue) -> io::Result<(Vec<LogMessage>, u64)> {
        self.on_disk(move |queues| queues.of(queue).front()).await
    }

    /// The messages that [`Spool::front`] answered last are not needed any more, but for those that are put aside.
    pub(crate) async fn done(&self, queue: Queue, mut aside: Vec<LogMessage>) -> io::Result<()> {
        let done = self
            .on_disk(move |queues| {
                // They are there already, in the other queue: no bound holds them up.
                if !aside.is_empty() {
                    queues.aside.append(&mut aside, u64::MAX)?;
                }
                queues.of(queue).done()
            })
            .await;
        self.room.notify_one();
        done
    }

    /// Bytes of a queue.
    pub(crate) fn bytes_of(&self, queue: Queue) -> u64 {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.of(queue).bytes()
    }

    /// The messages that may be stored if they belong where their streams are, and those that are behind others that were put
    /// aside.
    pub(crate) fn divided(&self, messages: Vec<LogMessage>) -> (Vec<LogMessage>, Vec<LogMessage>) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        messages
            .into_iter()
            .partition(|message| !waiting.contains(message.key()))
    }

    /// Messages are put aside, and what comes later of their streams with them.
    pub(crate) fn wait_for<'a>(&self, aside: impl Iterator<Item = &'a LogMessage>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(aside.map(|message| message.key().clone()));
    }

    /// All that was put aside is looked at again, in order.
    pub(crate) fn wait_for_none(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits until something is appended.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Waits until something is taken away.
    pub(crate) async fn room(&self) {
        self.room.notified().await;
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Queues) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (queues, level) = (self.queues.clone(), self.level.clone());
        let acting = tokio::task::spawn_blocking(move || {
            let mut queues = queues.lock().unwrap_or_else(PoisonError::into_inner);
            let acted = act(&mut queues);
            let bytes = queues.bytes();
            level.bytes.store(bytes, Ordering::Relaxed);
            metrics::gauge!("octopus_spool_bytes").set(bytes as f64);
            acted
        });
        acting.await.map_err(io::Error::other)?
    }
}

/// The name of the spool in a folder, given to it once.
fn id(folder: &Path) -> io::Result<Uuid> {
    let path = folder.join("id");
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = Uuid::new_v4();
            // Whole or not at all.
            let made = folder.join("id.new");
            fs::write(&made, id.to_string())?;
            File::open(&made)?.sync_all()?;
            fs::rename(&made, &path)?;
            File::open(folder)?.sync_all()?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
