//! The one trait that a broker implements, and what it has to guarantee.
//!
//! It speaks in whole operations, because only a broker can make them atomic. Names are validated
//! and scoped before they get here, events are checked, permissions are enforced: a broker trusts
//! its caller and is trusted with durability, order, leases and isolation of its keys.
//!
//! # What every broker MUST hold
//!
//! 1. **Durability.** An id is returned only after the event is as safe as the broker's
//!    [durability](Durability) says; the answer to a repeated idempotency key too. A failed call
//!    that may have taken effect is [`Unavailable`](crate::ErrorKind::Unavailable) or
//!    [`DurabilityUnmet`](crate::ErrorKind::DurabilityUnmet), never a success.
//! 2. **At least once.** An event that [`read_group`](Broker::read_group) returned is returned
//!    again, to some consumer, unless it was acknowledged, dead-lettered or skipped by a seek. A
//!    delivery count is never lower than the number of times the event was handed out since the
//!    last seek or dead-letter retry: not after a kill, not after the loss of the group's state.
//! 3. **Retention** never removes what a group has pending, parked or unread, up to the hard
//!    limit; what that one removes is counted. Removing leaves no trace in a pending list.
//! 4. **Order.** New events reach a group in the order of their ids. A retried event comes when it
//!    is due and holds nothing back.
//! 5. **Persist, then show.** A hybrid event that was not persisted is never shown. One that was
//!    carries the id of the one before it on its channel from its stream.
//! 6. **Once a key.** One idempotency key within its window adds one event to a stream.
//! 7. **Isolation.** No operation on one tenant's key reads or changes anything of another.
//! 8. **Nobody waits for a slow subscriber**, and none is silently short of messages.
//!
//! # What MAY happen
//!
//! Any call may fail with `Unavailable`; then it may or may not have taken effect. Deliveries may
//! repeat. Live messages may be lost between broker and subscriber, but then
//! [`Update::Missed`](crate::Update::Missed) says so.
//!
//! Futures may be dropped at any point: an operation is then done or not done, never half done,
//! and a dropped read leaves its deliveries to their leases.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::dead_letter::{DeadLetter, DeadLetterChoice};
use crate::error::Result;
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

/// How safe an event is when its id is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Flushed to disk: loses nothing short of the disk.
    Disk,
    /// Flushed at an interval: loses up to that interval on a power cut (embedded), on a kill of
    /// the server too (Redis).
    DiskInterval {
        /// The interval in milliseconds.
        every_ms: u64,
    },
    /// What the server does, or nothing on disk at all.
    Memory,
    /// On so many replicas.
    Replicas(u8),
}

/// What a broker says of itself when it has started.
#[derive(Clone, Debug)]
pub struct BrokerInfo {
    /// What it is, with its version: `embedded`, `redis 7.0.15`.
    pub name: String,
    /// How safe its events are.
    pub durability: Durability,
    /// What the operator should know: a setting that costs safety, a check that was refused.
    pub warnings: Vec<String>,
}

/// A broker: embedded, Redis, or another that passes the conformance suite.
#[async_trait]
pub trait Broker: Debug + Send + Sync + 'static {
    /// What the broker is.
    fn info(&self) -> BrokerInfo;

    /// Succeeds while the broker can serve: readiness. It covers every connection that the broker
    /// keeps, also the one that live messages arrive on.
    async fn check(&self) -> Result<()>;

    /// Finishes what was accepted, stops what runs in the background and lets go of the storage.
    /// Later calls are `Unavailable`.
    async fn close(&self);

    /// Appends `events` in order, all or none, and makes the stream where there is none.
    ///
    /// An idempotency key may be repeated within the batch too. A key that is known with another
    /// digest is [`IdempotencyConflict`](crate::ErrorKind::IdempotencyConflict), and nothing of
    /// the batch is appended. `realtime_channel` is not set.
    async fn append(&self, stream: &StreamKey, events: Vec<NewEvent>) -> Result<Vec<Appended>>;

    /// Appends one event if the stream's last id is `expected` (`None`: it has never had one), else
    /// [`Conflict`](crate::ErrorKind::Conflict): what writers that must not fork a stream use.
    async fn append_after(
        &self,
        stream: &StreamKey,
        expected: Option<MessageId>,
        event: NewEvent,
    ) -> Result<MessageId>;

    /// Appends `event` and then publishes it on `channel`, as [`Message::of_event`] writes it. That
    /// `stream` feeds `channel` is recorded before the event is appended. A failure to publish
    /// after the append is a success without `subscriber_count`.
    async fn publish_hybrid(
        &self,
        stream: &StreamKey,
        channel: &ChannelKey,
        event: NewEvent,
    ) -> Result<HybridAppended>;

    /// One page of past events. Entries of other services that are no events are left out.
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is no such stream.
    async fn read_range(&self, stream: &StreamKey, query: &RangeQuery) -> Result<RangePage>;

    /// Hands out events to `consumer`: first those that are due again, then new ones, until
    /// `max_events`; if there is none, waits for the first. Makes the stream and the group (at
    /// the start of the stream) where there is none. Entries that are no events go to the dead
    /// letters instead.
    async fn read_group(
        &self,
        group: &GroupKey,
        consumer: &ConsumerName,
        options: ReadOptions,
    ) -> Result<Vec<Delivery>>;

    /// Acknowledges deliveries. A receipt that names a holder touches that holder's delivery only.
    async fn acknowledge(&self, group: &GroupKey, receipts: &[Receipt]) -> Result<Acknowledged>;

    /// Rejects, gives up or extends deliveries, each by itself; the results are in order. A stale
    /// receipt, or one of an event that is not pending, is
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost). A retry of an event that was delivered
    /// `max_deliveries` times makes it a dead letter, in the step that settles it.
    async fn settle(
        &self,
        group: &GroupKey,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Result<Settled>>>;

    /// Sets where the group reads next. What was pending or parked is let go: its holders lose
    /// it, and delivery counts start again. Makes the group where there is none; `NotFound` if
    /// there is no such stream.
    async fn seek_group(&self, group: &GroupKey, to: SeekTo) -> Result<()>;

    /// Replaces the group's settings. Makes stream and group where there is none.
    async fn configure_group(&self, group: &GroupKey, settings: GroupSettings) -> Result<()>;

    /// Removes the group, with all that it has pending, parked and given up. `NotFound` if there
    /// is none.
    async fn delete_group(&self, group: &GroupKey) -> Result<()>;

    /// What can be seen of the group. `NotFound` if there is none.
    async fn group_stats(&self, group: &GroupKey) -> Result<GroupStats>;

    /// Dead letters in the order of their ids, those after `after`, at most `limit`. `NotFound` if
    /// there is no such group.
    async fn dead_letters(
        &self,
        group: &GroupKey,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>>;

    /// Hands dead letters out again, from their copies, under their ids, to this group alone, with
    /// delivery counts from 1. Those without an event (raw entries) are left. Returns how many.
    async fn retry_dead_letters(&self, group: &GroupKey, which: &DeadLetterChoice) -> Result<u64>;

    /// Drops dead letters. Returns how many.
    async fn discard_dead_letters(&self, group: &GroupKey, which: &DeadLetterChoice)
    -> Result<u64>;

    /// Replaces the stream's settings, and makes the stream where there is none.
    async fn configure_stream(&self, stream: &StreamKey, settings: StreamSettings) -> Result<()>;

    /// Removes the stream with everything that belongs to it. `NotFound` if there is none.
    async fn delete_stream(&self, stream: &StreamKey) -> Result<()>;

    /// The tenant's streams in the order of their names.
    async fn list_streams(&self, tenant: &TenantId) -> Result<Vec<StreamName>>;

    /// What can be seen of the stream and its groups. `NotFound` if there is none.
    async fn stream_stats(&self, stream: &StreamKey) -> Result<StreamStats>;

    /// Applies the stream's retention now, as the background does at intervals: bounded a call.
    /// Returns how many events were removed; 0 means that there is nothing more to remove.
    async fn trim(&self, stream: &StreamKey) -> Result<u64>;

    /// Publishes a message to everyone subscribed now. Returns the broker subscriptions reached:
    /// processes, not clients. Nothing is stored.
    async fn publish(&self, channel: &ChannelKey, message: Message) -> Result<u64>;

    /// Subscribes: everything that is published after this has returned arrives, or is reported
    /// as missed.
    async fn subscribe(&self, channel: &ChannelKey) -> Result<Subscription>;

    /// The streams that feed the channel with hybrid events. A stream that was deleted stays
    /// listed without an epoch, until it is made again or the record expires.
    async fn channel_feeds(&self, channel: &ChannelKey) -> Result<Vec<Feed>>;
}
