//! One event as it is stored: what the producer gave is written by the caller's task; the id and
//! the event before it on its channel, which the writer alone knows, are the trailer.

use apix::{ChannelName, Json, MessageId, NewEvent, StoredEvent, TenantId};
use bytes::Bytes;

use super::wire::{Decoder, Encoder};
use crate::checksum::crc32;

const USER: u8 = 1;
const METADATA: u8 = 2;
const KEY: u8 = 4;
const CHANNEL: u8 = 8;

/// Id (16), whether there is an event before it (1), that one's id (16), checksum (4).
const TRAILER_BYTES: usize = 37;

/// An event without its trailer.
#[derive(Debug)]
pub(crate) struct EventBody {
    bytes: Vec<u8>,
    crc: u32,
}

impl EventBody {
    /// Everything but the trailer, with room for it.
    pub(crate) fn new(event: &NewEvent) -> Self {
        let optional = [
            (USER, event.user_id.as_deref()),
            (METADATA, event.metadata.as_ref().map(Json::as_str)),
            (KEY, event.key.as_deref()),
            (CHANNEL, event.realtime_channel.as_ref().map(ChannelName::as_str)),
        ];
        let channel = event.realtime_channel.as_ref().map_or(0, |name| name.as_str().len());
        let mut encoder =
            Encoder::with_capacity(event.stored_bytes() + channel + 36 + TRAILER_BYTES);
        encoder
            .byte(optional.iter().filter(|(_, part)| part.is_some()).map(|(flag, _)| flag).sum());
        encoder.text(&event.event_type);
        encoder.text(event.payload.as_str());
        encoder.text(event.timestamp.as_str());
        for part in optional.iter().filter_map(|(_, part)| *part) {
            encoder.text(part);
        }
        let bytes = encoder.into_unsealed();
        let crc = crc32(0, &bytes);
        Self { bytes, crc }
    }

    /// The whole record.
    pub(crate) fn complete(mut self, id: MessageId, previous: Option<MessageId>) -> Bytes {
        let body = self.bytes.len();
        let before = previous.unwrap_or(MessageId::MIN);
        self.bytes.extend_from_slice(&id.ms.to_le_bytes());
        self.bytes.extend_from_slice(&id.seq.to_le_bytes());
        self.bytes.push(u8::from(previous.is_some()));
        self.bytes.extend_from_slice(&before.ms.to_le_bytes());
        self.bytes.extend_from_slice(&before.seq.to_le_bytes());
        let crc = crc32(self.crc, &self.bytes[body..]);
        self.bytes.extend_from_slice(&crc.to_le_bytes());
        // An exact allocation becomes shared bytes without a second one.
        self.bytes.into_boxed_slice().into()
    }
}

/// Reads a record; `None` if it is damaged or is not the event `id`.
pub(crate) fn decode(tenant: &TenantId, id: MessageId, record: &Bytes) -> Option<StoredEvent> {
    let split = record.len().checked_sub(TRAILER_BYTES)?;
    let crc = record.len() - 4;
    if crc32(0, &record[..crc]).to_le_bytes() != record[crc..] {
        return None;
    }
    let trailer = &record[split..crc];
    let word = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(trailer.get(at..at + 8)?.try_into().ok()?))
    };
    if MessageId::new(word(0)?, word(8)?) != id {
        return None;
    }
    let previous = if trailer[16] == 1 { Some(MessageId::new(word(17)?, word(25)?)) } else { None };
    let mut decoder = Decoder::unsealed(record.slice(..split));
    let flags = decoder.byte()?;
    let event_type = decoder.text()?;
    let payload = Json::from_checked(decoder.text()?);
    let timestamp = decoder.text()?;
    let mut optional = |flag: u8| -> Option<Option<bytestring::ByteString>> {
        if flags & flag == 0 { Some(None) } else { decoder.text().map(Some) }
    };
    Some(StoredEvent {
        message_id: id,
        event_type,
        payload,
        timestamp,
        organization_id: tenant.clone(),
        user_id: optional(USER)?,
        metadata: optional(METADATA)?.map(Json::from_checked),
        key: optional(KEY)?,
        realtime_channel: match optional(CHANNEL)? {
            Some(name) => Some(ChannelName::new(name).ok()?),
            None => None,
        },
        prev_message_id: previous,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use apix::{Event, Limits};

    #[test]
    fn a_record_reads_back_and_any_flipped_bit_is_seen() {
        let mut event = Event::new("a", Json::parse("{\"n\":[1,2,3]}").unwrap());
        event.metadata = Some(Json::parse("{}").unwrap());
        event.key = Some("k".into());
        let mut new = event.checked(Some(&"anna".into()), &Limits::default()).unwrap();
        new.realtime_channel = Some(ChannelName::new("room:1").unwrap());
        let tenant = TenantId::new("acme").unwrap();
        let id = MessageId::new(7, 3);
        let record = EventBody::new(&new).complete(id, Some(MessageId::new(6, 0)));
        let stored = decode(&tenant, id, &record).unwrap();
        assert_eq!(stored.payload, new.payload);
        assert_eq!(stored.metadata, new.metadata);
        assert_eq!(stored.user_id.as_deref(), Some("anna"));
        assert_eq!(stored.realtime_channel, new.realtime_channel);
        assert_eq!(stored.prev_message_id, Some(MessageId::new(6, 0)));
        assert!(decode(&tenant, MessageId::new(7, 4), &record).is_none());
        for at in 0..record.len() {
            let mut damaged = record.to_vec();
            damaged[at] ^= 1;
            assert!(decode(&tenant, id, &damaged.into()).is_none(), "byte {at}");
        }
    }
}
