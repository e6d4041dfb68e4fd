//! A tenant with a stream and a group, and the calls that the tests make most.

use std::path::Path;
use std::time::Duration;

use apix::{
    Broker, ChannelKey, ChannelName, ConsumerName, Delivery, Event, GroupKey, GroupName, Json,
    Limits, MessageId, NewEvent, ReadOptions, StreamKey, StreamName, TenantContext,
};
use apix_embedded::{EmbeddedBroker, EmbeddedOptions};

pub(crate) fn tenant() -> TenantContext {
    TenantContext::trusted("acme").unwrap()
}

pub(crate) fn stream(name: &str) -> StreamKey {
    StreamKey::new(&tenant(), StreamName::new(name).unwrap())
}

pub(crate) fn channel(name: &str) -> ChannelKey {
    ChannelKey::new(&tenant(), ChannelName::new(name).unwrap())
}

pub(crate) fn group(of: &StreamKey, name: &str) -> GroupKey {
    GroupKey::new(of.clone(), GroupName::new(name).unwrap())
}

pub(crate) fn consumer(name: &str) -> ConsumerName {
    ConsumerName::new(name.to_owned()).unwrap()
}

/// An event whose payload is `n`.
pub(crate) fn event(n: u64) -> NewEvent {
    Event::new("test.event", Json::encode(&n).unwrap()).checked(None, &Limits::default()).unwrap()
}

/// [`event`] with an idempotency key.
pub(crate) fn keyed_event(n: u64, key: &str) -> NewEvent {
    let mut event = Event::new("test.event", Json::encode(&n).unwrap());
    event.idempotency_key = Some(key.into());
    event.checked(None, &Limits::default()).unwrap()
}

/// At most so many, without waiting.
pub(crate) fn at_once(max_events: usize) -> ReadOptions {
    ReadOptions { max_events, wait: Duration::ZERO }
}

pub(crate) fn waiting(max_events: usize, wait_ms: u64) -> ReadOptions {
    ReadOptions { max_events, wait: Duration::from_millis(wait_ms) }
}

pub(crate) async fn open(folder: &Path) -> EmbeddedBroker {
    EmbeddedBroker::open(EmbeddedOptions::directory(folder)).await.unwrap()
}

pub(crate) async fn add(broker: &EmbeddedBroker, to: &StreamKey, n: u64) -> MessageId {
    broker.append(to, vec![event(n)]).await.unwrap()[0].message_id
}

pub(crate) fn ids(deliveries: &[Delivery]) -> Vec<MessageId> {
    deliveries.iter().map(|delivery| delivery.event.message_id).collect()
}
