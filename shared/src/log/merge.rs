//! Which chunks of a process become one. Pure.

use std::ops::Range;

/// Bytes of printed lines that a merged chunk has at most: more pack no better.
pub const TARGET: i64 = 64 << 10;
/// Chunks as they were written that become one at most.
pub const MOST_PARTS: i64 = 4096;
/// Chunks at the end of a log that are worth a merge before they are [`TARGET`] together.
const ENOUGH: usize = 16;

/// A chunk as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece<K> {
    /// Its number.
    pub seq: i64,
    /// How many numbers it has, `seq` being the last.
    pub parts: i64,
    /// Only chunks that have the same become one: stream and day.
    pub key: K,
    /// Bytes of printed lines.
    pub size: i64,
}

/// What is to be merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which of the chunks become one, each range with two or more.
    pub groups: Vec<Range<usize>>,
    /// Chunks that need not be looked at again once that is done.
    pub done: usize,
}

/// Decides about the chunks of a process, which are in order. `ended`: nothing will follow them.
///
/// A chunk becomes one with its neighbours while they are of one stream and day and small enough together. Of the last ones,
/// which others may still join, many and similarly small ones become one: so a line is written again a few times, however
/// long the log.
pub fn plan<K: PartialEq>(pieces: &[Piece<K>], ended: bool) -> Plan {
    let mut groups = Vec::new();
    let (mut start, mut size, mut parts) = (0, 0, 0);
    for (index, piece) in pieces.iter().enumerate() {
        let joins = index > start && {
            let before = &pieces[index - 1];
            before.key == piece.key
                && before.seq + piece.parts == piece.seq
                && size + piece.size <= TARGET
                && parts + piece.parts <= MOST_PARTS
        };
        if !joins {
            groups.push(start..index);
            (start, size, parts) = (index, 0, 0);
        }
        size += piece.size;
        parts += piece.parts;
    }
    let done = if ended { pieces.len() } else { start };
    if ended {
        groups.push(start..pieces.len());
    } else {
        groups.extend(similar(pieces, start..pieces.len(), size));
    }
    groups.retain(|group| group.len() > 1);
    Plan { groups, done }
}

/// The longest end of a range that is worth a merge: none of it is larger than all that comes after it.
fn similar<K>(pieces: &[Piece<K>], range: Range<usize>, mut size: i64) -> Option<Range<usize>> {
    for start in range.clone() {
        if range.end - start < ENOUGH {
            return None;
        }
        size -= pieces[start].size;
        if pieces[start].size <= size {
            return Some(start..range.end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(of: &[(i64, i64, char, i64)]) -> Vec<Piece<char>> {
        of.iter()
            .map(|&(seq, parts, key, size)| Piece { seq, parts, key, size })
            .collect()
    }

    #[test]
    fn neighbours_of_one_stream_become_one_up_to_a_size() {
        let half = TARGET / 2;
        for (of, ended, groups, done) in [
            (vec![], true, vec![], 0),
            (vec![(1, 1, 'a', 9)], true, vec![], 1),
            (vec![(1, 1, 'a', 9), (2, 1, 'a', 9)], true, vec![(0, 2)], 2),
            (vec![(1, 1, 'a', 9), (2, 1, 'a', 9)], false, vec![], 0),
            (
                vec![(1, 1, 'a', half), (2, 1, 'a', half), (3, 1, 'a', 1)],
                false,
                vec![(0, 2)],
                2,
            ),
            (
                vec![(1, 1, 'a', half), (2, 1, 'a', half + 1), (3, 1, 'a', half)],
                true,
                vec![],
                3,
            ),
            (
                vec![(1, 1, 'a', 1), (2, 1, 'b', 1), (3, 1, 'a', 1), (4, 1, 'a', 1)],
                true,
                vec![(2, 4)],
                4,
            ),
            (
                vec![(1, 1, 'a', 1), (3, 1, 'a', 1), (4, 1, 'a', 1)],
                true,
                vec![(1, 3)],
                3,
            ),
            (vec![(4, 4, 'a', 1), (7, 3, 'a', 1)], true, vec![(0, 2)], 2),
            (
                vec![(4, 4, 'a', 1), (4 + MOST_PARTS, MOST_PARTS, 'a', 1)],
                true,
                vec![],
                2,
            ),
        ] {
            let groups = groups.into_iter().map(|(start, end)| start..end).collect();
            assert_eq!(plan(&pieces(&of), ended), Plan { groups, done }, "{of:?}");
        }
    }

    #[test]
    fn a_slow_log_is_packed_as_it_grows_and_written_again_a_few_times_only() {
        const LINE: i64 = 90;
        let (mut chunks, mut seq, mut rewritten) = (Vec::<Piece<char>>::new(), 0, 0);
        for _ in 0..TARGET / LINE {
            seq += 1;
            chunks.push(Piece {
                seq,
                parts: 1,
                key: 'a',
                size: LINE,
            });
            for group in plan(&chunks, false).groups.into_iter().rev() {
                let size = chunks[group.clone()].iter().map(|piece| piece.size).sum();
                let parts = chunks[group.clone()].iter().map(|piece| piece.parts).sum();
                rewritten += size;
                let merged = Piece {
                    seq: chunks[group.end - 1].seq,
                    parts,
                    key: 'a',
                    size,
                };
                chunks.splice(group, [merged]);
            }
            assert!(chunks.len() < ENOUGH + 8, "{}", chunks.len());
        }
        assert!(rewritten < 8 * TARGET, "{rewritten}");
    }
}
