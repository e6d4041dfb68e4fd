//! `GET /v1/streams/{stream}/events`: past events, as a page or as a stream of lines.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use apix::{MessageId, Order, RangeQuery, StoredEvent, StreamName, Timestamp};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;

use super::answer;
use super::params::{InStream, Params};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::gateway::Gateway;

/// What a page holds when the caller does not say, and at most.
const DEFAULT_LIMIT: u64 = 100;
const MAX_PAGE: u64 = apix::messaging::MAX_PAGE as u64;
/// A page takes no further events beyond so many bytes; `next` leads on.
const PAGE_BYTES: usize = 8 << 20;
/// Events are fetched so many at a time: more where they are small, fewer where they are large.
const FIRST_STEP: usize = 16;
const MAX_STEP: usize = 64;
const LARGE_STEP_BYTES: usize = 4 << 20;

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
    let as_lines = accepted.contains("application/x-ndjson");
    let left = match (params.limit, as_lines) {
        (Some(0), _) => return Err(ApiError::invalid("limit must be at least 1")),
        (Some(limit), false) if limit > MAX_PAGE => {
            return Err(ApiError::invalid(format!(
                "limit must be from 1 to {MAX_PAGE}; ask for more with 'Accept: \
                 application/x-ndjson'"
            )));
        }
        (Some(limit), _) => limit,
        (None, false) => DEFAULT_LIMIT,
        (None, true) => u64::MAX,
    };
    let reader = Reader { gateway, caller, stream, rest: Some(query), left, step: FIRST_STEP };
    if as_lines { lines(reader).await } else { page(reader).await }
}

/// What remains to be read of a range, in steps that keep memory bounded.
struct Reader {
    gateway: Gateway,
    caller: Caller,
    stream: StreamName,
    rest: Option<RangeQuery>,
    left: u64,
    step: usize,
}

impl Reader {
    /// The next events; and whether all that was asked for was there at once.
    async fn next(&mut self) -> Result<(Vec<StoredEvent>, bool), ApiError> {
        let Some(rest) = self.rest.take() else { return Ok((Vec::new(), false)) };
        let limit = self.step.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let query = RangeQuery { limit, ..rest };
        let service = self.gateway.service();
        let page = service.read_events(&self.caller.ctx, self.stream.as_str(), &query);
        let page = self.gateway.within(page).await?;
        self.left = self.left.saturating_sub(page.events.len() as u64);
        self.rest = page.more_after.map(|last| query.after(last));
        let bytes: usize = page.events.iter().map(|event| event.payload.len()).sum();
        if bytes > LARGE_STEP_BYTES {
            self.step = (self.step / 2).max(1);
        } else if bytes < LARGE_STEP_BYTES / 4 {
            self.step = (self.step * 2).min(MAX_STEP);
        }
        let full = page.events.len() == limit;
        Ok((page.events, full))
    }

    fn is_done(&self) -> bool {
        self.left == 0 || self.rest.is_none()
    }
}

async fn page(mut reader: Reader) -> Result<Response, ApiError> {
    let mut out = br#"{"events":["#.to_vec();
    let mut empty = true;
    loop {
        let (events, full) = reader.next().await?;
        for event in &events {
            if !std::mem::take(&mut empty) {
                out.push(b',');
            }
            event.write_json(&mut out);
        }
        if !full || reader.is_done() || out.len() >= PAGE_BYTES {
            break;
        }
    }
    let next = reader.rest.map(|rest| match rest.order {
        Order::Ascending => rest.from,
        Order::Descending => rest.to,
    });
    match next {
        Some(next) => out.extend_from_slice(format!("],\"next\":\"{next}\"}}").as_bytes()),
        None => out.extend_from_slice(b"],\"next\":null}"),
    }
    Ok(answer::json(StatusCode::OK, out))
}

/// The first events are asked for before the answer begins, so that an error has its status.
async fn lines(mut reader: Reader) -> Result<Response, ApiError> {
    let (first, _) = reader.next().await?;
    let body = futures_util::stream::unfold(Some((Some(first), reader)), |state| async {
        let (first, reader) = state?;
        let (chunk, rest) = next_lines(first, reader).await?;
        Some((Ok::<_, Infallible>(chunk), rest.map(|reader| (None, reader))))
    });
    Ok(answer::with_type(StatusCode::OK, "application/x-ndjson", Body::from_stream(body)))
}

/// The lines of the next events that there are; and what remains to be read.
async fn next_lines(
    first: Option<Vec<StoredEvent>>,
    mut reader: Reader,
) -> Option<(Bytes, Option<Reader>)> {
    let mut events = first.unwrap_or_default();
    let mut out = Vec::new();
    loop {
        for event in &events {
            write_line(event, &mut out);
        }
        if reader.is_done() {
            return (!out.is_empty()).then(|| (out.into(), None));
        }
        if !out.is_empty() {
            return Some((out.into(), Some(reader)));
        }
        match reader.next().await {
            Ok((next, _)) => events = next,
            Err(fault) => {
                out.extend_from_slice(br#"{"error":"#);
                fault.write_json(&mut out, None);
                out.extend_from_slice(b"}\n");
                return Some((out.into(), None));
            }
        }
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

impl RangeParams {
    fn query(&self) -> Result<RangeQuery, ApiError> {
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
            order,
            event_type: self.event_type.clone(),
            ..RangeQuery::default()
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
            ("order=up", "asc or desc"),
        ] {
            let error = query(wrong).unwrap_err();
            assert!(error.message.contains(message), "{wrong}: {}", error.message);
        }
    }
}
