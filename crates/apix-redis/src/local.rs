//! What this process remembers of streams and groups, to save questions. Nothing here is the truth:
//! each memory is bounded in age, or checked by the operation that relies on it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use apix::{ChannelName, GroupKey, GroupName, GroupSettings, StreamKey};

use crate::keys::{GroupKeys, StreamKeys};

/// A group's settings are asked for again after this long.
const SETTINGS_AGE: Duration = Duration::from_secs(1);
/// What was only asked about is forgotten after this long.
const ASKED_AGE: Duration = Duration::from_secs(30);
/// That a stream feeds a channel is recorded again after this long.
const FEED_AGE: Duration = Duration::from_secs(3_600);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept here is whole between statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The streams that this process works with.
#[derive(Debug)]
pub(crate) struct Locals {
    started: Instant,
    streams: Mutex<HashMap<StreamKey, Arc<LocalStream>>>,
}

impl Locals {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), streams: Mutex::default() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What is remembered of the stream.
    pub(crate) fn stream(&self, key: &StreamKey) -> Arc<LocalStream> {
        let now = self.now();
        let mut streams = lock(&self.streams);
        if let Some(stream) = streams.get(key) {
            stream.used.store(now, Ordering::Relaxed);
            return Arc::clone(stream);
        }
        let stream = Arc::new(LocalStream::new(key.clone(), now));
        streams.insert(key.clone(), Arc::clone(&stream));
        stream
    }

    /// What is remembered of the group.
    pub(crate) fn group(&self, key: &GroupKey) -> Arc<LocalGroup> {
        let stream = self.stream(&key.stream);
        let mut groups = lock(&stream.groups);
        if let Some(group) = groups.get(&key.group) {
            return Arc::clone(group);
        }
        let group = Arc::new(LocalGroup::new(&stream, key.group.clone()));
        groups.insert(key.group.clone(), Arc::clone(&group));
        group
    }

    /// The streams that were used within `age`; older ones are forgotten, and sooner those that
    /// were only asked about: anybody can ask for names that do not exist. The same goes for groups.
    pub(crate) fn recent(&self, age: Duration) -> Vec<Arc<LocalStream>> {
        let milliseconds = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let now = self.now();
        let mut streams = lock(&self.streams);
        streams.retain(|_, stream| {
            let kept = if stream.is_worked_with() { age } else { age.min(ASKED_AGE) };
            stream.used.load(Ordering::Relaxed) >= now.saturating_sub(milliseconds(kept))
        });
        for stream in streams.values() {
            stream.forget_unread_groups(age);
        }
        let oldest = now.saturating_sub(milliseconds(age));
        let used = |stream: &&Arc<LocalStream>| stream.used.load(Ordering::Relaxed) >= oldest;
        streams.values().filter(used).map(Arc::clone).collect()
    }

    /// The group, if this process remembers it.
    pub(crate) fn known_group(&self, stream: &StreamKey, group: &str) -> Option<Arc<LocalGroup>> {
        let stream = lock(&self.streams).get(stream).map(Arc::clone)?;
        let groups = lock(&stream.groups);
        groups.iter().find(|(name, _)| name.as_str() == group).map(|(_, group)| Arc::clone(group))
    }
}

/// What is remembered of a stream.
#[derive(Debug)]
pub(crate) struct LocalStream {
    pub(crate) key: StreamKey,
    pub(crate) keys: StreamKeys,
    /// It was seen to exist, and to be listed among its tenant's. An append finds out by itself if
    /// that has changed.
    ensured: AtomicBool,
    used: AtomicU64,
    groups: Mutex<HashMap<GroupName, Arc<LocalGroup>>>,
    feeds: Mutex<HashMap<ChannelName, Instant>>,
    /// Reads that look at intervals, because no connection was left to wait on.
    polling: AtomicUsize,
    appended: Notify,
}

impl LocalStream {
    fn new(key: StreamKey, now: u64) -> Self {
        Self {
            keys: StreamKeys::new(&key),
            key,
            ensured: AtomicBool::new(false),
            used: AtomicU64::new(now),
            groups: Mutex::default(),
            feeds: Mutex::default(),
            polling: AtomicUsize::new(0),
            appended: Notify::new(),
        }
    }

    /// The stream without being counted as used here.
    pub(crate) fn unused(key: StreamKey) -> Self {
        Self::new(key, 0)
    }

    pub(crate) fn is_ensured(&self) -> bool {
        self.ensured.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ensured(&self, ensured: bool) {
        self.ensured.store(ensured, Ordering::Relaxed);
    }

    /// Whether it was written to or read by a group here.
    fn is_worked_with(&self) -> bool {
        self.is_ensured() || lock(&self.groups).values().any(|group| group.read_within(ASKED_AGE))
    }

    /// Whether it was recorded lately that this stream feeds the channel.
    pub(crate) fn knows_feed(&self, channel: &ChannelName) -> bool {
        lock(&self.feeds).get(channel).is_some_and(|at| at.elapsed() < FEED_AGE)
    }

    pub(crate) fn remember_feed(&self, channel: &ChannelName) {
        let mut feeds = lock(&self.feeds);
        if feeds.len() >= 10_000 {
            feeds.clear();
        }
        feeds.insert(channel.clone(), Instant::now());
    }

    pub(crate) fn forget_feed(&self, channel: &ChannelName) {
        lock(&self.feeds).remove(channel);
    }

    /// Wakes the reads of this process that look at intervals.
    pub(crate) fn has_new(&self) {
        if self.polling.load(Ordering::Relaxed) > 0 {
            self.appended.notify_waiters();
        }
    }

    /// Waits until this process appends to the stream.
    pub(crate) async fn wait_for_new(&self) {
        self.polling.fetch_add(1, Ordering::Relaxed);
        let _counted = Counted(&self.polling);
        self.appended.notified().await;
    }

    pub(crate) fn groups(&self) -> Vec<Arc<LocalGroup>> {
        lock(&self.groups).values().map(Arc::clone).collect()
    }

    /// Forgets groups that nobody here uses now, or has read lately.
    fn forget_unread_groups(&self, age: Duration) {
        let mut groups = lock(&self.groups);
        groups.retain(|_, group| Arc::strong_count(group) > 1 || group.read_within(age));
        if groups.capacity() > 4 * groups.len().max(64) {
            groups.shrink_to_fit();
        }
    }

    /// Forgets a group that was deleted.
    pub(crate) fn forget_group(&self, group: &GroupName) {
        lock(&self.groups).remove(group);
    }
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When the first parked event of a group is due, as far as is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    pub(crate) at: Option<Instant>,
    /// Grows with each due time that was heard of.
    heard: u64,
}

/// What is remembered of a group.
#[derive(Debug)]
pub(crate) struct LocalGroup {
    pub(crate) stream: StreamKey,
    pub(crate) name: GroupName,
    pub(crate) keys: GroupKeys,
    pub(crate) bell: String,
    settings: Mutex<Option<(Arc<GroupSettings>, Instant)>>,
    due: watch::Sender<Due>,
    read_at: Mutex<Option<Instant>>,
    /// The last look for ended leases succeeded.
    is_swept: AtomicBool,
}

impl LocalGroup {
    fn new(stream: &LocalStream, name: GroupName) -> Self {
        Self {
            stream: stream.key.clone(),
            keys: GroupKeys::new(&stream.keys, &name),
            bell: stream.keys.bell.clone(),
            name,
            settings: Mutex::default(),
            // Until it has been looked, something may be due.
            due: watch::Sender::new(Due { at: Some(Instant::now()), heard: 0 }),
            read_at: Mutex::default(),
            is_swept: AtomicBool::new(true),
        }
    }

    /// The settings, unless they are too old.
    pub(crate) fn settings(&self) -> Option<Arc<GroupSettings>> {
        lock(&self.settings)
            .as_ref()
            .filter(|(_, at)| at.elapsed() < SETTINGS_AGE)
            .map(|(settings, _)| Arc::clone(settings))
    }

    pub(crate) fn remember_settings(&self, settings: &Arc<GroupSettings>) {
        *lock(&self.settings) = Some((Arc::clone(settings), Instant::now()));
    }

    pub(crate) fn forget_settings(&self) {
        *lock(&self.settings) = None;
    }

    pub(crate) fn due(&self) -> Due {
        *self.due.borrow()
    }

    pub(crate) fn is_due(&self) -> bool {
        self.due().at.is_some_and(|at| at <= Instant::now())
    }

    pub(crate) fn watch_due(&self) -> watch::Receiver<Due> {
        self.due.subscribe()
    }

    /// Somebody parked an event that is due after `delay`.
    pub(crate) fn hear_due(&self, delay: Duration) {
        let Some(heard) = Instant::now().checked_add(delay) else { return };
        self.due.send_modify(|due| {
            due.at = Some(due.at.map_or(heard, |at| at.min(heard)));
            due.heard += 1;
        });
    }

    /// The server said when the first event is due (negative: none), asked when `before` was known.
    /// What was heard since may not have been in that answer.
    pub(crate) fn learn_due(&self, before: Due, milliseconds: i64) {
        let at = u64::try_from(milliseconds)
            .ok()
            .and_then(|wait| Instant::now().checked_add(Duration::from_millis(wait)));
        self.due.send_if_modified(|due| {
            let at = match (due.heard == before.heard, due.at, at) {
                (true, _, at) => at,
                (false, known, None) => known,
                (false, known, Some(at)) => Some(known.map_or(at, |known| known.min(at))),
            };
            let changed = due.at != at;
            due.at = at;
            changed
        });
    }

    /// The group is being read here, so its leases are looked after here.
    pub(crate) fn reads(&self) {
        *lock(&self.read_at) = Some(Instant::now());
    }

    /// Whether its leases could be looked after; returns whether that is new.
    pub(crate) fn sweeps(&self, done: bool) -> bool {
        self.is_swept.swap(done, Ordering::Relaxed) != done
    }

    pub(crate) fn read_within(&self, age: Duration) -> bool {
        lock(&self.read_at).is_some_and(|at| at.elapsed() < age)
    }
}

#[cfg(test)]
mod tests {
    use apix::{StreamName, TenantContext};

    use super::*;

    #[test]
    fn groups_that_are_only_asked_about_are_forgotten() {
        let ctx = TenantContext::trusted("acme").unwrap();
        let stream = StreamKey::new(&ctx, StreamName::new("s").unwrap());
        let locals = Locals::new();
        let group = |name: String| {
            locals.group(&GroupKey::new(stream.clone(), GroupName::new(name).unwrap()))
        };
        group("read".into()).reads();
        let used = group("used".into());
        for n in 0..1_000 {
            group(format!("asked-{n}"));
        }
        let recent = locals.recent(Duration::from_secs(900));
        let mut left: Vec<_> = recent[0].groups().iter().map(|one| one.name.to_string()).collect();
        left.sort();
        assert_eq!(left, ["read", "used"]);
        assert_eq!(used.name.as_str(), "used");
    }

    #[test]
    fn what_was_heard_meanwhile_is_not_forgotten() {
        let ctx = TenantContext::trusted("acme").unwrap();
        let key = GroupKey::new(
            StreamKey::new(&ctx, StreamName::new("s").unwrap()),
            GroupName::default(),
        );
        let group = Locals::new().group(&key);
        assert!(group.is_due());
        group.learn_due(group.due(), -1);
        assert!(!group.is_due() && group.due().at.is_none());
        let before = group.due();
        group.hear_due(Duration::ZERO);
        group.learn_due(before, -1);
        assert!(group.is_due());
        group.learn_due(group.due(), 60_000);
        assert!(!group.is_due() && group.due().at.is_some());
    }
}
