//! How fast a log was printed, and from that how much a hole in it may have held. Pure.

use std::collections::VecDeque;

use octopus_shared::db::report::Opened;
use octopus_shared::log::Gap;

/// Seconds with lines that count.
const SECONDS: usize = 10;
const SECOND: i64 = 1_000_000_000;

/// The last seconds of a stream in which it printed, by the timestamps of its lines.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    seconds: VecDeque<Printed>,
    /// Times within them of which nothing is known.
    holes: VecDeque<(i64, i64)>,
    /// The latest line.
    last: i64,
    /// Bytes a nanosecond of all that was stored before this reader began.
    before: Option<f64>,
}

#[derive(Debug)]
struct Printed {
    second: i64,
    first: i64,
    bytes: usize,
}

impl Flow {
    /// That of a stream of which something is stored.
    pub(crate) fn resumed(opened: &Opened) -> Self {
        let cursor = &opened.cursor;
        let between = cursor.first.zip(cursor.latest);
        let known = between.map(|(first, latest)| latest - first - opened.missed);
        Self {
            before: known
                .filter(|nanoseconds| *nanoseconds > 0)
                .map(|nanoseconds| cursor.bytes as f64 / nanoseconds as f64),
            ..Self::default()
        }
    }

    /// A line is new.
    pub(crate) fn read(&mut self, at: i64, bytes: usize) {
        let second = at.div_euclid(SECOND);
        self.last = if self.seconds.is_empty() { at } else { self.last.max(at) };
        match self.seconds.back_mut() {
            // Lines that changed places, and a clock that was set back, begin no second anew.
            Some(back) if second <= back.second => back.bytes += bytes,
            _ => {
                if self.seconds.len() == SECONDS {
                    self.seconds.pop_front();
                }
                self.seconds.push_back(Printed {
                    second,
                    first: at,
                    bytes,
                });
            }
        }
    }

    /// A hole was put on record: what is known was printed in the rest of the time.
    pub(crate) fn missed(&mut self, gap: &Gap) {
        let (Some(from), Some(to)) = (gap.from, gap.to) else {
            return;
        };
        if self.holes.len() == SECONDS {
            self.holes.pop_front();
        }
        self.holes.push_back((from, to));
    }

    /// The hole, with the bytes that it held if printing went on as before.
    pub(crate) fn estimated(&self, mut gap: Gap) -> Gap {
        if let (None, Some(from), Some(to), Some(rate)) = (gap.bytes, gap.from, gap.to, self.rate())
            && to > from
        {
            gap.estimated_bytes = Some(((to - from) as f64 * rate).round() as i64);
        }
        gap
    }

    /// Bytes a nanosecond.
    fn rate(&self) -> Option<f64> {
        let Some(first) = self.seconds.front().map(|second| second.first) else {
            return self.before;
        };
        let bytes: usize = self.seconds.iter().map(|second| second.bytes).sum();
        let unknown = self
            .holes
            .iter()
            .map(|(from, to)| (*to).min(self.last) - (*from).max(first));
        let known = self.last - first - unknown.map(|hole| hole.max(0)).sum::<i64>();
        let lately = (known > 0).then(|| bytes as f64 / known as f64);
        // A moment says less than all that was there before.
        if known < SECOND { self.before.or(lately) } else { lately }
    }
}

#[cfg(test)]
mod tests {
    use octopus_shared::db::report::StreamCursor;

    use super::*;

    fn hole(from: i64, to: i64) -> Gap {
        Gap {
            from: Some(from),
            to: Some(to),
            ..Gap::default()
        }
    }

    #[test]
    fn a_hole_holds_what_its_time_would_have_at_the_rate_of_the_last_seconds() {
        let mut flow = Flow::default();
        // A kilobyte a second, then ten a second.
        for second in 0..20 {
            for tenth in 0..10 {
                let bytes = if second < 10 { 100 } else { 1000 };
                flow.read(second * SECOND + tenth * SECOND / 10, bytes);
            }
        }
        let estimated = flow.estimated(hole(20 * SECOND, 25 * SECOND)).estimated_bytes.unwrap();
        assert!((50_000..51_000).contains(&estimated), "{estimated}");
    }

    #[test]
    fn a_stream_that_was_just_resumed_is_judged_by_all_that_is_stored() {
        let opened = Opened {
            cursor: StreamCursor {
                first: Some(SECOND),
                latest: Some(31 * SECOND),
                bytes: 1000,
                ..StreamCursor::default()
            },
            missed: 20 * SECOND,
            ..Opened::default()
        };
        let estimated = |flow: &Flow| flow.estimated(hole(31 * SECOND, 51 * SECOND)).estimated_bytes;
        let mut flow = Flow::resumed(&opened);
        assert_eq!(estimated(&flow), Some(2000));
        flow.read(51 * SECOND, 50);
        flow.read(51 * SECOND + 1, 50);
        assert_eq!(estimated(&flow), Some(2000), "a moment says nothing");
        flow.read(52 * SECOND, 900);
        assert_eq!(estimated(&flow), Some(20_000));
    }

    #[test]
    fn the_time_of_a_hole_says_nothing_about_the_rate() {
        let mut flow = Flow::default();
        flow.read(SECOND, 1000);
        flow.missed(&hole(SECOND, 21 * SECOND));
        // It is found before the line after it is read, or later.
        flow.read(21 * SECOND, 1000);
        flow.read(22 * SECOND, 1000);
        let next = flow.estimated(hole(22 * SECOND, 42 * SECOND)).estimated_bytes;
        assert_eq!(next, Some(60_000));
        flow.missed(&hole(30 * SECOND, 42 * SECOND));
        assert_eq!(
            flow.estimated(hole(22 * SECOND, 42 * SECOND)).estimated_bytes,
            Some(60_000)
        );
    }

    #[test]
    fn what_is_known_is_not_estimated_and_what_cannot_be_known_is_not_either() {
        let mut flow = Flow::default();
        assert_eq!(flow.estimated(hole(1, 2)).estimated_bytes, None, "nothing was printed");
        flow.read(SECOND, 10);
        assert_eq!(flow.estimated(hole(1, 2)).estimated_bytes, None, "one line is no rate");
        flow.read(3 * SECOND, 10);
        assert!(flow.estimated(hole(1, SECOND)).estimated_bytes.is_some());
        let known = Gap {
            bytes: Some(7),
            ..hole(1, 2)
        };
        assert_eq!(flow.estimated(known.clone()), known);
        let endless = Gap {
            from: Some(1),
            ..Gap::default()
        };
        assert_eq!(flow.estimated(endless.clone()), endless);
        assert_eq!(flow.estimated(hole(2, 2)), hole(2, 2), "a clock that was set back");
    }
}
