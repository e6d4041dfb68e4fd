//! Which streams feed which channels, and the last event of each channel on each of them.

use std::collections::{BTreeMap, HashMap, HashSet};

use apix::{ChannelKey, ChannelName, Feed, MessageId, StreamKey, StreamName, TenantId};

use super::state::Engine;
use super::turn::Turn;
use crate::store::Change;

/// A feed whose last event is older than this is forgotten: 90 days.
const FEED_AGE_MS: u64 = 90 * 24 * 3_600 * 1_000;

#[derive(Debug)]
struct FeedState {
    tenant: TenantId,
    channel: ChannelName,
    stream: StreamName,
    tip: Option<MessageId>,
    /// The newest event that it ever had: by that it grows old.
    newest_ms: u64,
}

/// All feeds.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    channels: HashMap<TenantId, HashMap<ChannelName, BTreeMap<StreamName, u64>>>,
    feeds: HashMap<u64, FeedState>,
    /// Feeds whose tip the store knows from the index of commits alone.
    unwritten: HashSet<u64>,
}

impl Feeds {
    /// A feed that exists.
    pub(super) fn add(
        &mut self,
        no: u64,
        tenant: TenantId,
        channel: ChannelName,
        stream: StreamName,
        now_ms: u64,
    ) {
        let channels = self.channels.entry(tenant.clone()).or_default();
        channels.entry(channel.clone()).or_default().insert(stream.clone(), no);
        let feed = FeedState { tenant, channel, stream, tip: None, newest_ms: now_ms };
        self.feeds.insert(no, feed);
    }

    /// The last event of a feed.
    pub(super) fn tip(&self, no: u64) -> Option<MessageId> {
        self.feeds.get(&no)?.tip
    }

    /// A newer event of a feed, which the index of its commit names.
    pub(super) fn advance(&mut self, no: u64, id: MessageId) {
        if self.set_tip(no, id) {
            self.unwritten.insert(no);
        }
    }

    /// The tip as the store knows it.
    pub(super) fn set_tip(&mut self, no: u64, id: MessageId) -> bool {
        let Some(feed) = self.feeds.get_mut(&no) else { return false };
        feed.tip = Some(id);
        feed.newest_ms = feed.newest_ms.max(id.ms);
        true
    }

    fn of(&self, channel: &ChannelKey) -> Option<&BTreeMap<StreamName, u64>> {
        self.channels.get(channel.tenant())?.get(channel.channel())
    }

    fn remove(&mut self, no: u64) {
        let Some(feed) = self.feeds.remove(&no) else { return };
        self.unwritten.remove(&no);
        let Some(channels) = self.channels.get_mut(&feed.tenant) else { return };
        if let Some(streams) = channels.get_mut(&feed.channel) {
            streams.remove(&feed.stream);
            if streams.is_empty() {
                channels.remove(&feed.channel);
            }
        }
        if channels.is_empty() {
            self.channels.remove(&feed.tenant);
        }
    }
}

impl Engine {
    /// The feed of `channel` by `stream`, recorded if it is new.
    pub(super) fn ensure_feed(
        &mut self,
        turn: &mut Turn,
        stream: &StreamKey,
        channel: &ChannelKey,
    ) -> u64 {
        if let Some(no) = self.feeds.of(channel).and_then(|feeds| feeds.get(stream.stream())) {
            return *no;
        }
        let no = self.new_feed_no(turn);
        let (tenant, name) = (channel.tenant().clone(), channel.channel().clone());
        self.feeds.add(no, tenant, name, stream.stream().clone(), turn.now.unix_ms);
        turn.batch.changes.push(Change::PutFeed {
            no,
            tenant: channel.tenant().as_str().to_owned(),
            channel: channel.channel().as_str().to_owned(),
            stream: stream.stream().as_str().to_owned(),
        });
        no
    }

    /// The streams that feed a channel.
    pub(crate) fn channel_feeds(&self, channel: &ChannelKey) -> Vec<Feed> {
        let Some(feeds) = self.feeds.of(channel) else { return Vec::new() };
        let feed = |(name, no): (&StreamName, &u64)| {
            let stream = self.stream(&channel.stream(name.clone())).ok();
            Feed {
                stream: name.clone(),
                epoch: stream.map(|stream| stream.epoch.clone()),
                tip: stream.and_then(|_| self.feeds.tip(*no)),
                last_id: stream.and_then(|stream| stream.last_id),
                trimmed_to: stream.and_then(|stream| stream.trimmed_to),
            }
        };
        feeds.iter().map(feed).collect()
    }

    /// Writes the tips that stand in the index of commits alone: before rows of it may go.
    pub(super) fn write_tips(&mut self, turn: &mut Turn) {
        let unwritten: Vec<u64> = self.feeds.unwritten.drain().collect();
        for feed in unwritten {
            let id = self.feeds.tip(feed);
            turn.batch.changes.push(Change::PutTip { feed, id });
        }
    }

    /// Forgets where the feeds of a deleted stream stood. That it fed them stays known.
    pub(super) fn clear_tips(&mut self, turn: &mut Turn, tenant: &TenantId, stream: &StreamName) {
        let Some(channels) = self.feeds.channels.get(tenant) else { return };
        let gone: Vec<u64> =
            channels.values().filter_map(|streams| streams.get(stream).copied()).collect();
        for feed in gone {
            if let Some(state) = self.feeds.feeds.get_mut(&feed) {
                state.tip = None;
            }
            self.feeds.unwritten.remove(&feed);
            turn.batch.changes.push(Change::PutTip { feed, id: None });
        }
    }

    /// Forgets feeds that nothing came through for long.
    pub(super) fn forget_feeds(&mut self, turn: &mut Turn) {
        let now = turn.now.unix_ms;
        let old = |feed: &FeedState| feed.newest_ms.saturating_add(FEED_AGE_MS) < now;
        let gone: Vec<u64> =
            self.feeds.feeds.iter().filter(|(_, feed)| old(feed)).map(|(no, _)| *no).collect();
        for no in gone {
            self.feeds.remove(no);
            turn.batch.changes.push(Change::DropFeed(no));
        }
    }
}
