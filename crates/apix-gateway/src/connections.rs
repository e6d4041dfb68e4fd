//! The live connections of all processes on the broker, as far as this one knows.
//!
//! A session registers its connection here and says what it joins and leaves. Every change goes
//! into one table, with those that other processes tell of, and into a list for `peers.rs` to
//! pass on.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use apix::{ChannelKey, SubscriptionSender, TenantContext, TenantId, Timestamp};
use bytestring::ByteString;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::change::{Change, Face, NodeId, WireChannel};
use crate::presence::{Member, Presence, Roster};
use crate::quality::Quality;
use crate::status::{Status, StatusBoard};

/// All connections; clones share them.
#[derive(Clone)]
pub(crate) struct Connections {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    table: Mutex<Table>,
    /// Told when there are changes to pass on.
    changed: Notify,
    board: StatusBoard,
}

#[derive(Default)]
struct Table {
    entries: HashMap<ByteString, Entry>,
    tenants: HashMap<TenantId, Tenant>,
    presence: Presence,
    pending: Vec<Change>,
}

#[derive(Default)]
struct Tenant {
    connections: usize,
    users: HashMap<ByteString, usize>,
}

struct Entry {
    node: NodeId,
    info: Info,
    channels: HashMap<ChannelKey, Member>,
    /// Of a connection of this process: cancelled to end it.
    end: Option<CancellationToken>,
}

/// What can be seen of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) organization: TenantId,
    pub(crate) user: Option<ByteString>,
    pub(crate) face: Face,
    pub(crate) since_ms: u64,
    pub(crate) measured: Option<(Quality, u64)>,
    /// How many channels it is subscribed to.
    pub(crate) channels: usize,
}

/// Where a connection is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// On this process; it was told to end.
    Here,
    /// On another one.
    On(NodeId),
    Nowhere,
}

/// A connection of this process; it ends with this.
pub(crate) struct Registered {
    connections: Connections,
    id: ByteString,
    ctx: TenantContext,
    face: Face,
    end: CancellationToken,
}

fn now_ms() -> u64 {
    Timestamp::now().unix_ms()
}

impl Connections {
    pub(crate) fn new(node: NodeId, board: StatusBoard) -> Self {
        let inner = Inner { node, table: Mutex::default(), changed: Notify::new(), board };
        Self { inner: Arc::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is whole between statements; a panic of another thread leaves it usable.
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn node(&self) -> &NodeId {
        &self.inner.node
    }

    /// A change of this process.
    fn change(&self, change: Change) {
        let mut table = self.lock();
        table.pending.push(change.clone());
        table.apply(&self.inner.node, change);
        drop(table);
        self.inner.changed.notify_one();
    }

    /// Registers a connection of this process; nothing if the tenant has as many as `most`.
    pub(crate) fn open(
        &self,
        id: ByteString,
        ctx: &TenantContext,
        face: Face,
        most: Option<usize>,
    ) -> Option<Registered> {
        let end = CancellationToken::new();
        let opened = Change::Opened {
            id: id.clone(),
            organization: ctx.organization_id().clone(),
            user: ctx.user_id().cloned(),
            face,
            since_ms: now_ms(),
        };
        let mut table = self.lock();
        if most.is_some_and(|most| table.count(ctx.organization_id()) >= most) {
            return None;
        }
        table.pending.push(opened.clone());
        table.apply(&self.inner.node, opened);
        if let Some(entry) = table.entries.get_mut(&id) {
            entry.end = Some(end.clone());
        }
        drop(table);
        self.inner.changed.notify_one();
        self.inner.board.changed(ctx, &id, face, Status::Connected);
        Some(Registered { connections: self.clone(), id, ctx: ctx.clone(), face, end })
    }

    /// The tenant's connections in the order of their ids, those after `after`, at most `limit`.
    pub(crate) fn list(
        &self,
        tenant: &TenantId,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<(ByteString, Info)> {
        let table = self.lock();
        let mut found: Vec<_> = table
            .entries
            .iter()
            .filter(|(id, entry)| {
                entry.info.organization == *tenant && after.is_none_or(|after| &***id > after)
            })
            .map(|(id, entry)| {
                (id.clone(), Info { channels: entry.channels.len(), ..entry.info.clone() })
            })
            .collect();
        drop(table);
        found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        found.truncate(limit);
        found
    }

    /// Ends a connection of the tenant, if it is on this process.
    pub(crate) fn end(&self, tenant: &TenantId, id: &str) -> Found {
        let table = self.lock();
        match table.entries.get(id).filter(|entry| entry.info.organization == *tenant) {
            None => Found::Nowhere,
            Some(Entry { end: Some(end), .. }) => {
                end.cancel();
                Found::Here
            }
            Some(entry) => Found::On(entry.node.clone()),
        }
    }

    /// Ends a connection of this process, as another one asks.
    pub(crate) fn end_here(&self, id: &str) {
        if let Some(end) = self.lock().entries.get(id).and_then(|entry| entry.end.as_ref()) {
            end.cancel();
        }
    }

    pub(crate) fn roster(&self, channel: &ChannelKey) -> Roster {
        self.lock().presence.roster(channel)
    }

    /// How many connections each of the users has.
    pub(crate) fn users(&self, tenant: &TenantId, users: &[ByteString]) -> Vec<usize> {
        let table = self.lock();
        let known = table.tenants.get(tenant);
        let count = |user| known.and_then(|known| known.users.get(user)).copied().unwrap_or(0);
        users.iter().map(count).collect()
    }

    /// How a connection is measured now.
    pub(crate) fn measured(&self, id: &str) -> Option<(Quality, u64)> {
        self.lock().entries.get(id).and_then(|entry| entry.info.measured)
    }

    // ---- for `peers.rs` ----

    /// Done when there are changes to pass on.
    pub(crate) async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    /// What this process has changed since it was last asked.
    pub(crate) fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.lock().pending)
    }

    /// What makes all that this process has; what was to be passed on is in it.
    pub(crate) fn snapshot(&self) -> Vec<Change> {
        let mut table = self.lock();
        table.pending.clear();
        let own = table.entries.iter().filter(|(_, entry)| entry.node == self.inner.node);
        own.flat_map(|(id, entry)| entry.changes(id)).collect()
    }

    /// Another process's changes.
    pub(crate) fn apply(&self, node: &NodeId, changes: Vec<Change>) {
        let mut table = self.lock();
        for change in changes {
            table.apply(node, change);
        }
    }

    /// All that another process has; what it had before and has no more ends.
    pub(crate) fn replace(&self, node: &NodeId, changes: Vec<Change>) {
        let mut kept: HashMap<ByteString, HashSet<ChannelKey>> = HashMap::new();
        for change in &changes {
            match change {
                Change::Opened { id, .. } => drop(kept.entry(id.clone()).or_default()),
                Change::Joined { id, channel, .. } => {
                    let places = kept.entry(id.clone()).or_default();
                    places.extend(channel.clone().key());
                }
                _ => {}
            }
        }
        let mut table = self.lock();
        for change in table.gone(node, &kept) {
            table.apply(node, change);
        }
        for change in changes {
            table.apply(node, change);
        }
    }

    /// Another process has ended, with all that it had.
    pub(crate) fn forget(&self, node: &NodeId) {
        self.replace(node, Vec::new());
    }
}

impl Table {
    fn count(&self, tenant: &TenantId) -> usize {
        self.tenants.get(tenant).map_or(0, |tenant| tenant.connections)
    }

    fn apply(&mut self, node: &NodeId, change: Change) {
        match change {
            Change::Opened { id, organization, user, face, since_ms } => {
                let info = Info { organization, user, face, since_ms, measured: None, channels: 0 };
                self.open(node, id, info);
            }
            Change::Closed { id } => self.close(node, &id),
            Change::Measured { id, quality, rtt_ms } => {
                if let Some(entry) = self.own(node, &id) {
                    entry.info.measured = Some((quality, rtt_ms));
                }
            }
            Change::Joined { id, channel, user, since_ms } => {
                let (Some(key), member) = (channel.key(), Member { user, since_ms }) else {
                    return;
                };
                let Some(entry) = self.own(node, &id) else { return };
                entry.channels.insert(key.clone(), member.clone());
                self.presence.join(&key, &id, member);
            }
            Change::Left { id, channel } => {
                let Some(key) = channel.key() else { return };
                let Some(entry) = self.own(node, &id) else { return };
                entry.channels.remove(&key);
                self.presence.leave(&key, &id);
            }
        }
    }

    /// A process speaks of its own connections only.
    fn own(&mut self, node: &NodeId, id: &ByteString) -> Option<&mut Entry> {
        self.entries.get_mut(id).filter(|entry| entry.node == *node)
    }

    fn open(&mut self, node: &NodeId, id: ByteString, info: Info) {
        if self.entries.contains_key(&id) {
            return;
        }
        let tenant = self.tenants.entry(info.organization.clone()).or_default();
        tenant.connections += 1;
        if let Some(user) = &info.user {
            *tenant.users.entry(user.clone()).or_default() += 1;
        }
        let entry = Entry { node: node.clone(), info, channels: HashMap::new(), end: None };
        self.entries.insert(id, entry);
    }

    fn close(&mut self, node: &NodeId, id: &ByteString) {
        if self.own(node, id).is_none() {
            return;
        }
        let Some(entry) = self.entries.remove(id) else { return };
        for channel in entry.channels.keys() {
            self.presence.unwatch(channel, id);
            self.presence.leave(channel, id);
        }
        let Some(tenant) = self.tenants.get_mut(&entry.info.organization) else { return };
        tenant.connections -= 1;
        if let Some(user) = &entry.info.user
            && let Some(count) = tenant.users.get_mut(user)
        {
            *count -= 1;
            if *count == 0 {
                tenant.users.remove(user);
            }
        }
        if tenant.connections == 0 {
            self.tenants.remove(&entry.info.organization);
        }
    }

    /// What ends when a process has only what is kept.
    fn gone(&self, node: &NodeId, kept: &HashMap<ByteString, HashSet<ChannelKey>>) -> Vec<Change> {
        let mut gone = Vec::new();
        for (id, entry) in self.entries.iter().filter(|(_, entry)| entry.node == *node) {
            let Some(places) = kept.get(id) else {
                gone.push(Change::Closed { id: id.clone() });
                continue;
            };
            let left = entry.channels.keys().filter(|channel| !places.contains(channel));
            gone.extend(
                left.map(|channel| Change::Left {
                    id: id.clone(),
                    channel: WireChannel::of(channel),
                }),
            );
        }
        gone
    }
}

impl Entry {
    /// What makes this entry.
    fn changes(&self, id: &ByteString) -> Vec<Change> {
        let Info { organization, user, face, since_ms, measured, .. } = self.info.clone();
        let mut changes =
            vec![Change::Opened { id: id.clone(), organization, user, face, since_ms }];
        changes.extend(measured.map(|(quality, rtt_ms)| Change::Measured {
            id: id.clone(),
            quality,
            rtt_ms,
        }));
        changes.extend(self.channels.iter().map(|(channel, member)| Change::Joined {
            id: id.clone(),
            channel: WireChannel::of(channel),
            user: member.user.clone(),
            since_ms: member.since_ms,
        }));
        changes
    }
}

impl Registered {
    pub(crate) fn id(&self) -> &ByteString {
        &self.id
    }

    /// Cancelled when an operator ends the connection.
    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.end
    }

    pub(crate) fn join(&self, channel: &ChannelKey, user: Option<&ByteString>) {
        let (id, channel) = (self.id.clone(), WireChannel::of(channel));
        let since_ms = now_ms();
        self.connections.change(Change::Joined { id, channel, user: user.cloned(), since_ms });
    }

    pub(crate) fn leave(&self, channel: &ChannelKey) {
        self.connections.lock().presence.unwatch(channel, &self.id);
        self.connections
            .change(Change::Left { id: self.id.clone(), channel: WireChannel::of(channel) });
    }

    /// Who comes and goes on `channel` is told through `queue`, until the channel is left.
    pub(crate) fn watch(&self, channel: &ChannelKey, queue: SubscriptionSender) {
        self.connections.lock().presence.watch(channel, &self.id, queue);
    }

    pub(crate) fn unwatch(&self, channel: &ChannelKey) {
        self.connections.lock().presence.unwatch(channel, &self.id);
    }

    /// An answer to a ping took so long.
    pub(crate) fn measured(&self, rtt_ms: u64) {
        let quality = Quality::of_rtt_ms(rtt_ms);
        let before = self.connections.measured(&self.id).map(|(quality, _)| quality);
        let id = self.id.clone();
        self.connections.change(Change::Measured { id, quality, rtt_ms });
        // The first one is told with the news that the connection is there.
        if before.is_some_and(|before| before != quality) {
            let board = &self.connections.inner.board;
            board.changed(&self.ctx, &self.id, self.face, Status::QualityChanged);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let measured = self.connections.measured(&self.id);
        let board = &self.connections.inner.board;
        board.changed(&self.ctx, &self.id, self.face, Status::Disconnected(measured));
        self.connections.change(Change::Closed { id: self.id.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apix::{ChannelName, subscription};

    fn acme() -> TenantContext {
        TenantContext::trusted("acme").unwrap()
    }

    fn room() -> ChannelKey {
        ChannelKey::new(&acme(), ChannelName::new("room").unwrap())
    }

    fn process(node: &'static str) -> Connections {
        Connections::new(node.into(), StatusBoard::new(false, false, Arc::default()))
    }

    #[test]
    fn what_one_process_has_another_one_sees() {
        let (here, there) = (process("here"), process("there"));
        let (one, two) = (
            here.open("c1".into(), &acme(), Face::WebSocket, None).unwrap(),
            here.open("c2".into(), &acme(), Face::Sse, None).unwrap(),
        );
        one.join(&room(), Some(&"anna".into()));
        two.join(&room(), None);
        one.measured(120);
        there.apply(&"here".into(), here.take_changes());
        let tenant = acme().organization_id().clone();
        assert_eq!(there.list(&tenant, None, 10), here.list(&tenant, None, 10));
        assert_eq!(there.list(&tenant, Some("c1"), 10).len(), 1);
        assert_eq!(there.roster(&room()), here.roster(&room()));
        assert_eq!(there.measured("c1"), Some((Quality::Good, 120)));
        assert_eq!(there.end(&tenant, "c1"), Found::On("here".into()));
        assert_eq!(here.end(&"other".parse().unwrap(), "c1"), Found::Nowhere);
        assert_eq!(here.end(&tenant, "c1"), Found::Here);
        assert!(one.ending().is_cancelled() && !two.ending().is_cancelled());
        drop((one, two));
        there.apply(&"here".into(), here.take_changes());
        for connections in [here, there] {
            let table = connections.lock();
            assert!(table.entries.is_empty() && table.tenants.is_empty());
        }
    }

    #[test]
    fn a_snapshot_replaces_and_tells_only_the_difference() {
        let (here, there) = (process("here"), process("there"));
        let node: NodeId = "here".into();
        let watching = there.open("w".into(), &acme(), Face::WebSocket, None).unwrap();
        let (sender, mut queue) = subscription(1 << 20, || ());
        watching.watch(&room(), sender);
        let stays = here.open("stays".into(), &acme(), Face::WebSocket, None).unwrap();
        let goes = here.open("goes".into(), &acme(), Face::WebSocket, None).unwrap();
        stays.join(&room(), None);
        goes.join(&room(), None);
        there.replace(&node, here.snapshot());
        drop(goes);
        there.replace(&node, here.snapshot());
        there.replace(&node, here.snapshot());
        let mut types = Vec::new();
        while let Some(apix::Update::Message(message)) = queue.try_recv() {
            types.push(message.message_type().to_string());
        }
        assert_eq!(types, ["presence.join", "presence.join", "presence.leave"]);
        assert_eq!(there.roster(&room()).connections, 1);
        there.forget(&node);
        assert_eq!(there.roster(&room()).connections, 0);
        assert_eq!(there.lock().count(acme().organization_id()), 1);
        // Nobody speaks for the connections of another process.
        there.apply(&node, vec![Change::Closed { id: "w".into() }]);
        assert_eq!(there.lock().count(acme().organization_id()), 1);
    }
}
