//! The files that a node keeps a log in, as far as they can be told apart from outside. Pure.
//!
//! Only the newest file can be read, and a followed stream does not say when it goes on to the next one. What can be asked
//! is the first timestamp of the newest file, its head. With it a stream that hangs on an old file is recognized, a
//! timestamp in the middle of a line is told from one that the function printed, and a change of files at which lines may
//! have been missed is put on record.

use std::collections::VecDeque;

use octopus_shared::log::{Gap, REST};

/// Bytes without which no node rotates a log: the smallest size that operators set.
const LEAST: usize = 1 << 20;
/// The size at which nodes do that where nobody says otherwise.
const USUAL: i64 = 10 << 20;
/// Heads and rests that are remembered.
const REMEMBERED: usize = 64;
/// Nodes look at the size of logs this often: what lies between two files is less than this away from both.
const ROUND: i64 = 10_000_000_000;
/// While a log is rotated, lines of the old file may be later than those of the new one, by less than this.
const SKEW: i64 = 50_000_000;
/// A status has whole seconds, and a moment says nothing about what came before.
const MOMENT: i64 = 2_000_000_000;
/// Lines that are printed meanwhile at most.
const RECENT: usize = 8192;

/// What is known of the files of one stream.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// First timestamps of the newest files, the newest last.
    heads: VecDeque<i64>,
    /// That of the file that the stream is in, as far as that is known.
    current: Option<i64>,
    /// Bytes since the newest head was seen.
    bytes: usize,
    /// Timestamps of the last lines.
    recent: VecDeque<i64>,
    /// Lines that came after a rest.
    rested: VecDeque<i64>,
    /// Heads that the stream has gone or will go on to, and may have missed the end of the file before.
    unproven: VecDeque<i64>,
}

impl Files {
    /// Those of a stream of which something is stored: the newest head of which nothing is doubtful, and the last line.
    pub(crate) fn resumed(head: Option<i64>, last: Option<i64>) -> Self {
        Self {
            heads: head.into_iter().collect(),
            current: head,
            recent: head.and(last).into_iter().collect(),
            ..Self::default()
        }
    }

    /// The newest head before which nothing is missing that is not on record.
    pub(crate) fn proven(&self) -> Option<i64> {
        match self.unproven.front() {
            None => self.heads.back().copied(),
            Some(unproven) => self
                .heads
                .iter()
                .rev()
                .skip_while(|head| *head != unproven)
                .nth(1)
                .copied(),
        }
    }

    /// The stream shows the beginning of a file, and nothing before it is missing that is not on record.
    pub(crate) fn entered(&mut self, head: i64) {
        if !self.begins(head) {
            remember(&mut self.heads, head, REMEMBERED);
            self.bytes = 0;
        }
        self.current = Some(head);
        self.unproven.retain(|unproven| *unproven != head);
    }

    /// A line came.
    pub(crate) fn read(&mut self, at: i64, bytes: usize) {
        if self.recent.back().is_some_and(|last| at - last >= REST) {
            remember(&mut self.rested, at, REMEMBERED);
        }
        remember(&mut self.recent, at, RECENT);
        self.bytes += bytes;
    }

    /// The stream was opened in the middle of a log of so many bytes.
    pub(crate) fn opened(&mut self, bytes: i64) {
        self.bytes = self.bytes.max(usize::try_from(bytes).unwrap_or_default().min(LEAST));
    }

    /// Whether enough was printed for the node to have rotated, or it has and the stream has not come so far.
    pub(crate) fn may_have_changed(&self) -> bool {
        self.bytes >= LEAST || !self.unproven.is_empty()
    }

    /// The node was asked for the newest head.
    pub(crate) fn looked(&mut self, head: i64) {
        if self.begins(head) {
            return;
        }
        // The first one that is learned of a stream is that of the file in which it was opened.
        if !self.heads.is_empty() {
            remember(&mut self.unproven, head, REMEMBERED);
            self.bytes = 0;
        } else {
            self.current = Some(head);
        }
        remember(&mut self.heads, head, REMEMBERED);
    }

    /// Whether a file is known to begin with this timestamp.
    pub(crate) fn begins(&self, at: i64) -> bool {
        self.heads.contains(&at)
    }

    /// Whether the file with this head comes right after the one that the stream is in: a follower that lags behind goes on to
    /// the newest one.
    pub(crate) fn follows(&self, head: i64) -> bool {
        let place = |head| self.heads.iter().position(|known| *known == head);
        match (self.current.and_then(place), place(head)) {
            (Some(current), Some(next)) => next <= current + 1,
            _ => true,
        }
    }

    /// Whether the newest file is the one that the stream is in.
    pub(crate) fn is_current(&self, head: i64) -> bool {
        self.current == Some(head) && self.unproven.is_empty()
    }

    /// Whether the stream has not come to the file with this head yet.
    fn is_ahead(&self, head: i64) -> bool {
        let last = self.recent.back();
        last.is_some_and(|last| *last < head + SKEW) && !self.recent.contains(&head)
    }

    /// Whether the newest file is another one than the stream is in, the very next. `head`: None when nothing is in it yet.
    pub(crate) fn is_next(&self, head: Option<i64>) -> bool {
        let Some(last) = self.recent.back() else { return false };
        head.is_none_or(|head| self.is_ahead(head) && head < last + ROUND)
    }

    /// A place that the stream has come past, and before which lines may be missing. `over`: nothing more comes.
    pub(crate) fn unproven(&mut self, over: bool) -> Option<Gap> {
        let head = *self.unproven.front().filter(|head| over || !self.is_ahead(**head))?;
        self.unproven.pop_front();
        self.current = Some(head);
        if self.rested.contains(&head) {
            return None;
        }
        Some(Gap {
            from: self.recent.iter().filter(|at| **at < head).max().copied(),
            to: Some(head),
            reason: "rotation".into(),
            cut: true,
            ..Gap::default()
        })
    }
}

/// When a run of which nobody had read anything printed, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unread {
    /// The run began, and may have printed.
    pub(crate) began: i64,
    /// The first line that the node still had.
    pub(crate) first: i64,
    /// Reading began.
    pub(crate) attached: i64,
    /// What is known of it ends.
    pub(crate) until: i64,
    /// Bytes that came.
    pub(crate) bytes: i64,
    /// No more will.
    pub(crate) over: bool,
}

/// Lines that may have come before the first one. There may have been a file of them if the run would have filled one, had it
/// always printed so, and if that took it no less time than the file that was there. None: it is too early to tell.
pub(crate) fn before_first(run: Unread) -> Option<Option<Gap>> {
    let (before, since) = (run.first - run.began, run.until - run.first);
    if since < if run.over { MOMENT } else { ROUND } {
        return None;
    }
    let estimated = (run.bytes as f64 * before as f64 / since as f64).round();
    let may_be = before >= MOMENT.max(run.attached - run.first) && estimated >= USUAL as f64;
    Some(may_be.then(|| Gap {
        to: Some(run.first),
        reason: "rotation".into(),
        cut: true,
        estimated_bytes: Some(estimated as i64),
        ..Gap::default()
    }))
}

fn remember(times: &mut VecDeque<i64>, time: i64, many: usize) {
    if times.len() == many {
        times.pop_front();
    }
    times.push_back(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn busy() -> Files {
        let mut files = Files::default();
        files.entered(10);
        for at in 10..100 {
            files.read(at, LEAST / 50);
        }
        files
    }

    #[test]
    fn what_may_have_been_rotated_away_before_anybody_read_is_on_record() {
        const MIB: i64 = 1 << 20;
        // Began at 100 s. When the first line came, reading began, and the last line came; and how many megabytes.
        let run = |first: i64, attached: i64, until: i64, mib: i64| Unread {
            began: 100 * SECOND,
            first: first * SECOND,
            attached: attached * SECOND,
            until: until * SECOND,
            bytes: mib * MIB,
            over: false,
        };
        let gap = before_first(run(120, 125, 140, 10)).unwrap().unwrap();
        assert_eq!(
            (gap.from, gap.to, gap.cut, gap.estimated_bytes),
            (None, Some(120 * SECOND), true, Some(10 * MIB))
        );
        for (run, why) in [
            (run(100, 105, 140, 30), "it has printed from its beginning on"),
            (run(101, 102, 140, 900), "the second in which it began is not over"),
            (run(103, 109, 140, 300), "the file that was there took longer"),
            (run(120, 125, 140, 9), "so little is not rotated"),
        ] {
            assert_eq!(before_first(run), Some(None), "{why}");
        }
        let early = run(120, 125, 129, 10);
        assert_eq!(before_first(early), None, "more will tell");
        assert!(before_first(Unread { over: true, ..early }).unwrap().is_some());
        let moment = run(120, 125, 121, 10);
        assert_eq!(
            before_first(Unread { over: true, ..moment }),
            None,
            "a moment says nothing"
        );
    }

    #[test]
    fn a_stream_is_in_the_newest_file_until_another_one_is_seen() {
        let mut files = Files::default();
        assert!(!files.is_current(100), "nobody knows");
        files.looked(100);
        assert!(files.is_current(100) && !files.is_current(300));
        files.looked(300);
        assert!(!files.is_current(300), "the stream has not come to it");
        files.entered(300);
        assert!(files.is_current(300));
    }

    #[test]
    fn a_little_log_is_not_asked_about() {
        let mut files = Files::default();
        files.entered(10);
        files.read(10, 100);
        files.opened(200);
        assert!(!files.may_have_changed());
        assert!(busy().may_have_changed());
        files.opened(i64::MAX);
        assert!(files.may_have_changed(), "it was opened in the middle of a long log");
    }

    #[test]
    fn a_change_of_files_that_was_not_seen_is_on_record() {
        let mut files = busy();
        files.looked(200);
        assert!(files.may_have_changed(), "the stream is still in the old one");
        assert_eq!(files.unproven(false), None, "not there yet");
        files.read(150, 1);
        assert_eq!(files.unproven(false), None, "not there yet");
        files.read(200, 1);
        let gap = files.unproven(false).unwrap();
        assert_eq!(
            (gap.from, gap.to, gap.reason.as_str(), gap.cut),
            (Some(150), Some(200), "rotation", true)
        );
        files.looked(200);
        assert_eq!(files.unproven(true), None, "it is the same file");
        files.looked(300);
        assert!(files.unproven(true).is_some(), "nothing more comes");
        files.looked(400);
        files.read(400 + SKEW, 1);
        assert!(files.unproven(false).is_some(), "it has gone by");
    }

    #[test]
    fn a_change_of_files_that_was_seen_or_during_a_rest_is_none() {
        let mut files = busy();
        files.looked(200);
        files.entered(200);
        assert_eq!(files.unproven(true), None);
        files.read(200, 1);
        files.read(200 + SECOND, 1);
        files.looked(200 + SECOND);
        assert_eq!(files.unproven(true), None);
    }

    #[test]
    fn the_first_head_of_a_resumed_stream_is_no_change() {
        let mut files = Files::default();
        files.read(300, LEAST);
        files.looked(200);
        assert_eq!(files.unproven(true), None);
        files.looked(400);
        assert!(files.unproven(true).is_some());
    }

    #[test]
    fn a_change_of_files_that_a_reader_did_not_live_to_put_on_record_is_put_there_by_the_next() {
        let mut files = busy();
        assert_eq!(files.proven(), Some(10));
        files.looked(200);
        assert_eq!(files.proven(), Some(10), "it is doubtful");
        files.read(200, 1);
        assert!(files.unproven(false).is_some());
        assert_eq!(files.proven(), Some(200));
        files.looked(300);
        files.looked(400);
        assert_eq!(files.proven(), Some(200));

        let resumed = |last| {
            let mut files = Files::resumed(Some(10), Some(last));
            assert!(!files.begins(200));
            files.looked(200);
            files
        };
        // It had come past the change.
        let gap = resumed(200 + SKEW).unproven(false).unwrap();
        assert_eq!((gap.from, gap.to), (None, Some(200)));
        // It had not.
        let mut files = resumed(150);
        assert_eq!(files.unproven(false), None);
        files.entered(200);
        assert_eq!((files.unproven(true), files.proven()), (None, Some(200)));
        // It goes on in the same file.
        let mut files = Files::resumed(Some(10), Some(150));
        files.looked(10);
        assert_eq!((files.unproven(true), files.proven()), (None, Some(10)));
        let mut unknown = Files::resumed(None, Some(150));
        unknown.looked(200);
        assert_eq!((unknown.unproven(true), unknown.proven()), (None, Some(200)));
    }

    #[test]
    fn files_are_known_by_their_heads() {
        let mut files = Files::default();
        assert!(!files.begins(1), "nothing is known");
        files.entered(10);
        files.looked(50);
        assert!(files.begins(10) && files.begins(50) && !files.begins(30));
        for head in 100..200 {
            files.looked(head);
        }
        assert!(files.begins(199) && !files.begins(10), "few are remembered");
    }

    #[test]
    fn a_follower_that_lags_behind_may_pass_over_a_file() {
        let mut files = busy();
        files.looked(200);
        assert!(files.follows(200));
        files.looked(300);
        assert!(files.follows(200) && !files.follows(300));
        files.entered(200);
        assert!(files.follows(300));
        files.read(300, 1);
        assert!(files.unproven(false).is_some());
        files.looked(400);
        assert!(files.follows(400), "it has gone on without being seen");
    }

    #[test]
    fn the_next_file_is_another_one_and_follows_at_once() {
        let mut files = Files::default();
        assert!(!files.is_next(None), "nothing was read");
        let last = 100 * SECOND;
        for at in last - 50..=last {
            files.read(at, 1);
        }
        assert!(files.is_next(None), "nothing is in it yet");
        assert!(files.is_next(Some(last + 1)) && files.is_next(Some(last + 9 * SECOND)));
        assert!(files.is_next(Some(last - 1000)), "both are written to for a moment");
        assert!(!files.is_next(Some(last - 10)), "it is this one");
        assert!(!files.is_next(Some(last - SECOND)), "it is this one");
        assert!(!files.is_next(Some(last + 12 * SECOND)), "there may be one in between");
    }
}
