//! One subscriber's bounded queue between a broker and whoever reads.
//!
//! A subscriber that reads too slowly loses its oldest messages and is told how many; the
//! publisher and the other subscribers do not wait for it.

use std::collections::VecDeque;
use std::pin::Pin;
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

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Update>,
    bytes: usize,
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
    limit_bytes: usize,
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
    let shared =
        Arc::new(Shared { queue: Mutex::default(), waker: AtomicWaker::new(), limit_bytes });
    let sender = SubscriptionSender { shared: Arc::clone(&shared) };
    (sender, Subscription { shared, on_drop: Some(Box::new(on_drop)) })
}

impl SubscriptionSender {
    /// Queues a message; the oldest give way when the queue is full.
    pub fn send(&self, message: Arc<Message>) {
        let cost = message.encoded().len() + OVERHEAD_BYTES;
        let mut queue = self.shared.lock();
        if queue.ended {
            return;
        }
        queue.bytes += cost;
        queue.waiting.push_back(Update::Message(message));
        while queue.bytes > self.shared.limit_bytes && queue.waiting.len() > 1 {
            let Some(oldest) = queue.waiting.pop_front() else { break };
            if let Update::Message(message) = &oldest {
                queue.bytes -= message.encoded().len() + OVERHEAD_BYTES;
            }
            queue.dropped.add(&oldest);
        }
        drop(queue);
        self.shared.waker.wake();
    }

    /// Tells the subscriber that the link to the broker broke here: nobody knows what is missing.
    pub fn link_broke(&self) {
        let notice = Update::Missed { count: None, stored: true };
        let mut queue = self.shared.lock();
        // A link that breaks again and again adds no second notice to the first.
        if queue.ended || queue.waiting.back() == Some(&notice) {
            return;
        }
        queue.waiting.push_back(notice);
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
        if let Update::Message(message) = &update {
            queue.bytes -= message.encoded().len() + OVERHEAD_BYTES;
        }
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
        self.shared.lock().ended = true;
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
