//! Messages on channels, and hybrid events.

use std::sync::Arc;

use super::requests::{HybridOptions, HybridReceipt};
use super::scope::{no_answer, publishable_channel, writable_stream};
use super::service::TenantMessagingService;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::live::LiveSubscription;
use crate::message::NewMessage;
use crate::name::{ChannelKey, ChannelName, StreamName};
use crate::position::Since;
use crate::stream::HybridAppended;
use crate::tenant::{Action, TenantContext};

impl TenantMessagingService {
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
