//! What a case works with: a broker, a fresh tenant, and the calls that most cases make.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Subject;
use super::observed::Observed;
use crate::broker::Broker;
use crate::event::{Delivery, Event, Limits, NewEvent, Receipt};
use crate::group::{GroupSettings, GroupStats, ReadOptions, Settled, Settlement};
use crate::json::Json;
use crate::live::{LiveSubscription, LiveUpdate};
use crate::message::{Message, NewMessage};
use crate::messaging::TenantMessagingService;
use crate::name::{
    ChannelKey, ChannelName, ConsumerName, GroupKey, GroupName, StreamKey, StreamName,
};
use crate::position::{MessageId, Since};
use crate::retention::StreamSettings;
use crate::stream::{HybridAppended, RangeQuery};
use crate::tenant::TenantContext;

/// How long a case waits for what must happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(25);
/// Longer than anything that a case waits for on purpose.
pub(super) const LONG_LEASE_MS: u64 = 60_000;
/// Short enough to wait for, long enough to act within on a busy machine.
pub(super) const SHORT_LEASE_MS: u64 = 400;

/// A broker with a fresh tenant.
#[derive(Clone)]
pub(super) struct World {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) ctx: TenantContext,
    subject: Arc<dyn Subject>,
    /// Whether nothing is lost on purpose, so that counts are exact.
    pub(super) strict: bool,
}

static TENANTS: AtomicU64 = AtomicU64::new(0);

fn fresh_tenant() -> TenantContext {
    let count = TENANTS.fetch_add(1, Ordering::Relaxed);
    let random = getrandom::u32().unwrap();
    TenantContext::trusted(format!("t{count}-{random:08x}")).unwrap()
}

impl World {
    pub(super) async fn new(subject: Arc<dyn Subject>) -> Self {
        let broker = Arc::new(Observed::new(subject.broker().await, Arc::clone(&subject)));
        let strict = !subject.disturbs();
        Self { broker, ctx: fresh_tenant(), subject, strict }
    }

    /// The same broker for another tenant.
    pub(super) fn other_tenant(&self) -> Self {
        Self { ctx: fresh_tenant(), ..self.clone() }
    }

    /// The broker after a kill; the same one where it keeps nothing.
    pub(super) async fn after_restart(&self) -> Option<Self> {
        let broker = self.subject.restart().await?;
        let broker = Arc::new(Observed::new(broker, Arc::clone(&self.subject)));
        Some(Self { broker, ..self.clone() })
    }

    pub(super) fn service(&self) -> TenantMessagingService {
        TenantMessagingService::new(Arc::clone(&self.broker))
    }

    pub(super) fn stream(&self) -> StreamKey {
        StreamKey::new(&self.ctx, StreamName::new("orders:eu").unwrap())
    }

    pub(super) fn channel(&self) -> ChannelKey {
        ChannelKey::new(&self.ctx, ChannelName::new("room:1").unwrap())
    }

    pub(super) fn group(&self) -> GroupKey {
        self.group_named("processors")
    }

    pub(super) fn group_named(&self, name: &str) -> GroupKey {
        GroupKey::new(self.stream(), GroupName::new(name).unwrap())
    }

    // ---- producing ----

    pub(super) async fn add(&self, n: u64) -> MessageId {
        self.broker.append(&self.stream(), vec![event(n)]).await.unwrap()[0].message_id
    }

    pub(super) async fn add_many(&self, count: u64) -> Vec<MessageId> {
        let events = (0..count).map(event).collect();
        let appended = self.broker.append(&self.stream(), events).await.unwrap();
        appended.into_iter().map(|one| one.message_id).collect()
    }

    pub(super) async fn show(&self, n: u64) -> HybridAppended {
        self.broker.publish_hybrid(&self.stream(), &self.channel(), event(n)).await.unwrap()
    }

    pub(super) async fn publish(&self, n: u64) -> u64 {
        let message = NewMessage::new("note", Json::encode(&n).unwrap());
        let message = message.checked(&self.channel(), None, &Limits::default()).unwrap();
        self.broker.publish(&self.channel(), message).await.unwrap()
    }

    // ---- consuming ----

    pub(super) async fn read_as(&self, consumer: &str, max: usize, wait_ms: u64) -> Vec<Delivery> {
        self.read_of(&self.group(), consumer, max, wait_ms).await
    }

    pub(super) async fn read_of(
        &self,
        group: &GroupKey,
        consumer: &str,
        max: usize,
        wait_ms: u64,
    ) -> Vec<Delivery> {
        let consumer = ConsumerName::new(consumer).unwrap();
        let options = ReadOptions { max_events: max, wait: Duration::from_millis(wait_ms) };
        self.broker.read_group(group, &consumer, options).await.unwrap()
    }

    /// Reads until `wanted` distinct events have come; the latest delivery of each, by id.
    pub(super) async fn read_all(
        &self,
        consumer: &str,
        wanted: usize,
    ) -> BTreeMap<MessageId, Delivery> {
        let mut came = BTreeMap::new();
        let until = Instant::now() + PATIENCE;
        while came.len() < wanted {
            assert!(Instant::now() < until, "only {} of {wanted} events came", came.len());
            for delivery in self.read_as(consumer, 100, 200).await {
                came.insert(delivery.event.message_id, delivery);
            }
        }
        came
    }

    /// The one event that is there for `consumer`, waiting for it.
    pub(super) async fn read_one(&self, consumer: &str) -> Delivery {
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "no event came");
            if let Some(delivery) = self.read_as(consumer, 1, 200).await.pop() {
                return delivery;
            }
        }
    }

    /// That nothing is handed out for a while.
    pub(super) async fn read_nothing(&self, consumer: &str) {
        let came = self.read_as(consumer, 10, 150).await;
        assert!(came.is_empty(), "handed out: {came:?}");
    }

    pub(super) async fn acknowledge(&self, deliveries: &[&Delivery]) -> u64 {
        let receipts: Vec<Receipt> = deliveries.iter().map(|one| one.receipt()).collect();
        let done = self.broker.acknowledge(&self.group(), &receipts).await.unwrap();
        assert_eq!(done.lease_lost, [], "acknowledged by its holder");
        done.count
    }

    pub(super) async fn settle(
        &self,
        delivery: &Delivery,
        settlement: Settlement,
    ) -> crate::Result<Settled> {
        let what = vec![(delivery.receipt(), settlement)];
        self.broker.settle(&self.group(), what).await.unwrap().remove(0)
    }

    pub(super) async fn retry_in(&self, delivery: &Delivery, ms: u64) -> crate::Result<Settled> {
        let after = Some(Duration::from_millis(ms));
        self.settle(delivery, Settlement::Retry { after, reason: "not yet".into() }).await
    }

    pub(super) async fn give_up(&self, delivery: &Delivery) {
        let settled = self.settle(delivery, Settlement::DeadLetter { reason: "no use".into() });
        assert_eq!(settled.await.unwrap(), Settled::DeadLettered);
    }

    /// An event that was added, read and given up.
    pub(super) async fn dead_letter(&self, n: u64) -> MessageId {
        let id = self.add(n).await;
        loop {
            let delivery = self.read_one("c").await;
            if self.strict {
                assert_eq!(delivery.event.message_id, id);
                self.give_up(&delivery).await;
                return id;
            }
            // Where the group is lost in between, the delivery is too, and earlier ones come again.
            let why = Settlement::DeadLetter { reason: "no use".into() };
            if delivery.event.message_id == id && self.settle(&delivery, why).await.is_ok() {
                return id;
            }
        }
    }

    // ---- settings and views ----

    pub(super) async fn set_group(&self, settings: GroupSettings) {
        self.broker.configure_group(&self.group(), settings).await.unwrap();
    }

    pub(super) async fn set_lease(&self, lease_ms: u64) {
        self.set_group(GroupSettings { lease_ms, ..GroupSettings::default() }).await;
    }

    pub(super) async fn set_stream(&self, change: impl FnOnce(&mut StreamSettings)) {
        let mut settings = StreamSettings::default();
        change(&mut settings);
        self.broker.configure_stream(&self.stream(), settings).await.unwrap();
    }

    pub(super) async fn stats(&self) -> GroupStats {
        self.broker.group_stats(&self.group()).await.unwrap()
    }

    pub(super) async fn trim(&self) -> u64 {
        let mut removed = 0;
        loop {
            match self.broker.trim(&self.stream()).await.unwrap() {
                0 => return removed,
                some => removed += some,
            }
        }
    }

    /// The ids that the stream holds.
    pub(super) async fn ids(&self) -> Vec<MessageId> {
        let query = RangeQuery { limit: 1_000, ..RangeQuery::default() };
        let page = self.broker.read_range(&self.stream(), &query).await.unwrap();
        page.events.iter().map(|event| event.message_id).collect()
    }

    /// That the trimmer has nothing more to take and the stream holds exactly these.
    pub(super) async fn holds(&self, ids: &[MessageId]) {
        self.trim().await;
        assert_eq!(self.ids().await, ids);
    }

    /// The next message, past notices of links that were broken on purpose.
    pub(super) async fn next_message(&self, live: &mut LiveSubscription) -> Arc<Message> {
        loop {
            match next(live).await {
                LiveUpdate::Message(message) => return message,
                notice @ LiveUpdate::Missed { .. } => assert!(!self.strict, "{notice:?}"),
            }
        }
    }

    pub(super) async fn listen(&self, since: Option<Since>) -> LiveSubscription {
        let service = self.service();
        service.resume_realtime_messages(&self.ctx, "room:1", since).await.unwrap()
    }
}

/// The next update of a live subscription.
pub(super) async fn next(live: &mut LiveSubscription) -> LiveUpdate {
    let until = Instant::now() + PATIENCE;
    loop {
        let update = tokio::time::timeout_at(until.into(), live.recv()).await;
        match update.expect("an update comes").expect("the broker is open") {
            Ok(update) => return update,
            Err(error) if error.is_retryable() => {}
            Err(error) => panic!("catching up failed: {error}"),
        }
    }
}

/// The ids of the next `count` hybrid events; other messages are passed over.
pub(super) async fn next_ids(live: &mut LiveSubscription, count: usize) -> Vec<MessageId> {
    let mut ids = Vec::new();
    while ids.len() < count {
        match next(live).await {
            LiveUpdate::Message(message) => {
                ids.extend(message.origin().map(|origin| origin.message_id));
            }
            // A broken link is told on every channel; the events themselves still come.
            LiveUpdate::Missed { count: None, .. } => {}
            other @ LiveUpdate::Missed { .. } => panic!("{other:?}"),
        }
    }
    ids
}

/// An event that says which it is.
pub(super) fn event(n: u64) -> NewEvent {
    let payload = format!(r#"{{"n":{n},"big":9007199254740993,"n":{n}}}"#);
    Event::new("order.placed", Json::parse(payload).unwrap())
        .checked(None, &Limits::default())
        .unwrap()
}

/// The same with an idempotency key.
pub(super) fn keyed(n: u64, key: &str) -> NewEvent {
    let mut event = Event::new("order.placed", Json::encode(&n).unwrap());
    event.idempotency_key = Some(key.into());
    event.checked(None, &Limits::default()).unwrap()
}

/// Waits until `holds` says so.
pub(super) async fn eventually<F, T>(what: &str, holds: F)
where
    F: Fn() -> T,
    T: Future<Output = bool>,
{
    let until = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < until, "did not come to pass: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
