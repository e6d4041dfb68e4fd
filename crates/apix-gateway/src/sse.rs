//! `/v1/channels/{channel}/sse`: Server-Sent Events, one channel a connection.
//!
//! Each `id` is a cursor: the position in all streams that feed the channel, after the event that
//! it stands with. A browser gives the last one back as `Last-Event-ID` and gets what it missed.
//! The connection begins with an `id` of its own, so that also who saw nothing can come back.

use std::convert::Infallible;
use std::time::Duration;

use apix::{ChannelPosition, Since};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use tokio::time::sleep;

use crate::change::Face;
use crate::error::ApiError;
use crate::gateway::Gateway;
use crate::http::{InChannel, Params};
use crate::place::Place;
use crate::protocol::{exception_data, missed_data, position_json, read_since};
use crate::session::{JoinOptions, Outgoing, Session};
use crate::ws::{LiveCaller, LiveParams, random_part};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Proxies that buffer would hold events back.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// How long a browser waits before it connects again.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// Events that wait go out together, up to so many bytes.
const CHUNK_BYTES: usize = 64 << 10;

pub(crate) async fn connect(
    State(gateway): State<Gateway>,
    LiveCaller(caller): LiveCaller,
    InChannel(channel): InChannel,
    Params(params): Params<LiveParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let since = match headers.get(LAST_EVENT_ID) {
        Some(cursor) => Some(read_cursor(cursor)?),
        None => params.since.as_deref().map(since_of_query).transpose()?,
    };
    let mut session = Session::new(gateway.clone(), caller, Face::Sse)?;
    let place = Place::own(channel);
    let position = session.subscribe(&place, JoinOptions { since, presence: false }).await?;
    let events = Events { gateway, session, place, begun: false, start: position };
    let body = futures_util::stream::unfold(Some(events), |events| async {
        let (chunk, rest) = events?.next_chunk().await?;
        Some((Ok::<_, Infallible>(chunk), rest))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(NO_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

/// `?since=` takes what `since` of a WebSocket takes, an id without its quotes, and a cursor.
fn since_of_query(text: &str) -> Result<Since, ApiError> {
    if let Ok(id) = text.parse() {
        return Ok(Since::Id(id));
    }
    match HeaderValue::from_str(text).map(|cursor| read_cursor(&cursor)) {
        Ok(Ok(since)) => Ok(since),
        _ => read_since(text),
    }
}

fn read_cursor(cursor: &HeaderValue) -> Result<Since, ApiError> {
    let position = URL_SAFE_NO_PAD
        .decode(cursor.as_bytes())
        .ok()
        .and_then(|json| serde_json::from_slice::<ChannelPosition>(&json).ok());
    position.map(Since::Streams).ok_or_else(|| {
        ApiError::invalid(
            "Last-Event-ID is no cursor of this API; give back the id of the last event as it was",
        )
    })
}

fn cursor(position: &ChannelPosition) -> String {
    URL_SAFE_NO_PAD.encode(position_json(position))
}

/// An open connection.
struct Events {
    gateway: Gateway,
    session: Session,
    place: Place,
    begun: bool,
    start: ChannelPosition,
}

impl Events {
    /// What is next; nothing once the connection should end.
    async fn next_chunk(mut self) -> Option<(String, Option<Self>)> {
        if !self.begun {
            self.begun = true;
            let head =
                format!("retry: {}\nid: {}\n\n", RECONNECT_AFTER.as_millis(), cursor(&self.start));
            return Some((head, Some(self)));
        }
        let draining = self.gateway.draining().clone();
        let ending = self.session.registered().ending().clone();
        let expiry = self.session.caller().expiry;
        let quiet = self.gateway.live().ping_interval;
        let first = tokio::select! {
            biased;
            () = draining.cancelled() => {
                let delay = self.gateway.live().reconnect_spread.mul_f64(random_part());
                return Some((format!("retry: {}\n\n", delay.as_millis()), None));
            }
            () = ending.cancelled() => return None,
            () = expiry.reached() => return None,
            first = self.session.next() => first,
            () = sleep(quiet) => return Some((": quiet\n\n".to_owned(), Some(self))),
        };
        let mut out = String::new();
        let mut next = Some(first);
        while let Some(outgoing) = next {
            self.write(&outgoing, &mut out);
            if matches!(outgoing, Outgoing::Failed { .. }) {
                return Some((out, None));
            }
            next = if out.len() < CHUNK_BYTES { self.session.next().now_or_never() } else { None };
        }
        Some((out, Some(self)))
    }

    fn write(&self, outgoing: &Outgoing, out: &mut String) {
        match outgoing {
            Outgoing::Update(message) => {
                // An unstored message does not move the position.
                if message.origin().is_some()
                    && let Some(position) = self.session.position(&self.place)
                {
                    out.push_str("id: ");
                    out.push_str(&cursor(position));
                    out.push('\n');
                }
                let data = String::from_utf8_lossy(message.encoded());
                write_event("realtime_update", &data, out);
            }
            Outgoing::Missed { place, count, recoverable } => {
                write_event("missed", &missed_data(place, *count, *recoverable), out);
            }
            Outgoing::Failed { place, error } => {
                write_event("exception", &exception_data(error, None, Some(place)), out);
            }
        }
    }
}

/// Data with line breaks takes a `data:` for each line; the browser puts them together again.
fn write_event(event: &str, data: &str, out: &mut String) {
    out.push_str("event: ");
    out.push_str(event);
    out.push('\n');
    for line in data.split('\n').flat_map(|line| line.split('\r')) {
        out.push_str("data: ");
        out.push_str(line);
        out.push('\n');
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_as_positions() {
        let position: ChannelPosition =
            serde_json::from_str(r#"{"events":{"id":"5-1","epoch":"e1"}}"#).unwrap();
        let cursor = HeaderValue::try_from(cursor(&position)).unwrap();
        assert_eq!(read_cursor(&cursor).unwrap(), Since::Streams(position));
        assert!(read_cursor(&HeaderValue::from_static("5-1")).is_err());
        assert!(matches!(since_of_query("5-1"), Ok(Since::Id(_))));
        assert!(matches!(since_of_query(cursor.to_str().unwrap()), Ok(Since::Streams(_))));
        assert!(since_of_query("yesterday").is_err());
    }

    #[test]
    fn data_of_several_lines_stays_one_event() {
        let mut out = String::new();
        write_event("realtime_update", "{\n\"a\":\r\n1}", &mut out);
        assert_eq!(out, "event: realtime_update\ndata: {\ndata: \"a\":\ndata: \ndata: 1}\n\n");
    }
}
