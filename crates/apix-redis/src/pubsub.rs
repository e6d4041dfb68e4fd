//! Channels that this process listens to, and who is to be told.
//!
//! One connection serves all of them, kept by [`listener`](crate::listener). This is the set that
//! it subscribes to, and subscribes to again after a break; every live subscriber is told then that
//! messages may be missing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use apix::{ChannelKey, Error, Message, Result, StreamKey, Subscription, SubscriptionSender};

use crate::error::{closed, not_sent};
use crate::keys;
use crate::local::{LocalGroup, Locals};

/// A doorbell that no read has asked for during this time is let go.
const BELL_KEPT: Duration = Duration::from_secs(60);
/// A read does not wait longer than this for its doorbell: without it, it looks each second.
const BELL_WAIT: Duration = Duration::from_millis(200);

/// What the listener has to tell the server.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe { channel: Bytes, token: u64 },
    Unsubscribe(Bytes),
}

/// The set of channels.
pub(crate) struct PubSub {
    set: Mutex<Set>,
    commands: mpsc::UnboundedSender<Command>,
    up: AtomicBool,
    locals: Arc<Locals>,
    queue_bytes: usize,
    timeout: Duration,
}

#[derive(Default)]
struct Set {
    channels: HashMap<Bytes, Entry>,
    last_token: u64,
    closed: bool,
}

struct Entry {
    kind: Kind,
    /// Tells the latest SUBSCRIBE of the channel from earlier ones.
    token: u64,
    confirmed: bool,
    /// It was confirmed on an earlier connection, so messages may have been missed since.
    interrupted: bool,
    waiting: Vec<oneshot::Sender<Result<()>>>,
}

enum Kind {
    Channel { key: ChannelKey, subscribers: Vec<(u64, SubscriptionSender)> },
    Bell { stream: StreamKey, wanted_at: Instant },
    Probe,
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    Probe,
    Other,
}

impl std::fmt::Debug for PubSub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PubSub").field("up", &self.is_up()).finish_non_exhaustive()
    }
}

impl PubSub {
    /// An empty set, but for the probe, and the commands that a listener is to carry out.
    pub(crate) fn new(
        locals: Arc<Locals>,
        probe: &str,
        queue_bytes: usize,
        timeout: Duration,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Command>) {
        let (commands, received) = mpsc::unbounded_channel();
        let mut set = Set::default();
        set.channels.insert(Bytes::copy_from_slice(probe.as_bytes()), Entry::new(Kind::Probe, 0));
        let (set, up) = (Mutex::new(set), AtomicBool::new(false));
        let this = Self { set, commands, up, locals, queue_bytes, timeout };
        (Arc::new(this), received)
    }

    fn lock(&self) -> MutexGuard<'_, Set> {
        // The set is whole between statements.
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether messages arrive now.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    /// Subscribes, and returns when the server has confirmed it.
    pub(crate) async fn subscribe(self: &Arc<Self>, key: &ChannelKey) -> Result<Subscription> {
        let channel = Bytes::from(keys::channel(key));
        let (confirmed, subscription) = {
            let mut set = self.lock();
            set.last_token += 1;
            let id = set.last_token;
            let (sender, subscription) =
                apix::subscription(self.queue_bytes, self.unsubscriber(channel.clone(), id));
            let kind = || Kind::Channel { key: key.clone(), subscribers: Vec::new() };
            let entry = self.entry(&mut set, channel, kind)?;
            if let Kind::Channel { subscribers, .. } = &mut entry.kind {
                subscribers.push((id, sender));
            }
            (entry.wait(), subscription)
        };
        let Some(confirmed) = confirmed else { return Ok(subscription) };
        // Dropping the subscription takes it out of the set again.
        match tokio::time::timeout(self.timeout, confirmed).await {
            Ok(Ok(outcome)) => outcome.map(|()| subscription),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(not_sent("the subscription was not confirmed in time")),
        }
    }

    /// Hears of due times of the group's stream from now on, for a while. Returns whether it did
    /// already.
    pub(crate) async fn listen(&self, group: &LocalGroup) -> bool {
        let confirmed = {
            let mut set = self.lock();
            let channel = Bytes::copy_from_slice(group.bell.as_bytes());
            let kind = || Kind::Bell { stream: group.stream.clone(), wanted_at: Instant::now() };
            let Ok(entry) = self.entry(&mut set, channel, kind) else { return true };
            if let Kind::Bell { wanted_at, .. } = &mut entry.kind {
                *wanted_at = Instant::now();
            }
            entry.wait()
        };
        match confirmed {
            None => true,
            Some(confirmed) => {
                if self.is_up() {
                    let _ = tokio::time::timeout(BELL_WAIT, confirmed).await;
                }
                false
            }
        }
    }

    /// The channel's entry; the server is asked if it is new.
    fn entry<'a>(
        &self,
        set: &'a mut Set,
        channel: Bytes,
        kind: impl FnOnce() -> Kind,
    ) -> Result<&'a mut Entry> {
        if set.closed {
            return Err(closed());
        }
        set.last_token += 1;
        let token = set.last_token;
        Ok(set.channels.entry(channel).or_insert_with_key(|channel| {
            // Under the lock, so that commands go out in the order of the changes of the set.
            let _ = self.commands.send(Command::Subscribe { channel: channel.clone(), token });
            Entry::new(kind(), token)
        }))
    }

    /// Takes one subscriber out again, and lets go of the channel with the last.
    fn unsubscriber(
        self: &Arc<Self>,
        channel: Bytes,
        id: u64,
    ) -> impl FnOnce() + Send + Sync + use<> {
        let this: Weak<Self> = Arc::downgrade(self);
        move || {
            let Some(this) = this.upgrade() else { return };
            let mut set = this.lock();
            let Some(entry) = set.channels.get_mut(&channel) else { return };
            let Kind::Channel { subscribers, .. } = &mut entry.kind else { return };
            let before = subscribers.len();
            subscribers.retain(|(other, _)| *other != id);
            if subscribers.is_empty() && before > 0 {
                set.channels.remove(&channel);
                let _ = this.commands.send(Command::Unsubscribe(channel));
            }
        }
    }

    /// What a new connection has to subscribe to. Whatever waits in the queue is in it, and taken out
    /// of the queue: asked for twice, a channel would be confirmed early the second time. Under the
    /// lock, as are the changes of the set, so that nothing comes in between.
    pub(crate) fn all(&self, queue: &mut mpsc::UnboundedReceiver<Command>) -> Vec<(Bytes, u64)> {
        let set = self.lock();
        while queue.try_recv().is_ok() {}
        set.channels.iter().map(|(channel, entry)| (channel.clone(), entry.token)).collect()
    }

    /// Asks for each of these channels by itself, unless it was let go of meanwhile.
    pub(crate) fn ask_again(&self, channels: impl IntoIterator<Item = (Bytes, u64)>) {
        let set = self.lock();
        for (channel, token) in channels {
            if set.channels.get(&channel).is_some_and(|entry| entry.token == token) {
                let _ = self.commands.send(Command::Subscribe { channel, token });
            }
        }
    }

    /// The connection broke: nothing is confirmed any more.
    pub(crate) fn interrupted(&self) {
        self.set_up(false);
        for entry in self.lock().channels.values_mut() {
            entry.interrupted |= entry.confirmed;
            entry.confirmed = false;
        }
    }

    /// The server has subscribed us to the channel.
    pub(crate) fn confirmed(&self, channel: &[u8], token: u64) {
        let mut set = self.lock();
        let Some(entry) = set.channels.get_mut(channel).filter(|entry| entry.token == token) else {
            return;
        };
        entry.confirmed = true;
        if std::mem::take(&mut entry.interrupted)
            && let Kind::Channel { subscribers, .. } = &entry.kind
        {
            for (_, subscriber) in subscribers {
                subscriber.link_broke();
            }
        }
        for waiting in entry.waiting.drain(..) {
            let _ = waiting.send(Ok(()));
        }
    }

    /// The server refused the channel. Subscribers that were live before are ended.
    pub(crate) fn refused(&self, channel: &[u8], token: u64, why: &Error) {
        let mut set = self.lock();
        if set.channels.get(channel).is_none_or(|entry| entry.token != token) {
            return;
        }
        let Some(entry) = set.channels.remove(channel) else { return };
        for waiting in entry.waiting {
            let _ = waiting.send(Err(why.duplicate()));
        }
        if let Kind::Channel { subscribers, .. } = entry.kind {
            for (_, subscriber) in subscribers {
                subscriber.end();
            }
        }
    }

    /// Hands a message to whoever it is for.
    pub(crate) fn arrived(&self, channel: &[u8], payload: Bytes) -> Arrived {
        let set = self.lock();
        match set.channels.get(channel).map(|entry| &entry.kind) {
            Some(Kind::Channel { key, subscribers }) => {
                let message = Arc::new(Message::decode(key, payload));
                for (_, subscriber) in subscribers {
                    subscriber.send(Arc::clone(&message));
                }
            }
            Some(Kind::Bell { stream, .. }) => self.ring(stream, &payload),
            Some(Kind::Probe) => return Arrived::Probe,
            None => {}
        }
        Arrived::Other
    }

    /// `GROUP DELAY_MS`. Anything else, from whomever, is not for us.
    fn ring(&self, stream: &StreamKey, payload: &[u8]) {
        let text = std::str::from_utf8(payload).unwrap_or_default();
        if let Some((group, delay)) = text.split_once(' ')
            && let Ok(delay) = delay.parse()
            && let Some(group) = self.locals.known_group(stream, group)
        {
            group.hear_due(Duration::from_millis(delay));
        }
    }

    /// Lets go of doorbells that nobody has wanted for a while.
    pub(crate) fn drop_unwanted_bells(&self) {
        let mut set = self.lock();
        set.channels.retain(|channel, entry| match entry.kind {
            Kind::Bell { wanted_at, .. } if wanted_at.elapsed() > BELL_KEPT => {
                let _ = self.commands.send(Command::Unsubscribe(channel.clone()));
                false
            }
            _ => true,
        });
    }

    /// Ends every subscription, for good.
    pub(crate) fn close(&self) {
        let mut set = self.lock();
        set.closed = true;
        for (_, entry) in set.channels.drain() {
            if let Kind::Channel { subscribers, .. } = entry.kind {
                for (_, subscriber) in subscribers {
                    subscriber.end();
                }
            }
        }
    }
}

impl Entry {
    fn new(kind: Kind, token: u64) -> Self {
        Self { kind, token, confirmed: false, interrupted: false, waiting: Vec::new() }
    }

    /// What tells that it is confirmed; `None` if it is.
    fn wait(&mut self) -> Option<oneshot::Receiver<Result<()>>> {
        if self.confirmed {
            return None;
        }
        let (tell, told) = oneshot::channel();
        self.waiting.push(tell);
        Some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_asks_once_for_what_is_wanted_now() {
        let locals = Arc::new(Locals::new());
        let (pubsub, mut queue) = PubSub::new(locals, "probe", 1_024, Duration::from_secs(1));
        let probe = Bytes::from_static(b"probe");
        pubsub.ask_again([(probe.clone(), 0), (Bytes::from_static(b"gone"), 7)]);
        let asked = queue.try_recv();
        assert!(matches!(asked, Ok(Command::Subscribe { channel, .. }) if channel == probe));
        assert!(queue.try_recv().is_err());
        pubsub.ask_again([(probe.clone(), 0)]);
        assert_eq!(pubsub.all(&mut queue), [(probe, 0)]);
        assert!(queue.try_recv().is_err());
    }
}
