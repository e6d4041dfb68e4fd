//! `GET /v1/streams/{stream}/events`: past events, as a page or as a stream of lines.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use apix::messaging::MAX_PAGE;
use apix::{MessageId, Order, RangePage, RangeQuery, Replay, StoredEvent, Timestamp};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::{FutureExt, Stream, StreamExt};
use serde::Deserialize;

use super::answer;
use super::params::{InStream, Params};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::gateway::Gateway;

/// What a page holds when the caller does not say.
const DEFAULT_LIMIT: usize = 100;
/// Events are fetched so many at a time when they are streamed.
const STREAM_PAGE: usize = 200;
/// Lines are sent once there are so many bytes of them, or when none is waiting.
const CHUNK_BYTES: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RangeParams {
    from: Option<String>,
    to: Option<String>,
    limit: Option<u64>,
    order: Option<String>,
    event_type: Option<ByteString>,
}

pub(super) async fn get(
    State(gateway): State<Gateway>,
    caller: Caller,
    InStream(stream): InStream,
    Params(params): Params<RangeParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = params.query()?;
    let accepted = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accepted.contains("application/x-ndjson") {
        let replay = Replay {
            max_events: params.limit,
            query: RangeQuery { limit: STREAM_PAGE.min(query.limit), ..query },
            events_per_second: None,
        };
        let events = gateway.service().replay_events(&caller.ctx, stream.as_str(), replay)?;
        return lines(gateway, Box::pin(events)).await;
    }
    if query.limit > MAX_PAGE {
        return Err(ApiError::invalid(format!(
            "limit must be from 1 to {MAX_PAGE}; ask for more with 'Accept: application/x-ndjson'"
        )));
    }
    let page = gateway.service().read_events(&caller.ctx, stream.as_str(), &query);
    let page = gateway.within(page).await?;
    Ok(answer::json(StatusCode::OK, page_json(&page, query.order)))
}

fn page_json(page: &RangePage, order: Order) -> Vec<u8> {
    let mut out = answer::list("events", &page.events, StoredEvent::write_json);
    let next = page.more_after.map(|last| match order {
        Order::Ascending => last.next(),
        Order::Descending => last.previous(),
    });
    match next {
        Some(next) => out.extend_from_slice(format!(",\"next\":\"{next}\"}}").as_bytes()),
        None => out.extend_from_slice(b",\"next\":null}"),
    }
    out
}

impl RangeParams {
    fn query(&self) -> Result<RangeQuery, ApiError> {
        let limit = match self.limit {
            Some(0) => return Err(ApiError::invalid("limit must be at least 1")),
            Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
            None => DEFAULT_LIMIT,
        };
        let order = match self.order.as_deref() {
            None | Some("asc") => Order::Ascending,
            Some("desc") => Order::Descending,
            Some(other) => {
                return Err(ApiError::invalid(format!("order is {other:?}; it is asc or desc")));
            }
        };
        let from = self.from.as_deref().map(|text| Bound::parse("from", text)).transpose()?;
        let to = self.to.as_deref().map(|text| Bound::parse("to", text)).transpose()?;
        Ok(RangeQuery {
            from: from.map_or(MessageId::MIN, Bound::first),
            to: to.map_or(MessageId::MAX, Bound::last),
            limit,
            order,
            event_type: self.event_type.clone(),
            channel: None,
        })
    }
}

/// One end of a range.
#[derive(Clone, Copy)]
enum Bound {
    At(MessageId),
    Beyond(MessageId),
    /// A whole millisecond.
    Time(u64),
}

impl Bound {
    fn parse(name: &str, text: &str) -> Result<Self, ApiError> {
        if let Some(id) = text.strip_prefix('(') {
            return Ok(Self::Beyond(id.parse().map_err(|_| wrong_bound(name, text))?));
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::At(id));
        }
        match Timestamp::parse(text) {
            Ok(time) => Ok(Self::Time(time.unix_ms())),
            Err(_) => Err(wrong_bound(name, text)),
        }
    }

    fn first(self) -> MessageId {
        match self {
            Self::At(id) => id,
            Self::Beyond(id) => id.next(),
            Self::Time(ms) => {
                RangeQuery::first_id_at(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
            }
        }
    }

    fn last(self) -> MessageId {
        match self {
            Self::At(id) => id,
            Self::Beyond(id) => id.previous(),
            Self::Time(ms) => MessageId::new(ms, u64::MAX),
        }
    }
}

fn wrong_bound(name: &str, text: &str) -> ApiError {
    ApiError::invalid(format!(
        "{name} is {text:?}; it is an id such as 1764000000000-0, '(' and an id to leave that one \
         out, or a time such as 2026-11-24T06:29:30Z ('+' written %2B)"
    ))
}

type Events = Pin<Box<dyn Stream<Item = apix::Result<StoredEvent>> + Send>>;

/// Events that are being sent as lines.
struct Sending {
    gateway: Gateway,
    events: Events,
    first: Option<StoredEvent>,
}

/// The first event is asked for before the answer begins, so that an error has its status.
async fn lines(gateway: Gateway, mut events: Events) -> Result<Response, ApiError> {
    let first = gateway.within(events.next().map(Option::transpose)).await?;
    let body = match first {
        None => Body::empty(),
        Some(first) => {
            let sending = Sending { gateway, events, first: Some(first) };
            Body::from_stream(futures_util::stream::unfold(Some(sending), |sending| async {
                let (chunk, rest) = sending?.next_chunk().await?;
                Some((Ok::<_, Infallible>(chunk), rest))
            }))
        }
    };
    Ok(answer::with_type(StatusCode::OK, "application/x-ndjson", body))
}

impl Sending {
    /// What is there, up to a good size; and what remains to be sent.
    async fn next_chunk(mut self) -> Option<(Bytes, Option<Self>)> {
        let mut out = Vec::with_capacity(CHUNK_BYTES + 1_024);
        while out.len() < CHUNK_BYTES {
            let event = match self.first.take() {
                Some(first) => Ok(Some(first)),
                None if out.is_empty() => {
                    self.gateway.within(self.events.next().map(Option::transpose)).await
                }
                None => match self.events.next().now_or_never() {
                    None => break,
                    Some(event) => event.transpose().map_err(ApiError::from),
                },
            };
            match event {
                Ok(Some(event)) => write_line(&event, &mut out),
                Ok(None) if out.is_empty() => return None,
                Ok(None) => return Some((out.into(), None)),
                Err(fault) => {
                    out.extend_from_slice(br#"{"error":"#);
                    fault.write_json(&mut out, None);
                    out.extend_from_slice(b"}\n");
                    return Some((out.into(), None));
                }
            }
        }
        Some((out.into(), Some(self)))
    }
}

/// A line break between the tokens of a payload would end the line: it becomes a space. Within a
/// JSON string none can stand as it is.
fn write_line(event: &StoredEvent, out: &mut Vec<u8>) {
    let start = out.len();
    event.write_json(out);
    for byte in &mut out[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<RangeQuery, ApiError> {
        let uri = format!("/x?{text}").parse().unwrap();
        let params = axum::extract::Query::<RangeParams>::try_from_uri(&uri).unwrap();
        params.0.query()
    }

    #[test]
    fn bounds_are_ids_or_times() {
        let ids = |text: &str| {
            let query = query(text).unwrap();
            (query.from.to_string(), query.to.to_string())
        };
        let max = u64::MAX;
        assert_eq!(ids("from=5-1&to=9-0"), ("5-1".into(), "9-0".into()));
        assert_eq!(ids("from=(5-1&to=(9-0"), ("5-2".into(), format!("8-{max}")));
        assert_eq!(ids("").0, "0-0");
        let time = "2025-11-24T16:00:00.007Z";
        let first = "1764000000007-0".to_owned();
        assert_eq!(ids(&format!("from={time}&to={time}")), (first, format!("1764000000007-{max}")));
    }

    #[test]
    fn wrong_parameters_say_what_is_right() {
        for (wrong, message) in [
            ("from=x", "it is an id such as"),
            ("to=(x", "it is an id such as"),
            ("from=2025-11-24T16:00:00+01:00", "%2B"),
            ("limit=0", "at least 1"),
            ("order=up", "asc or desc"),
        ] {
            let error = query(wrong).unwrap_err();
            assert!(error.message.contains(message), "{wrong}: {}", error.message);
        }
    }
}
