//! Where claims begin to look. What was claimed stays in the index until Postgres may remove it, which a single open snapshot
//! prevents, and each look from the beginning walks over all of it. So looks begin above what was claimed last, and those from
//! the beginning take a fifth of the time at most, however long one takes.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use uuid::Uuid;

use super::Claim;
use super::take::claim_above;
use crate::command::CommandKind;

/// Pause between two looks from the beginning, in times of what the earlier one took.
const PAUSE: u32 = 4;
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// One claim after the other of the same kinds.
#[derive(Debug, Default)]
pub struct Looks {
    /// The highest order that was claimed.
    above: i64,
    /// When the next look begins from the beginning. None: this one.
    pause_until: Option<Instant>,
    /// Whether the last look left something out.
    partial: bool,
}

impl Looks {
    /// Claims up to `limit` commands. Answers fewer than there are when it did not look at all of them: see [`Looks::due`].
    ///
    /// # Errors
    /// As [`super::claim`].
    pub async fn claim(
        &mut self,
        pool: &PgPool,
        instance: Uuid,
        cluster: &str,
        kinds: &[CommandKind],
        limit: i64,
    ) -> Result<Vec<Claim>, sqlx::Error> {
        let began = Instant::now();
        let above = self.begins_above(began);
        // A look that fails owes nothing: whoever finds that something waits looks again.
        self.partial = false;
        let claims = claim_above(pool, instance, cluster, kinds, above, limit).await?;
        self.looked(above, began, Instant::now(), claims.iter().map(|claim| claim.seq).max());
        Ok(claims)
    }

    /// When to look again, though nothing calls for it: the last look left out what had been put back, or had been stored late.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.pause_until.filter(|_| self.partial)
    }

    fn begins_above(&self, now: Instant) -> i64 {
        match self.pause_until {
            Some(until) if now < until => self.above,
            _ => 0,
        }
    }

    fn looked(&mut self, above: i64, began: Instant, ended: Instant, highest: Option<i64>) {
        self.partial = above > 0;
        if above == 0 {
            self.pause_until = Some(ended + ((ended - began) * PAUSE).min(LONGEST_PAUSE));
        }
        self.above = self.above.max(highest.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_look_from_the_beginning_is_followed_by_four_times_as_long_of_looks_above_it() {
        let start = Instant::now();
        let mut looks = Looks::default();
        assert_eq!(looks.begins_above(start), 0, "nothing was claimed yet");
        looks.looked(0, start, start + 10 * MS, Some(70));
        assert_eq!(looks.due(), None, "it has seen everything");
        assert_eq!(looks.begins_above(start + 11 * MS), 70);
        looks.looked(70, start + 11 * MS, start + 12 * MS, Some(90));
        assert_eq!(looks.begins_above(start + 49 * MS), 90);
        assert_eq!(looks.due(), Some(start + 50 * MS), "what is below waits for it");
        assert_eq!(looks.begins_above(start + 50 * MS), 0);
        looks.looked(0, start + 50 * MS, start + 51 * MS, Some(5));
        assert_eq!(looks.begins_above(start + 52 * MS), 90, "what was put back is below");
    }

    #[test]
    fn no_look_is_put_off_for_long() {
        let start = Instant::now();
        let mut looks = Looks::default();
        looks.looked(0, start, start + 9000 * MS, Some(1));
        assert_eq!(looks.begins_above(start + 11_001 * MS), 0);
    }
}
