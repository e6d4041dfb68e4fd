//! The other rows: the index of one commit, streams, idempotency keys, dead letters.

use apix::{Attempt, Epoch, MessageId, StreamSettings};
use bytes::Bytes;
use bytestring::ByteString;

use super::group::{read_attempts, write_attempts};
use super::wire::{Decoder, Encoder};
use crate::group::StreamNo;
use crate::store::MARK_BYTES;

/// One event in the index of its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexRecord {
    pub(crate) stream: StreamNo,
    pub(crate) id: MessageId,
    pub(crate) bytes: u32,
    /// The feed that it is shown by, of a hybrid event; 0 for none.
    pub(crate) feed: u64,
}

/// The index of one commit, behind the mark that says up to which position events were known to
/// be flushed when it was written.
pub(crate) fn encode_index(mark: &[u8; MARK_BYTES], events: &[IndexRecord]) -> Vec<u8> {
    let mut out = Encoder::with_capacity(40 + events.len() * 14);
    out.raw(mark);
    out.number(events.len() as u64);
    for event in events {
        out.number(event.stream);
        out.id(event.id);
        out.number(u64::from(event.bytes));
        out.number(event.feed);
    }
    out.sealed()
}

/// Reads the index of one commit.
pub(crate) fn decode_index(row: Bytes) -> Option<Vec<IndexRecord>> {
    let mut from = Decoder::sealed(row)?;
    from.raw(MARK_BYTES)?;
    let count = from.number()?;
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(IndexRecord {
            stream: from.number()?,
            id: from.id()?,
            bytes: u32::try_from(from.number()?).ok()?,
            feed: from.number()?,
        });
    }
    Some(events)
}

/// A stream, without its events and groups.
#[derive(Clone, Debug)]
pub(crate) struct StreamRecord {
    pub(crate) epoch: Epoch,
    pub(crate) last_id: Option<MessageId>,
    pub(crate) trimmed_to: Option<MessageId>,
    pub(crate) hard_dropped: u64,
    pub(crate) settings: StreamSettings,
}

impl StreamRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.text(self.epoch.as_str());
        out.optional_id(self.last_id);
        out.optional_id(self.trimmed_to);
        out.number(self.hard_dropped);
        // Settings are plain data; they cannot fail to be written.
        out.bytes(&serde_json::to_vec(&self.settings).unwrap_or_default());
        out.sealed()
    }

    pub(crate) fn decode(row: Bytes) -> Option<Self> {
        let mut from = Decoder::sealed(row)?;
        Some(Self {
            epoch: Epoch::new(from.text()?).ok()?,
            last_id: from.optional_id()?,
            trimmed_to: from.optional_id()?,
            hard_dropped: from.number()?,
            settings: apix::json::read_stored(std::str::from_utf8(&from.bytes()?).ok()?).ok()?,
        })
    }
}

/// A remembered idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRecord {
    pub(crate) stream: StreamNo,
    pub(crate) key: ByteString,
    pub(crate) digest: [u8; 16],
    pub(crate) id: MessageId,
    pub(crate) at_ms: u64,
}

/// The keys of one commit.
pub(crate) fn encode_keys(keys: &[KeyRecord]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.number(keys.len() as u64);
    for key in keys {
        out.number(key.stream);
        out.text(&key.key);
        out.raw(&key.digest);
        out.id(key.id);
        out.number(key.at_ms);
    }
    out.sealed()
}

/// Reads the keys of one commit.
pub(crate) fn decode_keys(row: Bytes) -> Option<Vec<KeyRecord>> {
    let mut from = Decoder::sealed(row)?;
    let count = from.number()?;
    let mut keys = Vec::new();
    for _ in 0..count {
        keys.push(KeyRecord {
            stream: from.number()?,
            key: ByteString::from(&*from.text()?),
            digest: from.raw(16)?[..].try_into().ok()?,
            id: from.id()?,
            at_ms: from.number()?,
        });
    }
    Some(keys)
}

/// A dead letter, with the record of its event as it was.
#[derive(Clone, Debug)]
pub(crate) struct DeadRecord {
    pub(crate) reason: ByteString,
    pub(crate) at_ms: u64,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) event: Bytes,
}

impl DeadRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::with_capacity(self.event.len() + 128);
        out.text(&self.reason);
        out.number(self.at_ms);
        write_attempts(&mut out, &self.attempts);
        out.bytes(&self.event);
        out.sealed()
    }

    pub(crate) fn decode(row: Bytes) -> Option<Self> {
        let mut from = Decoder::sealed(row)?;
        Some(Self {
            reason: from.text()?,
            at_ms: from.number()?,
            attempts: read_attempts(&mut from)?,
            event: from.bytes()?,
        })
    }
}

/// Group settings, as one text with a checksum.
pub(crate) fn encode_text(text: &str) -> Vec<u8> {
    let mut out = Encoder::default();
    out.text(text);
    out.sealed()
}

/// Reads a text with a checksum.
pub(crate) fn decode_text(row: Bytes) -> Option<ByteString> {
    Decoder::sealed(row)?.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_back() {
        let id = MessageId::new(1_764_000_000_000, 3);
        let events = vec![IndexRecord { stream: 7, id, bytes: 250, feed: 0 }; 3];
        assert_eq!(decode_index(encode_index(&[9; MARK_BYTES], &events).into()).unwrap(), events);
        let key = KeyRecord { stream: 1, key: "k".into(), digest: [7; 16], id, at_ms: 5 };
        assert_eq!(decode_keys(encode_keys(std::slice::from_ref(&key)).into()).unwrap(), [key]);
        let stream = StreamRecord {
            epoch: Epoch::random().unwrap(),
            last_id: Some(id),
            trimmed_to: None,
            hard_dropped: 2,
            settings: StreamSettings::default(),
        };
        let read = StreamRecord::decode(stream.encode().into()).unwrap();
        assert_eq!((read.last_id, read.trimmed_to), (Some(id), None));
        assert_eq!(read.settings, stream.settings);
    }
}
