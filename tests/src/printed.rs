//! What a manager's reader and writer of a log do, for tests of the database alone.

use chrono::{DateTime, Utc};
use octopus_shared::db::report::{self, Chunk, OpenStream, Opened, StreamCursor, StreamKey, Watch};
use octopus_shared::log::{Gap, Packer, chained};
use octopus_shared::pod::Verdict;
use octopus_shared::process::ProcessState;
use sqlx::PgPool;
use uuid::Uuid;

use crate::function::{observed, pod};

/// A stream, which is not sealed, as its next reader finds it.
pub async fn opened(pool: &PgPool, watch: &Watch, process: Uuid, key: &StreamKey) -> Opened {
    let stream = OpenStream {
        key: key.clone(),
        process_id: process,
        attempt: 1,
        pod_name: key.pod_uid.clone(),
    };
    let mut opened = report::open_streams(pool, watch, &[(stream, "follow")])
        .await
        .expect("opened");
    opened.remove(key).expect("not sealed")
}

/// Writes the logs of one process.
pub struct Writer {
    pool: PgPool,
    watch: Watch,
    process: Uuid,
    key: StreamKey,
    cursor: StreamCursor,
    seq: i64,
}

impl Writer {
    /// Of a process with a pod that is seen to run.
    pub async fn new(pool: &PgPool, watch: &Watch, process: Uuid) -> Self {
        let uid = format!("pod-of-{process}");
        observed(
            pool,
            watch,
            &pod(process, &uid, "1", Verdict::plain(ProcessState::Running)),
        )
        .await;
        let mut writer = Self {
            pool: pool.clone(),
            watch: watch.clone(),
            process,
            key: StreamKey {
                pod_uid: uid,
                container: "function".into(),
                restart: -1,
            },
            cursor: StreamCursor::default(),
            seq: 0,
        };
        writer.restart().await;
        writer
    }

    /// The next run of its container.
    pub async fn restart(&mut self) {
        self.key.restart += 1;
        let opened = opened(&self.pool, &self.watch, self.process, &self.key).await;
        self.cursor = opened.cursor;
        let last = report::last_seqs(&self.pool, &[self.process]).await.expect("answered");
        self.seq = last.first().map_or(0, |(_, seq)| *seq);
    }

    /// A batch of lines, as the next chunk.
    pub fn chunk(&mut self, lines: &[(DateTime<Utc>, String)]) -> Chunk {
        self.chunk_after(Vec::new(), lines)
    }

    /// The same after holes.
    pub fn chunk_after(&mut self, gaps: Vec<Gap>, lines: &[(DateTime<Utc>, String)]) -> Chunk {
        let (mut text, mut size) = (Packer::default(), 0);
        for (at, line) in lines {
            text.push(*at, line.as_bytes());
            size += line.len() + 1;
        }
        let times = || lines.iter().map(|(at, _)| *at);
        let before = self.cursor.clone();
        self.cursor.lines += i64::try_from(lines.len()).expect("few");
        self.cursor.bytes += i64::try_from(size).expect("few");
        let chain = self.cursor.chain.take();
        self.cursor.chain = chain.map(|chain| {
            lines
                .iter()
                .fold(chain, |chain, (_, line)| chained(&chain, line.as_bytes()))
        });
        let mut chunk = Chunk {
            process_id: self.process,
            seq: 0,
            day: Utc::now().date_naive(),
            key: self.key.clone(),
            lines: i32::try_from(lines.len()).expect("few"),
            first_at: times().min().expect("a line"),
            last_at: times().max().expect("a line"),
            size: i32::try_from(size).expect("few"),
            text: text.finish(),
            before,
            cursor: self.cursor.clone(),
            gaps,
            seams: Vec::new(),
            head: None,
        };
        report::number(&mut self.seq, &mut chunk);
        chunk
    }

    /// Stores a batch of lines.
    pub async fn print(&mut self, lines: &[(DateTime<Utc>, String)]) {
        self.print_after(Vec::new(), lines).await;
    }

    /// The same after holes.
    pub async fn print_after(&mut self, gaps: Vec<Gap>, lines: &[(DateTime<Utc>, String)]) {
        let chunk = self.chunk_after(gaps, lines);
        report::append_chunks(&self.pool, &self.watch, &[chunk])
            .await
            .expect("stored");
    }
}
