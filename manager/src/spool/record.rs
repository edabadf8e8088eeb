//! A message of a log <-> bytes of a file. Pure.
//!
//! The message as JSON, which later releases can add to, then the lines as they are; before both their lengths, and a CRC-32 of
//! all of it, by which a write that was torn is known.

use octopus_shared::db::report::LogMessage;

/// Bytes before the message: two lengths and a checksum.
pub(super) const HEAD: usize = 12;
/// Of a message at most: a chunk holds no more than one very long line and a bit.
const LARGEST: u32 = 64 << 20;

/// Writes a message behind `bytes`. False: it is none that can be read again, and nothing is written.
pub(super) fn encode(bytes: &mut Vec<u8>, message: &LogMessage) -> bool {
    let Ok(words) = serde_json::to_vec(message) else {
        return false;
    };
    let lines = lines_of(message);
    let (Ok(words_length), Ok(lines_length)) = (u32::try_from(words.len()), u32::try_from(lines.len())) else {
        return false;
    };
    if words_length > LARGEST || lines_length > LARGEST {
        return false;
    }
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&words_length.to_le_bytes());
    head[4..8].copy_from_slice(&lines_length.to_le_bytes());
    let sum = checksum(&head[..8], &[&words, lines]);
    head[8..].copy_from_slice(&sum.to_le_bytes());
    for part in [&head, words.as_slice(), lines] {
        bytes.extend_from_slice(part);
    }
    true
}

fn lines_of(message: &LogMessage) -> &[u8] {
    match message {
        LogMessage::Chunk(chunk) => &chunk.text.data,
        LogMessage::Seal { .. } => &[],
    }
}

/// How many bytes follow a head. None: it is none.
pub(super) fn length(head: &[u8; HEAD]) -> Option<usize> {
    let (words, lines) = lengths(head);
    let whole = (1..=LARGEST).contains(&words) && lines <= LARGEST;
    whole.then_some(words as usize + lines as usize)
}

fn lengths(head: &[u8; HEAD]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h, ..] = *head;
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// The message of a head and what follows it. None: it was not written whole, or it is not what was written.
pub(super) fn decode(head: &[u8; HEAD], body: &[u8]) -> Option<LogMessage> {
    if checksum(&head[..8], &[body]).to_le_bytes() != head[8..] {
        return None;
    }
    let (words, lines) = body.split_at_checked(lengths(head).0 as usize)?;
    let mut message = serde_json::from_slice(words).ok()?;
    if let LogMessage::Chunk(chunk) = &mut message {
        chunk.text.data = lines.to_vec();
    }
    Some(message)
}

fn checksum(lengths: &[u8], parts: &[&[u8]]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(lengths);
    parts.iter().for_each(|part| sum.update(part));
    sum.finalize()
}
