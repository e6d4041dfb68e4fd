//! The frames of a live client: `{"event":…,"data":…}`, as NestJS's `ws` adapter has them.
//!
//! A request may have an `id`, a string or a number, which comes back in what answers it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use apix::json::{ObjectWriter, write_text};
use apix::{ChannelPosition, Framing, Message, Since, Timestamp};
use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::counters::Counted;
use crate::error::ApiError;
use crate::forms::parse;
use crate::place::Place;

/// The longest `id` of a request, in bytes of JSON.
const MAX_ID_BYTES: usize = 130;

/// Why the server closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The client has broken RFC 6455.
    Protocol,
    /// The frame is no UTF-8.
    NotUtf8,
    /// The frame is larger than the limit.
    TooBig,
    /// The token has ended: come back with a new one.
    TokenEnded,
    /// More frames a second than a connection may send.
    Limit,
    /// An operator ended the connection: do not come back.
    Ended,
    /// What was sent was not taken in time: come back with the last position.
    TooSlow,
    /// The server is stopping: come back.
    Draining,
}

impl CloseReason {
    /// The WebSocket close code.
    pub(crate) const fn code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::NotUtf8 => 1007,
            Self::TooBig => 1009,
            Self::TokenEnded => 4002,
            Self::TooSlow => 4008,
            Self::Limit => 4009,
            Self::Draining => 4010,
            Self::Ended => 4013,
        }
    }

    /// What it counts as.
    pub(crate) const fn counted(self) -> Option<Counted> {
        match self {
            Self::TooBig => Some(Counted::FrameSize),
            Self::TooSlow => Some(Counted::TooSlow),
            Self::Limit => Some(Counted::MessageRate),
            Self::Ended => Some(Counted::EndedByOperator),
            Self::Protocol | Self::NotUtf8 | Self::TokenEnded | Self::Draining => None,
        }
    }

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Protocol => "a frame breaks the protocol",
            Self::NotUtf8 => "the frame is no UTF-8",
            Self::TooBig => "the frame is too large",
            Self::TokenEnded => "the token has ended",
            Self::TooSlow => "too slow",
            Self::Limit => "limit",
            Self::Ended => "ended by an operator",
            Self::Draining => "the server is stopping",
        }
    }
}

/// A frame of a client.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Frame<'a> {
    #[serde(borrow)]
    pub(crate) event: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) data: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

impl<'a> Frame<'a> {
    /// Reads a frame. The error has the request's id, as far as it could be read.
    pub(crate) fn read(text: &'a str) -> Result<Self, ApiError> {
        let frame: Self = parse("the frame", text)?;
        match frame.id {
            Some(id) if !is_id(id.get()) => Err(ApiError::invalid(format!(
                "the frame: id must be a string or a number of at most {MAX_ID_BYTES} bytes"
            ))),
            _ => Ok(frame),
        }
    }

    /// The id as JSON text.
    pub(crate) fn id(&self) -> Option<&'a str> {
        self.id.map(RawValue::get)
    }

    /// The data as `T`.
    pub(crate) fn data<T: Deserialize<'a>>(&self) -> Result<T, ApiError> {
        match self.data {
            Some(data) => parse("data", data.get()),
            None => Err(ApiError::invalid(format!("{} lacks data", self.event))),
        }
    }
}

fn is_id(json: &str) -> bool {
    let scalar = json.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
    scalar && json.len() <= MAX_ID_BYTES
}

/// Data of `subscribe_updates` and `unsubscribe_updates`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscribeForm<'a> {
    #[serde(borrow)]
    channels: Vec<&'a RawValue>,
}

/// A channel and how it is wished for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ChannelWish<'a> {
    pub(crate) channel: ByteString,
    #[serde(default, borrow)]
    pub(crate) since: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) presence: bool,
    #[serde(default)]
    pub(crate) organization_id: Option<ByteString>,
}

/// The channels that a `subscribe_updates` wishes for: each its name, or more about it.
pub(crate) fn read_wishes<'a>(frame: &Frame<'a>) -> Result<Vec<ChannelWish<'a>>, ApiError> {
    let form: SubscribeForm<'a> = frame.data()?;
    let wish = |raw: &'a RawValue| {
        if raw.get().starts_with('{') {
            return parse("a channel", raw.get());
        }
        let channel = serde_json::from_str(raw.get()).map_err(|_| {
            ApiError::invalid("a channel is its name, or {\"channel\":NAME,\"since\"?:POSITION}")
        })?;
        Ok(ChannelWish { channel, since: None, presence: false, organization_id: None })
    };
    form.channels.into_iter().map(wish).collect()
}

/// A channel that a client leaves.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LeaveWish {
    pub(crate) channel: ByteString,
    #[serde(default)]
    pub(crate) organization_id: Option<ByteString>,
}

/// The channels that an `unsubscribe_updates` names: each its name, or with its tenant.
pub(crate) fn read_leaves(frame: &Frame<'_>) -> Result<Vec<LeaveWish>, ApiError> {
    let form: SubscribeForm<'_> = frame.data()?;
    let wish = |raw: &RawValue| {
        if raw.get().starts_with('{') {
            return parse("a channel", raw.get());
        }
        let channel = serde_json::from_str(raw.get()).map_err(|_| {
            ApiError::invalid("a channel is its name, or {\"channel\":NAME,\"organizationId\"?:ID}")
        })?;
        Ok(LeaveWish { channel, organization_id: None })
    };
    form.channels.into_iter().map(wish).collect()
}

/// Data of `renew`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenewForm<'a> {
    #[serde(borrow)]
    pub(crate) token: Cow<'a, str>,
}

/// `{"expiresAt":…}`; null if the credential does not end.
pub(crate) fn renewed(expires_at: Option<SystemTime>) -> String {
    object(|data| match expires_at {
        Some(at) => data.text("expiresAt", Timestamp::from_system_time(at).as_str()),
        None => data.json("expiresAt", "null"),
    })
}

/// Reads a position: a message id, or `{"STREAM":{"id","epoch"?},…}`.
pub(crate) fn read_since(text: &str) -> Result<Since, ApiError> {
    serde_json::from_str(text).map_err(|_| {
        ApiError::invalid(
            "since must be the last messageId seen, or {\"STREAM\":{\"id\":…,\"epoch\"?:…},…}",
        )
    })
}

/// `{"event":EVENT,"id":ID?,"data":DATA}`.
fn frame(event: &str, id: Option<&str>, data: &str) -> String {
    let mut out = Vec::with_capacity(40 + event.len() + data.len());
    let mut object = ObjectWriter::begin(&mut out);
    object.plain("event", event);
    if let Some(id) = id {
        object.json("id", id);
    }
    object.json("data", data);
    object.end();
    String::from_utf8_lossy(&out).into_owned()
}

/// An object as text.
fn object(write: impl FnOnce(&mut ObjectWriter<'_>)) -> String {
    let mut out = Vec::new();
    let mut object = ObjectWriter::begin(&mut out);
    write(&mut object);
    object.end();
    String::from_utf8_lossy(&out).into_owned()
}

/// The first frame of a connection.
pub(crate) fn connected(connection_id: &str, organization_id: &str, user: Option<&str>) -> String {
    let data = object(|data| {
        data.text("connectionId", connection_id);
        data.text("organizationId", organization_id);
        data.optional_text("userId", user);
    });
    frame("connected", None, &data)
}

/// The server is stopping: come back so much later.
pub(crate) fn reconnect(delay: Duration) -> String {
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    frame("reconnect", None, &object(|data| data.number("delayMs", delay_ms)))
}

/// Answers a request.
pub(crate) fn ack(id: Option<&str>, data: &str) -> String {
    frame("ack", id, data)
}

/// A message on a channel, as it came from the broker: written once for all who get it.
pub(crate) fn realtime_update(message: &Message) -> Bytes {
    let write = |encoded: &Bytes| {
        // What another service published may hold bytes that are no text in a field of its own.
        frame("realtime_update", None, &String::from_utf8_lossy(encoded)).into()
    };
    message.framed(Framing::WebSocket, write).clone()
}

/// Something is missing on a channel.
pub(crate) fn missed(place: &Place, count: Option<u64>, recoverable: bool) -> String {
    frame("missed", None, &missed_data(place, count, recoverable))
}

pub(crate) fn missed_data(place: &Place, count: Option<u64>, recoverable: bool) -> String {
    object(|data| {
        place.write(data);
        match count {
            Some(count) => data.number("count", count),
            None => data.json("count", "null"),
        }
        data.json("recoverable", if recoverable { "true" } else { "false" });
    })
}

/// A request, or a subscription, failed.
pub(crate) fn exception(error: &ApiError, id: Option<&str>) -> String {
    frame("exception", None, &exception_data(error, id, None))
}

/// A subscription came to an end by a fault.
pub(crate) fn subscription_failed(place: &Place, error: &ApiError) -> String {
    frame("exception", None, &exception_data(error, None, Some(place)))
}

pub(crate) fn exception_data(error: &ApiError, id: Option<&str>, place: Option<&Place>) -> String {
    object(|data| {
        data.plain("status", "error");
        data.text("code", error.code.as_str());
        data.text("message", &error.message);
        if let Some(place) = place {
            place.write(data);
        }
        if let Some(id) = id {
            data.json("id", id);
        }
    })
}

/// What became of a request to subscribe.
pub(crate) struct Subscribed {
    pub(crate) subscribed: Vec<(Place, ChannelPosition)>,
    pub(crate) refused: Vec<Refusal>,
}

/// A channel that was refused, as the client named it.
pub(crate) struct Refusal {
    pub(crate) channel: ByteString,
    pub(crate) organization_id: Option<ByteString>,
    pub(crate) error: ApiError,
}

impl Subscribed {
    /// `{"subscribed":[{channel,position}],"refused":[{channel,code,message}]}`, with
    /// `organizationId` where it is not the connection's own.
    pub(crate) fn data(&self) -> String {
        let subscribed = array(&self.subscribed, |(place, position)| {
            object(|entry| {
                place.write(entry);
                entry.json("position", &position_json(position));
            })
        });
        let refused = array(&self.refused, |refused| {
            object(|entry| {
                entry.text("channel", &refused.channel);
                entry.optional_text("organizationId", refused.organization_id.as_deref());
                entry.text("code", refused.error.code.as_str());
                entry.text("message", &refused.error.message);
            })
        });
        object(|data| {
            data.json("subscribed", &subscribed);
            data.json("refused", &refused);
        })
    }
}

/// `{"unsubscribed":[channel,…]}`, each by its name, or with its tenant if that is not the
/// connection's own.
pub(crate) fn unsubscribed(places: &[Place]) -> String {
    let channels = array(places, |place| {
        if place.tenant.is_some() {
            return object(|entry| place.write(entry));
        }
        let mut name = Vec::new();
        write_text(&mut name, place.channel.as_str());
        String::from_utf8_lossy(&name).into_owned()
    });
    object(|data| data.json("unsubscribed", &channels))
}

/// A position as clients give it back.
pub(crate) fn position_json(position: &ChannelPosition) -> String {
    serde_json::to_string(position).unwrap_or_else(|_| "{}".to_owned())
}

fn array<T>(items: &[T], one: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(one).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use apix::ChannelName;
    use proptest::prelude::*;

    #[test]
    fn frames_are_read_with_their_ids() {
        let frame = Frame::read(r#"{"event":"publish","id":7,"data":{"a":[1, 2]}}"#).unwrap();
        assert_eq!((&*frame.event, frame.id()), ("publish", Some("7")));
        assert_eq!(frame.data.unwrap().get(), r#"{"a":[1, 2]}"#);
        assert_eq!(Frame::read(r#"{"event":"x","id":"a\"b"}"#).unwrap().id(), Some(r#""a\"b""#));
        for (wrong, message) in [
            ("", "EOF"),
            ("[]", "expected an object"),
            (r#"{"data":1}"#, "missing field `event`"),
            (r#"{"event":"x","date":1}"#, "unknown field `date`"),
            (r#"{"event":"x","id":{}}"#, "a string or a number"),
            (r#"{"event":"x","id":true}"#, "a string or a number"),
        ] {
            let error = Frame::read(wrong).err().unwrap();
            assert!(error.message.contains(message), "{wrong}: {}", error.message);
        }
    }

    #[test]
    fn wishes_are_names_or_more() {
        let wishes = |channels: &'static str| {
            let text =
                format!(r#"{{"event":"subscribe_updates","data":{{"channels":{channels}}}}}"#);
            read_wishes(&Frame::read(text.leak()).unwrap())
        };
        let read = wishes(r#"["a",{"channel":"b","since":"5-0"},{"channel":"c","presence":true}]"#);
        let read = read.unwrap();
        assert_eq!(&*read[0].channel, "a");
        let since = read_since(read[1].since.unwrap().get());
        assert!(matches!(since, Ok(Since::Id(id)) if id.ms == 5));
        assert!(read[2].presence);
        for (wrong, message) in [
            (r#"[{"chanel":"x"}]"#, "unknown field `chanel`"),
            ("[5]", "a channel is its name"),
            ("5", "invalid type"),
        ] {
            let error = wishes(wrong).err().unwrap();
            assert!(error.message.contains(message), "{wrong}: {}", error.message);
        }
        assert!(read_since(r#"{"events":{"id":"5-0","epoch":"e1"}}"#).is_ok());
        assert!(read_since("5").is_err());
    }

    #[test]
    fn frames_are_written_as_the_contract_has_them() {
        assert_eq!(
            connected("c1", "acme", Some("anna")),
            r#"{"event":"connected","data":{"connectionId":"c1","organizationId":"acme","userId":"anna"}}"#
        );
        let channel = ChannelName::new("room:1").unwrap();
        assert_eq!(
            missed(&Place::own(channel.clone()), None, false),
            r#"{"event":"missed","data":{"channel":"room:1","count":null,"recoverable":false}}"#
        );
        let error = ApiError::invalid("no");
        assert_eq!(
            exception(&error, Some("7")),
            r#"{"event":"exception","data":{"status":"error","code":"invalid_request","message":"no","id":7}}"#
        );
        let answer = Subscribed {
            subscribed: vec![(Place::own(channel), ChannelPosition::new())],
            refused: vec![Refusal { channel: "a/b".into(), organization_id: None, error }],
        };
        assert_eq!(
            ack(None, &answer.data()),
            r#"{"event":"ack","data":{"subscribed":[{"channel":"room:1","position":{}}],"refused":[{"channel":"a/b","code":"invalid_request","message":"no"}]}}"#
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}") {
            let _ = Frame::read(&text).map(|frame| read_wishes(&frame).is_ok());
        }
    }
}
