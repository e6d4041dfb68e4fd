//! The parts of an event as flags, and the body that they make.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::input::{check_json, read_json};

/// Flags of `add` and `hybrid`.
#[derive(Args, Clone, Debug)]
pub(crate) struct EventArgs {
    /// What happened, such as order.created; with --ndjson each line is then a payload
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// Events of one key keep their order
    #[arg(long)]
    key: Option<String>,
    /// A repeat with this key adds nothing and prints the first id
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// A JSON object of your own, or @FILE
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// Who caused it
    #[arg(long, value_name = "USER_ID")]
    user: Option<String>,
    /// When it happened, RFC 3339; now, if not given
    #[arg(long, value_name = "TIME")]
    timestamp: Option<String>,
}

/// An event as the HTTP API takes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventBody<'a> {
    event_type: &'a str,
    payload: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<&'a str>,
}

impl EventArgs {
    /// The one event of the flags and `payload`.
    pub(crate) async fn body(&self, payload: Option<&str>) -> Result<EventBody<'_>> {
        let Some(event_type) = &self.event_type else {
            return Err(Failure::usage("no type; give one, as in --type order.created"));
        };
        let payload = read_json("payload", payload).await?;
        let metadata = match &self.metadata {
            Some(metadata) => Some(read_json("metadata", Some(metadata)).await?),
            None => None,
        };
        Ok(EventBody {
            event_type,
            payload,
            key: self.key.as_deref(),
            idempotency_key: self.idempotency_key.as_deref(),
            metadata,
            user_id: self.user.as_deref(),
            timestamp: self.timestamp.as_deref(),
        })
    }

    /// Refuses flags that belong to a single event.
    pub(crate) fn check_for_lines(&self) -> Result<()> {
        let single = [
            ("--key", self.key.is_some()),
            ("--idempotency-key", self.idempotency_key.is_some()),
            ("--metadata", self.metadata.is_some()),
            ("--user", self.user.is_some()),
            ("--timestamp", self.timestamp.is_some()),
        ];
        match single.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Failure::usage(format!(
                "{flag} is for one event; with --ndjson put it into the lines"
            ))),
            None => Ok(()),
        }
    }
}

/// The event that one line stands for: the line itself, or with a type the payload of one.
pub(crate) fn event_of_line(event_type: Option<&str>, line: Vec<u8>) -> Result<Vec<u8>> {
    let Some(event_type) = event_type else { return Ok(line) };
    wrap(line, |payload| {
        let body = EventBody {
            event_type,
            payload,
            key: None,
            idempotency_key: None,
            metadata: None,
            user_id: None,
            timestamp: None,
        };
        serde_json::to_vec(&body)
    })
}

/// `line`, checked to be one JSON value, as `write` puts it into a larger one.
pub(crate) fn wrap(
    line: Vec<u8>,
    write: impl FnOnce(Box<RawValue>) -> serde_json::Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let text = String::from_utf8(line).map_err(|_| Failure::usage("the line is not UTF-8"))?;
    Ok(write(check_json("line", text)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_reach_beyond_the_payload() {
        let event = event_of_line(Some("t"), b"{\"a\": 1}".to_vec()).unwrap();
        assert_eq!(event, b"{\"eventType\":\"t\",\"payload\":{\"a\": 1}}");
        assert!(event_of_line(Some("t"), b"1},{\"eventType\":\"x\"".to_vec()).is_err());
        assert!(event_of_line(Some("t"), b"1,\"key\":\"x\"".to_vec()).is_err());
        assert_eq!(event_of_line(None, b"anything".to_vec()).unwrap(), b"anything");
    }
}
