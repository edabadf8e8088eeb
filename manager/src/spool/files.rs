//! A queue of messages in the files of a folder: written at the end, read from the beginning, removed file by file.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use octopus_shared::db::report::LogMessage;

use super::record::{self, HEAD};

/// A file that is larger gets no more.
const SEGMENT: u64 = 4 << 20;
/// Messages that are read at once at most.
const MESSAGES: usize = 256;
/// The same in bytes, or one message.
const BYTES: u64 = 4 << 20;

/// The queue.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    segments: VecDeque<Segment>,
    /// The last one of them, when it was begun by us: an earlier one may have been torn.
    open: Option<File>,
    /// How far the first one was read, and how far it is done with.
    read: u64,
    done: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
}

impl Files {
    /// What is in a folder, which is made if it is not there.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut segments = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".spool")?.parse().ok());
            if let Some(number) = number {
                let bytes = entry.metadata()?.len();
                segments.push(Segment { number, bytes });
            }
        }
        segments.sort_by_key(|segment| segment.number);
        Ok(Self {
            folder: folder.to_owned(),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            segments: segments.into(),
            open: None,
            read: 0,
            done: 0,
        })
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:016}.spool"))
    }

    /// Appends messages as far as there is room for their bytes, the first one of all in any case, and takes them away. They are
    /// on the disk then: a machine that dies loses none of them.
    pub(super) fn append(&mut self, messages: &mut Vec<LogMessage>, room: u64) -> io::Result<()> {
        let (mut bytes, mut fit) = (Vec::new(), 0);
        for message in messages.iter() {
            let before = bytes.len();
            if !record::encode(&mut bytes, message) {
                tracing::error!(stream = ?message.key(), "a message is too long for the spool");
            }
            if bytes.len() as u64 > room && self.bytes + before as u64 > 0 {
                bytes.truncate(before);
                break;
            }
            fit += 1;
        }
        if !bytes.is_empty() {
            self.write(&bytes)?;
        }
        messages.drain(..fit);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.open.is_none() || self.segments.back().is_none_or(|last| last.bytes >= SEGMENT) {
            let number = self.segments.back().map_or(1, |last| last.number + 1);
            let path = self.path(number);
            self.open = Some(File::options().read(true).append(true).create_new(true).open(path)?);
            self.segments.push_back(Segment { number, bytes: 0 });
            // A file is there after a crash only when its folder says so.
            File::open(&self.folder)?.sync_all()?;
        }
        let (Some(file), Some(last)) = (&mut self.open, self.segments.back_mut()) else {
            return Ok(());
        };
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // What came of it is cut off, or nothing is written behind it.
            if file.set_len(last.bytes).is_err() {
                self.open = None;
            }
            return Err(error);
        }
        last.bytes += bytes.len() as u64;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// The next messages and their bytes here; they stay until [`Files::done`]. Of a file that is torn, none from behind the tear.
    pub(super) fn front(&mut self) -> io::Result<(Vec<LogMessage>, u64)> {
        let mut messages = Vec::new();
        self.read = self.done;
        while let Some(first) = self.segments.front() {
            let (number, end) = (first.number, first.bytes);
            let file = File::open(self.path(number))?;
            while self.read < end && messages.len() < MESSAGES && self.read - self.done < BYTES {
                let Some((message, length)) = next(&file, self.read, end)? else {
                    tracing::warn!(file = %self.path(number).display(), at = self.read, bytes = end - self.read,
                        "the spool is torn here: what follows in this file is read from the nodes again");
                    metrics::counter!("octopus_spool_torn_bytes_total").increment(end - self.read);
                    self.read = end;
                    break;
                };
                messages.push(message);
                self.read += length;
            }
            if !messages.is_empty() {
                break;
            }
            self.done()?;
        }
        Ok((messages, self.read - self.done))
    }

    /// What [`Files::front`] answered last is not needed any more.
    pub(super) fn done(&mut self) -> io::Result<()> {
        self.done = self.read;
        let Some(first) = self.segments.front() else {
            return Ok(());
        };
        if self.done < first.bytes {
            return Ok(());
        }
        fs::remove_file(self.path(first.number))?;
        self.bytes -= first.bytes;
        self.segments.pop_front();
        if self.segments.is_empty() {
            self.open = None;
        }
        (self.read, self.done) = (0, 0);
        Ok(())
    }
}

/// The message at a place of a file that ends at `end`, and its length there. None: there is none whole.
fn next(file: &File, at: u64, end: u64) -> io::Result<Option<(LogMessage, u64)>> {
    let mut head = [0; HEAD];
    let body_at = at + HEAD as u64;
    if body_at > end {
        return Ok(None);
    }
    file.read_exact_at(&mut head, at)?;
    let Some(length) = record::length(&head).filter(|length| body_at + *length as u64 <= end) else {
        return Ok(None);
    };
    let mut body = vec![0; length];
    file.read_exact_at(&mut body, body_at)?;
    Ok(record::decode(&head, &body).map(|message| (message, (HEAD + length) as u64)))
}

#[cfg(test)]
mod tests;
