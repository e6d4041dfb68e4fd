//! Events and messages as clients write them.
//!
//! Payloads, data and metadata are borrowed as they stand in the document and carried verbatim; a
//! field that is not known is an error that names those that are.

use std::fmt;
use std::marker::PhantomData;

use apix::{Event, HybridOptions, Json, NewMessage, TenantContext, Timestamp};
use bytestring::ByteString;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::error::{ApiError, ErrorCode};

/// Reads `text`, an object, as `what`; the error names the place and the fault.
pub(crate) fn parse<'a, T: Deserialize<'a>>(what: &str, text: &'a str) -> Result<T, ApiError> {
    read::<Object<T>>(what, text).map(|Object(read)| read)
}

/// As [`parse`], for an array of objects.
pub(crate) fn parse_list<'a, T: Deserialize<'a>>(
    what: &str,
    text: &'a str,
) -> Result<Vec<T>, ApiError> {
    read::<Vec<Object<T>>>(what, text)
        .map(|list| list.into_iter().map(|Object(read)| read).collect())
}

fn read<'a, T: Deserialize<'a>>(what: &str, text: &'a str) -> Result<T, ApiError> {
    serde_json::from_str(text).map_err(|fault| ApiError::invalid(format!("{what}: {fault}")))
}

/// A `T` that is an object: serde would take an array of its fields in their order too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// An event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EventForm<'a> {
    event_type: ByteString,
    #[serde(borrow)]
    payload: &'a RawValue,
    timestamp: Option<ByteString>,
    organization_id: Option<ByteString>,
    user_id: Option<ByteString>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    key: Option<ByteString>,
    idempotency_key: Option<ByteString>,
    #[serde(borrow)]
    deliver_at: Option<&'a RawValue>,
    #[serde(borrow)]
    delay_ms: Option<&'a RawValue>,
}

impl EventForm<'_> {
    /// The event that stands in `document`.
    pub(crate) fn into_event(
        self,
        document: &ByteString,
        ctx: &TenantContext,
    ) -> Result<Event, ApiError> {
        if self.deliver_at.is_some() || self.delay_ms.is_some() {
            return Err(ApiError::new(
                ErrorCode::Unsupported,
                "scheduled events (deliverAt, delayMs) are not supported by this version; leave \
                 the field out and add the event when it is due",
            ));
        }
        check_tenant(self.organization_id.as_deref(), ctx)?;
        let json = |raw| Json::slice_of(document.as_bytes(), raw);
        Ok(Event {
            event_type: self.event_type,
            payload: json(self.payload),
            timestamp: self.timestamp.map(Timestamp::parse).transpose()?,
            user_id: self.user_id,
            metadata: self.metadata.map(json),
            key: self.key,
            idempotency_key: self.idempotency_key,
        })
    }
}

/// A hybrid event: an event and where it goes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HybridForm<'a> {
    event_type: ByteString,
    #[serde(borrow)]
    payload: &'a RawValue,
    timestamp: Option<ByteString>,
    organization_id: Option<ByteString>,
    user_id: Option<ByteString>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    key: Option<ByteString>,
    idempotency_key: Option<ByteString>,
    #[serde(borrow)]
    deliver_at: Option<&'a RawValue>,
    #[serde(borrow)]
    delay_ms: Option<&'a RawValue>,
    options: Option<HybridOptionsForm>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HybridOptionsForm {
    persist_to_stream: Option<bool>,
    notify_realtime: Option<bool>,
    stream_name: Option<String>,
    realtime_channel: Option<String>,
}

impl<'a> HybridForm<'a> {
    pub(crate) fn split(self) -> (EventForm<'a>, HybridOptions) {
        let given = self.options.unwrap_or_default();
        let default = HybridOptions::default();
        let options = HybridOptions {
            persist_to_stream: given.persist_to_stream.unwrap_or(default.persist_to_stream),
            notify_realtime: given.notify_realtime.unwrap_or(default.notify_realtime),
            stream_name: given.stream_name.unwrap_or(default.stream_name),
            realtime_channel: given.realtime_channel.unwrap_or(default.realtime_channel),
        };
        let event = EventForm {
            event_type: self.event_type,
            payload: self.payload,
            timestamp: self.timestamp,
            organization_id: self.organization_id,
            user_id: self.user_id,
            metadata: self.metadata,
            key: self.key,
            idempotency_key: self.idempotency_key,
            deliver_at: self.deliver_at,
            delay_ms: self.delay_ms,
        };
        (event, options)
    }
}

/// A message; over a live connection with its channel.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MessageForm<'a> {
    pub(crate) channel: Option<ByteString>,
    #[serde(rename = "type")]
    message_type: ByteString,
    #[serde(borrow)]
    data: &'a RawValue,
    timestamp: Option<ByteString>,
    pub(crate) organization_id: Option<ByteString>,
    user_id: Option<ByteString>,
}

impl MessageForm<'_> {
    /// The message that stands in `document`.
    pub(crate) fn into_message(
        self,
        document: &ByteString,
        ctx: &TenantContext,
    ) -> Result<NewMessage, ApiError> {
        check_tenant(self.organization_id.as_deref(), ctx)?;
        Ok(NewMessage {
            message_type: self.message_type,
            data: Json::slice_of(document.as_bytes(), self.data),
            timestamp: self.timestamp.map(Timestamp::parse).transpose()?,
            user_id: self.user_id,
        })
    }
}

/// Refuses an `organizationId` that is not the caller's.
pub(crate) fn check_tenant(given: Option<&str>, ctx: &TenantContext) -> Result<(), ApiError> {
    match given {
        Some(given) if given != ctx.organization_id().as_str() => Err(ApiError::new(
            ErrorCode::TenantMismatch,
            "organizationId names another tenant than the credential; leave it out, or use a \
             credential of that tenant",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Result<Event, ApiError> {
        let document = ByteString::from(text);
        let ctx = TenantContext::trusted("acme").unwrap();
        parse::<EventForm<'_>>("the body", &document)?.into_event(&document, &ctx)
    }

    #[test]
    fn payloads_are_carried_byte_for_byte() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        for payload in [r#"{ "a" : 9007199254740993, "a":1e400 }"#, "null", "\"\\ud800\"", &deep] {
            let text = format!(r#"{{"eventType":"t", "payload":  {payload} }}"#);
            assert_eq!(event(&text).unwrap().payload.as_str(), payload);
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, code, message) in [
            (
                r#"{"eventTyp":"t"}"#,
                ErrorCode::InvalidRequest,
                "unknown field `eventTyp`, expected",
            ),
            (
                r#"["t",1,null,null,null,null,null,null,null,null]"#,
                ErrorCode::InvalidRequest,
                "expected an object",
            ),
            (r#"{"eventType":"t"}"#, ErrorCode::InvalidRequest, "missing field `payload`"),
            (r#"{"eventType":"t","payload":}"#, ErrorCode::InvalidRequest, "line 1 column 28"),
            (
                r#"{"eventType":"t","payload":1,"organizationId":"globex"}"#,
                ErrorCode::TenantMismatch,
                "organizationId",
            ),
            (r#"{"eventType":"t","payload":1,"delayMs":5}"#, ErrorCode::Unsupported, "delayMs"),
            (
                r#"{"eventType":"t","payload":1,"timestamp":"now"}"#,
                ErrorCode::InvalidRequest,
                "RFC 3339",
            ),
        ] {
            let error = event(text).unwrap_err();
            assert_eq!(error.code, code, "{text}");
            assert!(error.message.contains(message), "{text}: {}", error.message);
        }
        let same = r#"{"eventType":"t","payload":1,"organizationId":"acme","metadata":null}"#;
        assert!(event(same).unwrap().metadata.is_none());
    }
}
