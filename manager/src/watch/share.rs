//! What each process may take of the way from the nodes to Postgres, so that one that prints much does not delay the lines of
//! another.
//!
//! Two bounds: how much of its logs is read in a second, and how much of it is read and not stored yet. Who is above one of
//! them is read slower: the node holds its lines, and rotates away what it cannot hold. All that waits gets its turn in the
//! order in which it came, a chunk at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use uuid::Uuid;

/// Bytes of one process that are read and not stored yet, at most: so much that a disk which takes a second for each commit keeps
/// up with a process that prints some megabytes in it.
const OF_ONE: u32 = 8 << 20;
/// The same of all processes.
const OF_ALL: u32 = 32 << 20;
/// Reading pauses once a process is so far ahead of its rate.
const AHEAD: Duration = Duration::from_millis(100);

/// The shares of all processes whose logs are read.
#[derive(Debug)]
pub(super) struct Shares {
    bytes_per_second: u64,
    all: Arc<Semaphore>,
    of: Mutex<HashMap<Uuid, Weak<Share>>>,
}

/// The share of one process: of all its containers together.
#[derive(Debug)]
pub(super) struct Share {
    bytes_per_second: u64,
    /// When all that was read is within the rate.
    even: Mutex<Instant>,
    one: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// Room for lines that are not stored yet. It is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _one: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Shares {
    /// `bytes_per_second`: what is read of one process at most; 0: as much as there is.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            all: Arc::new(Semaphore::new(OF_ALL as usize)),
            of: Mutex::default(),
        }
    }

    /// The share of a process, the same for all its readers.
    pub(super) fn of(&self, process: Uuid) -> Arc<Share> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = of.get(&process).and_then(Weak::upgrade) {
            return share;
        }
        of.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Share {
            bytes_per_second: self.bytes_per_second,
            even: Mutex::new(Instant::now()),
            one: Arc::new(Semaphore::new(OF_ONE as usize)),
            all: self.all.clone(),
        });
        of.insert(process, Arc::downgrade(&share));
        share
    }
}

impl Share {
    /// Bytes were read.
    pub(super) fn took(&self, bytes: usize, now: Instant) {
        if self.bytes_per_second > 0 {
            let mut even = self.even.lock().unwrap_or_else(PoisonError::into_inner);
            *even = now.max(*even) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        }
    }

    /// Until when no more is to be read.
    pub(super) fn pauses_until(&self, now: Instant) -> Option<Instant> {
        let even = *self.even.lock().unwrap_or_else(PoisonError::into_inner);
        (even > now + AHEAD).then_some(even)
    }

    /// Waits until so many bytes have room on their way. What is larger than all the room takes all of it.
    pub(super) async fn room(&self, bytes: usize) -> Option<Room> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // The own one first: who waits for itself keeps nothing from others.
        let one = self.one.clone().acquire_many_owned(bytes.min(OF_ONE)).await.ok()?;
        let all = self.all.clone().acquire_many_owned(bytes.min(OF_ALL)).await.ok()?;
        Some(Room { _one: one, _all: all })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;
    const ONE: usize = OF_ONE as usize;
    /// Processes that fill all the room.
    const MANY: usize = (OF_ALL / OF_ONE) as usize;

    #[test]
    fn who_is_ahead_of_its_rate_pauses_until_it_is_even() {
        let shares = Shares::new(MIB as u64);
        let (loud, quiet) = (shares.of(Uuid::from_u128(1)), shares.of(Uuid::from_u128(2)));
        let start = Instant::now();
        loud.took(MIB / 20, start);
        assert_eq!(loud.pauses_until(start), None, "a little ahead");
        let other_container = shares.of(Uuid::from_u128(1));
        other_container.took(MIB, start);
        let even = loud.pauses_until(start).unwrap();
        assert!(even - start >= Duration::from_secs(1) && even - start < Duration::from_millis(1100));
        assert_eq!(loud.pauses_until(even), None);
        assert_eq!(quiet.pauses_until(start), None, "another process");
        // A rest is no credit for later.
        loud.took(MIB, start + Duration::from_hours(1));
        assert!(loud.pauses_until(start + Duration::from_hours(1)).is_some());
    }

    #[test]
    fn without_a_rate_nothing_pauses() {
        let share = Shares::new(0).of(Uuid::nil());
        let start = Instant::now();
        share.took(usize::MAX, start);
        assert_eq!(share.pauses_until(start), None);
    }

    #[test]
    fn one_process_fills_its_own_room_and_not_that_of_another() {
        let shares = Shares::new(0);
        let (loud, quiet) = (shares.of(Uuid::from_u128(1)), shares.of(Uuid::from_u128(2)));
        let first = loud.room(ONE / 2).now_or_never().flatten().unwrap();
        let _second = loud.room(ONE / 2).now_or_never().flatten().unwrap();
        assert!(loud.room(1).now_or_never().is_none(), "it is full");
        assert!(quiet.room(1).now_or_never().flatten().is_some());
        drop(first);
        assert!(loud.room(1).now_or_never().flatten().is_some(), "some of it is stored");
    }

    #[test]
    fn a_line_that_is_larger_than_the_room_gets_all_of_it() {
        let shares = Shares::new(0);
        let share = shares.of(Uuid::nil());
        let huge = share.room(2 * ONE).now_or_never().flatten().unwrap();
        assert!(share.room(1).now_or_never().is_none());
        drop(huge);
        assert!(share.room(1).now_or_never().is_some());
    }

    #[tokio::test]
    async fn all_processes_together_have_a_bound_and_take_turns() {
        let shares = Shares::new(0);
        let many: Vec<_> = (0..=MANY as u128).map(|id| shares.of(Uuid::from_u128(id))).collect();
        let mut rooms = Vec::new();
        for share in &many[..MANY] {
            rooms.push(share.room(ONE).await.unwrap());
        }
        let mut quiet = Box::pin(many[MANY].room(1));
        assert!(quiet.as_mut().now_or_never().is_none(), "all together are at the bound");
        rooms.pop();
        let mut loud = Box::pin(many[MANY - 1].room(ONE));
        assert!(loud.as_mut().now_or_never().is_none(), "it came later");
        assert!(quiet.now_or_never().is_some());
    }
}
