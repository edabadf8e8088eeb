//! Which logs are being read: one reader for each run of each container, all writing through one writer.

use std::collections::HashMap;
use std::sync::Arc;

use octopus_shared::db::report::{self, StreamKey};
use octopus_shared::pod::PodObservation;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::Watching;
use super::reader::Reader;
use super::writer::{self, Message};

/// Chunks on their way to Postgres at most; readers wait beyond that.
const QUEUE: usize = 256;

/// The readers of a watch.
pub(crate) struct Logs {
    watching: Arc<Watching>,
    readers: Mutex<HashMap<StreamKey, JoinHandle<()>>>,
    /// Streams that are followed at the same time.
    room: Arc<Semaphore>,
    chunks: mpsc::Sender<Message>,
    writing: Mutex<Option<JoinHandle<()>>>,
}

impl Logs {
    pub(crate) fn start(watching: Arc<Watching>) -> Self {
        let (chunks, receiver) = mpsc::channel(QUEUE);
        let writing = tokio::spawn(writer::run(watching.clone(), receiver));
        let room = Arc::new(Semaphore::new(watching.context.config.followed_logs));
        Self {
            watching,
            readers: Mutex::default(),
            room,
            chunks,
            writing: Mutex::new(Some(writing)),
        }
    }

    /// Sees to it that every run of every container of a pod is read, the ones before the last restart too.
    pub(crate) async fn ensure(&self, pod: &PodObservation) {
        for container in &pod.containers {
            let started = container.started_at.is_some();
            let newest = if started {
                container.restart_count
            } else {
                container.restart_count - 1
            };
            // The node keeps the log of one run before the current one; older ones can only be recorded as missing.
            for restart in (0..=newest).rev().take(2) {
                let key = StreamKey {
                    pod_uid: pod.uid.clone(),
                    container: container.name.clone(),
                    restart,
                };
                self.read(key, pod.process_id, pod.attempt, &pod.name).await;
            }
        }
    }

    /// Starts a reader unless one is reading, or has read, this stream.
    pub(crate) async fn read(&self, key: StreamKey, process_id: Uuid, attempt: i32, pod_name: &str) {
        let mut readers = self.readers.lock().await;
        if readers.contains_key(&key) {
            return;
        }
        let opened = report::open_stream(
            &self.watching.context.pool,
            &self.watching.watch,
            process_id,
            attempt,
            &key,
        )
        .await;
        // Not stored: the next look at the pod tries again.
        let Some(cursor) = self.watching.written(opened) else {
            return;
        };
        let Some(cursor) = cursor else { return };
        let reader = Reader {
            watching: self.watching.clone(),
            key: key.clone(),
            process_id,
            pod_name: pod_name.to_owned(),
            room: self.room.clone(),
            chunks: self.chunks.clone(),
        };
        readers.insert(key, tokio::spawn(reader.run(cursor)));
    }

    /// Forgets readers that have ended, so that memory does not grow with finished pods.
    pub(crate) async fn tidy(&self) {
        self.readers.lock().await.retain(|_, reader| !reader.is_finished());
    }

    /// Ends all reading. What was read and not stored is read again by whoever watches next.
    pub(crate) async fn stop(&self) {
        for (_, reader) in self.readers.lock().await.drain() {
            reader.abort();
        }
        if let Some(writing) = self.writing.lock().await.take() {
            writing.abort();
        }
    }
}
