//! Channels to subscribers. Nothing here is stored, and nothing goes through the writer.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use apix::{ChannelKey, Error, Message, Result, Subscription, SubscriptionSender, subscription};

/// So many parts, each with a lock of its own.
const SHARDS: usize = 64;

type Subscribers = Arc<[(u64, SubscriptionSender)]>;
type Shard = RwLock<HashMap<ChannelKey, Subscribers>>;

/// All subscriptions of this process.
#[derive(Debug)]
pub(crate) struct Fanout {
    shards: Vec<Shard>,
    hasher: RandomState,
    next_id: AtomicU64,
    queue_bytes: usize,
    closed: AtomicBool,
}

impl Fanout {
    pub(crate) fn new(queue_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher: RandomState::new(),
            next_id: AtomicU64::new(0),
            queue_bytes,
            closed: AtomicBool::new(false),
        })
    }

    fn shard(&self, channel: &ChannelKey) -> &Shard {
        let hash = usize::try_from(self.hasher.hash_one(channel) % SHARDS as u64);
        &self.shards[hash.unwrap_or(0)]
    }

    /// Who is subscribed now, if anyone.
    pub(crate) fn subscribers(&self, channel: &ChannelKey) -> Option<Subscribers> {
        read(self.shard(channel)).get(channel).cloned()
    }

    /// Publishes what `message` makes, if anybody is there. Returns how many are.
    pub(crate) fn publish(&self, channel: &ChannelKey, message: impl FnOnce() -> Message) -> u64 {
        let Some(subscribers) = self.subscribers(channel) else { return 0 };
        let message = Arc::new(message());
        for (_, sender) in subscribers.iter() {
            sender.send(Arc::clone(&message));
        }
        subscribers.len() as u64
    }

    /// Adds a subscriber.
    pub(crate) fn subscribe(self: &Arc<Self>, channel: &ChannelKey) -> Result<Subscription> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (fanout, from) = (Arc::downgrade(self), channel.clone());
        let (sender, subscription) = subscription(self.queue_bytes, move || {
            if let Some(fanout) = fanout.upgrade() {
                fanout.unsubscribe(&from, id);
            }
        });
        let mut shard = write(self.shard(channel));
        // Within the lock, so that a subscription either meets the end or is ended by it.
        if self.closed.load(Ordering::SeqCst) {
            drop(shard);
            return Err(Error::unavailable("the broker is closed"));
        }
        let subscribers = shard.entry(channel.clone()).or_insert_with(|| Arc::new([]));
        *subscribers = subscribers.iter().cloned().chain([(id, sender)]).collect();
        drop(shard);
        Ok(subscription)
    }

    fn unsubscribe(&self, channel: &ChannelKey, id: u64) {
        let mut shard = write(self.shard(channel));
        let Some(subscribers) = shard.get_mut(channel) else { return };
        let left: Subscribers =
            subscribers.iter().filter(|(other, _)| *other != id).cloned().collect();
        if left.is_empty() {
            shard.remove(channel);
        } else {
            *subscribers = left;
        }
    }

    /// Ends all subscriptions.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for shard in &self.shards {
            for subscribers in std::mem::take(&mut *write(shard)).values() {
                subscribers.iter().for_each(|(_, sender)| sender.end());
            }
        }
    }
}

fn read(shard: &Shard) -> RwLockReadGuard<'_, HashMap<ChannelKey, Subscribers>> {
    // The map is whole between statements; a panic elsewhere leaves it usable.
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &Shard) -> RwLockWriteGuard<'_, HashMap<ChannelKey, Subscribers>> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}
