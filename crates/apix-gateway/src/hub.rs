//! One broker subscription for a channel of this process, however many sessions follow it.
//!
//! A channel has a task that owns the subscription: the order of hybrid events, the repair of
//! gaps and the check of positions happen there, once. It passes updates on to the queue of each
//! follower, which is bounded, so that nobody waits for a slow one. A follower that comes back
//! with a position reads what it missed by itself and takes from its queue what is newer.
//!
//! Locks: a shard of the table of channels first, then the state of one channel. Publishing
//! takes neither.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use apix::{
    Broker, ChannelKey, ChannelPosition, Error, LiveSubscription, LiveUpdate, Message, Position,
    QueueBudget, Result, Since, Subscription, SubscriptionSender, subscription_within,
};
use tokio_util::sync::CancellationToken;

/// How long a channel waits before it tries again what the broker could not answer.
const RETRY_AFTER: Duration = Duration::from_millis(500);
const SHARDS: usize = 64;
/// A channel that is never quiet lets others have their turn after so many updates.
const UPDATES_A_TURN: usize = 64;

type Channels = HashMap<ChannelKey, Arc<Channel>>;

/// All channels that sessions of this process follow; clones share them.
#[derive(Clone)]
pub(crate) struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    broker: Arc<dyn Broker>,
    shards: [Mutex<Channels>; SHARDS],
    hasher: RandomState,
    stopped: CancellationToken,
}

/// A channel with followers.
struct Channel {
    key: ChannelKey,
    state: Mutex<State>,
    /// Cancelled when the broker has answered.
    opened: CancellationToken,
    /// Cancelled when the last follower has gone.
    deserted: CancellationToken,
}

struct State {
    /// Followers, and those who wait for the channel to open.
    seats: usize,
    followers: BTreeMap<u64, SubscriptionSender>,
    next_follower: u64,
    /// Where what was passed on so far ends.
    position: ChannelPosition,
    ended: Option<Error>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The state is whole between statements; a panic of another thread leaves it usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub(crate) fn new(broker: Arc<dyn Broker>, stopped: CancellationToken) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        let inner = Inner { broker, shards, hasher: RandomState::new(), stopped };
        Self { inner: Arc::new(inner) }
    }

    /// The channel's updates from now on, or after `since`; and the queue that they come from, for
    /// what concerns this follower alone. Dropping the subscription leaves the channel.
    pub(crate) async fn follow(
        &self,
        key: ChannelKey,
        since: Option<Since>,
        budget: &QueueBudget,
    ) -> Result<(LiveSubscription, SubscriptionSender)> {
        let seat = self.take_seat(&key);
        seat.channel.opened.cancelled().await;
        let (sender, live, position) = seat.join(budget)?;
        let broker = Arc::clone(&self.inner.broker);
        Ok((LiveSubscription::follow(broker, key, live, position, since).await?, sender))
    }

    fn shard(&self, key: &ChannelKey) -> MutexGuard<'_, Channels> {
        let hash = self.inner.hasher.hash_one(key);
        lock(&self.inner.shards[hash as usize % SHARDS])
    }

    fn take_seat(&self, key: &ChannelKey) -> Seat {
        let mut shard = self.shard(key);
        if let Some(channel) = shard.get(key) {
            let mut state = lock(&channel.state);
            if state.ended.is_none() {
                state.seats += 1;
                return Seat { hub: self.clone(), channel: Arc::clone(channel), follower: None };
            }
        }
        let channel = Arc::new(Channel {
            key: key.clone(),
            state: Mutex::new(State {
                seats: 1,
                followers: BTreeMap::new(),
                next_follower: 0,
                position: ChannelPosition::new(),
                ended: None,
            }),
            opened: CancellationToken::new(),
            deserted: CancellationToken::new(),
        });
        shard.insert(key.clone(), Arc::clone(&channel));
        drop(shard);
        tokio::spawn(self.clone().run(Arc::clone(&channel)));
        Seat { hub: self.clone(), channel, follower: None }
    }

    async fn run(self, channel: Arc<Channel>) {
        let error = tokio::select! {
            () = self.inner.stopped.cancelled() => Error::unavailable("the server is stopping"),
            () = channel.deserted.cancelled() => return,
            error = channel.serve(Arc::clone(&self.inner.broker)) => error,
        };
        let mut shard = self.shard(&channel.key);
        if shard.get(&channel.key).is_some_and(|found| Arc::ptr_eq(found, &channel)) {
            shard.remove(&channel.key);
        }
        drop(shard);
        channel.end(error);
    }
}

impl Channel {
    /// Passes on what the broker brings, until it brings nothing more.
    async fn serve(&self, broker: Arc<dyn Broker>) -> Error {
        let opened = LiveSubscription::open(broker, self.key.clone(), None).await;
        let mut subscription = match opened {
            Ok(subscription) => subscription,
            Err(error) => return error,
        };
        lock(&self.state).position = subscription.position();
        self.opened.cancel();
        let mut turn = 0;
        loop {
            match subscription.recv().await {
                Some(Ok(update)) => self.pass_on(update, &subscription),
                Some(Err(fault)) if fault.is_retryable() => {
                    tracing::debug!(%fault, "catching up failed, trying again");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                Some(Err(fault)) => return fault,
                None => return Error::unavailable("the broker has closed"),
            }
            turn += 1;
            if turn % UPDATES_A_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn pass_on(&self, update: LiveUpdate, subscription: &LiveSubscription) {
        let mut state = lock(&self.state);
        match update {
            LiveUpdate::Message(message) => {
                advance(&mut state.position, &message);
                for follower in state.followers.values() {
                    follower.send(Arc::clone(&message));
                }
            }
            LiveUpdate::Missed { count, .. } => {
                // A stream may have begun a new life.
                state.position = subscription.position();
                for follower in state.followers.values() {
                    follower.missed(count, false);
                }
            }
        }
    }

    fn end(&self, error: Error) {
        let mut state = lock(&self.state);
        for follower in state.followers.values() {
            follower.end();
        }
        state.ended = Some(error);
        drop(state);
        self.opened.cancel();
    }
}

/// Moves a position on to a message that was passed on.
pub(crate) fn advance(position: &mut ChannelPosition, message: &Message) {
    let Some(origin) = message.origin() else { return };
    match position.get_mut(&origin.stream) {
        Some(known) if known.epoch.as_ref() == Some(&origin.epoch) => known.id = origin.message_id,
        _ => {
            let reached = Position { id: origin.message_id, epoch: Some(origin.epoch.clone()) };
            position.insert(origin.stream.clone(), reached);
        }
    }
}

/// A place in a channel. The last one that is given up ends the broker subscription.
struct Seat {
    hub: Hub,
    channel: Arc<Channel>,
    follower: Option<u64>,
}

impl Seat {
    /// From the position that is returned on, everything goes to the queue.
    fn join(
        mut self,
        budget: &QueueBudget,
    ) -> Result<(SubscriptionSender, Subscription, ChannelPosition)> {
        let channel = Arc::clone(&self.channel);
        let mut state = lock(&channel.state);
        if let Some(error) = &state.ended {
            return Err(error.duplicate());
        }
        let number = state.next_follower;
        state.next_follower += 1;
        self.follower = Some(number);
        let (sender, live) = subscription_within(budget.clone(), move || drop(self));
        state.followers.insert(number, sender.clone());
        Ok((sender, live, state.position.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let channel = &self.channel;
        let mut shard = self.hub.shard(&channel.key);
        let mut state = lock(&channel.state);
        if let Some(number) = self.follower {
            state.followers.remove(&number);
        }
        state.seats -= 1;
        if state.seats > 0 {
            return;
        }
        channel.deserted.cancel();
        if shard.get(&channel.key).is_some_and(|found| Arc::ptr_eq(found, channel)) {
            shard.remove(&channel.key);
        }
    }
}
