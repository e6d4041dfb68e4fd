//! Events: what a producer gives, what a stream keeps, what a consumer is handed.

use std::time::{Duration, Instant, SystemTime};

use bytestring::ByteString;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::{Error, ErrorKind, Result};
use crate::json::{Json, ObjectWriter};
use crate::name::{ChannelName, ConsumerName, StreamName, TenantId};
use crate::position::MessageId;
use crate::tenant::check_user_id;

/// An instant as RFC 3339 text, such as `2026-11-24T06:29:30.123Z`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timestamp(ByteString);

impl Timestamp {
    /// Now, in UTC with milliseconds.
    pub fn now() -> Self {
        Self::from_system_time(SystemTime::now())
    }

    /// `at` in UTC with milliseconds.
    pub fn from_system_time(at: SystemTime) -> Self {
        let at = OffsetDateTime::from(at);
        Self(
            format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
                at.year(),
                u8::from(at.month()),
                at.day(),
                at.hour(),
                at.minute(),
                at.second(),
                at.millisecond()
            )
            .into(),
        )
    }

    /// Unix milliseconds as a timestamp.
    pub fn from_unix_ms(ms: u64) -> Self {
        Self::from_system_time(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
    }

    /// Checks that `text` is RFC 3339 and keeps it as it is.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self> {
        let text = text.into();
        match OffsetDateTime::parse(&text, &Rfc3339) {
            Ok(_) => Ok(Self(text)),
            Err(_) => Err(Error::invalid(format!(
                "the timestamp {text:?} is not RFC 3339; it should look like \
                 2026-11-24T06:29:30.123Z"
            ))),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    pub fn as_text(&self) -> &ByteString {
        &self.0
    }

    /// Unix milliseconds; 0 for what lies before 1970.
    pub fn unix_ms(&self) -> u64 {
        OffsetDateTime::parse(&self.0, &Rfc3339)
            .ok()
            .and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok())
            .unwrap_or(0)
    }
}

/// The largest parts of an event or message, and of a batch.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Payload or data of one event or message, in bytes (default 1 MiB).
    pub max_payload_bytes: usize,
    /// Metadata of one event, in bytes (default 64 KiB).
    pub max_metadata_bytes: usize,
    /// Events in one batch (default 1,000).
    pub max_batch_events: usize,
    /// Payload bytes in one batch (default 8 MiB).
    pub max_batch_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload_bytes: 1 << 20,
            max_metadata_bytes: 64 << 10,
            max_batch_events: 1_000,
            max_batch_bytes: 8 << 20,
        }
    }
}

/// The longest event type, ordering key or idempotency key, in bytes.
pub const MAX_LABEL_BYTES: usize = 256;

/// An event as a producer gives it.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened, such as `invoice.paid`: 1 to 256 bytes without control characters.
    pub event_type: ByteString,
    /// Any JSON, kept byte for byte.
    pub payload: Json,
    /// When it happened; now, if not given.
    pub timestamp: Option<Timestamp>,
    /// Who caused it; the caller's user, if not given.
    pub user_id: Option<ByteString>,
    /// A JSON object of the producer's.
    pub metadata: Option<Json>,
    /// Events of one key keep their order on a partitioned stream and in keyed workers.
    pub key: Option<ByteString>,
    /// A repeat with the same key and body adds nothing and returns the first id.
    pub idempotency_key: Option<ByteString>,
}

impl Event {
    /// An event with its type and payload alone.
    pub fn new(event_type: impl Into<ByteString>, payload: Json) -> Self {
        Self {
            event_type: event_type.into(),
            payload,
            timestamp: None,
            user_id: None,
            metadata: None,
            key: None,
            idempotency_key: None,
        }
    }

    /// Checks every part against its limit and completes what was left out.
    pub fn checked(self, user_id: Option<&ByteString>, limits: &Limits) -> Result<NewEvent> {
        self.checked_for(None, user_id, limits)
    }

    /// As [`checked`](Self::checked), for an event that is shown on `channel` too.
    pub fn checked_for(
        self,
        channel: Option<&ChannelName>,
        user_id: Option<&ByteString>,
        limits: &Limits,
    ) -> Result<NewEvent> {
        check_label("eventType", &self.event_type)?;
        check_size("payload", self.payload.len(), limits.max_payload_bytes)?;
        if let Some(metadata) = &self.metadata {
            check_size("metadata", metadata.len(), limits.max_metadata_bytes)?;
            if !metadata.as_str().trim_start().starts_with('{') {
                return Err(Error::invalid("metadata must be a JSON object"));
            }
        }
        if let Some(key) = &self.key {
            check_label("key", key)?;
        }
        if let Some(user) = &self.user_id {
            check_user_id(user)?;
        }
        let idempotency = match &self.idempotency_key {
            None => None,
            Some(key) => {
                check_label("idempotencyKey", key)?;
                Some(Idempotency { key: key.clone(), digest: self.digest(channel) })
            }
        };
        Ok(NewEvent {
            event_type: self.event_type,
            payload: self.payload,
            timestamp: self.timestamp.unwrap_or_else(Timestamp::now),
            user_id: self.user_id.or_else(|| user_id.cloned()),
            metadata: self.metadata,
            key: self.key,
            idempotency,
            realtime_channel: None,
        })
    }

    /// What makes two bodies under one idempotency key the same: everything that the producer
    /// gave but the timestamp, which a retry may set anew, and where it is shown.
    fn digest(&self, channel: Option<&ChannelName>) -> [u8; 16] {
        let mut hash = Sha256::new();
        let metadata = self.metadata.as_ref().map(Json::as_str);
        let parts = [
            Some(&*self.event_type),
            Some(self.payload.as_str()),
            metadata,
            self.key.as_deref(),
            self.user_id.as_deref(),
            channel.map(ChannelName::as_str),
        ];
        for part in parts {
            match part {
                None => hash.update([0]),
                Some(text) => {
                    hash.update([1]);
                    hash.update((text.len() as u64).to_be_bytes());
                    hash.update(text);
                }
            }
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.finalize()[..16]);
        digest
    }
}

pub(crate) fn check_label(what: &str, label: &str) -> Result<()> {
    let fault = if label.is_empty() {
        "is empty".to_owned()
    } else if label.len() > MAX_LABEL_BYTES {
        format!("is {} bytes long", label.len())
    } else if label.chars().any(char::is_control) {
        "contains a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!(
        "{what} {fault}; it must be 1 to {MAX_LABEL_BYTES} bytes without control characters"
    )))
}

pub(crate) fn check_size(what: &str, bytes: usize, limit: usize) -> Result<()> {
    if bytes > limit {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the {what} has {bytes} bytes; the limit is {limit}"),
        ));
    }
    Ok(())
}

/// An idempotency key with what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The key, unique within its stream.
    pub key: ByteString,
    /// A digest of the body: the same key with another digest is a conflict.
    pub digest: [u8; 16],
}

/// An event that was checked and completed: what a broker appends.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// See [`Event::event_type`].
    pub event_type: ByteString,
    /// See [`Event::payload`].
    pub payload: Json,
    /// See [`Event::timestamp`].
    pub timestamp: Timestamp,
    /// See [`Event::user_id`].
    pub user_id: Option<ByteString>,
    /// See [`Event::metadata`].
    pub metadata: Option<Json>,
    /// See [`Event::key`].
    pub key: Option<ByteString>,
    /// See [`Event::idempotency_key`].
    pub idempotency: Option<Idempotency>,
    /// The channel that a hybrid event is shown on.
    pub realtime_channel: Option<ChannelName>,
}

impl NewEvent {
    /// The bytes of what is stored of the producer's: what `maxBytes` counts, with the id.
    pub fn stored_bytes(&self) -> usize {
        self.event_type.len()
            + self.payload.len()
            + self.timestamp.as_str().len()
            + self.user_id.as_ref().map_or(0, |user| user.len())
            + self.metadata.as_ref().map_or(0, Json::len)
            + self.key.as_ref().map_or(0, |key| key.len())
            + 16
    }
}

/// An event as it is kept in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its id in the stream.
    pub message_id: MessageId,
    /// See [`Event::event_type`].
    pub event_type: ByteString,
    /// See [`Event::payload`].
    pub payload: Json,
    /// When it happened, RFC 3339: the producer's clock.
    pub timestamp: ByteString,
    /// The tenant.
    pub organization_id: TenantId,
    /// See [`Event::user_id`].
    pub user_id: Option<ByteString>,
    /// See [`Event::metadata`].
    pub metadata: Option<Json>,
    /// See [`Event::key`].
    pub key: Option<ByteString>,
    /// The channel that a hybrid event is shown on.
    pub realtime_channel: Option<ChannelName>,
    /// The event before this one on that channel from this stream, as far as is still known.
    pub prev_message_id: Option<MessageId>,
}

impl StoredEvent {
    /// Appends the event's JSON form to `out`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let mut object = ObjectWriter::begin(out);
        self.write_fields(&mut object);
        object.end();
    }

    fn write_fields(&self, object: &mut ObjectWriter<'_>) {
        object.plain("messageId", self.message_id);
        object.text("eventType", &self.event_type);
        object.json("payload", self.payload.as_str());
        object.text("timestamp", &self.timestamp);
        object.text("organizationId", self.organization_id.as_str());
        object.optional_text("userId", self.user_id.as_deref());
        if let Some(metadata) = &self.metadata {
            object.json("metadata", metadata.as_str());
        }
        object.optional_text("key", self.key.as_deref());
        if let Some(channel) = &self.realtime_channel {
            object.text("realtimeChannel", channel.as_str());
        }
        if let Some(previous) = self.prev_message_id {
            object.plain("prevMessageId", previous);
        }
    }
}

/// An event handed to a consumer, who has it until it is settled or the lease ends.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event.
    pub event: StoredEvent,
    /// How many times APIX has handed it out to this group, this time included.
    pub delivery_count: u32,
    /// Who holds it.
    pub consumer: ConsumerName,
    /// How long from [`received_at`](Self::received_at) it is held.
    pub lease: Duration,
    /// Taken before the broker was asked, so that the lease ends there no earlier than here.
    pub received_at: Instant,
}

impl Delivery {
    /// What names this very delivery when it is settled.
    pub fn receipt(&self) -> Receipt {
        Receipt {
            message_id: self.event.message_id,
            holder: Some(Holder {
                consumer: self.consumer.clone(),
                delivery_count: Some(self.delivery_count),
                held_until: Some(self.received_at + self.lease),
            }),
        }
    }

    /// Appends the delivery's JSON form to `out`: the event with `deliveryCount` and `leaseMs`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let mut object = ObjectWriter::begin(out);
        self.event.write_fields(&mut object);
        object.number("deliveryCount", u64::from(self.delivery_count));
        object.number("leaseMs", u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX));
        object.end();
    }
}

/// Names a delivery that is to be settled.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The event.
    pub message_id: MessageId,
    /// Whose delivery is meant. Without it, whoever holds the event now.
    pub holder: Option<Holder>,
}

impl Receipt {
    /// The delivery of `message_id`, whoever holds it.
    pub fn of_anyone(message_id: MessageId) -> Self {
        Self { message_id, holder: None }
    }
}

/// Who holds a delivery, as far as the caller knows.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The consumer.
    pub consumer: ConsumerName,
    /// Which delivery to that consumer; without it, its current one.
    pub delivery_count: Option<u32>,
    /// Until when the caller is sure to hold it: before that, a broker may skip the check.
    pub held_until: Option<Instant>,
}

/// Where a hybrid event stands: what a live message says of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The stream.
    pub stream: StreamName,
    /// The event's id there.
    pub message_id: MessageId,
    /// The event before it on this channel from this stream, as far as is still known.
    pub prev_message_id: Option<MessageId>,
    /// The stream's epoch.
    pub epoch: crate::position::Epoch,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event::new("invoice.paid", Json::parse("{}").unwrap())
    }

    #[test]
    fn timestamps() {
        assert_eq!(Timestamp::from_unix_ms(1_764_000_000_007).as_str(), "2025-11-24T16:00:00.007Z");
        assert_eq!(
            Timestamp::parse("2025-11-24T17:00:00.007+01:00").unwrap().unix_ms(),
            1_764_000_000_007
        );
        for wrong in ["", "yesterday", "2025-11-24", "2025-13-24T00:00:00Z"] {
            assert!(Timestamp::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Timestamp::parse(Timestamp::now().as_str()).is_ok());
    }

    #[test]
    fn the_digest_covers_the_body_but_not_the_time() {
        let mut first = event();
        let mut second = event();
        first.timestamp = Some(Timestamp::now());
        assert_eq!(first.digest(None), second.digest(None));
        second.key = Some("k".into());
        assert_ne!(first.digest(None), second.digest(None));
        let channel = ChannelName::new("news").unwrap();
        assert_ne!(first.digest(Some(&channel)), first.digest(None));
        first.user_id = Some("k".into());
        assert_ne!(first.digest(None), second.digest(None));
    }

    #[test]
    fn limits_are_named() {
        let limits = Limits { max_payload_bytes: 1, ..Limits::default() };
        let refused = event().checked(None, &limits).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::TooLarge);
        assert_eq!(refused.message(), "the payload has 2 bytes; the limit is 1");
        let mut bad = event();
        bad.event_type = "a\nb".into();
        assert!(bad.checked(None, &Limits::default()).is_err());
    }
}
