//! One subscriber's bounded queue between a broker and whoever reads.
//!
//! A subscriber that reads too slowly loses its oldest messages and is told how many; the
//! publisher and the other subscribers do not wait for it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::task::AtomicWaker;

use crate::message::Message;

/// What a subscriber receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A message.
    Message(Arc<Message>),
    /// Messages are missing here.
    Missed {
        /// How many that are stored nowhere; `None` where the link to the broker broke and nobody
        /// can know.
        count: Option<u64>,
        /// Whether hybrid events are among what is missing: their streams still have them.
        stored: bool,
    },
}

/// The most bytes of messages that wait for one subscriber (default 1 MiB).
pub const DEFAULT_QUEUE_BYTES: usize = 1 << 20;

/// What a message costs in the queue beside its text.
const OVERHEAD_BYTES: usize = 64;

/// The bytes that may wait for one subscriber, in one queue or in several of its own together.
///
/// When they are used up, a queue that gets a message lets its own oldest go, and keeps one at
/// least: a quiet channel is not silenced by a busy one beside it.
#[derive(Clone, Debug)]
pub struct QueueBudget {
    used: Arc<AtomicUsize>,
    limit_bytes: usize,
}

impl QueueBudget {
    /// At most `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self { used: Arc::default(), limit_bytes }
    }

    fn take(&self, update: &Update) {
        self.used.fetch_add(cost(update), Ordering::Relaxed);
    }

    fn give_back(&self, update: &Update) {
        self.used.fetch_sub(cost(update), Ordering::Relaxed);
    }

    fn is_exceeded(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit_bytes
    }
}

fn cost(update: &Update) -> usize {
    match update {
        Update::Message(message) => message.encoded().len() + OVERHEAD_BYTES,
        Update::Missed { .. } => 0,
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Update>,
    dropped: Dropped,
    ended: bool,
}

/// What had to give way since the subscriber was last told.
#[derive(Default)]
struct Dropped {
    unstored: u64,
    unknown: bool,
    stored: bool,
}

impl Dropped {
    fn add(&mut self, update: &Update) {
        match update {
            Update::Message(message) if message.origin().is_some() => self.stored = true,
            Update::Message(_) => self.unstored += 1,
            Update::Missed { count, stored } => {
                self.stored |= stored;
                match count {
                    Some(count) => self.unstored += count,
                    None => self.unknown = true,
                }
            }
        }
    }

    fn take(&mut self) -> Option<Update> {
        let Self { unstored, unknown, stored } = std::mem::take(self);
        (unstored > 0 || unknown || stored)
            .then_some(Update::Missed { count: (!unknown).then_some(unstored), stored })
    }
}

struct Shared {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
    budget: QueueBudget,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole between statements; a panic of another thread leaves it usable.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The broker's end of a subscription.
#[derive(Clone)]
pub struct SubscriptionSender {
    shared: Arc<Shared>,
}

/// The subscriber's end: a [`Stream`] of updates. Dropping it unsubscribes.
pub struct Subscription {
    shared: Arc<Shared>,
    on_drop: Option<Box<dyn FnOnce() + Send + Sync>>,
}

/// A queue of at most `limit_bytes` for one subscriber; `on_drop` runs when the subscriber goes.
pub fn subscription(
    limit_bytes: usize,
    on_drop: impl FnOnce() + Send + Sync + 'static,
) -> (SubscriptionSender, Subscription) {
    subscription_within(QueueBudget::new(limit_bytes), on_drop)
}

/// As [`subscription`], for one of several queues that share `budget`.
pub fn subscription_within(
    budget: QueueBudget,
    on_drop: impl FnOnce() + Send + Sync + 'static,
) -> (SubscriptionSender, Subscription) {
    let shared = Arc::new(Shared { queue: Mutex::default(), waker: AtomicWaker::new(), budget });
    let sender = SubscriptionSender { shared: Arc::clone(&shared) };
    (sender, Subscription { shared, on_drop: Some(Box::new(on_drop)) })
}

impl SubscriptionSender {
    /// Queues a message; the oldest give way when the queue is full.
    pub fn send(&self, message: Arc<Message>) {
        let (update, budget) = (Update::Message(message), &self.shared.budget);
        let mut queue = self.shared.lock();
        if queue.ended {
            return;
        }
        budget.take(&update);
        queue.waiting.push_back(update);
        while budget.is_exceeded() && queue.waiting.len() > 1 {
            let Some(oldest) = queue.waiting.pop_front() else { break };
            budget.give_back(&oldest);
            queue.dropped.add(&oldest);
        }
        drop(queue);
        self.shared.waker.wake();
    }

    /// Tells the subscriber that the link to the broker broke here: nobody knows what is missing.
    pub fn link_broke(&self) {
        self.missed(None, true);
    }

    /// Tells the subscriber that messages are missing here, as [`Update::Missed`] says it.
    pub fn missed(&self, count: Option<u64>, stored: bool) {
        let mut queue = self.shared.lock();
        if queue.ended {
            return;
        }
        match queue.waiting.back_mut() {
            // A link that breaks again and again adds no second notice to the first.
            Some(Update::Missed { count: before, stored: stored_before }) => {
                *before = before.zip(count).map(|(before, count)| before + count);
                *stored_before |= stored;
            }
            _ => queue.waiting.push_back(Update::Missed { count, stored }),
        }
        drop(queue);
        self.shared.waker.wake();
    }

    /// Ends the subscription: the subscriber reads what waits, then the end.
    pub fn end(&self) {
        self.shared.lock().ended = true;
        self.shared.waker.wake();
    }
}

impl std::fmt::Debug for SubscriptionSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscriptionSender").finish_non_exhaustive()
    }
}

impl Subscription {
    /// The next update; `None` once the broker has closed.
    pub async fn recv(&mut self) -> Option<Update> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next update, if one waits.
    pub fn try_recv(&mut self) -> Option<Update> {
        let mut queue = self.shared.lock();
        if let Some(missed) = queue.dropped.take() {
            return Some(missed);
        }
        let update = queue.waiting.pop_front()?;
        self.shared.budget.give_back(&update);
        Some(update)
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Update>> {
        if let Some(update) = self.try_recv() {
            return Poll::Ready(Some(update));
        }
        self.shared.waker.register(cx.waker());
        if let Some(update) = self.try_recv() {
            return Poll::Ready(Some(update));
        }
        if self.shared.lock().ended { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl Stream for Subscription {
    type Item = Update;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Update>> {
        self.get_mut().poll_recv(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.ended = true;
        for update in queue.waiting.drain(..) {
            self.shared.budget.give_back(&update);
        }
        drop(queue);
        if let Some(on_drop) = self.on_drop.take() {
            on_drop();
        }
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Limits;
    use crate::json::Json;
    use crate::message::NewMessage;
    use crate::name::{ChannelKey, ChannelName};
    use crate::tenant::TenantContext;

    fn message(n: u64) -> Arc<Message> {
        let ctx = TenantContext::trusted("acme").unwrap();
        let channel = ChannelKey::new(&ctx, ChannelName::new("news").unwrap());
        let message = NewMessage::new("n", Json::encode(&n).unwrap());
        Arc::new(message.checked(&channel, None, &Limits::default()).unwrap())
    }

    #[tokio::test]
    async fn received_and_missed_are_what_was_published() {
        let (sender, mut subscription) = subscription(10_000, || ());
        let (mut received, mut missed) = (0, 0);
        for n in 0..1_000 {
            sender.send(message(n));
            if n % 3 == 0 {
                match subscription.recv().await.unwrap() {
                    Update::Message(_) => received += 1,
                    Update::Missed { count, .. } => missed += count.unwrap(),
                }
            }
        }
        sender.end();
        while let Some(update) = subscription.recv().await {
            match update {
                Update::Message(_) => received += 1,
                Update::Missed { count, .. } => missed += count.unwrap(),
            }
        }
        assert!(missed > 0 && received > 0);
        assert_eq!(received + missed, 1_000);
    }

    #[tokio::test]
    async fn queues_of_one_subscriber_share_its_budget() {
        let budget = QueueBudget::new(4_000);
        let (busy, mut from_busy) = subscription_within(budget.clone(), || ());
        let (quiet, mut from_quiet) = subscription_within(budget.clone(), || ());
        for n in 0..100 {
            busy.send(message(n));
        }
        quiet.send(message(0));
        assert!(matches!(from_quiet.recv().await, Some(Update::Message(_))));
        let missed = from_busy.recv().await;
        assert!(
            matches!(missed, Some(Update::Missed { count: Some(50..), .. })),
            "the budget holds far less than a hundred: {missed:?}"
        );
        drop((from_busy, from_quiet));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_broken_link_is_told_where_it_broke() {
        let (sender, mut subscription) = subscription(10_000, || ());
        sender.send(message(1));
        sender.link_broke();
        sender.link_broke();
        sender.send(message(2));
        assert!(matches!(subscription.recv().await, Some(Update::Message(_))));
        assert_eq!(subscription.recv().await, Some(Update::Missed { count: None, stored: true }));
        assert!(matches!(subscription.recv().await, Some(Update::Message(_))));
    }
}
