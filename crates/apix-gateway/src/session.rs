//! One live client, whatever protocol it speaks: what it is subscribed to, and what is next for it.
//!
//! A session is driven by one task: it handles a request, and only then asks for the next update,
//! so an acknowledgement always comes before the updates that it is about. While the client does
//! not take what is sent, nobody asks for updates, and they queue in their subscriptions, which
//! are bounded and count what gives way. So a slow client costs a bounded memory and slows nobody.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use apix::{
    Action, ChannelKey, ChannelName, ChannelPosition, LiveSubscription, LiveUpdate, Message,
    QueueBudget, Since,
};
use bytestring::ByteString;
use futures_util::stream::{AbortHandle, Abortable, SelectAll, Stream, unfold};
use futures_util::{StreamExt, future};
use serde_json::value::RawValue;

use crate::auth::Caller;
use crate::error::{ApiError, ErrorCode};
use crate::forms::{MessageForm, check_tenant, parse};
use crate::gateway::Gateway;
use crate::hub::advance;
use crate::protocol::{
    ChannelWish, Frame, Subscribed, UnsubscribeForm, ack, exception, read_since, read_wishes,
    unsubscribed,
};

/// How long a subscription waits before it tries again what the broker could not answer.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What a session has for its client.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A message.
    Update(Arc<Message>),
    /// Something is missing on the channel and will not come.
    Missed { channel: ChannelName, count: Option<u64>, recoverable: bool },
    /// The subscription has ended by a fault.
    Failed { channel: ChannelName, error: ApiError },
}

type Arrivals = Pin<Box<dyn Stream<Item = Arrival> + Send>>;

/// What one subscription brought.
struct Arrival {
    channel: ChannelName,
    /// Tells a subscription from an earlier one of the same channel.
    turn: u64,
    update: Result<LiveUpdate, ApiError>,
}

/// One channel of the session.
struct Joined {
    turn: u64,
    leave: AbortHandle,
    /// What the client has been given so far.
    position: ChannelPosition,
}

/// One live client.
pub(crate) struct Session {
    gateway: Gateway,
    caller: Caller,
    connection_id: String,
    joined: HashMap<ChannelName, Joined>,
    arrivals: SelectAll<Abortable<Arrivals>>,
    turns: u64,
    budget: QueueBudget,
}

impl Session {
    pub(crate) fn new(gateway: Gateway, caller: Caller) -> Result<Self, ApiError> {
        let no_randomness = |fault: getrandom::Error| ApiError {
            cause: Some(fault.to_string()),
            ..ApiError::new(ErrorCode::Unavailable, "no randomness to be had")
        };
        let (high, low) =
            (getrandom::u64().map_err(no_randomness)?, getrandom::u64().map_err(no_randomness)?);
        let budget = QueueBudget::new(gateway.live().queue_bytes);
        Ok(Self {
            gateway,
            caller,
            connection_id: format!("{high:016x}{low:016x}"),
            joined: HashMap::new(),
            arrivals: SelectAll::new(),
            turns: 0,
            budget,
        })
    }

    pub(crate) fn connection_id(&self) -> &str {
        &self.connection_id
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Handles one frame; the answer is a frame too.
    pub(crate) async fn handle(&mut self, text: &ByteString) -> String {
        let frame = match Frame::read(text) {
            Ok(frame) => frame,
            Err(error) => return exception(&error, None),
        };
        let id = frame.id();
        let answer = match &*frame.event {
            "subscribe_updates" => self.subscribe_frame(&frame).await,
            "unsubscribe_updates" => self.unsubscribe_frame(&frame),
            "publish" => self.publish_frame(&frame, text).await,
            other => Err(ApiError::invalid(format!(
                "the event {other:?} is not known; there are subscribe_updates, \
                 unsubscribe_updates and publish"
            ))),
        };
        answer.map_or_else(|error| exception(&error, id), |data| ack(id, &data))
    }

    async fn subscribe_frame(&mut self, frame: &Frame<'_>) -> Result<String, ApiError> {
        let mut answer = Subscribed { subscribed: Vec::new(), refused: Vec::new() };
        let wishes = read_wishes(frame)?;
        let max_channels = self.gateway.live().max_channels;
        if wishes.len() > max_channels {
            return Err(ApiError::new(
                ErrorCode::TooLarge,
                format!("the request has {} channels; the limit is {max_channels}", wishes.len()),
            ));
        }
        for wish in wishes {
            let name = wish.channel.clone();
            match self.fulfil(wish).await {
                Ok(subscribed) => answer.subscribed.push(subscribed),
                Err(error) => answer.refused.push((name, error)),
            }
        }
        Ok(answer.data())
    }

    async fn fulfil(
        &mut self,
        wish: ChannelWish<'_>,
    ) -> Result<(ChannelName, ChannelPosition), ApiError> {
        let channel = ChannelName::new(wish.channel)?;
        check_tenant(wish.organization_id.as_deref(), &self.caller.ctx)?;
        if wish.presence {
            return Err(ApiError::new(
                ErrorCode::Unsupported,
                "presence is not supported by this version; leave it out",
            ));
        }
        let since = wish.since.map(RawValue::get).map(read_since).transpose()?;
        let position = self.subscribe(&channel, since).await?;
        Ok((channel, position))
    }

    /// Joins a channel and says where it stands. One that was joined before stays as it is,
    /// unless the client gives a position to go back to.
    pub(crate) async fn subscribe(
        &mut self,
        channel: &ChannelName,
        since: Option<Since>,
    ) -> Result<ChannelPosition, ApiError> {
        if since.is_none()
            && let Some(joined) = self.joined.get(channel)
        {
            return Ok(joined.position.clone());
        }
        let max_channels = self.gateway.live().max_channels;
        if self.joined.len() >= max_channels && !self.joined.contains_key(channel) {
            return Err(ApiError::new(
                ErrorCode::TooLarge,
                format!("the connection has {max_channels} channels, which is the limit"),
            ));
        }
        let ctx = &self.caller.ctx;
        ctx.require(Action::ChannelsSubscribe, channel.as_str())?;
        let key = ChannelKey::new(ctx, channel.clone());
        let followed = self.gateway.hub().follow(key, since, &self.budget);
        let (subscription, _queue) = self.gateway.within(followed).await?;
        let mut position = subscription.position();
        // A stream that is gone has nowhere to come back to.
        position.retain(|_, position| position.epoch.is_some());
        self.turns += 1;
        let turn = self.turns;
        let (leave, registration) = AbortHandle::new_pair();
        let arrivals = arrivals(channel.clone(), turn, subscription);
        self.arrivals.push(Abortable::new(Box::pin(arrivals), registration));
        let joined = Joined { turn, leave, position: position.clone() };
        if let Some(before) = self.joined.insert(channel.clone(), joined) {
            before.leave.abort();
        }
        Ok(position)
    }

    fn unsubscribe_frame(&mut self, frame: &Frame<'_>) -> Result<String, ApiError> {
        let form: UnsubscribeForm = frame.data()?;
        let channels =
            form.channels.into_iter().map(ChannelName::new).collect::<Result<Vec<_>, _>>()?;
        for channel in &channels {
            self.leave(channel);
        }
        Ok(unsubscribed(&channels))
    }

    fn leave(&mut self, channel: &ChannelName) {
        if let Some(joined) = self.joined.remove(channel) {
            joined.leave.abort();
        }
    }

    async fn publish_frame(
        &mut self,
        frame: &Frame<'_>,
        text: &ByteString,
    ) -> Result<String, ApiError> {
        let Some(data) = frame.data else { return Err(ApiError::invalid("publish lacks data")) };
        let form: MessageForm<'_> = parse("data", data.get())?;
        let channel = form
            .channel
            .clone()
            .ok_or_else(|| ApiError::invalid("data: missing field `channel`"))?;
        // Names and permission first, as over HTTP.
        let channel = ChannelName::new(channel)?;
        let message = form.into_message(text, &self.caller.ctx)?;
        let service = self.gateway.service();
        let reached = service.publish_realtime_message(&self.caller.ctx, channel.as_str(), message);
        let count = self.gateway.within(reached).await?;
        Ok(format!("{{\"subscriberCount\":{count}}}"))
    }

    /// What is next for the client; waits until there is something. Nothing is lost if it is
    /// cancelled.
    pub(crate) async fn next(&mut self) -> Outgoing {
        loop {
            let Some(arrival) = self.arrivals.next().await else {
                future::pending::<()>().await;
                continue;
            };
            let Arrival { channel, turn, update } = arrival;
            let Some(joined) = self.joined.get_mut(&channel).filter(|joined| joined.turn == turn)
            else {
                continue;
            };
            match update {
                Ok(LiveUpdate::Message(message)) => {
                    advance(&mut joined.position, &message);
                    return Outgoing::Update(message);
                }
                Ok(LiveUpdate::Missed { count, recoverable }) => {
                    return Outgoing::Missed { channel, count, recoverable };
                }
                Err(error) => {
                    self.leave(&channel);
                    return Outgoing::Failed { channel, error };
                }
            }
        }
    }

    /// What has been given of a channel: where a client that got it all can come back to.
    pub(crate) fn position(&self, channel: &ChannelName) -> Option<&ChannelPosition> {
        self.joined.get(channel).map(|joined| &joined.position)
    }
}

/// The updates of one subscription. What can be tried again is; another fault ends it.
fn arrivals(
    channel: ChannelName,
    turn: u64,
    subscription: LiveSubscription,
) -> impl Stream<Item = Arrival> + Send {
    unfold((channel, Some(subscription)), move |(channel, subscription)| async move {
        let mut subscription = subscription?;
        let update = loop {
            match subscription.recv().await {
                Some(Ok(update)) => break Ok(update),
                Some(Err(fault)) if fault.is_retryable() => {
                    tracing::debug!(%fault, "catching up failed, trying again");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                Some(Err(fault)) => break Err(fault.into()),
                None => {
                    break Err(ApiError::new(
                        ErrorCode::Unavailable,
                        "the channel has closed: subscribe again",
                    ));
                }
            }
        };
        let rest = update.is_ok().then_some(subscription);
        let arrival = Arrival { channel: channel.clone(), turn, update };
        Some((arrival, (channel, rest)))
    })
}
