//! What is new of a stream -> its batch -> the writer.

use chrono::Utc;
use octopus_shared::db::report::Chunk;
use octopus_shared::log::Gap;
use tokio::time::Instant;

use super::Taking;
use crate::watch::chunk::{Passed, nanoseconds};
use crate::watch::stream::Read;
use crate::watch::writer::{Message, Said};

impl Taking<'_> {
    /// Stores what is new. What does not follow what is stored is looked at first: while the manager was away, or the status
    /// was late, the container may have been started again, and its node gives the log of its next run. `Some`: it did.
    pub(super) async fn take(&mut self, passed: Passed) -> Option<Read> {
        let is_doubted = match &passed {
            Passed::Nothing => return None,
            Passed::FartherBack { set_back } => return Some(Read::FartherBack { set_back: *set_back }),
            Passed::New(_) => self.progress.doubted && self.progress.cursor.lines == 0,
            Passed::AfterGap(..) => true,
        };
        if is_doubted && let Some(end) = self.reader.is_other_run(self.progress, self.way.mode).await {
            return Some(end);
        }
        self.progress.doubted = false;
        self.store(passed);
        None
    }

    pub(super) fn store(&mut self, passed: Passed) {
        let lines = match passed {
            Passed::Nothing | Passed::FartherBack { .. } => return,
            Passed::New(lines) => {
                self.progress.spooled_by = None;
                lines
            }
            Passed::AfterGap(lines, gap) => {
                let gap = self.progress.before_us(gap);
                self.progress.note(gap);
                // What was missed on the way to this file is part of the gap.
                if let Some(first) = lines.first() {
                    self.progress.files.passed_over(nanoseconds(first.at));
                }
                lines
            }
        };
        for mut line in lines {
            if self.progress.cursor.lines == 0 {
                self.progress.first = Some(nanoseconds(line.at));
                self.progress.files.entered(nanoseconds(line.at));
            }
            if let Some((seam, _)) = line.seam {
                let seam = nanoseconds(seam);
                let follows = self.progress.files.follows(seam);
                tracing::debug!(seam, follows, "a line was cut by the rotation");
                if follows {
                    self.progress.files.entered(seam);
                } else {
                    self.progress.files.passed_over(seam);
                    // The halves are of two lines: a file in between was passed over.
                    line = line.second_half();
                    self.progress.note(Gap {
                        from: self.progress.cursor.time,
                        to: Some(seam),
                        reason: "rotated_away".into(),
                        cut: true,
                        ..Gap::default()
                    });
                }
            }
            self.progress.flow.read(nanoseconds(line.at), line.content.len() + 1);
            self.batch.push(&mut self.progress.cursor, &line);
        }
    }

    /// Hands the batch to the writer. None: the watch is over.
    pub(super) async fn flush(&mut self) -> Option<()> {
        self.pace.set_flush(Instant::now(), false, false);
        let batch = std::mem::take(&mut self.batch);
        batch.close(&mut self.progress.cursor);
        self.progress.gaps.extend(batch.gaps);
        let (Some(first_at), Some(last_at)) = (batch.first_at, batch.last_at) else {
            return Some(());
        };
        let chunk = Chunk {
            process_id: self.reader.process_id,
            seq: 0,
            day: Utc::now().date_naive(),
            key: self.reader.key.clone(),
            lines: batch.lines,
            first_at,
            last_at,
            size: batch.size,
            text: batch.text.finish(),
            before: batch.before,
            cursor: self.progress.cursor.clone(),
            gaps: std::mem::take(&mut self.progress.gaps),
            seams: batch.seams,
            head: self.progress.files.proven(),
        };
        let begins = Instant::now();
        let room = self.reader.share.room(batch.size.unsigned_abs() as usize).await?;
        let said = Said {
            message: Message::Chunk(chunk),
            room: Some(room),
        };
        let sent = self.reader.chunks.send(said).await.ok();
        self.pace.paused(Instant::now(), begins.elapsed());
        sent
    }
}
