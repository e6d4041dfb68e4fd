//! Entries of a stream: how an event is written as fields, and read from them.

use bytes::Bytes;
use bytestring::ByteString;

use apix::{ChannelName, Json, MessageId, NewEvent, Result, StoredEvent, TenantId};

use crate::resp::Cursor;
use crate::wire::{Arguments, Pipeline};

/// Calls `part` with names and values in turn, always in this order: entries whose names are those
/// of the entry before take no room for them in Redis.
fn each_part(tenant: &TenantId, event: &NewEvent, mut part: impl FnMut(&[u8])) {
    let mut field = |name: &str, value: &[u8]| {
        part(name.as_bytes());
        part(value);
    };
    field("eventType", event.event_type.as_bytes());
    field("payload", event.payload.as_bytes());
    field("timestamp", event.timestamp.as_str().as_bytes());
    field("organizationId", tenant.as_str().as_bytes());
    if let Some(user) = &event.user_id {
        field("userId", user.as_bytes());
    }
    if let Some(metadata) = &event.metadata {
        field("metadata", metadata.as_bytes());
    }
    if let Some(key) = &event.key {
        field("key", key.as_bytes());
    }
    if let Some(channel) = &event.realtime_channel {
        field("realtimeChannel", channel.as_str().as_bytes());
    }
}

fn parts(event: &NewEvent) -> usize {
    let optional = usize::from(event.user_id.is_some())
        + usize::from(event.metadata.is_some())
        + usize::from(event.key.is_some())
        + usize::from(event.realtime_channel.is_some());
    2 * (4 + optional)
}

/// `XADD` that appends nothing where there is no stream.
pub(crate) fn push_xadd(
    pipeline: &mut Pipeline,
    stream: &str,
    tenant: &TenantId,
    event: &NewEvent,
) {
    pipeline.begin(4 + parts(event));
    for part in ["XADD", stream, "NOMKSTREAM", "*"] {
        pipeline.part(part);
    }
    each_part(tenant, event, |part| pipeline.part(part));
}

/// Idempotency key, digest, number of parts and the parts, as the appending scripts take them.
pub(crate) fn push_arguments(arguments: &mut Arguments, tenant: &TenantId, event: &NewEvent) {
    match &event.idempotency {
        Some(idempotency) => {
            arguments.push(&*idempotency.key);
            arguments.push(idempotency.digest);
        }
        None => {
            arguments.push("");
            arguments.push("");
        }
    }
    arguments.push(parts(event).to_string());
    each_part(tenant, event, |part| arguments.push(part));
}

/// An entry that was read: an event, or why it is none.
pub(crate) type Entry = (MessageId, std::result::Result<StoredEvent, &'static str>);

/// The entries of an XRANGE, or of one stream in an XREADGROUP.
pub(crate) fn read_entries(cursor: &mut Cursor<'_>, tenant: &TenantId) -> Result<Vec<Entry>> {
    let Some(count) = cursor.array()? else { return Ok(Vec::new()) };
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        if cursor.array()?.is_none() {
            continue;
        }
        let id = cursor.id()?;
        // An entry that was removed while it was pending has no body.
        let Some(parts) = cursor.array()? else { continue };
        entries.push((id, read_fields(cursor, tenant, id, parts)?));
    }
    Ok(entries)
}

/// The fields of one entry that stand in the reply.
fn read_fields(
    cursor: &mut Cursor<'_>,
    tenant: &TenantId,
    id: MessageId,
    parts: usize,
) -> Result<std::result::Result<StoredEvent, &'static str>> {
    let mut fields = Fields::default();
    for _ in 0..parts / 2 {
        let name = cursor.peeked_text()?;
        let value = cursor.text()?.unwrap_or_default();
        fields.set(name, value);
    }
    Ok(fields.event(tenant, id))
}

/// The event that names and values make.
pub(crate) fn from_fields(
    tenant: &TenantId,
    id: MessageId,
    pairs: &[(Bytes, Bytes)],
) -> std::result::Result<StoredEvent, &'static str> {
    let mut fields = Fields::default();
    for (name, value) in pairs {
        fields.set(name, value.clone());
    }
    fields.event(tenant, id)
}

#[derive(Default)]
struct Fields {
    event_type: Option<Bytes>,
    payload: Option<Bytes>,
    timestamp: Option<Bytes>,
    organization_id: Option<Bytes>,
    user_id: Option<Bytes>,
    metadata: Option<Bytes>,
    key: Option<Bytes>,
    realtime_channel: Option<Bytes>,
    prev_message_id: Option<Bytes>,
}

impl Fields {
    fn set(&mut self, name: &[u8], value: Bytes) {
        let field = match name {
            b"eventType" => &mut self.event_type,
            b"payload" => &mut self.payload,
            b"timestamp" => &mut self.timestamp,
            b"organizationId" => &mut self.organization_id,
            b"userId" => &mut self.user_id,
            b"metadata" => &mut self.metadata,
            b"key" => &mut self.key,
            b"realtimeChannel" => &mut self.realtime_channel,
            b"prevMessageId" => &mut self.prev_message_id,
            _ => return,
        };
        *field = Some(value);
    }

    fn event(
        self,
        tenant: &TenantId,
        message_id: MessageId,
    ) -> std::result::Result<StoredEvent, &'static str> {
        let owner = self.organization_id.ok_or("it has no organizationId")?;
        if owner != tenant.as_str().as_bytes() {
            return Err("its organizationId is another tenant's");
        }
        let payload = self.payload.ok_or("it has no payload")?;
        let metadata = match self.metadata {
            None => None,
            Some(text) => Some(Json::parse(text).map_err(|_| "its metadata is not JSON")?),
        };
        Ok(StoredEvent {
            message_id,
            event_type: text(self.event_type.ok_or("it has no eventType")?)?,
            payload: Json::parse(payload).map_err(|_| "its payload is not JSON")?,
            timestamp: text(self.timestamp.ok_or("it has no timestamp")?)?,
            organization_id: tenant.clone(),
            user_id: self.user_id.map(text).transpose()?,
            metadata,
            key: self.key.map(text).transpose()?,
            // These two only help live subscribers: an event is one without them.
            realtime_channel: self
                .realtime_channel
                .and_then(|name| ChannelName::new(text(name).ok()?).ok()),
            prev_message_id: self
                .prev_message_id
                .and_then(|id| std::str::from_utf8(&id).ok()?.parse().ok()),
        })
    }
}

fn text(value: Bytes) -> std::result::Result<ByteString, &'static str> {
    ByteString::try_from(value).map_err(|_| "one of its fields is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(
        pairs: &[(&'static str, &'static str)],
    ) -> std::result::Result<StoredEvent, &'static str> {
        let pairs: Vec<_> =
            pairs.iter().map(|(name, value)| (Bytes::from(*name), Bytes::from(*value))).collect();
        from_fields(&TenantId::new("acme").unwrap(), MessageId::new(1, 2), &pairs)
    }

    const WHOLE: [(&str, &str); 4] = [
        ("organizationId", "acme"),
        ("timestamp", "2026-11-24T06:29:30Z"),
        ("payload", "{\"a\": 1e400}"),
        ("eventType", "t"),
    ];

    #[test]
    fn what_is_an_event_and_what_is_not() {
        let read = event(&WHOLE).unwrap();
        assert_eq!((&*read.event_type, read.payload.as_str()), ("t", "{\"a\": 1e400}"));
        for missing in 0..4 {
            let mut fields = WHOLE.to_vec();
            fields.remove(missing);
            assert!(event(&fields).is_err());
        }
        let with = |name, value| event(&[&WHOLE[..], &[(name, value)]].concat());
        assert_eq!(
            with("organizationId", "b").unwrap_err(),
            "its organizationId is another tenant's"
        );
        assert!(with("payload", "{").is_err() && with("metadata", "{").is_err());
        assert_eq!(with("realtimeChannel", "a b").unwrap().realtime_channel, None);
        assert_eq!(
            with("prevMessageId", "5-1").unwrap().prev_message_id,
            Some(MessageId::new(5, 1))
        );
    }
}
