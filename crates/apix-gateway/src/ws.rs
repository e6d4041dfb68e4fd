//! `/v1/ws`: WebSocket. Translates between frames and a session, and watches over the connection.
//!
//! Reading has a task of its own, which costs a quarter of the processor time of one task for
//! both. Messages that wait go out together, and small buffers keep an idle connection cheap.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, State};
use axum::http::HeaderMap;
use axum::http::header::SEC_WEBSOCKET_PROTOCOL;
use axum::http::request::Parts;
use axum::response::Response;
use bytestring::ByteString;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use crate::auth::{Caller, bearer, named, no_credential};
use crate::change::Face;
use crate::cors::AdmittedOrigin;
use crate::counters::Counted;
use crate::error::{ApiError, ErrorCode};
use crate::gateway::Gateway;
use crate::http::Params;
use crate::limits::Peer;
use crate::protocol::{
    CloseReason, connected, exception, missed, realtime_update, reconnect, subscription_failed,
};
use crate::quality::Pulse;
use crate::session::{Outgoing, Session};

/// The subprotocol; the other one that a client offers carries its token.
const PROTOCOL: &str = "apix.v1";
const TOKEN_PROTOCOL: &str = "bearer.";
/// An idle connection costs as much.
const READ_BUFFER_BYTES: usize = 1 << 10;
const WRITE_BUFFER_BYTES: usize = 64 << 10;
/// Frames of the client that were read and not handled yet; beyond them it is not read.
const REQUESTS_AHEAD: usize = 16;
/// Messages that wait go out together, up to so many.
const FRAMES_PER_FLUSH: usize = 64;
/// How long the other side may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the goodbye to a client that broke the protocol may take to arrive.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// The token of a live client: by the header, or, where a browser cannot send one, by the query,
/// a ticket there, or (WebSocket only) a subprotocol.
pub(crate) struct LiveCaller(pub(crate) Caller);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LiveParams {
    token: Option<String>,
    ticket: Option<String>,
    /// Of Server-Sent Events alone.
    pub(crate) since: Option<String>,
}

impl FromRequestParts<Gateway> for LiveCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        let Params(params) = Params::<LiveParams>::from_request_parts(parts, gateway).await?;
        let headers = &parts.headers;
        check_handshakes(gateway, parts)?;
        let token = match (bearer(headers)?, &params.token, &params.ticket) {
            (None, None, Some(ticket)) => {
                let redeemed = gateway.tickets().redeem(gateway, ticket, named(headers)?);
                return redeemed.await.map(Self);
            }
            (_, _, Some(_)) => {
                return Err(ApiError::invalid("there is a ticket and a token; send one of them"));
            }
            (Some(token), ..) => token,
            (None, Some(token), None) => token,
            (None, None, None) => offered_token(headers).ok_or_else(no_credential)?,
        };
        gateway.authenticator().authenticate(token, named(headers)?).await.map(Self)
    }
}

/// Before the credential is looked at, so that guessing is slow too.
fn check_handshakes(gateway: &Gateway, parts: &Parts) -> Result<(), ApiError> {
    if gateway.draining().is_cancelled() {
        return Err(ApiError::new(ErrorCode::ShuttingDown, "the server is stopping"));
    }
    let Some(peer) = parts.extensions.get::<Peer>() else { return Ok(()) };
    if gateway.handshakes().take(*peer, &parts.headers, Instant::now()) {
        return Ok(());
    }
    gateway.counters().count(Counted::HandshakeRate);
    Err(ApiError::new(ErrorCode::Limit, "too many handshakes a second from this address"))
}

fn offered_token(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|offered| offered.to_str().ok())
        .flat_map(|offered| offered.split(','))
        .find_map(|offered| offered.trim().strip_prefix(TOKEN_PROTOCOL))
}

/// Refuses before the upgrade, with a status, what has no right to be here.
pub(crate) async fn connect(
    State(gateway): State<Gateway>,
    // First of all: a page that may not connect uses up no ticket.
    _: AdmittedOrigin,
    LiveCaller(caller): LiveCaller,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|refused| {
        ApiError::invalid(format!("this call is a WebSocket handshake: {}", refused.body_text()))
    })?;
    let session = Session::new(gateway.clone(), caller, Face::WebSocket)?;
    // The connection counts as unfinished from here on, also before its task begins.
    let unfinished = gateway.tasks().token();
    let max_bytes = gateway.live().max_frame_bytes;
    Ok(upgrade
        .protocols([PROTOCOL])
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_frame_size(max_bytes)
        .max_message_size(max_bytes)
        .on_upgrade(move |socket| {
            let stopped = gateway.stopped().clone();
            // In a box it has its place once; a future that is moved into another has it twice.
            let served = Box::pin(Connection::new(socket, session, gateway).run());
            async move {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = served => {}
                }
                drop(unfinished);
            }
        }))
}

/// What the reading task passes on.
enum Incoming {
    Text(ByteString),
    Binary,
    /// The answer to the last ping, which took so long.
    Pong(Duration),
    /// What breaks the protocol, and the code for that.
    Broken(CloseReason),
    /// The client is gone, or has said goodbye.
    End,
}

/// The client takes nothing any more.
enum Stuck {
    Slow,
    Silent,
    Gone,
}

struct Connection {
    sink: SplitSink<WebSocket, Message>,
    /// Boxed, because the channel has room for 32 from its beginning.
    incoming: mpsc::Receiver<Box<Incoming>>,
    pulse: Arc<Pulse>,
    reader: AbortHandle,
    session: Session,
    gateway: Gateway,
    pings: Interval,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Connection {
    fn new(socket: WebSocket, session: Session, gateway: Gateway) -> Self {
        let (sink, stream) = socket.split();
        let (sender, incoming) = mpsc::channel(REQUESTS_AHEAD);
        let pulse = Arc::new(Pulse::default());
        let reader = tokio::spawn(read(stream, sender, Arc::clone(&pulse))).abort_handle();
        let every = gateway.live().ping_interval.max(Duration::from_millis(1));
        let mut pings = interval_at(Instant::now() + every, every);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { sink, incoming, pulse, reader, session, gateway, pings }
    }

    async fn run(mut self) {
        let caller = self.session.caller();
        let user = caller.ctx.user_id().cloned();
        let organization = caller.ctx.organization_id().as_str();
        let hello = connected(self.session.registered().id(), organization, user.as_deref());
        let end = match self.send(hello).await {
            Ok(()) => self.serve().await,
            Err(stuck) => Err(stuck),
        };
        match end {
            Ok(reason) => self.close(reason).await,
            Err(Stuck::Slow) => self.close(Some(CloseReason::TooSlow)).await,
            Err(Stuck::Silent) => self.gateway.counters().count(Counted::Silent),
            Err(Stuck::Gone) => {}
        }
    }

    /// Serves the client until there is a reason to close; none if the client said goodbye.
    async fn serve(&mut self) -> Result<Option<CloseReason>, Stuck> {
        let mut draining = pin!(self.gateway.draining().clone().cancelled_owned());
        let mut expiry = self.session.caller().expiry;
        let mut expired = pin!(expiry.reached());
        let mut ending = pin!(self.session.registered().ending().clone().cancelled_owned());
        self.ping().await?;
        loop {
            tokio::select! {
                biased;
                () = &mut draining => {
                    let spread = self.gateway.live().reconnect_spread;
                    self.send(reconnect(spread.mul_f64(random_part()))).await?;
                    return Ok(Some(CloseReason::Draining));
                }
                () = &mut ending => return Ok(Some(CloseReason::Ended)),
                () = &mut expired => return Ok(Some(CloseReason::TokenEnded)),
                _ = self.pings.tick() => self.ping().await?,
                request = self.incoming.recv() => {
                    if let Some(end) = self.handle(request).await? {
                        return Ok(end);
                    }
                    if self.session.caller().expiry != expiry {
                        expiry = self.session.caller().expiry;
                        expired.set(expiry.reached());
                    }
                }
                update = self.session.next() => self.send_updates(update).await?,
            }
        }
    }

    /// Handles what was read; gives how the connection ends, if it does.
    async fn handle(
        &mut self,
        request: Option<Box<Incoming>>,
    ) -> Result<Option<Option<CloseReason>>, Stuck> {
        let answer = match request.map(|request| *request) {
            Some(Incoming::Text(_) | Incoming::Binary) if !self.session.within_rate() => {
                return Ok(Some(Some(CloseReason::Limit)));
            }
            // Apart, so that an idle connection has no room for it.
            Some(Incoming::Text(text)) => Box::pin(self.session.handle(&text)).await,
            Some(Incoming::Binary) => {
                exception(&ApiError::invalid("frames are text, not binary"), None)
            }
            Some(Incoming::Pong(rtt)) => {
                let rtt_ms = u64::try_from(rtt.as_millis()).unwrap_or(u64::MAX);
                self.session.registered().measured(rtt_ms);
                return Ok(None);
            }
            Some(Incoming::Broken(reason)) => return Ok(Some(Some(reason))),
            Some(Incoming::End) | None => return Ok(Some(None)),
        };
        self.send(answer).await?;
        Ok(None)
    }

    async fn ping(&mut self) -> Result<(), Stuck> {
        let ping = self.pulse.next_ping(Instant::now()).ok_or(Stuck::Silent)?;
        let limit = self.gateway.live().slow_timeout;
        in_time(limit, self.sink.send(Message::Ping(ping))).await
    }

    async fn send(&mut self, frame: String) -> Result<(), Stuck> {
        let limit = self.gateway.live().slow_timeout;
        in_time(limit, self.sink.send(text(frame))).await
    }

    /// Sends `first` and whatever else waits, with one flush.
    async fn send_updates(&mut self, first: Outgoing) -> Result<(), Stuck> {
        let limit = self.gateway.live().slow_timeout;
        let mut next = Some(first);
        let mut count = 0;
        while let Some(outgoing) = next {
            in_time(limit, self.sink.feed(encode(&outgoing))).await?;
            count += 1;
            next = if count < FRAMES_PER_FLUSH { self.session.next().now_or_never() } else { None };
        }
        in_time(limit, self.sink.flush()).await
    }

    /// Says why, and gives the other side a moment to say goodbye.
    async fn close(&mut self, reason: Option<CloseReason>) {
        if let Some(reason) = reason {
            tracing::debug!(code = reason.code(), "closing a live connection");
            if let Some(counted) = reason.counted() {
                self.gateway.counters().count(counted);
            }
            let frame =
                CloseFrame { code: reason.code(), reason: Utf8Bytes::from_static(reason.text()) };
            if timeout(CLOSE_TIMEOUT, self.sink.send(Message::Close(Some(frame)))).await.is_err() {
                return;
            }
        }
        let _ = timeout(CLOSE_TIMEOUT, async {
            while let Some(incoming) = self.incoming.recv().await {
                if matches!(*incoming, Incoming::End) {
                    return;
                }
            }
        })
        .await;
    }
}

async fn read(
    mut stream: SplitStream<WebSocket>,
    incoming: mpsc::Sender<Box<Incoming>>,
    pulse: Arc<Pulse>,
) {
    while let Some(message) = stream.next().await {
        pulse.heard();
        let passed_on = match message {
            Ok(Message::Text(text)) => {
                let text = ByteString::try_from(bytes::Bytes::from(text)).unwrap_or_default();
                Incoming::Text(text)
            }
            Ok(Message::Binary(_)) => Incoming::Binary,
            Ok(Message::Ping(_)) => continue,
            Ok(Message::Pong(pong)) => match pulse.answered(&pong, Instant::now()) {
                Some(rtt) => Incoming::Pong(rtt),
                None => continue,
            },
            Ok(Message::Close(_)) => Incoming::End,
            Err(fault) => {
                if let Some(reason) = broken(&fault) {
                    let _ = incoming.send(Box::new(Incoming::Broken(reason))).await;
                    // What follows a broken frame has no bound, so it is not read; closing at
                    // once with it unread would take the goodbye from the client again.
                    tokio::time::sleep(GOODBYE_TIMEOUT).await;
                }
                break;
            }
        };
        if incoming.send(Box::new(passed_on)).await.is_err() {
            return;
        }
    }
    let _ = incoming.send(Box::new(Incoming::End)).await;
}

/// How the client has broken the protocol; nothing if the connection itself broke. axum hides the
/// kind of a fault; its text is all that tells.
fn broken(fault: &axum::Error) -> Option<CloseReason> {
    let text = fault.to_string();
    if text.contains("too long") {
        Some(CloseReason::TooBig)
    } else if text.contains("UTF-8") {
        Some(CloseReason::NotUtf8)
    } else if text.contains("protocol error") && !text.contains("without closing handshake") {
        Some(CloseReason::Protocol)
    } else {
        None
    }
}

fn encode(outgoing: &Outgoing) -> Message {
    match outgoing {
        Outgoing::Update(message) => {
            Message::Text(Utf8Bytes::try_from(realtime_update(message)).unwrap_or_default())
        }
        Outgoing::Missed { place, count, recoverable } => text(missed(place, *count, *recoverable)),
        Outgoing::Failed { place, error } => text(subscription_failed(place, error)),
    }
}

/// From 0 to 1.
pub(crate) fn random_part() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}

fn text(frame: String) -> Message {
    Message::Text(frame.into())
}

async fn in_time(
    limit: Duration,
    sent: impl Future<Output = Result<(), axum::Error>>,
) -> Result<(), Stuck> {
    match timeout(limit, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Stuck::Gone),
        Err(_) => Err(Stuck::Slow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_token_may_be_offered_as_a_subprotocol() {
        let mut headers = HeaderMap::new();
        assert_eq!(offered_token(&headers), None);
        headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("apix.v1, bearer.a.b.c"));
        assert_eq!(offered_token(&headers), Some("a.b.c"));
    }
}
