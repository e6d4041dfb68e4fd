//! What a tenant's backend learns of its live connections: messages on the channel
//! `connection-status`, and, where configured, events on the stream `connections`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use apix::json::ObjectWriter;
use apix::{
    Broker, ChannelKey, ChannelName, Event, Json, Limits, NewEvent, NewMessage, Result, StreamKey,
    StreamName, TenantContext,
};
use bytestring::ByteString;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::change::Face;
use crate::connections::Connections;
use crate::counters::{Counted, Counters};
use crate::quality::Quality;

const CHANNEL: &str = "connection-status";
const STREAM: &str = "connections";
/// What changes more often is told once.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A new connection whose first ping is not answered by then is told of as poor.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Events that wait for the broker; beyond them the oldest are lost, and counted.
const MAX_WAITING_EVENTS: usize = 10_000;
const EVENTS_A_BATCH: usize = 500;
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What became of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Status {
    Connected,
    QualityChanged,
    /// With the last measurement.
    Disconnected(Option<(Quality, u64)>),
}

struct News {
    ctx: TenantContext,
    face: Face,
    status: Status,
    at: Instant,
}

/// What is to be told.
#[derive(Clone)]
pub(crate) struct StatusBoard {
    inner: Arc<Inner>,
}

struct Inner {
    messages: bool,
    events: bool,
    news: Mutex<HashMap<ByteString, News>>,
    waiting: Mutex<VecDeque<(StreamKey, NewEvent)>>,
    counters: Arc<Counters>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StatusBoard {
    pub(crate) fn new(messages: bool, events: bool, counters: Arc<Counters>) -> Self {
        let (news, waiting) = (Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { messages, events, news, waiting, counters }) }
    }

    pub(crate) fn changed(&self, ctx: &TenantContext, id: &ByteString, face: Face, status: Status) {
        match status {
            Status::Connected => self.inner.counters.count(Counted::Opened),
            Status::Disconnected(_) => self.inner.counters.count(Counted::Closed),
            Status::QualityChanged => {}
        }
        if self.inner.messages {
            let news = News { ctx: ctx.clone(), face, status, at: Instant::now() };
            lock(&self.inner.news).insert(id.clone(), news);
        }
        if self.inner.events && !matches!(status, Status::QualityChanged) {
            self.queue_event(ctx, id, face, status);
        }
    }

    fn queue_event(&self, ctx: &TenantContext, id: &ByteString, face: Face, status: Status) {
        let event_type = match status {
            Status::Disconnected(_) => "connection.closed",
            _ => "connection.opened",
        };
        let payload = object(|payload| {
            payload.text("connectionId", id);
            payload.optional_text("userId", ctx.user_id().map(|user| &**user));
            payload.text("protocol", face.as_str());
        });
        let event = Event::new(event_type, payload).checked(ctx.user_id(), &Limits::default());
        let (Ok(event), Ok(stream)) = (event, StreamName::new(STREAM)) else { return };
        let mut waiting = lock(&self.inner.waiting);
        if waiting.len() >= MAX_WAITING_EVENTS {
            waiting.pop_front();
            self.inner.counters.count(Counted::ConnectionEventsLost);
        }
        waiting.push_back((StreamKey::new(ctx, stream), event));
    }

    /// Tells what there is to tell, until `ending`, and then what is left.
    pub(crate) async fn run(
        self,
        connections: Connections,
        broker: Arc<dyn Broker>,
        ending: CancellationToken,
    ) {
        let mut ticks = interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = ending.cancelled() => break,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = ending.cancelled() => break,
                () = self.tell(&connections, &*broker) => {}
            }
        }
        let _ = timeout(LAST_WORDS, self.tell(&connections, &*broker)).await;
    }

    async fn tell(&self, connections: &Connections, broker: &dyn Broker) {
        for (channel, message) in self.take_messages(connections) {
            let message = message.checked(&channel, None, &Limits::default());
            let published = match message {
                Ok(message) => broker.publish(&channel, message).await.map(drop),
                Err(fault) => Err(fault),
            };
            if let Err(fault) = published {
                tracing::debug!(%fault, "a connection status was not published");
            }
        }
        if let Err(fault) = self.append_events(broker).await {
            tracing::debug!(%fault, "events of connections wait for the broker");
        }
    }

    /// What is ready to be told; a new connection waits for its first measurement.
    fn take_messages(&self, connections: &Connections) -> Vec<(ChannelKey, NewMessage)> {
        let news = std::mem::take(&mut *lock(&self.inner.news));
        let Ok(channel) = ChannelName::new(CHANNEL) else { return Vec::new() };
        let mut ready = Vec::with_capacity(news.len());
        for (id, one) in news {
            let waited = one.at.elapsed();
            let (status, measured) = match one.status {
                Status::Disconnected(measured) => ("disconnected", measured),
                _ => ("connected", connections.measured(&id)),
            };
            let awaited = matches!(one.status, Status::Connected) && one.face == Face::WebSocket;
            if awaited && measured.is_none() && waited < FIRST_ANSWER_WITHIN {
                lock(&self.inner.news).entry(id).or_insert(one);
                continue;
            }
            let unanswered = || {
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                awaited.then_some((Quality::Poor, waited_ms))
            };
            let data = data(&id, &one.ctx, status, measured.or_else(unanswered));
            let message = NewMessage::new("connection.status_changed", data);
            ready.push((ChannelKey::new(&one.ctx, channel.clone()), message));
        }
        ready
    }

    async fn append_events(&self, broker: &dyn Broker) -> Result<()> {
        loop {
            let mut by_stream: BTreeMap<StreamKey, Vec<NewEvent>> = BTreeMap::new();
            let taken: Vec<_> = {
                let mut waiting = lock(&self.inner.waiting);
                let count = waiting.len().min(EVENTS_A_BATCH);
                waiting.drain(..count).collect()
            };
            if taken.is_empty() {
                return Ok(());
            }
            for (stream, event) in taken {
                by_stream.entry(stream).or_default().push(event);
            }
            while let Some((stream, events)) = by_stream.pop_first() {
                let Err(fault) = broker.append(&stream, events.clone()).await else { continue };
                self.put_back(stream, events, by_stream, fault.is_retryable());
                return Err(fault);
            }
        }
    }

    /// What could not be appended comes first the next time; what never can be is lost.
    fn put_back(
        &self,
        stream: StreamKey,
        events: Vec<NewEvent>,
        rest: BTreeMap<StreamKey, Vec<NewEvent>>,
        again: bool,
    ) {
        let failed = if again {
            Some((stream, events))
        } else {
            for _ in events {
                self.inner.counters.count(Counted::ConnectionEventsLost);
            }
            None
        };
        let mut waiting = lock(&self.inner.waiting);
        for (stream, events) in failed.into_iter().chain(rest) {
            for event in events.into_iter().rev() {
                waiting.push_front((stream.clone(), event));
            }
        }
    }
}

fn object(write: impl FnOnce(&mut ObjectWriter<'_>)) -> Json {
    let mut out = Vec::new();
    let mut object = ObjectWriter::begin(&mut out);
    write(&mut object);
    object.end();
    Json::from_checked(ByteString::try_from(out).unwrap_or_default())
}

/// Of Server-Sent Events, which have no pings, without quality and time.
fn data(id: &str, ctx: &TenantContext, status: &str, measured: Option<(Quality, u64)>) -> Json {
    object(|data| {
        data.text("connectionId", id);
        data.optional_text("userId", ctx.user_id().map(|user| &**user));
        data.plain("status", status);
        if let Some((quality, rtt_ms)) = measured {
            data.plain("quality", quality.as_str());
            data.number("rttMs", rtt_ms);
        }
    })
}
