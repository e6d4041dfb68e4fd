//! One live client, whatever protocol it speaks: what it is subscribed to, and what is next for it.
//!
//! A session is driven by one task: it handles a request, and only then asks for the next update,
//! so an acknowledgement always comes before the updates that it is about. While the client does
//! not take what is sent, nobody asks for updates, and they queue in their subscriptions, which
//! are bounded and count what gives way. So a slow client costs a bounded memory and slows nobody.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use apix::{
    Action, ChannelKey, ChannelPosition, LiveSubscription, LiveUpdate, Message, QueueBudget, Since,
    SubscriptionSender,
};
use bytestring::ByteString;
use futures_util::stream::{AbortHandle, Abortable, SelectAll, Stream, unfold};
use futures_util::{StreamExt, future};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::auth::Caller;
use crate::change::Face;
use crate::connections::Registered;
use crate::counters::Counted;
use crate::error::{ApiError, ErrorCode};
use crate::forms::{MessageForm, parse};
use crate::gateway::Gateway;
use crate::hub::advance;
use crate::limits::Rate;
use crate::place::Place;
use crate::protocol::{
    ChannelWish, Frame, LeaveWish, Refusal, RenewForm, Subscribed, ack, exception, read_leaves,
    read_since, read_wishes, renewed, unsubscribed,
};

/// How long a subscription waits before it tries again what the broker could not answer.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What a session has for its client.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A message.
    Update(Arc<Message>),
    /// Something is missing on the channel and will not come.
    Missed { place: Place, count: Option<u64>, recoverable: bool },
    /// The subscription has ended by a fault.
    Failed { place: Place, error: ApiError },
}

type Arrivals = Pin<Box<dyn Stream<Item = Arrival> + Send>>;

/// What one subscription brought.
struct Arrival {
    place: Place,
    /// Tells a subscription from an earlier one of the same channel.
    turn: u64,
    update: Result<LiveUpdate, ApiError>,
}

/// One channel of the session.
struct Joined {
    turn: u64,
    key: ChannelKey,
    /// For what concerns this subscriber alone.
    queue: SubscriptionSender,
    /// Whether it is told who comes and goes.
    watching: bool,
    leave: AbortHandle,
    /// What the client has been given so far.
    position: ChannelPosition,
}

/// How a channel is joined.
#[derive(Debug, Default)]
pub(crate) struct JoinOptions {
    /// Where the client was.
    pub(crate) since: Option<Since>,
    /// Whether it is told who comes and goes.
    pub(crate) presence: bool,
}

/// One live client.
pub(crate) struct Session {
    gateway: Gateway,
    caller: Caller,
    registered: Registered,
    rate: Option<Rate>,
    joined: HashMap<Place, Joined>,
    arrivals: SelectAll<Abortable<Arrivals>>,
    turns: u64,
    /// Subscriptions that ended otherwise than by their channel, which the client is told first.
    ended: VecDeque<Outgoing>,
    budget: QueueBudget,
}

impl Session {
    pub(crate) fn new(gateway: Gateway, caller: Caller, face: Face) -> Result<Self, ApiError> {
        let registered = register(&gateway, &caller, face)?;
        let now = Instant::now();
        let rate = gateway.live().max_frames_per_second.map(|limit| Rate::new(limit, now));
        let budget = QueueBudget::new(gateway.live().queue_bytes);
        Ok(Self {
            gateway,
            caller,
            registered,
            rate,
            joined: HashMap::new(),
            arrivals: SelectAll::new(),
            turns: 0,
            ended: VecDeque::new(),
            budget,
        })
    }

    pub(crate) fn registered(&self) -> &Registered {
        &self.registered
    }

    /// Whether the client may send one more frame now.
    pub(crate) fn within_rate(&mut self) -> bool {
        self.rate.as_mut().is_none_or(|rate| rate.take(Instant::now()))
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
            "renew" => self.renew_frame(&frame).await,
            other => Err(ApiError::invalid(format!(
                "the event {other:?} is not known; there are subscribe_updates, \
                 unsubscribe_updates, publish and renew"
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
            let (channel, organization_id) = (wish.channel.clone(), wish.organization_id.clone());
            match self.fulfil(wish).await {
                Ok(subscribed) => answer.subscribed.push(subscribed),
                Err(error) => {
                    answer.refused.push(Refusal { channel, organization_id, error });
                }
            }
        }
        Ok(answer.data())
    }

    async fn fulfil(
        &mut self,
        wish: ChannelWish<'_>,
    ) -> Result<(Place, ChannelPosition), ApiError> {
        let own = self.caller.ctx.organization_id();
        let place = Place::named(&wish.channel, wish.organization_id.as_deref(), own)?;
        let since = wish.since.map(RawValue::get).map(read_since).transpose()?;
        let options = JoinOptions { since, presence: wish.presence };
        let position = self.subscribe(&place, options).await?;
        Ok((place, position))
    }

    /// Joins a channel and says where it stands. One that was joined before stays as it is,
    /// unless the client gives a position to go back to.
    pub(crate) async fn subscribe(
        &mut self,
        place: &Place,
        options: JoinOptions,
    ) -> Result<ChannelPosition, ApiError> {
        let JoinOptions { since, presence } = options;
        let ctx = self.caller.context_for(place.tenant.as_ref())?;
        ctx.require(Action::ChannelsSubscribe, place.channel.as_str())?;
        if presence {
            ctx.require(Action::PresenceRead, place.channel.as_str())?;
        }
        let before = self.joined.get_mut(place);
        if since.is_none()
            && let Some(joined) = before
        {
            if presence && !joined.watching {
                joined.watching = true;
                self.registered.watch(&joined.key, joined.queue.clone());
            }
            return Ok(joined.position.clone());
        }
        let (is_new, watched) = (before.is_none(), before.is_some_and(|joined| joined.watching));
        if is_new {
            self.check_channels()?;
        }
        let key = ChannelKey::new(&ctx, place.channel.clone());
        let followed = self.gateway.hub().follow(key.clone(), since, &self.budget);
        let (subscription, queue) = self.gateway.within(followed).await?;
        if is_new {
            self.registered.join(&key, ctx.user_id());
        }
        let watching = presence || watched;
        if watching {
            self.registered.watch(&key, queue.clone());
        }
        let mut position = subscription.position();
        // A stream that is gone has nowhere to come back to.
        position.retain(|_, position| position.epoch.is_some());
        self.turns += 1;
        let turn = self.turns;
        let (leave, registration) = AbortHandle::new_pair();
        let arrivals = arrivals(place.clone(), turn, subscription);
        self.arrivals.push(Abortable::new(Box::pin(arrivals), registration));
        let joined = Joined { turn, key, queue, watching, leave, position: position.clone() };
        if let Some(before) = self.joined.insert(place.clone(), joined) {
            before.leave.abort();
        }
        Ok(position)
    }

    fn check_channels(&self) -> Result<(), ApiError> {
        let max_channels = self.gateway.live().max_channels;
        if self.joined.len() < max_channels {
            return Ok(());
        }
        self.gateway.counters().count(Counted::Channels);
        Err(ApiError::new(
            ErrorCode::TooLarge,
            format!("the connection has {max_channels} channels, which is the limit"),
        ))
    }

    fn unsubscribe_frame(&mut self, frame: &Frame<'_>) -> Result<String, ApiError> {
        let own = self.caller.ctx.organization_id();
        let place =
            |wish: LeaveWish| Place::named(&wish.channel, wish.organization_id.as_deref(), own);
        let places = read_leaves(frame)?.into_iter().map(place).collect::<Result<Vec<_>, _>>()?;
        for place in &places {
            self.leave(place);
        }
        Ok(unsubscribed(&places))
    }

    fn leave(&mut self, place: &Place) {
        if let Some(joined) = self.joined.remove(place) {
            joined.leave.abort();
            self.registered.leave(&joined.key);
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
        let own = self.caller.ctx.organization_id();
        let place = Place::named(&channel, form.organization_id.as_deref(), own)?;
        let ctx = self.caller.context_for(place.tenant.as_ref())?;
        let message = form.into_message(text, &ctx)?;
        let service = self.gateway.service();
        let reached = service.publish_realtime_message(&ctx, place.channel.as_str(), message);
        let count = self.gateway.within(reached).await?;
        Ok(format!("{{\"subscriberCount\":{count}}}"))
    }

    /// Goes on with another credential of the same user. What that one does not allow ends.
    async fn renew_frame(&mut self, frame: &Frame<'_>) -> Result<String, ApiError> {
        let form: RenewForm<'_> = frame.data()?;
        self.caller = self.caller.renewed(self.gateway.authenticator(), &form.token).await?;
        let lost: Vec<(Place, ApiError)> = self
            .joined
            .keys()
            .filter_map(|place| Some((place.clone(), self.may_follow(place).err()?)))
            .collect();
        for (place, error) in lost {
            self.leave(&place);
            self.ended.push_back(Outgoing::Failed { place, error });
        }
        self.watch_what_is_allowed();
        Ok(renewed(self.caller.expires_at))
    }

    fn watch_what_is_allowed(&mut self) {
        for (place, joined) in self.joined.iter_mut().filter(|(_, joined)| joined.watching) {
            let allowed = self
                .caller
                .context_for(place.tenant.as_ref())
                .is_ok_and(|ctx| ctx.require(Action::PresenceRead, place.channel.as_str()).is_ok());
            if !allowed {
                joined.watching = false;
                self.registered.unwatch(&joined.key);
            }
        }
    }

    fn may_follow(&self, place: &Place) -> Result<(), ApiError> {
        let ctx = self.caller.context_for(place.tenant.as_ref())?;
        Ok(ctx.require(Action::ChannelsSubscribe, place.channel.as_str())?)
    }

    /// What is next for the client; waits until there is something. Nothing is lost if it is
    /// cancelled.
    pub(crate) async fn next(&mut self) -> Outgoing {
        loop {
            if let Some(ended) = self.ended.pop_front() {
                return ended;
            }
            let Some(arrival) = self.arrivals.next().await else {
                future::pending::<()>().await;
                continue;
            };
            let Arrival { place, turn, update } = arrival;
            let Some(joined) = self.joined.get_mut(&place).filter(|joined| joined.turn == turn)
            else {
                continue;
            };
            match update {
                Ok(LiveUpdate::Message(message)) => {
                    advance(&mut joined.position, &message);
                    return Outgoing::Update(message);
                }
                Ok(LiveUpdate::Missed { count, recoverable }) => {
                    return Outgoing::Missed { place, count, recoverable };
                }
                Err(error) => {
                    self.leave(&place);
                    return Outgoing::Failed { place, error };
                }
            }
        }
    }

    /// What has been given of a channel: where a client that got it all can come back to.
    pub(crate) fn position(&self, place: &Place) -> Option<&ChannelPosition> {
        self.joined.get(place).map(|joined| &joined.position)
    }
}

/// Registers a connection, if its tenant may have one more.
fn register(gateway: &Gateway, caller: &Caller, face: Face) -> Result<Registered, ApiError> {
    let no_randomness = |fault: getrandom::Error| ApiError {
        cause: Some(fault.to_string()),
        ..ApiError::new(ErrorCode::Unavailable, "no randomness to be had")
    };
    let (high, low) =
        (getrandom::u64().map_err(no_randomness)?, getrandom::u64().map_err(no_randomness)?);
    let id = ByteString::from(format!("{high:016x}{low:016x}"));
    let most = gateway.live().max_tenant_connections;
    gateway.connections().open(id, &caller.ctx, face, most).ok_or_else(|| {
        gateway.counters().count(Counted::TenantConnections);
        ApiError::new(ErrorCode::Limit, "the tenant has as many live connections as it may have")
    })
}

/// The updates of one subscription. What can be tried again is; another fault ends it.
fn arrivals(
    place: Place,
    turn: u64,
    subscription: LiveSubscription,
) -> impl Stream<Item = Arrival> + Send {
    unfold((place, Some(subscription)), move |(place, subscription)| async move {
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
        let arrival = Arrival { place: place.clone(), turn, update };
        Some((arrival, (place, rest)))
    })
}
