//! Live messages: one JSON object each, the same bytes on the broker and to the client.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::Result;
use crate::event::{Limits, NewEvent, Origin, Timestamp, check_label, check_size};
use crate::framing::{Frames, Framing};
use crate::json::{Json, ObjectWriter, write_text};
use crate::name::{ChannelKey, ChannelName, StreamName, TenantId};
use crate::position::{Epoch, MessageId};
use crate::tenant::check_user_id;

/// A message as a publisher gives it.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// What it is, such as `presence.changed`: 1 to 256 bytes without control characters.
    pub message_type: ByteString,
    /// Any JSON, kept byte for byte.
    pub data: Json,
    /// When it happened; now, if not given.
    pub timestamp: Option<Timestamp>,
    /// Who caused it; the caller's user, if not given.
    pub user_id: Option<ByteString>,
}

impl NewMessage {
    /// A message with its type and data alone.
    pub fn new(message_type: impl Into<ByteString>, data: Json) -> Self {
        Self { message_type: message_type.into(), data, timestamp: None, user_id: None }
    }

    /// Checks every part and writes the wire form.
    pub fn checked(
        self,
        channel: &ChannelKey,
        user_id: Option<&ByteString>,
        limits: &Limits,
    ) -> Result<Message> {
        check_label("type", &self.message_type)?;
        check_size("data", self.data.len(), limits.max_payload_bytes)?;
        if let Some(user) = &self.user_id {
            check_user_id(user)?;
        }
        let timestamp = self.timestamp.unwrap_or_else(Timestamp::now);
        Ok(Message::write(Parts {
            channel,
            message_type: self.message_type,
            data: self.data,
            timestamp: timestamp.as_text().clone(),
            user_id: self.user_id.or_else(|| user_id.cloned()),
            origin: None,
        }))
    }
}

/// A live message: its parts, and the JSON text that they stand in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    channel: ChannelName,
    organization_id: TenantId,
    message_type: ByteString,
    data: Json,
    timestamp: ByteString,
    user_id: Option<ByteString>,
    origin: Option<Origin>,
    encoded: Bytes,
    frames: Frames,
}

struct Parts<'a> {
    channel: &'a ChannelKey,
    message_type: ByteString,
    data: Json,
    timestamp: ByteString,
    user_id: Option<ByteString>,
    origin: Option<Origin>,
}

/// The type of a message whose sender is no user of APIX and whose form is not ours.
pub const RAW: &str = "raw";

impl Message {
    fn write(parts: Parts<'_>) -> Self {
        let Parts { channel, message_type, data, timestamp, user_id, origin } = parts;
        let mut out = Vec::with_capacity(192 + data.len());
        let mut object = ObjectWriter::begin(&mut out);
        write_parts(&mut object, channel, &message_type, &data, &timestamp, user_id.as_deref());
        if let Some(origin) = &origin {
            object.text("stream", origin.stream.as_str());
            object.plain("messageId", origin.message_id);
            if let Some(previous) = origin.prev_message_id {
                object.plain("prevMessageId", previous);
            }
            object.plain("epoch", &origin.epoch);
        }
        object.end();
        Self {
            channel: channel.channel().clone(),
            organization_id: channel.tenant().clone(),
            message_type,
            data,
            timestamp,
            user_id,
            origin,
            encoded: out.into(),
            frames: Frames::default(),
        }
    }

    /// The live form of a hybrid event that is stored as `origin` says.
    pub fn of_event(channel: &ChannelKey, event: &NewEvent, origin: Origin) -> Self {
        Self::write(Parts {
            channel,
            message_type: event.event_type.clone(),
            data: event.payload.clone(),
            timestamp: event.timestamp.as_text().clone(),
            user_id: event.user_id.clone(),
            origin: Some(origin),
        })
    }

    /// The live form of a hybrid event that was read from its stream.
    pub fn of_stored(
        channel: &ChannelKey,
        event: &crate::event::StoredEvent,
        stream: StreamName,
        epoch: Epoch,
    ) -> Self {
        Self::write(Parts {
            channel,
            message_type: event.event_type.clone(),
            data: event.payload.clone(),
            timestamp: event.timestamp.clone(),
            user_id: event.user_id.clone(),
            origin: Some(Origin {
                stream,
                message_id: event.message_id,
                prev_message_id: event.prev_message_id,
                epoch,
            }),
        })
    }

    /// The live form of a hybrid event up to the point where only the appending broker knows how
    /// it goes on: an open JSON object, to be followed by `,"stream":"…","messageId":"…"`,
    /// `,"prevMessageId":"…"` where there is one, `,"epoch":"…"` and `}`.
    pub fn open_form(channel: &ChannelKey, event: &NewEvent) -> Vec<u8> {
        let mut out = Vec::with_capacity(160 + event.payload.len());
        let mut object = ObjectWriter::begin(&mut out);
        write_parts(
            &mut object,
            channel,
            &event.event_type,
            &event.payload,
            event.timestamp.as_text(),
            event.user_id.as_deref(),
        );
        object.leave_open();
        out
    }

    /// Reads what arrived on `channel`. What is not of our form, because another service
    /// published it, is a message of type [`RAW`] with the JSON, or the text, as its data.
    pub fn decode(channel: &ChannelKey, arrived: Bytes) -> Self {
        match Envelope::read(channel, &arrived) {
            Some((parts, true)) => {
                let Parts { message_type, data, timestamp, user_id, origin, .. } = parts;
                Self {
                    channel: channel.channel().clone(),
                    organization_id: channel.tenant().clone(),
                    message_type,
                    data,
                    timestamp,
                    user_id,
                    origin,
                    encoded: arrived,
                    frames: Frames::default(),
                }
            }
            Some((parts, false)) => Self::write(parts),
            None => Self::write(Parts {
                channel,
                message_type: ByteString::from_static(RAW),
                data: Json::parse(arrived.clone()).unwrap_or_else(|_| as_text(&arrived)),
                timestamp: Timestamp::now().as_text().clone(),
                user_id: None,
                origin: None,
            }),
        }
    }

    /// The channel.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The tenant.
    pub fn organization_id(&self) -> &TenantId {
        &self.organization_id
    }

    /// The type; of a hybrid event, its event type.
    pub fn message_type(&self) -> &ByteString {
        &self.message_type
    }

    /// The data; of a hybrid event, its payload.
    pub fn data(&self) -> &Json {
        &self.data
    }

    /// When it happened, RFC 3339.
    pub fn timestamp(&self) -> &str {
        &self.timestamp
    }

    /// Who caused it.
    pub fn user_id(&self) -> Option<&ByteString> {
        self.user_id.as_ref()
    }

    /// Of a hybrid event, where it stands.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The message as one JSON object: what goes to the broker and to clients.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The message in a frame of a protocol; `write` makes it, the first time that it is asked
    /// for.
    pub fn framed(&self, framing: Framing, write: impl FnOnce(&Bytes) -> Bytes) -> &Bytes {
        self.frames.get(framing, || write(&self.encoded))
    }
}

fn write_parts(
    object: &mut ObjectWriter<'_>,
    channel: &ChannelKey,
    message_type: &str,
    data: &Json,
    timestamp: &str,
    user_id: Option<&str>,
) {
    object.text("channel", channel.channel().as_str());
    object.text("type", message_type);
    object.json("data", data.as_str());
    object.text("timestamp", timestamp);
    object.text("organizationId", channel.tenant().as_str());
    object.optional_text("userId", user_id);
}

fn as_text(arrived: &Bytes) -> Json {
    let mut out = Vec::with_capacity(arrived.len() + 2);
    write_text(&mut out, &String::from_utf8_lossy(arrived));
    Json::parse(out).unwrap_or_else(|_| Json::from(RawValue::NULL.to_owned()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    message_type: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    organization_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    user_id: Option<Cow<'a, str>>,
    stream: Option<StreamName>,
    message_id: Option<MessageId>,
    prev_message_id: Option<MessageId>,
    epoch: Option<Epoch>,
}

impl Envelope<'_> {
    /// The parts, and whether the text already says them as we would.
    fn read<'k>(channel: &'k ChannelKey, arrived: &Bytes) -> Option<(Parts<'k>, bool)> {
        let envelope: Envelope<'_> = serde_json::from_slice(arrived).ok()?;
        let ours = envelope.channel.as_deref() == Some(channel.channel().as_str())
            && envelope.organization_id.as_deref() == Some(channel.tenant().as_str())
            && envelope.data.is_some()
            && envelope.timestamp.is_some();
        let origin = match (envelope.stream, envelope.message_id, envelope.epoch) {
            (Some(stream), Some(message_id), Some(epoch)) => Some(Origin {
                stream,
                message_id,
                prev_message_id: envelope.prev_message_id,
                epoch,
            }),
            _ => None,
        };
        let data = match envelope.data {
            Some(data) => Json::slice_of(arrived, data),
            None => Json::from(RawValue::NULL.to_owned()),
        };
        let timestamp = envelope
            .timestamp
            .map_or_else(|| Timestamp::now().as_text().clone(), |text| shared(arrived, text));
        let parts = Parts {
            channel,
            message_type: shared(arrived, envelope.message_type),
            data,
            timestamp,
            user_id: envelope.user_id.map(|text| shared(arrived, text)),
            origin,
        };
        Some((parts, ours))
    }
}

/// `text` without a copy where it stands in `document` as it is.
fn shared(document: &Bytes, text: Cow<'_, str>) -> ByteString {
    match text {
        Cow::Borrowed(text) => {
            ByteString::try_from(document.slice_ref(text.as_bytes())).unwrap_or_default()
        }
        Cow::Owned(text) => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::TenantContext;

    fn channel() -> ChannelKey {
        let ctx = TenantContext::trusted("acme").unwrap();
        ChannelKey::new(&ctx, ChannelName::new("news").unwrap())
    }

    #[test]
    fn what_is_published_is_what_arrives() {
        let data = Json::parse(r#"{"n":9007199254740993}"#).unwrap();
        let mut message = NewMessage::new("a\"b", data);
        message.user_id = Some("anna".into());
        let sent = message.checked(&channel(), None, &Limits::default()).unwrap();
        let arrived = Message::decode(&channel(), sent.encoded().clone());
        assert_eq!(arrived, sent);
    }

    #[test]
    fn foreign_messages_are_delivered_as_raw_and_never_as_another_tenants() {
        let text = Message::decode(&channel(), Bytes::from_static(b"hello \xff"));
        assert_eq!(text.message_type(), RAW);
        assert_eq!(text.data().as_str(), "\"hello \u{fffd}\"");
        let json = Message::decode(&channel(), Bytes::from_static(b"[1, 2]"));
        assert_eq!((&**json.message_type(), json.data().as_str()), (RAW, "[1, 2]"));
        let forged =
            br#"{"channel":"x","type":"t","data":1,"timestamp":"x","organizationId":"other"}"#;
        let forged = Message::decode(&channel(), Bytes::from_static(forged));
        assert_eq!(forged.message_type(), "t");
        let shown = std::str::from_utf8(forged.encoded()).unwrap();
        assert!(
            shown.contains(r#""organizationId":"acme""#) && !shown.contains("other"),
            "{shown}"
        );
    }

    #[test]
    fn the_open_form_and_the_closed_one_agree() {
        let event = crate::event::Event::new("t", Json::parse("[1]").unwrap());
        let event = event.checked(None, &Limits::default()).unwrap();
        let origin = Origin {
            stream: StreamName::new("events").unwrap(),
            message_id: MessageId::new(5, 1),
            prev_message_id: Some(MessageId::new(4, 0)),
            epoch: Epoch::new("e").unwrap(),
        };
        let mut open = Message::open_form(&channel(), &event);
        open.extend_from_slice(
            br#","stream":"events","messageId":"5-1","prevMessageId":"4-0","epoch":"e"}"#,
        );
        let closed = Message::of_event(&channel(), &event, origin);
        assert_eq!(closed.encoded(), &open);
        assert_eq!(Message::decode(&channel(), open.into()), closed);
    }
}
