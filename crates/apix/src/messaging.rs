//! The service: every operation on behalf of a tenant.
//!
//! Each call takes the [`TenantContext`] first. It checks names, permissions and sizes, and then
//! asks the [`Broker`] for one whole operation.

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;

use crate::broker::Broker;
use crate::dead_letter::{DeadLetter, DeadLetterChoice};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Delivery, Event, Limits, Receipt, StoredEvent, check_size};
use crate::group::{
    Acknowledged, GroupSettings, GroupStats, ReadOptions, SeekTo, Settled, Settlement,
};
use crate::live::LiveSubscription;
use crate::message::NewMessage;
use crate::name::{
    ChannelKey, ChannelName, ConsumerName, GroupKey, GroupName, StreamKey, StreamName,
};
use crate::position::{MessageId, Since};
use crate::replay::{Replay, replay};
use crate::retention::StreamSettings;
use crate::stream::{HybridAppended, RangePage, RangeQuery, StreamStats};
use crate::tenant::{Action, TenantContext};

/// The most deliveries that one read hands out.
pub const MAX_READ_EVENTS: usize = 1_000;
/// The longest that one read waits.
pub const MAX_READ_WAIT: Duration = Duration::from_secs(30);
/// What a read brings when the caller does not say.
pub const DEFAULT_BATCH_SIZE: usize = 10;
/// The most events, dead letters or ids in one page or call.
pub const MAX_PAGE: usize = 1_000;
/// The stream of hybrid events that name none.
pub const DEFAULT_HYBRID_STREAM: &str = "events";
/// The channel of hybrid events that name none.
pub const DEFAULT_HYBRID_CHANNEL: &str = "notifications";

/// All operations on streams, channels and both together, for any tenant, over one broker.
/// Clones share the broker.
#[derive(Clone, Debug)]
pub struct TenantMessagingService {
    broker: Arc<dyn Broker>,
    limits: Arc<Limits>,
}

/// How a group is read.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// The group (default `processors`).
    pub group: GroupName,
    /// At most so many deliveries, 1 to 1,000 (default 10).
    pub batch_size: usize,
    /// How long to wait for the first, at most 30 s (default 1 s).
    pub wait: Duration,
}

impl Default for ReadRequest {
    fn default() -> Self {
        Self {
            group: GroupName::default(),
            batch_size: DEFAULT_BATCH_SIZE,
            wait: Duration::from_secs(1),
        }
    }
}

/// Where a hybrid event goes.
#[derive(Clone, Debug)]
pub struct HybridOptions {
    /// Whether it is stored (default yes).
    pub persist_to_stream: bool,
    /// Whether it is shown live (default yes).
    pub notify_realtime: bool,
    /// The stream (default `events`).
    pub stream_name: String,
    /// The channel (default `notifications`).
    pub realtime_channel: String,
}

impl Default for HybridOptions {
    fn default() -> Self {
        Self {
            persist_to_stream: true,
            notify_realtime: true,
            stream_name: DEFAULT_HYBRID_STREAM.to_owned(),
            realtime_channel: DEFAULT_HYBRID_CHANNEL.to_owned(),
        }
    }
}

/// What became of a hybrid event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HybridReceipt {
    /// Its id, if it was persisted.
    pub stream_message_id: Option<MessageId>,
    /// Broker subscriptions reached, if it was shown.
    pub subscriber_count: Option<u64>,
    /// Whether its idempotency key was known: then nothing was added or shown.
    pub repeated: bool,
}

impl TenantMessagingService {
    /// The service over `broker`, with the default limits.
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self::with_limits(broker, Limits::default())
    }

    /// The service over `broker` with other limits.
    pub fn with_limits(broker: Arc<dyn Broker>, limits: Limits) -> Self {
        Self { broker, limits: Arc::new(limits) }
    }

    /// The broker underneath.
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.broker
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    // ---- events on streams ----

    /// Adds one event and returns its id once it is as safe as the broker's durability says.
    /// Needs `streams:write`.
    pub async fn add_event_to_stream(
        &self,
        ctx: &TenantContext,
        stream: &str,
        event: Event,
    ) -> Result<MessageId> {
        let stream = writable_stream(ctx, stream)?;
        let event = event.checked(ctx.user_id(), &self.limits)?;
        let appended = self.broker.append(&stream, vec![event]).await?;
        appended.first().map(|one| one.message_id).ok_or_else(no_answer)
    }

    /// Adds events in order, all or none, in one round trip; returns their ids in order. At most
    /// 1,000 events and 8 MiB of payload by default. Needs `streams:write`.
    pub async fn add_events_to_stream(
        &self,
        ctx: &TenantContext,
        stream: &str,
        events: Vec<Event>,
    ) -> Result<Vec<MessageId>> {
        let stream = writable_stream(ctx, stream)?;
        if events.is_empty() {
            return Ok(Vec::new());
        }
        if events.len() > self.limits.max_batch_events {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the batch has {} events; the limit is {}",
                    events.len(),
                    self.limits.max_batch_events
                ),
            ));
        }
        let bytes = events.iter().map(|event| event.payload.len()).sum();
        check_size("batch's payload", bytes, self.limits.max_batch_bytes)?;
        let checked = |(index, event): (usize, Event)| {
            event.checked(ctx.user_id(), &self.limits).map_err(|fault| {
                Error::new(fault.kind(), format!("event {index} of the batch: {fault}"))
            })
        };
        let events: Vec<_> = events.into_iter().enumerate().map(checked).collect::<Result<_>>()?;
        let appended = self.broker.append(&stream, events).await?;
        Ok(appended.into_iter().map(|one| one.message_id).collect())
    }

    /// Hands up to `batch_size` events of the group `processors` to `consumer`; waits up to 1 s
    /// for the first. Each is held for the group's lease and comes back unless it is settled.
    /// Needs `streams:read`.
    pub async fn process_events_from_stream(
        &self,
        ctx: &TenantContext,
        stream: &str,
        consumer: &str,
        batch_size: usize,
    ) -> Result<Vec<Delivery>> {
        let request = ReadRequest { batch_size, ..ReadRequest::default() };
        self.read_group(ctx, stream, consumer, request).await
    }

    /// As [`process_events_from_stream`](Self::process_events_from_stream), for any group.
    pub async fn read_group(
        &self,
        ctx: &TenantContext,
        stream: &str,
        consumer: &str,
        request: ReadRequest,
    ) -> Result<Vec<Delivery>> {
        let group = readable_group(ctx, stream, request.group)?;
        let consumer = ConsumerName::new(consumer)?;
        if !(1..=MAX_READ_EVENTS).contains(&request.batch_size) {
            return Err(Error::invalid(format!(
                "the batch size must be from 1 to {MAX_READ_EVENTS}, not {}",
                request.batch_size
            )));
        }
        if request.wait > MAX_READ_WAIT {
            return Err(Error::invalid(format!(
                "a read waits at most {} ms",
                MAX_READ_WAIT.as_millis()
            )));
        }
        let options = ReadOptions { max_events: request.batch_size, wait: request.wait };
        self.broker.read_group(&group, &consumer, options).await
    }

    /// Acknowledges one delivery of the group `processors`. `false` if it was not pending any
    /// more; [`ErrorKind::LeaseLost`] if another consumer has it now. Needs `streams:read`.
    pub async fn acknowledge_event(
        &self,
        ctx: &TenantContext,
        stream: &str,
        delivery: &Delivery,
    ) -> Result<bool> {
        let receipts = [delivery.receipt()];
        let done = self.acknowledge_events(ctx, stream, GroupName::default(), &receipts).await?;
        if done.lease_lost.is_empty() {
            Ok(done.count == 1)
        } else {
            Err(lease_lost(delivery.event.message_id))
        }
    }

    /// Acknowledges deliveries. Those whose holder lost them are named and left alone. Needs
    /// `streams:read`.
    pub async fn acknowledge_events(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        receipts: &[Receipt],
    ) -> Result<Acknowledged> {
        let group = readable_group(ctx, stream, group)?;
        if receipts.is_empty() {
            return Ok(Acknowledged::default());
        }
        check_count("message ids", receipts.len())?;
        self.broker.acknowledge(&group, receipts).await
    }

    /// Rejects one delivery: it comes back after `retry_after`, or after the group's back-off, or
    /// becomes a dead letter. Needs `streams:read`.
    pub async fn reject_event(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        receipt: Receipt,
        rejection: Settlement,
    ) -> Result<Settled> {
        let results = self.settle_events(ctx, stream, group, vec![(receipt, rejection)]).await?;
        results.into_iter().next().unwrap_or_else(|| Err(no_answer()))
    }

    /// Holds deliveries for `lease` from now. Each has its own result. Needs `streams:read`.
    pub async fn extend_lease(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        receipts: Vec<Receipt>,
        lease: Duration,
    ) -> Result<Vec<Result<Settled>>> {
        let extend = |receipt| (receipt, Settlement::Extend { lease });
        let settlements = receipts.into_iter().map(extend).collect();
        self.settle_events(ctx, stream, group, settlements).await
    }

    /// Rejects, gives up or extends several deliveries in one round trip. Needs `streams:read`.
    pub async fn settle_events(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Result<Settled>>> {
        let group = readable_group(ctx, stream, group)?;
        check_count("deliveries", settlements.len())?;
        for (_, settlement) in &settlements {
            check_settlement(settlement)?;
        }
        self.broker.settle(&group, settlements).await
    }

    /// One page of past events. Needs `streams:read`.
    pub async fn read_events(
        &self,
        ctx: &TenantContext,
        stream: &str,
        query: &RangeQuery,
    ) -> Result<RangePage> {
        let stream = readable_stream(ctx, stream)?;
        if !(1..=MAX_PAGE).contains(&query.limit) {
            return Err(Error::invalid(format!("limit must be from 1 to {MAX_PAGE}")));
        }
        self.broker.read_range(&stream, query).await
    }

    /// Past events as a stream, page by page as they are wanted; paced, if asked. Needs
    /// `streams:read`.
    pub fn replay_events(
        &self,
        ctx: &TenantContext,
        stream: &str,
        request: Replay,
    ) -> Result<impl Stream<Item = Result<StoredEvent>> + Send + use<>> {
        let stream = readable_stream(ctx, stream)?;
        Ok(replay(Arc::clone(&self.broker), stream, request))
    }

    // ---- groups ----

    /// Sets where a group reads next. What it had pending or parked is let go. Needs
    /// `groups:manage` on the stream.
    pub async fn seek_group(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        to: SeekTo,
    ) -> Result<()> {
        self.broker.seek_group(&managed_group(ctx, stream, group)?, to).await
    }

    /// Replaces a group's settings; makes it where there is none. Needs `groups:manage` on the
    /// stream.
    pub async fn configure_group(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        settings: GroupSettings,
    ) -> Result<()> {
        let group = managed_group(ctx, stream, group)?;
        settings.check()?;
        self.broker.configure_group(&group, settings).await
    }

    /// Removes a group with all that it holds. Needs `groups:manage` on the stream.
    pub async fn delete_group(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
    ) -> Result<()> {
        self.broker.delete_group(&managed_group(ctx, stream, group)?).await
    }

    /// Settings and statistics of a group. Needs `streams:read`.
    pub async fn group_stats(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
    ) -> Result<GroupStats> {
        self.broker.group_stats(&readable_group(ctx, stream, group)?).await
    }

    /// A page of a group's dead letters, those after `after`. Needs `streams:read`.
    pub async fn dead_letters(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let group = readable_group(ctx, stream, group)?;
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Error::invalid(format!("limit must be from 1 to {MAX_PAGE}")));
        }
        self.broker.dead_letters(&group, after, limit).await
    }

    /// Hands dead letters to their group again. Needs `groups:manage` on the stream.
    pub async fn retry_dead_letters(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        which: &DeadLetterChoice,
    ) -> Result<u64> {
        self.broker.retry_dead_letters(&managed_group(ctx, stream, group)?, which).await
    }

    /// Drops dead letters. Needs `groups:manage` on the stream.
    pub async fn discard_dead_letters(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        which: &DeadLetterChoice,
    ) -> Result<u64> {
        self.broker.discard_dead_letters(&managed_group(ctx, stream, group)?, which).await
    }

    // ---- streams ----

    /// Replaces a stream's settings; makes it where there is none. Needs `groups:manage`.
    pub async fn configure_stream(
        &self,
        ctx: &TenantContext,
        stream: &str,
        settings: StreamSettings,
    ) -> Result<()> {
        let stream = managed_stream(ctx, stream)?;
        settings.check()?;
        self.broker.configure_stream(&stream, settings).await
    }

    /// Removes a stream with everything that belongs to it. Needs `groups:manage`.
    pub async fn delete_stream(&self, ctx: &TenantContext, stream: &str) -> Result<()> {
        self.broker.delete_stream(&managed_stream(ctx, stream)?).await
    }

    /// The tenant's streams that the caller may read.
    pub async fn list_streams(&self, ctx: &TenantContext) -> Result<Vec<StreamName>> {
        let mut streams = self.broker.list_streams(ctx.organization_id()).await?;
        streams.retain(|stream| ctx.require(Action::StreamsRead, stream.as_str()).is_ok());
        Ok(streams)
    }

    /// Statistics and settings of a stream with its groups. Needs `streams:read`.
    pub async fn stream_stats(&self, ctx: &TenantContext, stream: &str) -> Result<StreamStats> {
        self.broker.stream_stats(&readable_stream(ctx, stream)?).await
    }

    // ---- messages on channels ----

    /// Publishes to everyone subscribed now; returns the broker subscriptions reached (processes,
    /// not clients). Needs `channels:publish`.
    pub async fn publish_realtime_message(
        &self,
        ctx: &TenantContext,
        channel: &str,
        message: NewMessage,
    ) -> Result<u64> {
        let channel = publishable_channel(ctx, channel)?;
        let message = message.checked(&channel, ctx.user_id(), &self.limits)?;
        self.broker.publish(&channel, message).await
    }

    /// The channel's messages from now on. Dropping the subscription unsubscribes. Needs
    /// `channels:subscribe`.
    pub async fn subscribe_to_realtime_messages(
        &self,
        ctx: &TenantContext,
        channel: &str,
    ) -> Result<LiveSubscription> {
        self.resume_realtime_messages(ctx, channel, None).await
    }

    /// The channel's hybrid events after `since`, then its messages from now on, with no gap.
    /// What cannot be recovered is told. Needs `channels:subscribe`.
    pub async fn resume_realtime_messages(
        &self,
        ctx: &TenantContext,
        channel: &str,
        since: Option<Since>,
    ) -> Result<LiveSubscription> {
        let channel = ChannelName::new(channel)?;
        ctx.require(Action::ChannelsSubscribe, channel.as_str())?;
        let channel = ChannelKey::new(ctx, channel);
        LiveSubscription::open(Arc::clone(&self.broker), channel, since).await
    }

    // ---- both ----

    /// Persists an event and then shows it live, in one call. Needs `streams:write` and
    /// `channels:publish`, as far as each is used.
    pub async fn publish_hybrid_event(
        &self,
        ctx: &TenantContext,
        event: Event,
        options: &HybridOptions,
    ) -> Result<HybridReceipt> {
        let HybridOptions { stream_name, realtime_channel, .. } = options;
        // A name that is not used is checked too: it is as wrong as one that is.
        StreamName::new(stream_name.as_str())?;
        ChannelName::new(realtime_channel.as_str())?;
        match (options.persist_to_stream, options.notify_realtime) {
            (true, true) => {
                let stream = writable_stream(ctx, stream_name)?;
                let channel = publishable_channel(ctx, realtime_channel)?;
                let shown_on = Some(channel.channel());
                let event = event.checked_for(shown_on, ctx.user_id(), &self.limits)?;
                let HybridAppended { message_id, repeated, subscriber_count } =
                    self.broker.publish_hybrid(&stream, &channel, event).await?;
                Ok(HybridReceipt {
                    stream_message_id: Some(message_id),
                    subscriber_count,
                    repeated,
                })
            }
            (true, false) => {
                let stream = writable_stream(ctx, stream_name)?;
                let event = event.checked(ctx.user_id(), &self.limits)?;
                let appended = self.broker.append(&stream, vec![event]).await?;
                let one = appended.first().ok_or_else(no_answer)?;
                Ok(HybridReceipt {
                    stream_message_id: Some(one.message_id),
                    subscriber_count: None,
                    repeated: one.repeated,
                })
            }
            (false, true) if event.idempotency_key.is_some() => Err(Error::invalid(
                "an idempotencyKey needs persistToStream: what is not stored cannot be recognised",
            )),
            (false, true) => {
                let message = NewMessage {
                    message_type: event.event_type,
                    data: event.payload,
                    timestamp: event.timestamp,
                    user_id: event.user_id,
                };
                let count = self.publish_realtime_message(ctx, realtime_channel, message).await?;
                Ok(HybridReceipt { subscriber_count: Some(count), ..HybridReceipt::default() })
            }
            (false, false) => Err(Error::invalid(
                "persistToStream and notifyRealtime are both false: the event would go nowhere",
            )),
        }
    }
}

/// The error of a delivery that its holder no longer has.
pub fn lease_lost(id: MessageId) -> Error {
    Error::new(
        ErrorKind::LeaseLost,
        format!(
            "{id} is not held by this consumer with this delivery count: it was settled, or its \
             lease ended and it went to another"
        ),
    )
}

fn no_answer() -> Error {
    Error::new(ErrorKind::Internal, "the broker gave fewer answers than it was asked for")
}

fn stream_with(ctx: &TenantContext, stream: &str, action: Action) -> Result<StreamKey> {
    let stream = StreamName::new(stream)?;
    ctx.require(action, stream.as_str())?;
    Ok(StreamKey::new(ctx, stream))
}

fn readable_stream(ctx: &TenantContext, stream: &str) -> Result<StreamKey> {
    stream_with(ctx, stream, Action::StreamsRead)
}

fn writable_stream(ctx: &TenantContext, stream: &str) -> Result<StreamKey> {
    unreserved(stream_with(ctx, stream, Action::StreamsWrite)?)
}

fn managed_stream(ctx: &TenantContext, stream: &str) -> Result<StreamKey> {
    unreserved(stream_with(ctx, stream, Action::GroupsManage)?)
}

/// A stream that APIX alone writes is neither written, nor set up, nor deleted by anybody else.
fn unreserved(stream: StreamKey) -> Result<StreamKey> {
    if stream.stream().is_reserved() {
        return Err(reserved("stream", stream.stream().as_str()));
    }
    Ok(stream)
}

fn readable_group(ctx: &TenantContext, stream: &str, group: GroupName) -> Result<GroupKey> {
    Ok(GroupKey::new(readable_stream(ctx, stream)?, group))
}

fn managed_group(ctx: &TenantContext, stream: &str, group: GroupName) -> Result<GroupKey> {
    Ok(GroupKey::new(stream_with(ctx, stream, Action::GroupsManage)?, group))
}

fn publishable_channel(ctx: &TenantContext, channel: &str) -> Result<ChannelKey> {
    let channel = ChannelName::new(channel)?;
    ctx.require(Action::ChannelsPublish, channel.as_str())?;
    if channel.is_reserved() {
        return Err(reserved("channel", channel.as_str()));
    }
    Ok(ChannelKey::new(ctx, channel))
}

fn reserved(what: &str, name: &str) -> Error {
    Error::new(
        ErrorKind::ReservedName,
        format!("the {what} {name:?} is written by APIX only; choose another name"),
    )
}

fn check_count(what: &str, count: usize) -> Result<()> {
    if count > MAX_PAGE {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the call has {count} {what}; the limit is {MAX_PAGE}"),
        ));
    }
    Ok(())
}

/// The longest that a retry may be put off: 30 days.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(30 * 24 * 3_600);

fn check_settlement(settlement: &Settlement) -> Result<()> {
    match settlement {
        Settlement::Retry { after: Some(after), .. } if *after > MAX_RETRY_AFTER => {
            Err(Error::invalid(format!("a retry is due within {} ms", MAX_RETRY_AFTER.as_millis())))
        }
        Settlement::Extend { lease }
            if lease.is_zero() || lease.as_millis() > u128::from(crate::group::MAX_LEASE_MS) =>
        {
            Err(Error::invalid(format!("leaseMs must be from 1 to {}", crate::group::MAX_LEASE_MS)))
        }
        _ => Ok(()),
    }
}
