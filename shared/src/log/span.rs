//! Places in a chunk. Chunks are merged, and cursors into those that were merged go on to mean the same line: a merged chunk has
//! the number of its last part, and knows of each part how many lines it had.

use super::Cursor;

/// Which numbers and lines a chunk has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its number, which is that of its last part.
    pub seq: i64,
    /// Lines in it.
    pub lines: i32,
    /// Lines of each of the chunks that were merged into it, numbered without a hole up to `seq`. None: it is one.
    pub parts: Option<Vec<i32>>,
}

impl Span {
    fn parts(&self) -> &[i32] {
        match &self.parts {
            Some(parts) if !parts.is_empty() => parts,
            _ => std::slice::from_ref(&self.lines),
        }
    }

    /// Neighbours as one. None: they are none.
    pub fn merged(spans: &[Self]) -> Option<Self> {
        let last = spans.last()?;
        let adjacent = spans.windows(2).all(|pair| pair[0].seq + 1 == pair[1].first_seq());
        adjacent.then(|| Self {
            seq: last.seq,
            lines: spans.iter().map(|span| span.lines).sum(),
            parts: Some(spans.iter().flat_map(Self::parts).copied().collect()),
        })
    }

    /// The number of its first part.
    pub fn first_seq(&self) -> i64 {
        let parts = i64::try_from(self.parts().len()).unwrap_or(i64::MAX);
        self.seq.saturating_sub(parts - 1)
    }

    /// How many of its lines are not after a cursor.
    pub fn index(&self, cursor: Cursor) -> usize {
        let as_usize = |count: i32| usize::try_from(count).unwrap_or_default();
        let mut lines = 0;
        for (seq, part) in (self.first_seq()..).zip(self.parts()) {
            if seq >= cursor.seq {
                let read = if seq == cursor.seq { cursor.line.min(*part) } else { 0 };
                return lines + as_usize(read);
            }
            lines += as_usize(*part);
        }
        lines
    }

    /// The place after so many of its lines: the same before and after merging.
    pub fn place(&self, lines: usize) -> Cursor {
        let mut left = i32::try_from(lines).unwrap_or(i32::MAX);
        for (seq, part) in (self.first_seq()..).zip(self.parts()) {
            if left <= *part {
                return Cursor { seq, line: left };
            }
            left -= part;
        }
        self.end()
    }

    /// The place after its last line.
    pub fn end(&self) -> Cursor {
        Cursor {
            seq: self.seq,
            line: self.parts().last().copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::any;
    use proptest::proptest;

    use super::*;

    /// Chunks as they are written: numbered one by one, and lines counted from 0 over all.
    fn written(counts: &[i32]) -> Vec<Span> {
        (5..)
            .zip(counts)
            .map(|(seq, lines)| Span {
                seq,
                lines: *lines,
                parts: None,
            })
            .collect()
    }

    /// Lines after a cursor, counted over all chunks.
    fn after(spans: &[Span], cursor: Cursor) -> usize {
        let all = spans.iter().map(|span| usize::try_from(span.lines).unwrap());
        all.zip(spans).map(|(lines, span)| lines - span.index(cursor)).sum()
    }

    proptest! {
        #[test]
        fn cursors_mean_the_same_line_in_whatever_order_chunks_are_merged(
            counts in proptest::collection::vec(1..6_i32, 1..12),
            merges in proptest::collection::vec((any::<proptest::sample::Index>(), 1..4_usize), 0..12),
        ) {
            let before = written(&counts);
            let mut spans = before.clone();
            for (start, more) in merges {
                let start = start.index(spans.len());
                let end = (start + more).min(spans.len() - 1);
                let merged = Span::merged(&spans[start..=end]).unwrap();
                spans.splice(start..=end, [merged]);
                for span in &before {
                    for lines in 0..=usize::try_from(span.lines).unwrap() {
                        let cursor = span.place(lines);
                        assert_eq!(after(&spans, cursor), after(&before, cursor), "{cursor} in {spans:?}");
                    }
                }
                // And a cursor that is given out now is one that was given out before.
                let given: Vec<Cursor> = spans
                    .iter()
                    .flat_map(|span| (1..=usize::try_from(span.lines).unwrap()).map(|lines| span.place(lines)))
                    .collect();
                let was: Vec<Cursor> = before
                    .iter()
                    .flat_map(|span| (1..=usize::try_from(span.lines).unwrap()).map(|lines| span.place(lines)))
                    .collect();
                assert_eq!(given, was);
            }
        }
    }

    #[test]
    fn places_outside_of_a_chunk_are_its_ends() {
        let spans = written(&[2, 3]);
        let merged = Span::merged(&spans).unwrap();
        assert_eq!((merged.first_seq(), merged.seq, merged.lines), (5, 6, 5));
        for (seq, line, index) in [
            (0, 9, 0),
            (4, i32::MAX, 0),
            (5, 1, 1),
            (5, i32::MAX, 2),
            (6, 0, 2),
            (6, 9, 5),
            (9, 0, 5),
        ] {
            assert_eq!(merged.index(Cursor { seq, line }), index, "{seq}.{line}");
        }
        assert_eq!(merged.place(9), merged.end());
        let apart = [
            spans[0].clone(),
            Span {
                seq: 9,
                ..spans[1].clone()
            },
        ];
        assert_eq!(Span::merged(&apart), None, "there is a hole between them");
    }
}
