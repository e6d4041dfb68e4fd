//! The broker: each call of the contract, handed to the file that does it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use apix::{
    Acknowledged, Appended, Broker, BrokerInfo, ChannelKey, ConsumerName, DeadLetter,
    DeadLetterChoice, Delivery, Error, Feed, GroupKey, GroupSettings, GroupStats, HybridAppended,
    Message, MessageId, NewEvent, RangePage, RangeQuery, ReadOptions, Receipt, Result, SeekTo,
    Settled, Settlement, StreamKey, StreamName, StreamSettings, StreamStats, Subscription,
    TenantId,
};

use crate::connect::{Connector, Topology};
use crate::guard::Guard;
use crate::keys;
use crate::link::Link;
use crate::listener::Listener;
use crate::local::Locals;
use crate::options::RedisOptions;
use crate::pool::Pool;
use crate::pubsub::PubSub;
use crate::scripts::Scripts;
use crate::shared::Shared;
use crate::startup;
use crate::wire::Pipeline;

/// How long the server may take to answer a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// A broker on one Redis or Valkey server. Cheap to clone; dropping the last clone, or
/// [`close`](Broker::close), ends its connections.
#[derive(Clone, Debug)]
pub struct RedisBroker {
    shared: Arc<Shared>,
    /// Ends what runs in the background when the last handle goes.
    _open: Arc<Open>,
}

#[derive(Debug)]
struct Open(CancellationToken);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl RedisBroker {
    /// Connects, and refuses a server that cannot keep what APIX promises: too old, evicting, less
    /// durable than asked for, or with data of a newer format.
    pub async fn connect(options: RedisOptions) -> Result<Self> {
        let connector = Connector::new(&options)?;
        let mut first = connector.connect("link").await?;
        let info = startup::check(&mut first, options.durability, options.request_timeout).await?;
        for warning in &info.warnings {
            warn!(server = info.name, "{warning}");
        }
        let closing = CancellationToken::new();
        // From here on a failure ends what was begun.
        let open = Arc::new(Open(closing.clone()));
        let timeout = options.request_timeout;
        let tasks = TaskTracker::new();
        let queued = options.max_queued_calls;
        let guard = Guard::new(options.durability, timeout);
        let link =
            Link::open(connector.clone(), first, queued, guard, timeout, &tasks, closing.clone());
        let scripts = Scripts::new()?;
        scripts.preload(&link).await?;

        let random = getrandom::u64().map_err(|fault| {
            Error::unavailable("no randomness to be had").with_source(fault.to_string())
        })?;
        let probe = keys::probe(random);
        let locals = Arc::new(Locals::new());
        let (pubsub, commands) =
            PubSub::new(Arc::clone(&locals), &probe, options.subscriber_queue_bytes, timeout);
        let listener = Listener {
            pubsub: Arc::clone(&pubsub),
            commands,
            connector: connector.clone(),
            link: link.clone(),
            probe,
            closing: closing.clone(),
        };
        let messages = connector.connect("messages").await?;
        tasks.spawn(listener.run(messages));
        tasks.spawn(Guard::keep_watching(link.clone(), closing.clone()));
        let shared = Arc::new(Shared {
            topology: Topology::Standalone(link),
            scripts,
            pool: Pool::new(connector, options.max_blocking_connections, timeout),
            pubsub,
            locals,
            options,
            info,
            refusing: closing.child_token(),
            closing,
            tasks,
        });
        shared.tasks.spawn(Arc::clone(&shared).keep_sweeping());
        shared.tasks.spawn(Arc::clone(&shared).keep_trimming());
        Ok(Self { shared, _open: open })
    }

    fn open(&self) -> Result<&Shared> {
        self.shared.check_open()?;
        Ok(&self.shared)
    }
}

#[async_trait]
impl Broker for RedisBroker {
    fn info(&self) -> BrokerInfo {
        self.shared.info.clone()
    }

    async fn check(&self) -> Result<()> {
        let shared = self.open()?;
        for link in shared.topology.links() {
            link.guard().check()?;
            if !link.is_up() {
                return Err(Error::unavailable("there is no connection to Redis"));
            }
            let question = Pipeline::of(&["INFO", "replication"]);
            let replies = link.call_within(question, CHECK_TIMEOUT).await?;
            startup::check_is_primary(&replies)?;
        }
        if !shared.pubsub.is_up() {
            return Err(Error::unavailable("messages do not arrive from Redis"));
        }
        Ok(())
    }

    async fn close(&self) {
        self.shared.refusing.cancel();
        self.shared.pubsub.close();
        for link in self.shared.topology.links() {
            link.finish().await;
        }
        self.shared.closing.cancel();
        self.shared.pool.clear();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    async fn append(&self, stream: &StreamKey, events: Vec<NewEvent>) -> Result<Vec<Appended>> {
        self.open()?.append(stream, events).await
    }

    async fn append_after(
        &self,
        stream: &StreamKey,
        expected: Option<MessageId>,
        event: NewEvent,
    ) -> Result<MessageId> {
        self.open()?.append_after(stream, expected, event).await
    }

    async fn publish_hybrid(
        &self,
        stream: &StreamKey,
        channel: &ChannelKey,
        event: NewEvent,
    ) -> Result<HybridAppended> {
        self.open()?.publish_hybrid(stream, channel, event).await
    }

    async fn read_range(&self, stream: &StreamKey, query: &RangeQuery) -> Result<RangePage> {
        self.open()?.read_range(stream, query).await
    }

    async fn read_group(
        &self,
        group: &GroupKey,
        consumer: &ConsumerName,
        options: ReadOptions,
    ) -> Result<Vec<Delivery>> {
        self.open()?.read_group(group, consumer, options).await
    }

    async fn acknowledge(&self, group: &GroupKey, receipts: &[Receipt]) -> Result<Acknowledged> {
        self.open()?.acknowledge(group, receipts).await
    }

    async fn settle(
        &self,
        group: &GroupKey,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Result<Settled>>> {
        self.open()?.settle(group, settlements).await
    }

    async fn seek_group(&self, group: &GroupKey, to: SeekTo) -> Result<()> {
        self.open()?.seek_group(group, to).await
    }

    async fn configure_group(&self, group: &GroupKey, settings: GroupSettings) -> Result<()> {
        self.open()?.configure_group(group, &settings).await
    }

    async fn delete_group(&self, group: &GroupKey) -> Result<()> {
        self.open()?.delete_group(group).await
    }

    async fn group_stats(&self, group: &GroupKey) -> Result<GroupStats> {
        self.open()?.group_stats(group).await
    }

    async fn dead_letters(
        &self,
        group: &GroupKey,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.open()?.dead_letters(group, after, limit).await
    }

    async fn retry_dead_letters(&self, group: &GroupKey, which: &DeadLetterChoice) -> Result<u64> {
        self.open()?.retry_dead_letters(group, which).await
    }

    async fn discard_dead_letters(
        &self,
        group: &GroupKey,
        which: &DeadLetterChoice,
    ) -> Result<u64> {
        self.open()?.discard_dead_letters(group, which).await
    }

    async fn configure_stream(&self, stream: &StreamKey, settings: StreamSettings) -> Result<()> {
        self.open()?.configure_stream(stream, &settings).await
    }

    async fn delete_stream(&self, stream: &StreamKey) -> Result<()> {
        self.open()?.delete_stream(stream).await
    }

    async fn list_streams(&self, tenant: &TenantId) -> Result<Vec<StreamName>> {
        self.open()?.list_streams(tenant).await
    }

    async fn stream_stats(&self, stream: &StreamKey) -> Result<StreamStats> {
        self.open()?.stream_stats(stream).await
    }

    async fn trim(&self, stream: &StreamKey) -> Result<u64> {
        self.open()?.trim(stream).await
    }

    async fn publish(&self, channel: &ChannelKey, message: Message) -> Result<u64> {
        let shared = self.open()?;
        let channel = keys::channel(channel);
        let parts = [&b"PUBLISH"[..], channel.as_bytes(), message.encoded()];
        let receivers = shared.link(&channel).command(&parts).await?.cursor()?.int()?;
        Ok(u64::try_from(receivers).unwrap_or_default())
    }

    async fn subscribe(&self, channel: &ChannelKey) -> Result<Subscription> {
        self.open()?.pubsub.subscribe(channel).await
    }

    async fn channel_feeds(&self, channel: &ChannelKey) -> Result<Vec<Feed>> {
        self.open()?.channel_feeds(channel).await
    }
}
