//! CloudEvents 1.0 over HTTP: structured, batch and binary.
//!
//! | CloudEvent | event |
//! | --- | --- |
//! | `type` | `eventType` |
//! | `time` | `timestamp` |
//! | `data` that is JSON | `payload`, byte for byte |
//! | `data` that is text | `payload`, as a JSON string |
//! | `data_base64`, or binary data that is no text | `payload`, as a JSON string of Base64, and `metadata.cloudevents.data_base64` is true |
//! | no data | `payload` is `null` |
//! | `source` and `id` | `idempotencyKey`: `SOURCE ID`, or its SHA-256 where that is too long |
//! | `partitionkey` | `key` |
//! | every other attribute, `source`, `id` and `specversion` too | `metadata.cloudevents` |

use std::collections::BTreeMap;

use apix::json::ObjectWriter;
use apix::{Event, Json, Timestamp};
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytestring::ByteString;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::error::ApiError;
use crate::forms::{parse, parse_list};

pub(super) const STRUCTURED: &str = "application/cloudevents+json";
pub(super) const BATCH: &str = "application/cloudevents-batch+json";

/// The longest idempotency key of an event.
const MAX_KEY_BYTES: usize = apix::event::MAX_LABEL_BYTES;
const SPEC_VERSION: HeaderName = HeaderName::from_static("ce-specversion");
const PREFIX: &str = "ce-";

/// Attributes as JSON text, in the order of their names: a repeat gives the same metadata.
type Attributes = BTreeMap<String, Json>;

/// Whether the headers carry a CloudEvent and the body its data.
pub(super) fn is_binary(headers: &HeaderMap) -> bool {
    headers.contains_key(SPEC_VERSION)
}

/// One event in its JSON form.
pub(super) fn structured(document: &ByteString) -> Result<Event, ApiError> {
    let fields: BTreeMap<String, &RawValue> = parse("the CloudEvent", document)?;
    of_fields(fields, document)
}

/// An array of events in their JSON form.
pub(super) fn batch(document: &ByteString) -> Result<Vec<Event>, ApiError> {
    let all: Vec<BTreeMap<String, &RawValue>> = parse_list("the CloudEvents", document)?;
    let one = |(index, fields)| {
        of_fields(fields, document).map_err(|fault| ApiError {
            message: format!("event {index} of the batch: {}", fault.message).into(),
            ..fault
        })
    };
    all.into_iter().enumerate().map(one).collect()
}

fn of_fields(
    fields: BTreeMap<String, &RawValue>,
    document: &ByteString,
) -> Result<Event, ApiError> {
    let mut attributes: Attributes = fields
        .into_iter()
        .filter(|(_, value)| value.get() != "null")
        .map(|(name, value)| (name, Json::slice_of(document.as_bytes(), value)))
        .collect();
    let payload = match (attributes.remove("data"), attributes.remove("data_base64")) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("a CloudEvent has data or data_base64, not both"));
        }
        (Some(data), None) => data,
        (None, Some(data)) => {
            let text: String = data
                .decode()
                .map_err(|_| ApiError::invalid("data_base64 must be a string of Base64"))?;
            STANDARD
                .decode(text)
                .map_err(|fault| ApiError::invalid(format!("data_base64: {fault}")))?;
            attributes.insert("data_base64".to_owned(), Json::encode(&true)?);
            data
        }
        (None, None) => Json::encode(&())?,
    };
    event(attributes, payload)
}

/// An event whose attributes are headers.
pub(super) fn binary(headers: &HeaderMap, body: Bytes) -> Result<Event, ApiError> {
    let mut attributes = Attributes::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        let value = percent_decoded(value.as_bytes())
            .ok_or_else(|| ApiError::invalid(format!("the header ce-{name} is not UTF-8")))?;
        attributes.insert(name.to_owned(), Json::encode(&value)?);
    }
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if let Some(media_type) = media_type {
        attributes.insert("datacontenttype".to_owned(), Json::encode(media_type)?);
    }
    let payload = if body.is_empty() {
        Json::encode(&())?
    } else if media_type.is_none_or(is_json) {
        Json::parse(body)?
    } else if let Ok(text) = std::str::from_utf8(&body) {
        Json::encode(text)?
    } else {
        attributes.insert("data_base64".to_owned(), Json::encode(&true)?);
        Json::encode(&STANDARD.encode(&body))?
    };
    event(attributes, payload)
}

/// `application/json`, `text/json` and every `…+json`.
fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

fn percent_decoded(value: &[u8]) -> Option<String> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'%'
            && let [high, low, after @ ..] = after
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            out.push(u8::try_from(high * 16 + low).ok()?);
            rest = after;
        } else {
            out.push(first);
        }
    }
    String::from_utf8(out).ok()
}

fn event(mut attributes: Attributes, payload: Json) -> Result<Event, ApiError> {
    if let Some(wrong) = attributes.keys().find(|name| !is_attribute_name(name)) {
        return Err(ApiError::invalid(format!(
            "{wrong:?} is no name of a CloudEvents attribute: they are of a-z and 0-9"
        )));
    }
    let version = required(&attributes, "specversion")?;
    if version != "1.0" {
        return Err(ApiError::invalid(format!(
            "the CloudEvents specversion is {version:?}; this call takes 1.0"
        )));
    }
    let (id, source) = (required(&attributes, "id")?, required(&attributes, "source")?);
    let event_type = required(&attributes, "type")?;
    if source.contains(char::is_whitespace) {
        return Err(ApiError::invalid("the CloudEvents source must be a URI reference"));
    }
    let time = optional(&attributes, "time")?;
    let key = optional(&attributes, "partitionkey")?;
    for elsewhere in ["type", "time", "partitionkey"] {
        attributes.remove(elsewhere);
    }
    Ok(Event {
        timestamp: time.map(Timestamp::parse).transpose()?,
        metadata: Some(metadata(&attributes)?),
        key: key.map(ByteString::from),
        idempotency_key: Some(idempotency_key(&source, &id)),
        ..Event::new(event_type, payload)
    })
}

/// `data_base64` is no attribute, but stands among them to say how the payload is to be read.
fn is_attribute_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !name.is_empty() && (name.bytes().all(plain) || name == "data_base64")
}

/// A source is a URI and has no space, so the two parts cannot be mistaken.
fn idempotency_key(source: &str, id: &str) -> ByteString {
    let key = format!("{source} {id}");
    if key.len() <= MAX_KEY_BYTES {
        return key.into();
    }
    let digits = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("sha256:{digits}").into()
}

fn metadata(attributes: &Attributes) -> Result<Json, ApiError> {
    let mut out = br#"{"cloudevents":"#.to_vec();
    let mut object = ObjectWriter::begin(&mut out);
    for (name, value) in attributes {
        object.json(name, value.as_str());
    }
    object.end();
    out.push(b'}');
    Ok(Json::parse(out)?)
}

fn optional(attributes: &Attributes, name: &str) -> Result<Option<String>, ApiError> {
    let Some(value) = attributes.get(name) else { return Ok(None) };
    value.decode().map(Some).map_err(|_| {
        ApiError::invalid(format!("the CloudEvents attribute {name} must be a string"))
    })
}

fn required(attributes: &Attributes, name: &str) -> Result<String, ApiError> {
    match optional(attributes, name)? {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(ApiError::invalid(format!(
            "the CloudEvent lacks {name}; specversion, id, source and type are required"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_structured_event_keeps_everything() {
        let document = ByteString::from(
            r#"{"specversion":"1.0","id":"7","source":"/shop","type":"order.paid","time":"2026-11-24T06:29:30Z",
                "subject":"o1","partitionkey":"k","count":3,"data": {"n":9007199254740993}, "dataschema":null}"#,
        );
        let event = structured(&document).unwrap();
        assert_eq!(&*event.event_type, "order.paid");
        assert_eq!(event.payload.as_str(), r#"{"n":9007199254740993}"#);
        assert_eq!(event.timestamp.unwrap().as_str(), "2026-11-24T06:29:30Z");
        assert_eq!(event.key.as_deref(), Some("k"));
        assert_eq!(event.idempotency_key.as_deref(), Some("/shop 7"));
        let right = r#"{"cloudevents":{"count":3,"id":"7","source":"/shop","specversion":"1.0","subject":"o1"}}"#;
        assert_eq!(event.metadata.unwrap().as_str(), right);
    }

    #[test]
    fn what_a_cloud_event_lacks_is_named() {
        let all = [("specversion", "1.0"), ("id", "7"), ("source", "/shop"), ("type", "t")];
        for missing in ["specversion", "id", "source", "type"] {
            let fields: BTreeMap<_, _> =
                all.iter().copied().filter(|(name, _)| *name != missing).collect();
            let document = serde_json::to_string(&fields).unwrap().into();
            let error = structured(&document).unwrap_err();
            assert!(error.message.contains(&format!("lacks {missing}")), "{}", error.message);
        }
        for (wrong, message) in [
            (r#"{"specversion":"0.3","id":"7","source":"/s","type":"t"}"#, "takes 1.0"),
            (r#"{"specversion":"1.0","id":7,"source":"/s","type":"t"}"#, "must be a string"),
            (r#"{"specversion":"1.0","id":"7","source":"/s","type":"t","My-Ext":1}"#, "My-Ext"),
            (
                r#"{"specversion":"1.0","id":"7","source":"/s","type":"t","data":1,"data_base64":"AA=="}"#,
                "not both",
            ),
            (
                r#"{"specversion":"1.0","id":"7","source":"/s","type":"t","data_base64":"?"}"#,
                "data_base64",
            ),
        ] {
            let error = structured(&wrong.into()).unwrap_err();
            assert!(error.message.contains(message), "{wrong}: {}", error.message);
        }
    }

    #[test]
    fn binary_data_is_json_text_or_base64() {
        let with = |media_type: &'static str, body: &'static [u8]| {
            let mut headers = HeaderMap::new();
            for (name, value) in [
                ("ce-specversion", "1.0"),
                ("ce-id", "7"),
                ("ce-source", "/shop"),
                ("ce-type", "t%C3%A4st"),
                ("content-type", media_type),
            ] {
                headers.insert(name, HeaderValue::from_static(value));
            }
            binary(&headers, Bytes::from_static(body)).unwrap()
        };
        let event = with("application/json; charset=utf-8", b"{ \"a\":1e400 }");
        assert_eq!((&*event.event_type, event.payload.as_str()), ("t\u{e4}st", "{ \"a\":1e400 }"));
        assert_eq!(with("text/plain", b"hello").payload.as_str(), r#""hello""#);
        let event = with("image/png", b"\xff\x00");
        assert_eq!(event.payload.as_str(), r#""/wA=""#);
        assert!(event.metadata.unwrap().as_str().contains(r#""data_base64":true"#));
        assert_eq!(with("text/plain", b"").payload.as_str(), "null");
    }

    #[test]
    fn long_sources_become_digests() {
        let key = idempotency_key(&"s".repeat(300), "1");
        assert!(key.starts_with("sha256:") && key.len() == 71);
        assert_ne!(key, idempotency_key(&"s".repeat(300), "2"));
    }
}
