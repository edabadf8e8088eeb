//! When something is due while a stream is read. Pure: it is told the time.

use std::time::Duration;

use tokio::time::Instant;

/// A chunk is written this long after its first line came, or when it is full.
const FLUSH_AFTER: Duration = Duration::from_millis(150);
/// One that is large is, once its stream has rested for so long: more is not on its way.
const RESTED: Duration = Duration::from_millis(10);
/// The anchor is given up this long after a line that is later than all stored ones.
const SEARCH_LATE: Duration = Duration::from_secs(2);
/// And this long after the first line in any case.
const SEARCH: Duration = Duration::from_secs(60);
/// Silence after which a stream is suspected to hang on a file that was rotated away.
const SUSPECT: Duration = Duration::from_secs(1);
/// Between two suspicions.
const SUSPECT_AGAIN: Duration = Duration::from_secs(2);
/// Nodes look at the size of logs every 10 s: later in a silence no log is rotated.
const SUSPECT_UNTIL: Duration = Duration::from_secs(14);
/// Kubelets look at a silent file every second: what it still has comes within this time.
const DRAINED: Duration = Duration::from_millis(1500);
/// A node that takes longer to say what the newest file begins with may be as late with lines.
const PROMPT: Duration = Duration::from_secs(1);
/// Between two looks at the newest file while lines come.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// A stream that waited for us so long,
const HELD_UP: Duration = Duration::from_millis(100);
/// as lately as this, may be late because of us.
const HELD_UP_LATELY: Duration = Duration::from_secs(3);
/// Who has not read for so long has not looked at the newest file either: nodes look at the size of logs every 10 s, and meanwhile a
/// whole file may have come and gone.
const STOPPED: Duration = Duration::from_secs(5);
/// Between two questions about timestamps in lines.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// The batch has waited long enough.
    Flush,
    /// The search for the last stored line has.
    Search,
    /// The stream is silent: does it hang?
    Look,
    /// Nothing came for long.
    Idle,
}

/// The deadlines of one stream.
#[derive(Debug)]
pub(crate) struct Pace {
    last_bytes: Instant,
    flush: Option<Instant>,
    rested: Option<Instant>,
    search: Option<Instant>,
    look: Option<Instant>,
    asked: Option<Instant>,
    doubted: Option<Instant>,
    hangs_since: Option<Instant>,
    held_up: Option<Instant>,
    stopped: bool,
}

impl Pace {
    /// A followed stream without a byte for this long is opened again: its connection may have died silently.
    pub(crate) const IDLE: Duration = Duration::from_secs(60);

    pub(crate) fn new() -> Self {
        Self {
            last_bytes: Instant::now(),
            flush: None,
            rested: None,
            search: None,
            look: None,
            asked: None,
            doubted: None,
            hangs_since: None,
            held_up: None,
            stopped: false,
        }
    }

    /// The next time at which something is due.
    pub(crate) fn next(&self) -> Instant {
        let all = [self.flush, self.rested, self.search, self.look];
        let idle = self.last_bytes + Self::IDLE;
        all.into_iter().flatten().fold(idle, Instant::min)
    }

    pub(crate) fn due(&self, now: Instant) -> Due {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.flush) || is_due(self.rested) {
            Due::Flush
        } else if is_due(self.search) {
            Due::Search
        } else if is_due(self.look) {
            Due::Look
        } else if self.last_bytes + Self::IDLE <= now {
            Due::Idle
        } else {
            Due::Nothing
        }
    }

    /// Whether we have not read for long since this was last asked: we waited for others, or the process was stopped, which
    /// does late what was due.
    pub(crate) fn was_stopped(&mut self, now: Instant) -> bool {
        std::mem::take(&mut self.stopped) || now >= self.next() + STOPPED
    }

    pub(crate) fn bytes_came(&mut self, now: Instant) {
        self.last_bytes = now;
        self.hangs_since = None;
    }

    /// `waits`: there is a batch, and `is_large`: it is no small chunk any more.
    pub(crate) fn set_flush(&mut self, now: Instant, waits: bool, is_large: bool) {
        self.flush = waits.then(|| self.flush.unwrap_or(now + FLUSH_AFTER));
        self.rested = is_large.then(|| now + RESTED);
    }

    /// Whether the batch is due by then.
    pub(crate) fn is_flush_before(&self, at: Instant) -> bool {
        self.flush.is_some_and(|flush| flush <= at)
    }

    /// Nothing was read for so long because of us: that says nothing about the stream.
    pub(crate) fn paused(&mut self, now: Instant, long: Duration) {
        self.last_bytes += long;
        self.stopped |= long >= STOPPED;
        if long >= HELD_UP {
            self.held_up = Some(now);
        }
        for due in [&mut self.search, &mut self.look, &mut self.hangs_since] {
            *due = due.map(|due| due + long);
        }
    }

    /// Whether it may be late because of us.
    pub(crate) fn was_held_up(&self, now: Instant) -> bool {
        self.held_up.is_some_and(|at| now < at + HELD_UP_LATELY)
    }

    pub(crate) fn set_search(&mut self, now: Instant, searches: bool, is_late: bool) {
        self.search = searches.then(|| {
            let until = self.search.unwrap_or(now + SEARCH);
            if is_late { until.min(now + SEARCH_LATE) } else { until }
        });
    }

    /// Bytes came, and the log is so long that it may be rotated.
    pub(crate) fn set_look(&mut self, now: Instant, looks: bool) {
        self.look = looks.then(|| now + SUSPECT);
    }

    pub(crate) fn is_long_since_look(&self, now: Instant) -> bool {
        self.asked.is_none_or(|asked| now - asked >= LOOK_EVERY)
    }

    /// Whether the node may be asked about a timestamp in a line. What it said before, when the timestamp was not there yet, does not
    /// count.
    pub(crate) fn may_ask(&mut self, now: Instant) -> bool {
        let may = self.doubted.is_none_or(|doubted| now - doubted >= ASK_EVERY);
        if may {
            self.doubted = Some(now);
        }
        may
    }

    /// The node was asked.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// The silent stream has shown all of the newest file.
    pub(crate) fn does_not_hang(&mut self) {
        self.hangs_since = None;
        self.look = self.look.and_then(|look| {
            let again = look + SUSPECT_AGAIN;
            (again <= self.last_bytes + SUSPECT_UNTIL).then_some(again)
        });
    }

    /// It has not. True: for so long that nothing more is on its way; else it is looked at again. `took`: how long its node took to
    /// say so.
    pub(crate) fn hangs_for_long(&mut self, now: Instant, took: Duration) -> bool {
        if took > PROMPT {
            self.hangs_since = Some(now);
        }
        let since = *self.hangs_since.get_or_insert(now);
        self.look = Some(since + DRAINED);
        now - since >= DRAINED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_waits_for_a_moment_from_its_first_line() {
        let mut pace = Pace::new();
        let start = pace.last_bytes;
        pace.set_flush(start, true, false);
        pace.set_flush(start + FLUSH_AFTER / 2, true, false);
        assert_eq!(pace.next(), start + FLUSH_AFTER);
        assert_eq!(pace.due(start), Due::Nothing);
        assert_eq!(pace.due(start + FLUSH_AFTER), Due::Flush);
        pace.set_flush(start + RESTED, true, true);
        assert_eq!(
            pace.next(),
            start + 2 * RESTED,
            "a large one waits for no more than is on its way"
        );
        assert_eq!(pace.due(start + 2 * RESTED), Due::Flush);
        pace.set_flush(start, false, false);
        assert_eq!(pace.due(start + Pace::IDLE), Due::Idle);
    }

    #[test]
    fn a_search_ends_soon_after_a_late_line() {
        let mut pace = Pace::new();
        let start = pace.last_bytes;
        pace.set_search(start, true, false);
        assert_eq!(pace.next(), start + SEARCH);
        pace.set_search(start + SUSPECT, true, true);
        pace.set_search(start + 2 * SUSPECT, true, true);
        assert_eq!(pace.due(start + SUSPECT + SEARCH_LATE), Due::Search);
        pace.set_search(start, false, false);
        assert_eq!(pace.due(start + SEARCH_LATE), Due::Nothing);
    }

    #[test]
    fn a_silent_stream_is_suspected_for_a_round_of_the_node() {
        let mut pace = Pace::new();
        let start = pace.last_bytes;
        pace.set_look(start, true);
        let mut looks = 0;
        while pace.due(pace.next()) == Due::Look {
            looks += 1;
            pace.does_not_hang();
        }
        assert_eq!(looks, 7);
        assert_eq!(pace.due(pace.next()), Due::Idle);
    }

    #[test]
    fn a_stream_hangs_when_it_is_silent_beside_a_newer_file() {
        let mut pace = Pace::new();
        let start = pace.last_bytes;
        pace.set_look(start, true);
        assert!(!pace.hangs_for_long(start + SUSPECT, PROMPT));
        assert_eq!(pace.next(), start + SUSPECT + DRAINED);
        assert!(pace.hangs_for_long(pace.next(), PROMPT));
        assert!(!pace.hangs_for_long(start + SUSPECT + DRAINED / 2, PROMPT));
        pace.bytes_came(start);
        let late = start + 2 * (SUSPECT + DRAINED);
        assert!(!pace.hangs_for_long(late, PROMPT), "it goes on");
        assert!(!pace.hangs_for_long(late + DRAINED, 2 * PROMPT), "the way is slow");
        assert!(!pace.hangs_for_long(late + DRAINED, PROMPT));
        assert!(pace.hangs_for_long(late + 2 * DRAINED, PROMPT));
    }

    #[test]
    fn a_pause_of_ours_is_no_silence_of_the_stream() {
        let mut pace = Pace::new();
        let start = pace.last_bytes;
        pace.set_flush(start, true, false);
        pace.set_look(start, true);
        pace.set_search(start, true, true);
        assert!(pace.is_flush_before(start + FLUSH_AFTER) && !pace.is_flush_before(start));
        let now = start + Pace::IDLE;
        pace.paused(now, Pace::IDLE);
        assert_eq!(pace.due(now), Due::Flush, "what was read waits no longer");
        pace.set_flush(now, false, false);
        assert_eq!(pace.due(now), Due::Nothing);
        assert_eq!(pace.due(now + SUSPECT), Due::Look);
        assert_eq!(pace.due(now + SEARCH_LATE), Due::Search);
        pace.set_search(now, false, false);
        pace.set_look(now, false);
        assert_eq!(pace.due(now + Pace::IDLE), Due::Idle);
    }

    #[test]
    fn who_did_not_read_for_long_was_stopped() {
        let mut pace = Pace::new();
        let start = pace.last_bytes;
        pace.set_flush(start, true, false);
        assert!(!pace.was_stopped(start + STOPPED) && pace.was_stopped(start + FLUSH_AFTER + STOPPED));
        pace.set_flush(start, false, false);
        assert!(!pace.was_stopped(start + Pace::IDLE), "nothing was due before");
        pace.paused(start, STOPPED / 2);
        assert!(!pace.was_stopped(start));
        pace.paused(start, STOPPED);
        assert!(pace.was_stopped(start) && !pace.was_stopped(start), "it is told once");
    }

    #[test]
    fn a_stream_that_we_held_up_may_be_late_because_of_us() {
        let mut pace = Pace::new();
        let start = pace.last_bytes;
        pace.paused(start, HELD_UP / 2);
        assert!(!pace.was_held_up(start), "a moment is nothing");
        pace.paused(start, HELD_UP);
        assert!(pace.was_held_up(start) && !pace.was_held_up(start + HELD_UP_LATELY));
    }

    #[test]
    fn a_node_is_not_asked_too_often() {
        let mut pace = Pace::new();
        let start = pace.last_bytes;
        assert!(pace.is_long_since_look(start));
        pace.asked(start);
        assert!(pace.may_ask(start), "the timestamp may be newer than the answer");
        assert!(!pace.may_ask(start + ASK_EVERY / 2) && pace.may_ask(start + ASK_EVERY));
        assert!(!pace.is_long_since_look(start + ASK_EVERY) && pace.is_long_since_look(start + LOOK_EVERY));
    }
}
