//! Rows -> answers: everything that the API shows. Nothing here writes.

mod cluster;
mod command;
mod event;
mod function;
mod log;
mod pod;
mod process;
mod token;
mod truncated;
mod waiting;

pub use cluster::{ClusterView, ManagerView, QueueView, cluster, clusters};
pub(super) use command::shown;
pub use command::{CommandView, command};
pub use event::{EventView, FeedCursor, events, feed, feed_end};
pub use function::{BuildLog, FunctionSummary, FunctionView, RevisionView, build_log, function, functions};
pub use log::{
    ChunkFilter, LogChunk, LogProgress, advance, chunks, chunks_before, kept, log_end, log_progress, tail_start,
};
pub use pod::{LogStreamView, PodView, log_streams, pods};
pub use process::{ProcessFilter, ProcessSummary, ProcessView, manifest, process, process_of, processes};
pub use token::{Token, TokenRole, token};
pub use truncated::{TruncatedStream, truncated};
pub(super) use waiting::{Stand, standing};
pub use waiting::{WaitedFor, WaitingFor};
