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
/// While a log is rotated, lines of the old file may be later than those of the new one, mostly by less than this,
const SKEW: i64 = 50_000_000;
/// and on a busy node by less than this.
const LATE: i64 = 1_000_000_000;
/// A status has whole seconds, and a moment says nothing about what came before.
const MOMENT: i64 = 2_000_000_000;
/// Lines that are printed meanwhile at most.
const RECENT: usize = 8192;
/// Of lines before that, one in so many nanoseconds is remembered,
const SPARSE: i64 = 50_000_000;
/// for a minute: a change of files is noticed seconds later.
const REMEMBERED_SPARSE: usize = 1200;

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
    /// Those of a few lines, further back.
    sparse: VecDeque<i64>,
    /// Lines that came after a rest.
    rested: VecDeque<i64>,
    /// Heads that the stream has gone or will go on to, and may have missed the end of the file before.
    unproven: VecDeque<i64>,
    /// Those of them whose line the stream has shown.
    shown: VecDeque<i64>,
    /// Heads before which there may be files that nobody has seen.
    doubtful: VecDeque<i64>,
    /// For longer than a file lasts nobody has looked.
    blind: bool,
    /// The end of the last hole.
    hole: Option<i64>,
    /// The first line that the stream has shown.
    first: Option<i64>,
    /// The last line that was stored when this reader began: of those before it no timestamp is known here.
    resumed_at: Option<i64>,
}

impl Files {
    /// Those of a stream of which something is stored: the newest head of which nothing is doubtful, and the last line.
    pub(crate) fn resumed(head: Option<i64>, last: Option<i64>) -> Self {
        Self {
            heads: head.into_iter().collect(),
            current: head,
            recent: head.and(last).into_iter().collect(),
            sparse: last.into_iter().collect(),
            resumed_at: last,
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

    /// The same, after a hole that is on record: files in between were passed over.
    pub(crate) fn passed_over(&mut self, to: i64) {
        self.entered(to);
        self.unproven.retain(|unproven| *unproven > to);
        self.hole = Some(to);
    }

    /// A stream begins with this line.
    pub(crate) fn began(&mut self, at: i64) {
        self.first = Some(at);
    }

    /// A line came.
    pub(crate) fn read(&mut self, at: i64, bytes: usize) {
        if self.recent.back().is_some_and(|last| at - last >= REST) {
            remember(&mut self.rested, at, REMEMBERED);
        }
        remember(&mut self.recent, at, RECENT);
        if self.unproven.contains(&at) {
            remember(&mut self.shown, at, REMEMBERED);
        }
        if self.sparse.back().is_none_or(|last| at - last >= SPARSE) {
            remember(&mut self.sparse, at, REMEMBERED_SPARSE);
        }
        self.bytes += bytes;
    }

    /// The stream was opened in the middle of a log of so many bytes.
    pub(crate) fn opened(&mut self, bytes: i64) {
        self.bytes = self.bytes.max(usize::try_from(bytes).unwrap_or_default().min(LEAST));
    }

    /// Nobody has looked for so long that files may have come and gone.
    pub(crate) fn blinded(&mut self) {
        self.blind = true;
    }

    /// Whether enough was printed for the node to have rotated, or it has and the stream has not come so far.
    pub(crate) fn may_have_changed(&self) -> bool {
        self.bytes >= LEAST || !self.unproven.is_empty()
    }

    /// The node was asked for the newest head.
    pub(crate) fn looked(&mut self, head: i64) {
        let was_blind = std::mem::take(&mut self.blind);
        if self.begins(head) {
            return;
        }
        if was_blind {
            remember(&mut self.doubtful, head, REMEMBERED);
        }
        // The first one that is learned of a stream is that of the file in which it was opened.
        if !self.heads.is_empty() {
            remember(&mut self.unproven, head, REMEMBERED);
            if self.recent.contains(&head) {
                remember(&mut self.shown, head, REMEMBERED);
            }
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
            (Some(current), Some(next)) => next <= current || next == current + 1 && !self.doubtful.contains(&head),
            _ => true,
        }
    }

    /// Whether the newest file is the one that the stream is in.
    pub(crate) fn is_current(&self, head: i64) -> bool {
        self.current == Some(head) && self.unproven.is_empty()
    }

    /// Whether the stream shows a line again: a follower that lags by two changes of files opens the newest one twice, and a node that
    /// fails to begin a new file gives the old one its name back, which followers take for another. What is shown again begins with
    /// the same line as before, or with its file.
    pub(crate) fn shows_again(&self, at: i64) -> bool {
        // Asked of every line, and hardly any goes back.
        if self.recent.back().is_none_or(|last| at + SKEW >= *last) {
            return false;
        }
        let is_first = self.first == Some(at) || self.current == Some(at);
        let is_known = is_first || self.recent.contains(&at) || self.sparse.contains(&at);
        is_known || self.goes_far_back(at) && self.begins(at)
    }

    /// Whether a line is earlier than the last one by more than lines of the next file ever are.
    pub(crate) fn goes_far_back(&self, at: i64) -> bool {
        self.recent.back().is_some_and(|last| at + LATE < *last)
    }

    /// Whether the newest file is another one than the stream is in, the very next. `head`: None when nothing is in it yet.
    pub(crate) fn is_next(&self, head: Option<i64>) -> bool {
        let Some(last) = self.recent.back() else { return false };
        let is_past = |head| self.recent.contains(&head) || *last >= head + SKEW;
        head.is_none_or(|head| !is_past(head) && head < last + ROUND)
    }

    /// The latest line that is known to be earlier: the very last one, if it came lately.
    fn last_before(&self, head: i64) -> Option<i64> {
        let known = self.recent.iter().chain(&self.sparse).chain(&self.heads);
        known.filter(|at| **at < head).max().copied()
    }

    /// The line after the change of files to this one: the first one of that file, unless it was passed over.
    fn first_after(&self, head: i64) -> i64 {
        let late = head + LATE;
        let mut following = self.recent.iter().zip(self.recent.iter().skip(1));
        let jump = following.find(|(last, next)| **last < late && **next >= late && *next - *last >= LATE);
        jump.filter(|_| !self.recent.contains(&head))
            .map_or(head, |(_, next)| *next)
    }

    /// Heads that the stream has come past, by their line or by one that is later than those of the file before are. `over`: nothing
    /// more comes. Asked after each piece of a stream, which must not be slow when it lags.
    fn passed(&self, over: bool) -> impl Iterator<Item = &i64> {
        let last = self.recent.back();
        let is_passed =
            move |head: &&i64| over || self.shown.contains(*head) || last.is_some_and(|last| *last >= **head + LATE);
        self.unproven.iter().take_while(is_passed)
    }

    /// The head of the place that [`Self::unproven`] is about to name, if the last line before it is among those that an earlier
    /// reader has stored: to be [`recalled`](Self::recalled).
    pub(crate) fn forgotten(&self, over: bool) -> Option<i64> {
        let first = *self.passed(over).next()?;
        self.resumed_at.is_some_and(|last| first <= last).then_some(first)
    }

    /// A line that an earlier reader has stored.
    pub(crate) fn recalled(&mut self, at: i64) {
        self.sparse.push_front(at);
    }

    /// A place that the stream has come past, and before which lines may be missing. `over`: nothing more comes.
    pub(crate) fn unproven(&mut self, over: bool) -> Option<Gap> {
        let passed = self.passed(over).count();
        let heads: Vec<i64> = self.unproven.drain(..passed).collect();
        let (first, last) = (*heads.first()?, *heads.last()?);
        self.current = Some(last);
        // A file lasts longer than it takes to see that the stream has come to it. Who passes one over has not rested.
        let is_passed_over = heads.len() > 1 || self.doubtful.contains(&last);
        if !is_passed_over && self.rested.contains(&last) || self.hole == Some(last) {
            return None;
        }
        let to = self.first_after(last);
        self.hole = Some(to);
        Some(Gap {
            from: self.last_before(first),
            to: Some(to),
            reason: if is_passed_over || to != last {
                "rotated_away"
            } else {
                "rotation"
            }
            .into(),
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

/// Whether a log covers so much time that its beginning has been judged ([`before_first`]).
pub(crate) fn is_long(first: Option<i64>, latest: Option<i64>) -> bool {
    first.zip(latest).is_some_and(|(first, latest)| latest - first >= ROUND)
}

fn remember(times: &mut VecDeque<i64>, time: i64, many: usize) {
    while times.len() >= many {
        times.pop_front();
    }
    times.push_back(time);
}

#[cfg(test)]
mod tests;
