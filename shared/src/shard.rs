//! The processes of a cluster in shards: who of its managers watches which.

use uuid::Uuid;

/// Shards of a cluster: up to as many managers share its watch, and two, three, four or six of them evenly.
pub const COUNT: i16 = 12;

/// The shard of a process. It is written into the labels of its pods, so it never changes.
pub fn of(process: Uuid) -> i16 {
    i16::try_from(process.as_u128() % u128::from(COUNT.unsigned_abs())).unwrap_or_default()
}

/// How the shards of a cluster are divided at the moment, as one of its managers sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Division {
    /// Managers that take part, this one too: their lease goes on, and they reach the cluster.
    pub managers: usize,
    /// Whether the others know that this manager takes part.
    pub takes_part: bool,
    /// Shards of this manager.
    pub held: Vec<i16>,
    /// Shards of nobody who lives.
    pub free: Vec<i16>,
}

impl Division {
    /// What this manager should hold instead; nothing at first, so that others know of it. None: it holds its part.
    ///
    /// Nobody holds more than its part, rounded up, and whoever holds less takes what is free. So a shard that is given up
    /// is taken, and none moves to and fro.
    pub fn wanted(&self) -> Option<Vec<i16>> {
        let part = usize::from(COUNT.unsigned_abs()).div_ceil(self.managers.max(1));
        let mut wanted: Vec<i16> = self.held.iter().chain(&self.free).copied().take(part).collect();
        wanted.sort_unstable();
        (wanted != self.held || !self.takes_part).then_some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_takes_its_part_and_no_more() {
        for (name, managers, held, free, expected) in [
            ("alone", 1, vec![], (0..12).collect(), Some((0..12).collect())),
            ("alone, and has all", 1, (0..12).collect(), vec![], None),
            (
                "another one has come",
                2,
                (0..12).collect(),
                vec![],
                Some((0..6).collect()),
            ),
            ("nothing is free yet", 2, vec![], vec![], None),
            (
                "the other one gave its part",
                2,
                vec![],
                (6..12).collect(),
                Some((6..12).collect()),
            ),
            (
                "the other one died",
                1,
                (0..6).collect(),
                (6..12).collect(),
                Some((0..12).collect()),
            ),
            ("one of five died", 4, vec![0, 1], vec![7, 8], Some(vec![0, 1, 7])),
            (
                "its part is less than what is free",
                3,
                vec![3],
                (4..12).collect(),
                Some(vec![3, 4, 5, 6]),
            ),
            ("more managers than shards", 20, vec![1], vec![], None),
        ] {
            assert_eq!(
                Division {
                    managers,
                    takes_part: true,
                    held,
                    free
                }
                .wanted(),
                expected,
                "{name}"
            );
        }
    }

    proptest! {
        /// The one that had all shards lives or not, others come, and all look in any order: soon each shard has one, and
        /// none moves any more.
        #[test]
        fn any_crowd_comes_to_rest(others in 1..16_usize, first_lives in any::<bool>(), order in any::<u64>()) {
            let all: Vec<i16> = (0..COUNT).collect();
            let mut held = vec![Vec::new(); others];
            if first_lives {
                held.push(all.clone());
            }
            let managers = held.len();
            for round in 0..4 {
                for step in 0..managers {
                    let index = (usize::try_from((order >> (round * 8)) & 0xff).unwrap() + step) % managers;
                    let taken = held.concat();
                    let free = all.iter().copied().filter(|shard| !taken.contains(shard)).collect();
                    let division = Division { managers, takes_part: true, held: held[index].clone(), free };
                    if let Some(wanted) = division.wanted() {
                        prop_assert!(round < 3, "still moving");
                        held[index] = wanted;
                    }
                }
            }
            let mut given = held.concat();
            given.sort_unstable();
            prop_assert_eq!(given, all);
        }

        #[test]
        fn every_process_has_a_shard(process in any::<u128>()) {
            prop_assert!((0..COUNT).contains(&of(Uuid::from_u128(process))));
        }
    }
}
