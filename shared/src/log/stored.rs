//! The bytes of a chunk: lines -> what is stored -> lines. Pure.
//!
//! A line is the time since the one before it, its length, and its bytes: 5 bytes or so instead of 31 for the time. All lines
//! of a chunk are packed as one block of lz4, unless that is no smaller.

use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Line;

/// Text, a line each: RFC 3339 timestamp, space, bytes, newline. Releases before compression wrote it.
pub const PLAIN: i16 = 0;
/// Lines with short times.
const DENSE: i16 = 1;
/// The same as a block of lz4, behind its length.
const LZ4: i16 = 2;
/// Bytes of a chunk at most: a batch is 64 KiB and one line of up to 16 MiB.
const LARGEST: usize = 64 << 20;
/// What lz4 makes of one byte at most.
const RATIO: usize = 255;

/// What is stored of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoded {
    /// The column `encoding`.
    pub encoding: i16,
    /// The column `data`. Kept beside what is serialized: bytes are no text.
    #[serde(skip)]
    pub data: Vec<u8>,
}

/// Stored bytes that hold no lines: what they say does not fit together.
#[derive(Debug, thiserror::Error)]
#[error("stored lines cannot be read: {0}")]
pub struct Undecodable(&'static str);

/// Lines on their way into a chunk.
#[derive(Clone, Debug, Default)]
pub struct Packer {
    data: Vec<u8>,
    before: i128,
}

impl Packer {
    /// Adds a line.
    pub fn push(&mut self, at: DateTime<Utc>, content: &[u8]) {
        let time = nanoseconds(at);
        let since = time - self.before;
        self.before = time;
        put(&mut self.data, ((since << 1) ^ (since >> 127)).cast_unsigned());
        put(&mut self.data, content.len() as u128);
        self.data.extend_from_slice(content);
    }

    /// Bytes that are held.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether no line was added.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// All lines, packed.
    pub fn finish(self) -> Encoded {
        let mut packed = Vec::new();
        put(&mut packed, self.data.len() as u128);
        packed.extend(lz4_flex::block::compress(&self.data));
        if packed.len() < self.data.len() {
            Encoded {
                encoding: LZ4,
                data: packed,
            }
        } else {
            Encoded {
                encoding: DENSE,
                data: self.data,
            }
        }
    }
}

/// The lines of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    data: Vec<u8>,
    lines: Vec<(DateTime<Utc>, Range<usize>)>,
}

impl Text {
    /// Reads what was stored, of any release up to this one.
    ///
    /// # Errors
    /// [`Undecodable`]: also of an encoding that a later release has made.
    pub fn decode(encoding: i16, data: Vec<u8>) -> Result<Self, Undecodable> {
        match encoding {
            PLAIN => Ok(Self::plain(data)),
            DENSE => Self::dense(data),
            LZ4 => {
                let mut rest = data.as_slice();
                let length = usize::try_from(take(&mut rest)?).unwrap_or(usize::MAX);
                if length > LARGEST || length > rest.len().saturating_mul(RATIO) {
                    return Err(Undecodable("they claim to be too long"));
                }
                let mut plain = vec![0; length];
                match lz4_flex::block::decompress_into(rest, &mut plain) {
                    Ok(read) if read == length => Self::dense(plain),
                    _ => Err(Undecodable("they are no block of lz4")),
                }
            }
            _ => Err(Undecodable("this release does not know their encoding")),
        }
    }

    /// Reads a plain chunk. What has no timestamp is no line.
    pub fn plain(data: Vec<u8>) -> Self {
        let start = data.as_ptr() as usize;
        let lines = super::lines(&data)
            .map(|line| {
                let from = line.content.as_ptr() as usize - start;
                (line.at, from..from + line.content.len())
            })
            .collect();
        Self { lines, data }
    }

    fn dense(data: Vec<u8>) -> Result<Self, Undecodable> {
        let (mut lines, mut time, mut rest) = (Vec::new(), 0_i128, data.as_slice());
        while !rest.is_empty() {
            let since = take(&mut rest)?;
            let since = (since >> 1).cast_signed() ^ -(since & 1).cast_signed();
            time = time.checked_add(since).ok_or(Undecodable("a time is out of range"))?;
            let length = usize::try_from(take(&mut rest)?).unwrap_or(usize::MAX);
            let from = data.len() - rest.len();
            rest = rest.get(length..).ok_or(Undecodable("a line is cut off"))?;
            let seconds = i64::try_from(time.div_euclid(SECOND)).ok();
            let fraction = u32::try_from(time.rem_euclid(SECOND)).ok();
            let at = seconds
                .zip(fraction)
                .and_then(|(seconds, fraction)| DateTime::from_timestamp(seconds, fraction))
                .ok_or(Undecodable("a time is out of range"))?;
            lines.push((at, from..from + length));
        }
        Ok(Self { data, lines })
    }

    /// The lines, in order.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = Line<'_>> + ExactSizeIterator {
        self.lines.iter().map(|(at, range)| Line {
            at: *at,
            content: &self.data[range.clone()],
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// Bytes in memory, or a little less.
    pub fn size(&self) -> usize {
        self.data.len()
    }
}

const SECOND: i128 = 1_000_000_000;

fn nanoseconds(at: DateTime<Utc>) -> i128 {
    i128::from(at.timestamp()) * SECOND + i128::from(at.timestamp_subsec_nanos())
}

/// Seven bits in a byte, the lowest first; all but the last byte have their highest bit set.
fn put(data: &mut Vec<u8>, mut number: u128) {
    while number > 0x7f {
        data.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    data.push(number as u8);
}

fn take(data: &mut &[u8]) -> Result<u128, Undecodable> {
    let mut number = 0;
    for shift in (0..126).step_by(7) {
        let (byte, rest) = data.split_first().ok_or(Undecodable("a number is cut off"))?;
        *data = rest;
        number |= u128::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Undecodable("a number is too long"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_oneof};
    use proptest::proptest;

    use super::*;

    fn packed(lines: &[(DateTime<Utc>, Vec<u8>)]) -> Encoded {
        let mut packer = Packer::default();
        for (at, content) in lines {
            packer.push(*at, content);
        }
        packer.finish()
    }

    fn read(text: &Text) -> Vec<(DateTime<Utc>, Vec<u8>)> {
        text.lines().map(|line| (line.at, line.content.to_vec())).collect()
    }

    fn line() -> impl Strategy<Value = (DateTime<Utc>, Vec<u8>)> {
        let seconds = prop_oneof![Just(1_700_000_000_i64), -60_000_000_000_i64..250_000_000_000];
        let content = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            "GET /[a-c]{0,60}".prop_map(String::into_bytes)
        ];
        (seconds, 0..1_000_000_000_u32, content)
            .prop_map(|(seconds, fraction, content)| (DateTime::from_timestamp(seconds, fraction).unwrap(), content))
    }

    proptest! {
        #[test]
        fn lines_come_back_as_they_were(lines in proptest::collection::vec(line(), 0..200)) {
            let Encoded { encoding, data } = packed(&lines);
            assert_eq!(read(&Text::decode(encoding, data).unwrap()), lines);
        }

        #[test]
        fn hostile_bytes_are_refused_or_read_and_never_more(encoding in 0_i16..4, data in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(text) = Text::decode(encoding, data.clone()) {
                assert!(text.size() <= data.len() * RATIO);
            }
        }
    }

    #[test]
    fn a_declared_length_is_bounded_before_anything_is_made_of_it() {
        for length in [LARGEST as u128 + 1, 11 * RATIO as u128, u128::from(u64::MAX)] {
            let mut data = Vec::new();
            put(&mut data, length);
            data.extend([0; 10]);
            let error = Text::decode(LZ4, data).unwrap_err();
            assert!(error.to_string().contains("too long"), "{error}");
        }
        assert!(Text::decode(3, Vec::new()).is_err(), "a later release's");
    }

    #[test]
    fn access_logs_take_a_third_and_noise_takes_no_more_than_itself() {
        let at = |index: u32| DateTime::from_timestamp(1_700_000_000 + i64::from(index), index * 7919).unwrap();
        let access: Vec<_> = (0..500)
            .map(|index| {
                let line = format!(
                    "10.244.0.{} - - [02/Jan/2026 03:04:{:02}] \"GET /api/items/{} HTTP/1.1\" 200 -",
                    index % 9,
                    index % 60,
                    index * 31
                );
                (at(index), line.into_bytes())
            })
            .collect();
        let printed: usize = access.iter().map(|(_, line)| line.len() + 1).sum();
        let stored = packed(&access);
        assert_eq!(stored.encoding, LZ4);
        assert!(stored.data.len() * 3 < printed, "{} of {printed}", stored.data.len());
        let one = packed(&[(at(0), b"\x01\x02\x03\x04".to_vec())]);
        assert_eq!((one.encoding, one.data.len() < 4 + 13), (DENSE, true));
    }

    #[test]
    fn plain_chunks_of_earlier_releases_are_read() {
        let at = DateTime::from_timestamp(1_700_000_000, 6).unwrap();
        let mut data = Vec::new();
        for content in [b"a".as_slice(), b"", b"\xff\0"] {
            super::super::push_line(&mut data, at, content);
        }
        let text = Text::decode(PLAIN, data).unwrap();
        assert_eq!(
            read(&text),
            [(at, b"a".to_vec()), (at, vec![]), (at, b"\xff\0".to_vec())]
        );
        assert!(Text::plain(Vec::new()).count() == 0);
    }
}
