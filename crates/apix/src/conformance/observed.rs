//! A broker with something happening before each operation, and calls repeated that may be.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{RwLock, RwLockReadGuard};

use super::Subject;
use crate::broker::{Broker, BrokerInfo};
use crate::dead_letter::{DeadLetter, DeadLetterChoice};
use crate::error::{ErrorKind, Result};
use crate::event::{Delivery, NewEvent, Receipt};
use crate::group::{
    Acknowledged, GroupSettings, GroupStats, ReadOptions, SeekTo, Settled, Settlement,
};
use crate::message::Message;
use crate::name::{ChannelKey, ConsumerName, GroupKey, StreamKey, StreamName, TenantId};
use crate::position::MessageId;
use crate::retention::StreamSettings;
use crate::stream::{Appended, Feed, HybridAppended, RangePage, RangeQuery, StreamStats};
use crate::subscription::Subscription;

macro_rules! operations {
    ($($(#[$doc:meta])* $operation:ident),+ $(,)?) => {
        /// The operations of a broker that a guarantee may speak of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // each is the method of `Broker` of that name
        pub enum Operation { $($(#[$doc])* $operation),+ }

        impl Operation {
            /// All of them.
            pub const ALL: [Self; [$(Self::$operation),+].len()] = [$(Self::$operation),+];
        }
    };
}

operations! {
    Append,
    /// [`Append`](Self::Append) of several events.
    AppendBatch,
    AppendAfter,
    PublishHybrid,
    ReadRange,
    ReadGroup,
    Acknowledge,
    /// [`Broker::settle`] with a retry.
    Retry,
    /// [`Broker::settle`] with a dead letter.
    GiveUp,
    /// [`Broker::settle`] with an extension.
    Extend,
    SeekGroup,
    ConfigureGroup,
    DeleteGroup,
    GroupStats,
    DeadLetters,
    RetryDeadLetters,
    DiscardDeadLetters,
    ConfigureStream,
    DeleteStream,
    ListStreams,
    StreamStats,
    Trim,
    Publish,
    Subscribe,
    ChannelFeeds,
}

/// `inner`, with the subject's disturbance before each operation.
pub(super) struct Observed {
    inner: Arc<dyn Broker>,
    subject: Arc<dyn Subject>,
    /// Held by appends under way: a disturbance in the middle of one would make it happen twice.
    appends: RwLock<()>,
}

impl Operation {
    fn appends(self) -> bool {
        matches!(self, Self::Append | Self::AppendBatch | Self::AppendAfter | Self::PublishHybrid)
    }
}

impl Observed {
    pub(super) fn new(inner: Arc<dyn Broker>, subject: Arc<dyn Subject>) -> Self {
        Self { inner, subject, appends: RwLock::new(()) }
    }
}

impl Observed {
    /// Disturbs while no append is under way, and keeps later disturbances away from this one.
    async fn disturb(&self, before: Operation) -> Option<RwLockReadGuard<'_, ()>> {
        if !self.subject.disturbs() {
            self.subject.disturb(before).await;
            return None;
        }
        let alone = self.appends.write().await;
        self.subject.disturb(before).await;
        if before.appends() { Some(alone.downgrade()) } else { None }
    }
}

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

/// Disturbs, then calls until the answer is no passing failure. The disturbance is over before
/// the call begins, so that a call that fails has not taken effect and may be repeated.
macro_rules! observed {
    ($self:ident, $operation:ident, $call:expr) => {{
        let _append = $self.disturb(Operation::$operation).await;
        let mut left = 40;
        loop {
            match $call.await {
                Err(error)
                    if error.kind() == ErrorKind::Unavailable
                        && $self.subject.disturbs()
                        && left > 0 =>
                {
                    left -= 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                result => break result,
            }
        }
    }};
}

#[async_trait]
impl Broker for Observed {
    fn info(&self) -> BrokerInfo {
        self.inner.info()
    }

    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    async fn append(&self, stream: &StreamKey, events: Vec<NewEvent>) -> Result<Vec<Appended>> {
        if events.len() > 1 {
            observed!(self, AppendBatch, self.inner.append(stream, events.clone()))
        } else {
            observed!(self, Append, self.inner.append(stream, events.clone()))
        }
    }

    async fn append_after(
        &self,
        stream: &StreamKey,
        expected: Option<MessageId>,
        event: NewEvent,
    ) -> Result<MessageId> {
        observed!(self, AppendAfter, self.inner.append_after(stream, expected, event.clone()))
    }

    async fn publish_hybrid(
        &self,
        stream: &StreamKey,
        channel: &ChannelKey,
        event: NewEvent,
    ) -> Result<HybridAppended> {
        observed!(self, PublishHybrid, self.inner.publish_hybrid(stream, channel, event.clone()))
    }

    async fn read_range(&self, stream: &StreamKey, query: &RangeQuery) -> Result<RangePage> {
        observed!(self, ReadRange, self.inner.read_range(stream, query))
    }

    async fn read_group(
        &self,
        group: &GroupKey,
        consumer: &ConsumerName,
        options: ReadOptions,
    ) -> Result<Vec<Delivery>> {
        observed!(self, ReadGroup, self.inner.read_group(group, consumer, options))
    }

    async fn acknowledge(&self, group: &GroupKey, receipts: &[Receipt]) -> Result<Acknowledged> {
        observed!(self, Acknowledge, self.inner.acknowledge(group, receipts))
    }

    async fn settle(
        &self,
        group: &GroupKey,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Result<Settled>>> {
        match settlements.first() {
            Some((_, Settlement::DeadLetter { .. })) => {
                observed!(self, GiveUp, self.inner.settle(group, settlements.clone()))
            }
            Some((_, Settlement::Extend { .. })) => {
                observed!(self, Extend, self.inner.settle(group, settlements.clone()))
            }
            _ => observed!(self, Retry, self.inner.settle(group, settlements.clone())),
        }
    }

    async fn seek_group(&self, group: &GroupKey, to: SeekTo) -> Result<()> {
        observed!(self, SeekGroup, self.inner.seek_group(group, to))
    }

    async fn configure_group(&self, group: &GroupKey, settings: GroupSettings) -> Result<()> {
        observed!(self, ConfigureGroup, self.inner.configure_group(group, settings.clone()))
    }

    async fn delete_group(&self, group: &GroupKey) -> Result<()> {
        observed!(self, DeleteGroup, self.inner.delete_group(group))
    }

    async fn group_stats(&self, group: &GroupKey) -> Result<GroupStats> {
        observed!(self, GroupStats, self.inner.group_stats(group))
    }

    async fn dead_letters(
        &self,
        group: &GroupKey,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        observed!(self, DeadLetters, self.inner.dead_letters(group, after, limit))
    }

    async fn retry_dead_letters(&self, group: &GroupKey, which: &DeadLetterChoice) -> Result<u64> {
        observed!(self, RetryDeadLetters, self.inner.retry_dead_letters(group, which))
    }

    async fn discard_dead_letters(
        &self,
        group: &GroupKey,
        which: &DeadLetterChoice,
    ) -> Result<u64> {
        observed!(self, DiscardDeadLetters, self.inner.discard_dead_letters(group, which))
    }

    async fn configure_stream(&self, stream: &StreamKey, settings: StreamSettings) -> Result<()> {
        observed!(self, ConfigureStream, self.inner.configure_stream(stream, settings.clone()))
    }

    async fn delete_stream(&self, stream: &StreamKey) -> Result<()> {
        observed!(self, DeleteStream, self.inner.delete_stream(stream))
    }

    async fn list_streams(&self, tenant: &TenantId) -> Result<Vec<StreamName>> {
        observed!(self, ListStreams, self.inner.list_streams(tenant))
    }

    async fn stream_stats(&self, stream: &StreamKey) -> Result<StreamStats> {
        observed!(self, StreamStats, self.inner.stream_stats(stream))
    }

    async fn trim(&self, stream: &StreamKey) -> Result<u64> {
        observed!(self, Trim, self.inner.trim(stream))
    }

    async fn publish(&self, channel: &ChannelKey, message: Message) -> Result<u64> {
        observed!(self, Publish, self.inner.publish(channel, message.clone()))
    }

    async fn subscribe(&self, channel: &ChannelKey) -> Result<Subscription> {
        observed!(self, Subscribe, self.inner.subscribe(channel))
    }

    async fn channel_feeds(&self, channel: &ChannelKey) -> Result<Vec<Feed>> {
        observed!(self, ChannelFeeds, self.inner.channel_feeds(channel))
    }
}
