//! What builds need from elsewhere and did not get: who was away, since when, and when to ask again. Nothing of it is the
//! function's fault, so that a build waits for it however long that takes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two tries: a quarter of the time that the part has been away, within these.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
/// Longer than this nobody waits, whatever is asked for.
const LONGEST: Duration = Duration::from_secs(300);
/// What no build has met again for so long says nothing about now.
const OLD: Duration = Duration::from_secs(90);

/// A part that an operator named and builds need.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// A registry, by its host.
    Registry(String),
    /// The package index of the settings.
    Index,
    /// The API server, for pods that build wheels. Others watch it.
    ApiServer,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(host) => write!(f, "the registry {host}"),
            Self::Index => f.write_str("the package index"),
            Self::ApiServer => f.write_str("the API server"),
        }
    }
}

/// Why a build did not get on: a part is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Away {
    /// Who.
    pub part: Part,
    /// How long it asked to be left alone.
    pub asked: Duration,
    /// Whether it said nothing at all, which takes long to find out.
    pub silent: bool,
}

impl Away {
    pub(crate) fn new(part: Part) -> Self {
        Self {
            part,
            asked: Duration::ZERO,
            silent: false,
        }
    }

    /// It asked for this much patience, in `Retry-After`.
    pub(crate) fn asking(mut self, header: Option<&str>) -> Self {
        let seconds = header.and_then(|seconds| seconds.trim().parse().ok());
        self.asked = seconds.map_or(Duration::ZERO, Duration::from_secs).min(LONGEST);
        self
    }
}

/// One part that was missed.
#[derive(Clone, Debug)]
struct Absence {
    since: Instant,
    seen: Instant,
    /// It asked to be left alone until then.
    until: Instant,
    why: String,
}

/// What the builds of this process miss.
#[derive(Clone, Debug, Default)]
pub struct Supplies(Arc<Mutex<HashMap<Part, Absence>>>);

impl Supplies {
    /// A build has missed a part. Answers when it should be tried again.
    pub fn missed(&self, away: &Away, why: &str) -> Duration {
        self.missed_at(away, why, Instant::now())
    }

    fn missed_at(&self, away: &Away, why: &str, now: Instant) -> Duration {
        let mut missed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = missed.get(&away.part).filter(|absence| !absence.is_old(now));
        let since = earlier.map_or(now, |absence| absence.since);
        let absence = Absence {
            since,
            seen: now,
            until: now + away.asked,
            why: why.to_owned(),
        };
        missed.insert(away.part.clone(), absence);
        pause(now - since, away.asked)
    }

    /// A build has got what it needs of a part.
    pub fn had(&self, part: &Part) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(part);
    }

    /// Whether a part was missed, and how long it is to be left alone.
    pub(crate) fn left_alone(&self, part: &Part) -> Option<Duration> {
        let now = Instant::now();
        let missed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let absence = missed.get(part).filter(|absence| !absence.is_old(now))?;
        Some(absence.until.saturating_duration_since(now))
    }

    /// What is missed at the moment, for people.
    pub fn missing(&self) -> Vec<String> {
        let now = Instant::now();
        let missed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = missed
            .iter()
            .filter(|(part, absence)| **part != Part::ApiServer && !absence.is_old(now));
        let mut shown: Vec<_> = shown.map(|(_, absence)| absence.why.clone()).collect();
        shown.sort();
        shown
    }
}

impl Absence {
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen.max(self.until)) > OLD
    }
}

/// How long a build is put off for a part that has been away for a while.
fn pause(away: Duration, asked: Duration) -> Duration {
    // Jitter takes up to a fifth away.
    (away / 4).clamp(PAUSE.0, PAUSE.1).max(asked.mul_f64(1.25))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_away_is_asked_soon_and_never_sooner_than_it_asked_for() {
        let seconds = Duration::from_secs;
        for (away, asked, expected) in [(0, 0, 1.0), (8, 0, 2.0), (3600, 0, 3.0), (0, 20, 25.0), (3600, 1, 3.0)] {
            let pause = pause(seconds(away), seconds(asked));
            assert_eq!(pause.as_secs_f64(), expected, "{away} {asked}");
            // Whatever jitter makes of it.
            assert!(pause.mul_f64(0.8) >= seconds(asked));
            assert!(asked > 0 || pause.mul_f64(1.2) < seconds(5));
        }
    }

    #[test]
    fn patience_is_read_and_bounded() {
        for (header, asked) in [
            (Some("7"), 7),
            (Some(" 7 "), 7),
            (Some("86400"), 300),
            (Some("Wed, 21 Oct 2026 07:28:00 GMT"), 0),
            (None, 0),
        ] {
            assert_eq!(
                Away::new(Part::Index).asking(header).asked.as_secs(),
                asked,
                "{header:?}"
            );
        }
    }

    #[test]
    fn an_absence_lasts_until_the_part_is_had_or_nobody_meets_it_any_more() {
        let (supplies, start) = (Supplies::default(), Instant::now());
        let away = Away::new(Part::Registry("h".into()));
        let at = |seconds| start + Duration::from_secs(seconds);
        let paused = |seconds| supplies.missed_at(&away, "h is away", at(seconds)).as_secs();
        assert_eq!([paused(0), paused(8), paused(60)], [1, 2, 3]);
        // Nobody met it for so long that this is another absence.
        assert_eq!(paused(60 + 91), 1);
        assert_eq!(supplies.missing(), ["h is away"]);
        assert_eq!(supplies.left_alone(&Part::Index), None);
        supplies.missed(&Away::new(Part::ApiServer), "others show it");
        assert_eq!(supplies.missing().len(), 1);
        supplies.had(&away.part);
        assert!(supplies.missing().is_empty() && supplies.left_alone(&away.part).is_none());
        supplies.missed(&away.asking(Some("30")), "h is busy");
        assert!(
            supplies
                .left_alone(&Part::Registry("h".into()))
                .is_some_and(|left| left.as_secs() > 20)
        );
    }
}
