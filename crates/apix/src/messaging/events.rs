//! Events on streams: adding, handing out, settling, reading the past.

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;

use super::requests::{MAX_PAGE, MAX_READ_EVENTS, MAX_READ_WAIT, ReadRequest};
use super::scope::{
    check_count, check_settlement, lease_lost, no_answer, readable_group, readable_stream,
    writable_stream,
};
use super::service::TenantMessagingService;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Delivery, Event, Receipt, StoredEvent, check_size};
use crate::group::{Acknowledged, ReadOptions, Settled, Settlement};
use crate::name::{ConsumerName, GroupName};
use crate::position::MessageId;
use crate::replay::{Replay, replay};
use crate::stream::{RangePage, RangeQuery};
use crate::tenant::TenantContext;

impl TenantMessagingService {
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
}
