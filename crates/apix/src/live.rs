//! A channel as its subscriber sees it: live messages, with hybrid events caught up from their
//! streams.
//!
//! Order of things: subscribe first and let messages queue, then ask the streams where they are,
//! read what is missing, and drop from the queue what was read. Each hybrid message names the
//! event before it on its channel, so a gap is seen with the next message and read at once; a
//! check at an interval finds a gap that nothing follows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::broker::Broker;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::{ChannelKey, StreamName};
use crate::position::{ChannelPosition, Epoch, MessageId, Position, Since};
use crate::stream::{Feed, RangePage, RangeQuery};
use crate::subscription::{Subscription, Update};

/// How often the streams are asked whether something was lost on the way, when nothing follows
/// that would show it.
pub const CHECK_EVERY: Duration = Duration::from_secs(4);

/// What is read at a time of what was missed. A page is held until the subscriber has taken it: it
/// is as small as the queue of a slow one.
const PAGE: usize = 200;
const PAGE_BYTES: usize = 256 << 10;

/// What a subscriber of a channel receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveUpdate {
    /// A message; of one stream, hybrid events come once each and in order.
    Message(Arc<Message>),
    /// Something is missing here and will not come.
    Missed {
        /// How many messages; `None` where nobody can know.
        count: Option<u64>,
        /// Whether the streams may still have it: false for unstored messages, and where
        /// retention, a deletion or a loss of data took the events.
        recoverable: bool,
    },
}

/// A live subscription. Dropping it unsubscribes; [`recv`](Self::recv) may be cancelled and
/// called again without losing anything.
#[derive(Debug)]
pub struct LiveSubscription {
    broker: Arc<dyn Broker>,
    channel: ChannelKey,
    live: Subscription,
    seen: BTreeMap<StreamName, Seen>,
    next: VecDeque<Step>,
    /// None of a follower: what it follows has the order and closes the gaps.
    check: Option<Interval>,
    check_due: bool,
}

/// How far one stream was delivered.
#[derive(Clone, Debug)]
struct Seen {
    id: MessageId,
    epoch: Option<Epoch>,
}

/// What is to be delivered next.
#[derive(Debug)]
enum Step {
    Tell(LiveUpdate),
    Arrived(Arc<Message>),
    Read(Gap),
}

/// A part of a stream that has to be read.
#[derive(Clone, Debug)]
struct Gap {
    stream: StreamName,
    epoch: Epoch,
    to: MessageId,
    /// Whether there was an event of this channel at `to`: if it is not found, it is lost.
    ends_with_event: bool,
    /// Whether its first event has to name one before it: what is before the gap was given
    /// without an epoch, and only the chain can show that it is of this life.
    must_connect: bool,
    scanned: Option<MessageId>,
}

impl LiveSubscription {
    /// Subscribes to `channel`, catching up after `since`.
    pub async fn open(
        broker: Arc<dyn Broker>,
        channel: ChannelKey,
        since: Option<Since>,
    ) -> Result<Self> {
        let live = broker.subscribe(&channel).await?;
        let feeds = broker.channel_feeds(&channel).await?;
        let mut check = tokio::time::interval_at(Instant::now() + CHECK_EVERY, CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut subscription = Self {
            broker,
            channel,
            live,
            seen: BTreeMap::new(),
            next: VecDeque::new(),
            check: Some(check),
            check_due: false,
        };
        subscription.begin_at(&feeds);
        if let Some(since) = since {
            subscription.resume(&feeds, since)?;
        }
        Ok(subscription)
    }

    /// Follows another subscription of the channel, whose holder passes on to `live` what it gets
    /// from `position` on: so that many subscribers cost the broker one. Without `since` nothing
    /// is asked of the broker. What gives way in `live` is read from the streams, as ever.
    pub async fn follow(
        broker: Arc<dyn Broker>,
        channel: ChannelKey,
        live: Subscription,
        position: ChannelPosition,
        since: Option<Since>,
    ) -> Result<Self> {
        let seen = |(stream, position): (StreamName, Position)| {
            (stream, Seen { id: position.id, epoch: position.epoch })
        };
        let mut subscription = Self {
            broker,
            channel,
            live,
            seen: position.into_iter().map(seen).collect(),
            next: VecDeque::new(),
            check: None,
            check_due: false,
        };
        if let Some(since) = since {
            let feeds = subscription.broker.channel_feeds(&subscription.channel).await?;
            subscription.begin_at(&feeds);
            subscription.resume(&feeds, since)?;
        }
        Ok(subscription)
    }

    fn begin_at(&mut self, feeds: &[Feed]) {
        for feed in feeds {
            let id = feed.tip.or(feed.last_id).unwrap_or(MessageId::MIN);
            self.seen.insert(feed.stream.clone(), Seen { id, epoch: feed.epoch.clone() });
        }
    }

    /// Where the subscription stands: what a subscriber that got everything so far would give as
    /// `since`. Right after opening, before what `since` asks for was delivered, it is `since`.
    pub fn position(&self) -> ChannelPosition {
        let position = |(stream, seen): (&StreamName, &Seen)| {
            let position = Position { id: seen.id, epoch: seen.epoch.clone() };
            (stream.clone(), position)
        };
        self.seen.iter().map(position).collect()
    }

    /// The channel.
    pub fn channel(&self) -> &ChannelKey {
        &self.channel
    }

    /// The next update; `None` once the broker has closed. An error of the catch-up is returned
    /// and the catch-up is tried again with the next call.
    pub async fn recv(&mut self) -> Option<Result<LiveUpdate>> {
        loop {
            match self.next.front_mut() {
                Some(Step::Read(_)) => {
                    if let Err(error) = self.read_page().await {
                        return Some(Err(error));
                    }
                }
                Some(_) => {
                    if let Some(update) = self.take_step() {
                        return Some(Ok(update));
                    }
                }
                None if self.check_due => {
                    if let Err(error) = self.find_gaps().await {
                        return Some(Err(error));
                    }
                }
                None => tokio::select! {
                    biased;
                    update = self.live.recv() => self.arrived(update?),
                    () = due(&mut self.check) => self.check_due = true,
                },
            }
        }
    }

    fn arrived(&mut self, update: Update) {
        match update {
            Update::Message(message) => self.next.push_back(Step::Arrived(message)),
            Update::Missed { count, stored } => {
                self.check_due |= stored;
                if count != Some(0) {
                    let missed = LiveUpdate::Missed { count, recoverable: false };
                    self.next.push_back(Step::Tell(missed));
                }
            }
        }
    }

    /// Takes the first step, which is no reading. `None` if it turned out to be nothing new, or
    /// something has to be read before it.
    fn take_step(&mut self) -> Option<LiveUpdate> {
        match self.next.pop_front()? {
            Step::Tell(update) => Some(update),
            Step::Arrived(message) if self.check.is_none() => self.accept(message),
            Step::Arrived(message) => self.place(message),
            read @ Step::Read(_) => {
                self.next.push_front(read);
                None
            }
        }
    }

    /// Of a follower: delivers a live message unless it was caught up before.
    fn accept(&mut self, message: Arc<Message>) -> Option<LiveUpdate> {
        if let Some(origin) = message.origin() {
            match self.seen.get_mut(&origin.stream) {
                Some(seen) if seen.epoch.as_ref() == Some(&origin.epoch) => {
                    if origin.message_id <= seen.id {
                        return None;
                    }
                    seen.id = origin.message_id;
                }
                _ => {
                    let seen = Seen { id: origin.message_id, epoch: Some(origin.epoch.clone()) };
                    self.seen.insert(origin.stream.clone(), seen);
                }
            }
        }
        Some(LiveUpdate::Message(message))
    }

    /// Delivers a live message if it is the next one, drops it if it was delivered, and reads
    /// what is missing if there is a gap before it.
    fn place(&mut self, message: Arc<Message>) -> Option<LiveUpdate> {
        let Some(origin) = message.origin() else { return Some(LiveUpdate::Message(message)) };
        let new = Seen { id: MessageId::MIN, epoch: Some(origin.epoch.clone()) };
        let seen = self.seen.entry(origin.stream.clone()).or_insert(new);
        if seen.epoch.as_ref() != Some(&origin.epoch) {
            let told = self.new_life(&origin.stream.clone(), origin.epoch.clone());
            self.next.push_front(Step::Arrived(message));
            return told;
        }
        if origin.message_id <= seen.id {
            return None;
        }
        let follows = match origin.prev_message_id {
            Some(previous) => previous <= seen.id,
            // The record of the one before has expired, or there was none.
            None => seen.id == MessageId::MIN,
        };
        if follows {
            seen.id = origin.message_id;
            return Some(LiveUpdate::Message(message));
        }
        // The message itself is read with the gap; what follows it waits.
        self.next.push_front(Step::Read(Gap {
            stream: origin.stream.clone(),
            epoch: origin.epoch.clone(),
            to: origin.message_id,
            ends_with_event: true,
            must_connect: false,
            scanned: None,
        }));
        None
    }

    /// The stream was deleted and made again, or lost: everything of the new life is new.
    fn new_life(&mut self, stream: &StreamName, epoch: Epoch) -> Option<LiveUpdate> {
        let seen = Seen { id: MessageId::MIN, epoch: Some(epoch) };
        let before = self.seen.insert(stream.clone(), seen)?;
        (before.epoch.is_some() && before.id > MessageId::MIN)
            .then_some(LiveUpdate::Missed { count: None, recoverable: false })
    }

    /// Reads one page of the gap that is first in line and puts its events before it.
    async fn read_page(&mut self) -> Result<()> {
        let Some(Step::Read(gap)) = self.next.front() else { return Ok(()) };
        let gap = gap.clone();
        let seen = self.seen.get(&gap.stream).map_or(MessageId::MIN, |seen| seen.id);
        let query = RangeQuery {
            from: gap.scanned.unwrap_or(seen).max(seen).next(),
            to: gap.to,
            limit: PAGE,
            limit_bytes: PAGE_BYTES,
            channel: Some(self.channel.channel().clone()),
            ..RangeQuery::default()
        };
        let stream = self.channel.stream(gap.stream.clone());
        let page = match self.broker.read_range(&stream, &query).await {
            Ok(page) => page,
            // Deleted meanwhile: nothing of the gap is left.
            Err(error) if error.kind() == ErrorKind::NotFound => RangePage::default(),
            Err(error) => return Err(error),
        };
        self.next.pop_front();
        self.found(gap, page);
        Ok(())
    }

    fn found(&mut self, mut gap: Gap, page: RangePage) {
        let Some(seen) = self.seen.get_mut(&gap.stream) else { return };
        let lost = || Step::Tell(LiveUpdate::Missed { count: None, recoverable: false });
        let mut steps = Vec::with_capacity(page.events.len() + 2);
        for event in &page.events {
            // What lies between what was seen and the one before this event is gone.
            let follows = match event.prev_message_id {
                Some(previous) => previous <= seen.id,
                None => !gap.must_connect,
            };
            if !follows {
                steps.push(lost());
            }
            gap.must_connect = false;
            seen.id = event.message_id;
            let (stream, epoch) = (gap.stream.clone(), gap.epoch.clone());
            let message = Message::of_stored(&self.channel, event, stream, epoch);
            steps.push(Step::Tell(LiveUpdate::Message(Arc::new(message))));
        }
        match page.more_after {
            Some(last) if last < gap.to => {
                steps.push(Step::Read(Gap { scanned: Some(last), ..gap }));
            }
            _ if gap.ends_with_event && seen.id < gap.to => {
                steps.push(lost());
                seen.id = gap.to;
            }
            _ => {}
        }
        for step in steps.into_iter().rev() {
            self.next.push_front(step);
        }
    }

    /// Asks the streams where they are, and plans to read what has not arrived.
    async fn find_gaps(&mut self) -> Result<()> {
        let feeds = self.broker.channel_feeds(&self.channel).await?;
        self.check_due = false;
        for feed in feeds {
            let Some(epoch) = feed.epoch else { continue };
            let new = Seen { id: MessageId::MIN, epoch: Some(epoch.clone()) };
            let seen = self.seen.entry(feed.stream.clone()).or_insert(new);
            if seen.epoch.as_ref() != Some(&epoch) {
                if let Some(told) = self.new_life(&feed.stream, epoch.clone()) {
                    self.next.push_back(Step::Tell(told));
                }
                self.plan_read(&feed.stream, epoch, feed.tip);
            } else if feed.tip.is_some_and(|tip| tip > seen.id) {
                self.plan_read(&feed.stream, epoch, feed.tip);
            }
        }
        Ok(())
    }

    fn plan_read(&mut self, stream: &StreamName, epoch: Epoch, to: Option<MessageId>) {
        if let Some(to) = to {
            let stream = stream.clone();
            let gap = Gap {
                stream,
                epoch,
                to,
                ends_with_event: true,
                must_connect: false,
                scanned: None,
            };
            self.next.push_back(Step::Read(gap));
        }
    }

    /// Plans what `since` asks for.
    fn resume(&mut self, feeds: &[Feed], since: Since) -> Result<()> {
        let positions = match since {
            Since::Streams(positions) => positions,
            Since::Id(id) => match single_feed(feeds)? {
                Some(feed) => {
                    ChannelPosition::from([(feed.stream.clone(), Position { id, epoch: None })])
                }
                None => {
                    self.tell_unrecoverable();
                    return Ok(());
                }
            },
        };
        for feed in feeds {
            // A stream that the position does not name began to feed the channel after it: all
            // that it has of the channel is new.
            if let (Some(epoch), false) = (&feed.epoch, positions.contains_key(&feed.stream)) {
                let position = Position { id: MessageId::MIN, epoch: Some(epoch.clone()) };
                self.resume_stream(feed, epoch.clone(), &position);
            }
        }
        for (stream, position) in positions {
            let feed = feeds.iter().find(|feed| feed.stream == stream);
            match feed.and_then(|feed| Some((feed, resumable(feed, &position)?))) {
                Some((feed, epoch)) => self.resume_stream(feed, epoch, &position),
                None => self.tell_unrecoverable(),
            }
        }
        Ok(())
    }

    fn resume_stream(&mut self, feed: &Feed, epoch: Epoch, position: &Position) {
        let since = position.id;
        self.seen.insert(feed.stream.clone(), Seen { id: since, epoch: Some(epoch.clone()) });
        // A bare id may be of an earlier life of the stream. Then it is above every event of this
        // channel, or the first one after it names none before.
        let bare = position.epoch.is_none() && since > MessageId::MIN;
        let unknown = bare && feed.tip.is_none_or(|tip| tip < since);
        // Where the record of the channel's last event has expired, the whole rest is read, and
        // only what was trimmed tells of a loss.
        let trimmed = feed.tip.is_none() && feed.trimmed_to.is_some_and(|trimmed| trimmed > since);
        if unknown || trimmed {
            self.tell_unrecoverable();
        }
        let to = feed.tip.or(feed.last_id).unwrap_or(MessageId::MIN);
        if to > since {
            self.next.push_back(Step::Read(Gap {
                stream: feed.stream.clone(),
                epoch,
                to,
                ends_with_event: feed.tip.is_some(),
                must_connect: bare && !unknown,
                scanned: None,
            }));
        }
    }

    fn tell_unrecoverable(&mut self) {
        let missed = LiveUpdate::Missed { count: None, recoverable: false };
        self.next.push_front(Step::Tell(missed));
    }
}

async fn due(check: &mut Option<Interval>) {
    match check {
        Some(check) => {
            check.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// The only stream that feeds the channel; `None` if none does.
fn single_feed(feeds: &[Feed]) -> Result<Option<&Feed>> {
    let mut alive = feeds.iter().filter(|feed| feed.epoch.is_some());
    match (alive.next(), alive.next()) {
        (feed, None) => Ok(feed),
        (_, Some(_)) => {
            let names: Vec<&str> = feeds.iter().map(|feed| feed.stream.as_str()).collect();
            Err(Error::new(
                ErrorKind::SinceAmbiguous,
                format!(
                    "several streams feed this channel ({}); give a position for each: \
                     {{\"STREAM\":{{\"id\":\"…\",\"epoch\":\"…\"}}}}",
                    names.join(", ")
                ),
            ))
        }
    }
}

/// The stream's epoch, if `position` is one of its present life.
fn resumable(feed: &Feed, position: &Position) -> Option<Epoch> {
    let epoch = feed.epoch.clone()?;
    let same_life = position.epoch.as_ref().is_none_or(|before| *before == epoch);
    let given = position.id <= feed.last_id.unwrap_or(MessageId::MIN);
    (same_life && given).then_some(epoch)
}
