//! A tenant of a test's own, and the calls that most tests make.

use std::time::{Duration, Instant};

use apix::{
    Broker, ChannelKey, ChannelName, ConsumerName, Delivery, Event, GroupKey, GroupName,
    GroupSettings, Json, Limits, MessageId, NewEvent, NewMessage, ReadOptions, Receipt, Settled,
    Settlement, StreamKey, StreamName, TenantContext,
};
use apix_redis::RedisBroker;

use super::server::RedisServer;

pub(crate) struct Tenant {
    pub(crate) broker: RedisBroker,
    pub(crate) stream: StreamKey,
    pub(crate) group: GroupKey,
    pub(crate) channel: ChannelKey,
}

impl Tenant {
    pub(crate) async fn on(server: &RedisServer) -> Self {
        Self::with(server.broker().await)
    }

    pub(crate) fn with(broker: RedisBroker) -> Self {
        let ctx = TenantContext::trusted("acme").unwrap();
        let stream = StreamKey::new(&ctx, StreamName::new("orders").unwrap());
        Self {
            broker,
            group: GroupKey::new(stream.clone(), GroupName::default()),
            stream,
            channel: ChannelKey::new(&ctx, ChannelName::new("news").unwrap()),
        }
    }

    pub(crate) async fn add(&self, n: u64) -> MessageId {
        self.broker.append(&self.stream, vec![event(n)]).await.unwrap()[0].message_id
    }

    pub(crate) async fn add_many(&self, count: u64) -> Vec<MessageId> {
        let events = (0..count).map(event).collect();
        let appended = self.broker.append(&self.stream, events).await.unwrap();
        appended.into_iter().map(|one| one.message_id).collect()
    }

    pub(crate) async fn read(&self, consumer: &str, most: usize, wait_ms: u64) -> Vec<Delivery> {
        let options = ReadOptions { max_events: most, wait: Duration::from_millis(wait_ms) };
        let consumer = ConsumerName::new(consumer).unwrap();
        self.broker.read_group(&self.group, &consumer, options).await.unwrap()
    }

    /// The next delivery, waiting for it.
    pub(crate) async fn read_one(&self, consumer: &str) -> Delivery {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(delivery) = self.read(consumer, 1, 1_000).await.pop() {
                return delivery;
            }
            assert!(Instant::now() < until, "no event came");
        }
    }

    pub(crate) async fn acknowledge(&self, deliveries: &[Delivery]) -> u64 {
        let receipts: Vec<Receipt> = deliveries.iter().map(Delivery::receipt).collect();
        self.broker.acknowledge(&self.group, &receipts).await.unwrap().count
    }

    pub(crate) async fn retry(&self, delivery: &Delivery, ms: u64) -> apix::Result<Settled> {
        let retry =
            Settlement::Retry { after: Some(Duration::from_millis(ms)), reason: "not yet".into() };
        self.broker.settle(&self.group, vec![(delivery.receipt(), retry)]).await.unwrap().remove(0)
    }

    pub(crate) async fn set_lease(&self, lease_ms: u64) {
        let settings = GroupSettings { lease_ms, max_deliveries: 50, ..GroupSettings::default() };
        self.broker.configure_group(&self.group, settings).await.unwrap();
    }

    pub(crate) async fn publish(&self, n: u64) -> u64 {
        let message = NewMessage::new("note", Json::encode(&n).unwrap());
        let message = message.checked(&self.channel, None, &Limits::default()).unwrap();
        self.broker.publish(&self.channel, message).await.unwrap()
    }
}

pub(crate) fn event(n: u64) -> NewEvent {
    Event::new("order.placed", Json::encode(&n).unwrap()).checked(None, &Limits::default()).unwrap()
}

/// Waits until the condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < until, "did not come to pass: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
