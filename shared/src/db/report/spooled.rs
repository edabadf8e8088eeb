//! What a manager read and could not store at once -> rows. It comes from the manager's disk, in the order in which it was read,
//! perhaps for the second time, perhaps after another manager has read on.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::chunk::{Chunk, append, last_seqs, numbers_taken};
use super::fill::{self, Holes};
use super::hole;
use super::place::{Place, late_gaps, part_of, place};
use super::stream::{Seal, StreamCursor, StreamKey, set_seal, stored_cursor};
use super::{ReportError, Watch, watched};

/// What a reader of a log has to say.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are chunks")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogMessage {
    /// Lines; they are numbered when they are stored.
    Chunk(Chunk),
    /// The end of a stream, behind all of its lines.
    Seal {
        /// The process.
        process_id: Uuid,
        /// The stream.
        key: StreamKey,
        /// How it ended.
        seal: Seal,
        /// Its cursor then.
        at: StreamCursor,
    },
}

impl LogMessage {
    /// The process.
    pub fn process_id(&self) -> Uuid {
        match self {
            Self::Chunk(chunk) => chunk.process_id,
            Self::Seal { process_id, .. } => *process_id,
        }
    }

    /// The stream.
    pub fn key(&self) -> &StreamKey {
        match self {
            Self::Chunk(chunk) => &chunk.key,
            Self::Seal { key, .. } => key,
        }
    }

    /// Lines of the stream before it, as its reader counts them.
    fn begins(&self) -> i64 {
        match self {
            Self::Chunk(chunk) => chunk.before.lines,
            Self::Seal { at, .. } => at.lines,
        }
    }
}

/// What became of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Processes whose logs have changed.
    pub changed: BTreeSet<Uuid>,
    /// Streams that were sealed.
    pub sealed: usize,
    /// Lines that were stored.
    pub lines: i64,
    /// Those of them that were filled into holes.
    pub filled: i64,
    /// Messages that were not needed: they are stored already, or another manager has read on.
    pub passed: usize,
    /// Lines before a message are not stored: a reader that goes on from it would leave a hole.
    pub missing: bool,
    /// Messages that only another manager may store at the moment, by their place among those that were given.
    pub others: Vec<usize>,
}

/// Stores messages, each only where the stream's cursor is just where it begins, or where it fills a hole behind which another
/// manager has read on, in one transaction. Repeating it changes nothing.
///
/// # Errors
/// [`ReportError`].
pub async fn replay(pool: &PgPool, watch: &Watch, messages: &[LogMessage]) -> Result<Replayed, ReportError> {
    let mut transaction = watched(pool, watch).await?;
    let mut streams = locked(&mut transaction, watch, messages).await?;
    let (mut replayed, mut chunks, mut seals) = (Replayed::default(), Vec::new(), Vec::new());
    for (index, message) in messages.iter().enumerate() {
        let Some(stream) = streams.get_mut(message.key()) else {
            replayed.passed += 1;
            continue;
        };
        if let Some(lines) = fill(&mut transaction, &mut stream.holes, message).await? {
            replayed.lines += lines;
            replayed.filled += lines;
            replayed.changed.insert(message.process_id());
            continue;
        }
        let place = place(&stream.cursor, message);
        let is_passed = stream.sealed || place == Place::Passed || place == Place::Missing;
        if is_passed && stream.filled + stream.holes.lines() > 0 {
            stream.holes.note(&late_gaps(message));
        }
        match (place, message) {
            _ if stream.sealed => replayed.passed += 1,
            (Place::Passed, _) => replayed.passed += 1,
            // The same lines, counted with those of the hole: who reads on is further.
            (Place::Missing, _) if message.begins() <= stream.lines() => replayed.passed += 1,
            _ if !stream.ours => replayed.others.push(index),
            (Place::Missing, _) => {
                replayed.passed += 1;
                replayed.missing = true;
            }
            (Place::Next, LogMessage::Seal { key, seal, .. }) => {
                stream.sealed = true;
                seals.push((message.process_id(), key, seal));
                replayed.changed.insert(message.process_id());
            }
            (Place::Within(_), LogMessage::Seal { .. }) => {}
            (place, LogMessage::Chunk(chunk)) => {
                let chunk = match place {
                    Place::Within(stored) => part_of(chunk, stored..usize::MAX, &stream.cursor),
                    _ => chunk.clone(),
                };
                stream.cursor = chunk.cursor.clone();
                replayed.lines += i64::from(chunk.lines);
                replayed.changed.insert(message.process_id());
                chunks.push(chunk);
            }
        }
    }
    for (key, stream) in streams {
        stream.holes.store(&mut transaction, &key).await?;
    }
    number(&mut transaction, &mut chunks).await?;
    if append(&mut transaction, watch, &chunks).await? != chunks.len() as u64 {
        return Err(numbers_taken().into());
    }
    // In the order of their processes' ids, as everybody locks those who locks several.
    seals.sort_by_key(|(process, ..)| *process);
    for (_, key, seal) in seals {
        replayed.sealed += usize::from(set_seal(&mut transaction, watch, key, seal).await?);
    }
    transaction.commit().await?;
    Ok(replayed)
}

/// Fills a message into one of the holes of its stream. None: it belongs into none. Else how many lines that were.
async fn fill(
    connection: &mut PgConnection,
    holes: &mut Holes,
    message: &LogMessage,
) -> Result<Option<i64>, sqlx::Error> {
    let chunk = match message {
        LogMessage::Seal { seal, at, .. } => return Ok(holes.end(seal, at).then_some(0)),
        LogMessage::Chunk(chunk) => chunk,
    };
    let Some(filled) = holes.fill(chunk) else {
        return Ok(None);
    };
    if let Some(join) = &filled.join
        && fill::join(connection, chunk.process_id, join).await?
    {
        holes.joined(join);
    }
    Ok(Some(filled.lines))
}

/// A stream as it is stored.
struct Stream {
    process: Uuid,
    cursor: StreamCursor,
    sealed: bool,
    /// This manager watches it.
    ours: bool,
    holes: Holes,
    /// Lines that were filled into holes before.
    filled: i64,
}

impl Stream {
    /// All lines of it.
    fn lines(&self) -> i64 {
        self.cursor.lines + self.filled + self.holes.lines()
    }
}

/// The streams of messages, locked: what is still being written of them is waited for.
async fn locked(
    connection: &mut PgConnection,
    watch: &Watch,
    messages: &[LogMessage],
) -> Result<HashMap<StreamKey, Stream>, sqlx::Error> {
    let keys: BTreeSet<&StreamKey> = messages.iter().map(LogMessage::key).collect();
    let rows = sqlx::query!(
        r#"select s.process_id, s.pod_uid, s.container, s.restart, s.cursor_time, s.cursor_count, s.cursor_hash, s.chain, s.lines,
                  s.bytes, s.first_at, s.last_at, s.seal is not null as "sealed!", s.gaps, s.filled_lines,
                  coalesce(p.cluster = $4 and d.shard = any($5), false) as "ours!"
             from log_stream s join process p on p.id = s.process_id left join pod d on d.uid = s.pod_uid
            where (s.pod_uid, s.container, s.restart) in
                  (select * from unnest($1::text[], $2::text[], $3::integer[]))
            order by s.pod_uid, s.container, s.restart for update of s"#,
        &keys.iter().map(|key| key.pod_uid.clone()).collect::<Vec<_>>(),
        &keys.iter().map(|key| key.container.clone()).collect::<Vec<_>>(),
        &keys.iter().map(|key| key.restart).collect::<Vec<_>>(),
        watch.cluster,
        &watch.shards
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut streams = HashMap::new();
    for row in rows {
        let key = StreamKey {
            pod_uid: row.pod_uid,
            container: row.container,
            restart: row.restart,
        };
        let stream = Stream {
            process: row.process_id,
            holes: Holes::new(row.gaps),
            filled: row.filled_lines,
            sealed: row.sealed,
            ours: row.ours,
            cursor: stored_cursor!(row),
        };
        streams.insert(key, stream);
    }
    bound(connection, &mut streams).await?;
    Ok(streams)
}

/// Tells streams with holes that may be filled how much of the logs of their processes is there. Asked when they are locked.
async fn bound(connection: &mut PgConnection, streams: &mut HashMap<StreamKey, Stream>) -> Result<(), sqlx::Error> {
    let with_holes: Vec<&mut Stream> = streams
        .values_mut()
        .filter(|stream| stream.holes.may_be_filled())
        .collect();
    if with_holes.is_empty() {
        return Ok(());
    }
    let processes: Vec<Uuid> = with_holes.iter().map(|stream| stream.process).collect();
    let bounds: HashMap<Uuid, (i64, i64)> = sqlx::query!(
        r#"select id as "id!", coalesce((select max(truncated_seq) from log_stream where process_id = id), 0) as "dropped!",
                  coalesce((select max(seq) from log_chunk where process_id = id), 0) as "newest!"
             from unnest($1::uuid[]) id"#,
        &processes
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(|row| (row.id, (row.dropped, row.newest)))
    .collect();
    for stream in with_holes {
        let (dropped, newest) = bounds.get(&stream.process).copied().unwrap_or_default();
        stream.holes.bounded(dropped, newest);
    }
    Ok(())
}

/// Gives each chunk the next number of its process.
async fn number(connection: &mut PgConnection, chunks: &mut [Chunk]) -> Result<(), sqlx::Error> {
    let processes: BTreeSet<Uuid> = chunks.iter().map(|chunk| chunk.process_id).collect();
    let processes: Vec<Uuid> = processes.into_iter().collect();
    let mut last: HashMap<Uuid, i64> = last_seqs(connection, &processes).await?.into_iter().collect();
    for chunk in chunks {
        hole::number(last.entry(chunk.process_id).or_default(), chunk);
    }
    Ok(())
}
