//! A broker that fails in a chosen way, whatever it is asked.

use apix::{
    Acknowledged, Appended, Broker, BrokerInfo, ChannelKey, ConsumerName, DeadLetter,
    DeadLetterChoice, Delivery, Durability, Error, ErrorKind, Feed, GroupKey, GroupSettings,
    GroupStats, HybridAppended, Message, MessageId, NewEvent, RangePage, RangeQuery, ReadOptions,
    Receipt, Result, SeekTo, Settled, Settlement, StreamKey, StreamName, StreamSettings,
    StreamStats, Subscription, TenantId,
};
use async_trait::async_trait;

#[derive(Debug)]
pub(crate) enum Failing {
    With(ErrorKind),
    Panicking,
    NeverAnswering,
}

impl Failing {
    async fn fail<T>(&self) -> Result<T> {
        match self {
            Self::With(kind) => Err(Error::new(*kind, format!("the broker says {}", kind.code()))
                .with_source("a secret of the inside")),
            Self::Panicking => panic!("the broker panics"),
            Self::NeverAnswering => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Broker for Failing {
    fn info(&self) -> BrokerInfo {
        BrokerInfo {
            name: "failing".to_owned(),
            durability: Durability::Memory,
            warnings: Vec::new(),
        }
    }
    async fn check(&self) -> Result<()> {
        self.fail().await
    }
    async fn close(&self) {}
    async fn append(&self, _: &StreamKey, _: Vec<NewEvent>) -> Result<Vec<Appended>> {
        self.fail().await
    }
    async fn append_after(
        &self,
        _: &StreamKey,
        _: Option<MessageId>,
        _: NewEvent,
    ) -> Result<MessageId> {
        self.fail().await
    }
    async fn publish_hybrid(
        &self,
        _: &StreamKey,
        _: &ChannelKey,
        _: NewEvent,
    ) -> Result<HybridAppended> {
        self.fail().await
    }
    async fn read_range(&self, _: &StreamKey, _: &RangeQuery) -> Result<RangePage> {
        self.fail().await
    }
    async fn read_group(
        &self,
        _: &GroupKey,
        _: &ConsumerName,
        _: ReadOptions,
    ) -> Result<Vec<Delivery>> {
        self.fail().await
    }
    async fn acknowledge(&self, _: &GroupKey, _: &[Receipt]) -> Result<Acknowledged> {
        self.fail().await
    }
    async fn settle(
        &self,
        _: &GroupKey,
        _: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Result<Settled>>> {
        self.fail().await
    }
    async fn seek_group(&self, _: &GroupKey, _: SeekTo) -> Result<()> {
        self.fail().await
    }
    async fn configure_group(&self, _: &GroupKey, _: GroupSettings) -> Result<()> {
        self.fail().await
    }
    async fn delete_group(&self, _: &GroupKey) -> Result<()> {
        self.fail().await
    }
    async fn group_stats(&self, _: &GroupKey) -> Result<GroupStats> {
        self.fail().await
    }
    async fn dead_letters(
        &self,
        _: &GroupKey,
        _: Option<MessageId>,
        _: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.fail().await
    }
    async fn retry_dead_letters(&self, _: &GroupKey, _: &DeadLetterChoice) -> Result<u64> {
        self.fail().await
    }
    async fn discard_dead_letters(&self, _: &GroupKey, _: &DeadLetterChoice) -> Result<u64> {
        self.fail().await
    }
    async fn configure_stream(&self, _: &StreamKey, _: StreamSettings) -> Result<()> {
        self.fail().await
    }
    async fn delete_stream(&self, _: &StreamKey) -> Result<()> {
        self.fail().await
    }
    async fn list_streams(&self, _: &TenantId) -> Result<Vec<StreamName>> {
        self.fail().await
    }
    async fn stream_stats(&self, _: &StreamKey) -> Result<StreamStats> {
        self.fail().await
    }
    async fn trim(&self, _: &StreamKey) -> Result<u64> {
        self.fail().await
    }
    async fn publish(&self, _: &ChannelKey, _: Message) -> Result<u64> {
        self.fail().await
    }
    async fn subscribe(&self, _: &ChannelKey) -> Result<Subscription> {
        self.fail().await
    }
    async fn channel_feeds(&self, _: &ChannelKey) -> Result<Vec<Feed>> {
        self.fail().await
    }
}
