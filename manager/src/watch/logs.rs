//! Which logs are being read: one reader for each run of each container, all writing through one writer. Where there is a spool
//! they go on when their watch is over, until the next one begins.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use octopus_shared::db::report::{self, OpenStream, StreamKey};
use octopus_shared::pod::PodObservation;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::reader::{self, Found, Reader};
use super::share::Shares;
use super::writer::{self, Said};
use super::{Watching, spooled};
use crate::cluster::state;
use crate::spool::{Queue, Spool};

/// Chunks on their way to Postgres at most; readers wait beyond that.
const QUEUE: usize = 256;
/// Streams that are opened with one commit, at most.
const AT_ONCE: usize = 64;

/// A container that runs for so long and of which nothing was read has printed much, if it prints much.
pub(super) const A_WHILE: TimeDelta = TimeDelta::seconds(5);

/// What is read beside a long replay is spooled behind it. When only so much is left, those who read are replaced.
const LITTLE: u64 = 4 << 20;
/// Times that a replay may find more than that, before it is done without them.
const REPLAYS: usize = 10;

/// The readers of a watch.
pub(crate) struct Logs {
    watching: Arc<Watching>,
    /// The same for readers, who may go on after it.
    reading: Arc<Watching>,
    readers: Mutex<HashMap<StreamKey, JoinHandle<()>>>,
    /// Streams that are followed at the same time.
    room: Arc<Semaphore>,
    shares: Shares,
    /// None: all reading has ended.
    chunks: Mutex<Option<mpsc::Sender<Said>>>,
    writing: Mutex<Option<JoinHandle<()>>>,
}

impl Logs {
    /// Begins where Postgres says, once everything is there that was spooled. None: the watch is over.
    pub(crate) async fn start(watching: Arc<Watching>) -> Option<Arc<Self>> {
        let context = watching.context.clone();
        let mut earlier = context.readers.lock().await;
        if let Some(spool) = &context.spool {
            spooled::pass(&watching, spool, Queue::Aside).await?;
            // Those of the watch before read on meanwhile: their nodes do not wait.
            for _ in 0..REPLAYS {
                if spool.bytes_of(Queue::Messages) <= LITTLE {
                    break;
                }
                spooled::pass(&watching, spool, Queue::Messages).await?;
            }
            let stopping = earlier
                .take()
                .map(|logs| tokio::spawn(async move { logs.stop().await }));
            loop {
                spooled::drain(&watching, spool).await?;
                if stopping.as_ref().is_none_or(JoinHandle::is_finished) && spool.is_empty() {
                    break;
                }
                watching.sleep(Duration::from_millis(20)).await.then_some(())?;
            }
        }
        let (chunks, receiver) = mpsc::channel(QUEUE);
        let writing = tokio::spawn(writer::run(watching.clone(), receiver));
        let logs = Arc::new(Self {
            reading: watching.for_readers(),
            readers: Mutex::default(),
            room: Arc::new(Semaphore::new(context.config.followed_logs)),
            shares: Shares::new(context.config.log_bytes_per_second),
            chunks: Mutex::new(Some(chunks)),
            writing: Mutex::new(Some(writing)),
            watching,
        });
        *earlier = context.spool.is_some().then(|| logs.clone());
        Some(logs)
    }

    /// Sees to it that every run of every container of these pods is read, the ones before the last restart too.
    pub(crate) async fn ensure(&self, pods: impl Iterator<Item = &PodObservation>) {
        let streams: Vec<_> = pods.flat_map(streams_of).collect();
        for found in [Found::Begun, Found::Running, Found::Ended] {
            let those = streams.iter().filter(|(_, how)| *how == found);
            self.read(those.map(|(stream, _)| stream.clone()).collect(), found)
                .await;
        }
    }

    /// Starts a reader for each stream that none is reading, or has read.
    pub(crate) async fn read(&self, mut streams: Vec<OpenStream>, found: Found) {
        let mut readers = self.readers.lock().await;
        let Some(chunks) = self.chunks.lock().await.clone() else {
            return;
        };
        streams.retain(|stream| !readers.contains_key(&stream.key));
        for streams in streams.chunks(AT_ONCE) {
            let rooms: Vec<_> = streams
                .iter()
                .map(|stream| (stream.clone(), self.room.clone().try_acquire_owned().ok()))
                .collect();
            let asked: Vec<_> = rooms
                .iter()
                .map(|(stream, room)| (stream.clone(), reader::named(room.as_ref())))
                .collect();
            let pool = &self.watching.context.pool;
            let opening = report::open_streams(pool, &self.watching.watch, &asked);
            let opened = tokio::select! { opened = opening => opened, () = self.watching.lost.cancelled() => return };
            // Not stored: the next look at their pods tries again.
            let Some(mut opened) = self.watching.written(opened) else {
                return;
            };
            for (stream, followed) in rooms {
                let Some(opened) = opened.remove(&stream.key) else {
                    continue;
                };
                let reader = Reader {
                    watching: self.reading.clone(),
                    key: stream.key.clone(),
                    process_id: stream.process_id,
                    pod_name: stream.pod_name,
                    room: self.room.clone(),
                    share: self.shares.of(stream.process_id),
                    chunks: chunks.clone(),
                    began: OnceLock::new(),
                };
                readers.insert(stream.key, tokio::spawn(reader.run(opened, found, followed)));
            }
        }
    }

    /// Forgets readers that have ended, so that memory does not grow with finished pods. While something is spooled, their seals
    /// may be there, and nobody is to read again what they have read.
    pub(crate) async fn tidy(&self) {
        if self.watching.context.spool.as_ref().is_none_or(Spool::is_empty) {
            self.readers.lock().await.retain(|_, reader| !reader.is_finished());
        }
    }

    /// The watch is over. Where there is a spool and nobody has taken the watch away, reading goes on into it.
    pub(crate) async fn leave(&self, taken: bool) {
        if taken || self.watching.context.spool.is_none() {
            // What was read and not stored is read again by whoever watches next.
            if let Some(writing) = self.writing.lock().await.take() {
                writing.abort();
            }
            self.stop().await;
        }
    }

    /// Ends all reading, and returns when what was read is stored or spooled.
    async fn stop(&self) {
        let readers: Vec<_> = self.readers.lock().await.drain().collect();
        for (_, reader) in readers {
            reader.abort();
            // It has ended, or panicked: it says nothing more.
            let _ = reader.await;
        }
        self.chunks.lock().await.take();
        if let Some(writing) = self.writing.lock().await.take() {
            let _ = writing.await;
        }
    }
}

/// Those whose logs a node may have: of each container the current run and the one before it. Older ones are put on record as missing
/// when these are opened. What a node has lost has run all the same.
fn streams_of(pod: &PodObservation) -> impl Iterator<Item = (OpenStream, Found)> {
    pod.containers.iter().flat_map(move |container| {
        let has_run = container.started_at.is_some() || container.reason.as_deref() == Some(state::FORGOTTEN);
        let newest = container.restart_count - i32::from(!has_run);
        let found = match container.started_at {
            Some(at) if container.state == "running" && Utc::now() - at < A_WHILE => Found::Begun,
            Some(_) if container.state == "running" => Found::Running,
            _ => Found::Ended,
        };
        (0..=newest).rev().take(2).map(move |restart| {
            let stream = OpenStream {
                key: StreamKey {
                    pod_uid: pod.uid.clone(),
                    container: container.name.clone(),
                    restart,
                },
                process_id: pod.process_id,
                attempt: pod.attempt,
                pod_name: pod.name.clone(),
            };
            (stream, if restart == newest { found } else { Found::Ended })
        })
    })
}
