//! Rebuilding the memory from the store.

use std::collections::HashMap;
use std::path::Path;

use apix::{ChannelName, ErrorKind, GroupName, StreamName, TenantId};
use bytes::Bytes;

use super::state::{Engine, EngineOptions};
use super::turn::Turn;
use crate::clock::Now;
use crate::codec::group::{GroupRecord, HeldRecord};
use crate::codec::{group as group_codec, rows};
use crate::group::GroupState;
use crate::held::{Held, HeldState, Kept};
use crate::slots::Slot;
use crate::store::{Change, Store, StoreFault, damaged};
use crate::stream_state::{KnownKey, StreamState};

type Result<T> = std::result::Result<T, StoreFault>;

impl Engine {
    /// An engine with everything in memory.
    pub(crate) fn in_memory(options: EngineOptions, now: Now) -> Self {
        Self::empty(None, options, now)
    }

    /// The engine as the store in `folder` has it. With `must_flush` what the store holds has to
    /// reach the disk once more first.
    pub(crate) fn open(
        folder: &Path,
        options: EngineOptions,
        now: Now,
        must_flush: bool,
    ) -> Result<Self> {
        Self::from_store(Store::open(folder, options.store, must_flush)?, options, now)
    }

    /// The engine as the store has it.
    pub(crate) fn from_store(store: Store, options: EngineOptions, now: Now) -> Result<Self> {
        let mut engine = Self::empty(None, options, now);
        let mut turn = Turn::new(now);
        engine.load_streams(&store)?;
        engine.load_feeds(&store, now)?;
        engine.load_index(&store)?;
        engine.load_groups(&store, now)?;
        engine.load_changes(&store, now)?;
        engine.load_keys(&store, &mut turn)?;
        engine.store = Some(store);
        let groups: Vec<_> = engine.groups.keys().copied().collect();
        groups.into_iter().for_each(|group| engine.set_timer(group));
        engine.finish(&mut turn);
        match engine.commit(&turn) {
            // It only tidies up; the next opening does it.
            Err(fault) if fault.error.kind() == ErrorKind::StorageFull => {}
            tidied => tidied?,
        }
        Ok(engine)
    }

    /// The store, from an engine whose memory is of no use any more.
    pub(crate) fn into_store(self) -> Option<Store> {
        self.store
    }

    fn load_streams(&mut self, store: &Store) -> Result<()> {
        self.next_no = store.next_no()?;
        for row in store.streams()? {
            let damage = || damaged(format_args!("apix.db: table stream, no {}", row.no));
            let record = rows::StreamRecord::decode(row.data).ok_or_else(damage)?;
            let tenant = TenantId::new(row.owner).map_err(|_| damage())?;
            let name = StreamName::new(row.name).map_err(|_| damage())?;
            self.add_stream(StreamState::new(row.no, tenant, name, record));
        }
        Ok(())
    }

    fn load_feeds(&mut self, store: &Store, now: Now) -> Result<()> {
        for row in store.feeds()? {
            let damage = || damaged(format_args!("apix.db: table feed, no {}", row.no));
            let tenant = TenantId::new(row.tenant).map_err(|_| damage())?;
            let channel = ChannelName::new(row.channel).map_err(|_| damage())?;
            let stream = StreamName::new(row.stream).map_err(|_| damage())?;
            self.feeds.add(row.no, tenant, channel, stream, now.unix_ms);
        }
        store.each_tip(|feed, id| {
            self.feeds.set_tip(feed, id);
        })
    }

    fn load_index(&mut self, store: &Store) -> Result<()> {
        self.next_pos = store.reached()?;
        // There is no position 0: its block would never be whole.
        let mut covered = 0;
        store.each_index(|first_pos, data| {
            let damage =
                || damaged(format_args!("apix.db: table commit_index, first_pos {first_pos}"));
            let records = rows::decode_index(data).ok_or_else(damage)?;
            self.dead.gap(covered, first_pos);
            covered = first_pos + records.len() as u64;
            for (pos, record) in (first_pos..).zip(&records) {
                self.load_event(pos, record).ok_or_else(damage)?;
            }
            self.index_rows.add(first_pos, records.len());
            Ok(())
        })?;
        self.dead.gap(covered, self.next_pos);
        match store.last_pos()? {
            Some(last) if last >= self.next_pos => {
                Err(damaged(format_args!("apix.db: table commit_index, the row of pos {last}"))
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// Takes one event into the index, or knows it as one that is to be removed; `None` if it
    /// cannot stand there.
    fn load_event(&mut self, pos: u64, record: &rows::IndexRecord) -> Option<()> {
        let Some(stream) = self.streams.get_mut(&record.stream) else {
            self.purge.push_back(pos);
            return Some(());
        };
        if record.feed != 0 {
            let newer = self.feeds.tip(record.feed).is_none_or(|tip| tip < record.id);
            if newer {
                self.feeds.advance(record.feed, record.id);
            }
        }
        if stream.trimmed_to.is_some_and(|trimmed| record.id <= trimmed) {
            self.dead.add(pos);
            return Some(());
        }
        let last = stream.len().checked_sub(1).and_then(|last| stream.slot(last));
        if last.is_some_and(|last| last.id() >= record.id) {
            return None;
        }
        let newest = stream.last_id.max(Some(record.id));
        let slot = Slot { ms: record.id.ms, seq: record.id.seq, pos, bytes: record.bytes };
        stream.push(slot, None);
        stream.last_id = newest;
        Some(())
    }

    fn load_groups(&mut self, store: &Store, now: Now) -> Result<()> {
        for row in store.groups()? {
            let damage = || damaged(format_args!("apix.db: table consumer_group, no {}", row.no));
            let settings = rows::decode_text(row.data).ok_or_else(damage)?;
            let name = GroupName::new(row.name).map_err(|_| damage())?;
            let mut group = GroupState::new(row.no, row.owner, name, now);
            group.settings = apix::json::read_stored(&settings).map_err(|_| damage())?;
            if !self.streams.contains_key(&row.owner) {
                return Err(damage().into());
            }
            self.add_group(group);
        }
        store.each_dead(|group, id| {
            if let Some(group) = self.groups.get_mut(&group) {
                group.dead.insert(id, None);
            }
        })
    }

    fn load_changes(&mut self, store: &Store, now: Now) -> Result<()> {
        let mut snapshots: HashMap<u64, u64> = HashMap::new();
        store.each_snapshot(|group, upto, data| {
            let damage = || damaged(format_args!("apix.db: table group_snapshot, grp {group}"));
            let bytes = data.len();
            let record = group_codec::decode(data).ok_or_else(damage)?;
            self.next_change_row = self.next_change_row.max(upto + 1);
            snapshots.insert(group, upto);
            if let Some(group) = self.groups.get_mut(&group) {
                if !record.held.is_empty() {
                    group.journal.add_loaded_snapshot(bytes);
                }
                apply(group, record, now);
            }
            Ok(())
        })?;
        store.each_change(|row, group, data: Bytes| {
            self.next_change_row = self.next_change_row.max(row + 1);
            let old = snapshots.get(&group).is_some_and(|upto| row <= *upto);
            let Some(group) = self.groups.get_mut(&group).filter(|_| !old) else { return Ok(()) };
            let damage = || damaged(format_args!("apix.db: table group_change, row {row}"));
            group.journal.add_loaded(row, data.len());
            apply(group, group_codec::decode(data).ok_or_else(damage)?, now);
            Ok(())
        })?;
        self.groups.values_mut().for_each(GroupState::note_loaded);
        Ok(())
    }

    fn load_keys(&mut self, store: &Store, turn: &mut Turn) -> Result<()> {
        store.each_keys(|row, data| {
            let damage = || damaged(format_args!("apix.db: table idempotency, row {row}"));
            self.next_keys_row = row + 1;
            let mut live = 0;
            for key in rows::decode_keys(data).ok_or_else(damage)? {
                let Some(stream) = self.streams.get_mut(&key.stream) else { continue };
                let known = KnownKey { digest: key.digest, id: key.id, at_ms: key.at_ms, row };
                turn.released_keys.extend(stream.keys.insert(key.key, known));
                live += 1;
            }
            if live == 0 {
                turn.batch.changes.push(Change::DropKeys(row));
            } else {
                self.key_rows.add(row, live);
            }
            Ok(())
        })?;
        // A row goes with its last key, so some of these were forgotten before.
        for stream in self.streams.values_mut() {
            turn.released_keys.extend(stream.forget_keys(turn.now.unix_ms));
        }
        Ok(())
    }
}

/// Makes the group what a row says.
fn apply(group: &mut GroupState, record: GroupRecord, now: Now) {
    if record.reset {
        group.clear_held();
    }
    group.cursor = record.cursor;
    group.lost = record.lost;
    for (id, held) in record.held {
        match held {
            Some(held) => {
                let held = revived(held, group.settings.lease_ms, now);
                group.restore(id, held);
            }
            None => {
                group.unrestore(id);
            }
        }
    }
}

/// A delivery that was out has its whole lease again: its holder may still be at work. A retry
/// comes when it is due, or after its delay if the clock was set back meanwhile.
fn revived(record: HeldRecord, lease_ms: u64, now: Now) -> Held {
    let state = match record.parked {
        None => HeldState::Out { until: now.begun_ms + lease_ms },
        Some(parked) => {
            let left = parked.due_unix_ms.saturating_sub(now.unix_ms).min(parked.delay_ms);
            HeldState::Parked {
                until: now.begun_ms.saturating_add(left),
                due_unix_ms: parked.due_unix_ms,
                delay_ms: parked.delay_ms,
            }
        }
    };
    Held {
        count: record.count,
        consumer: record.consumer,
        state,
        attempts: record.attempts,
        copy: record.copied.then_some(Kept::Stored),
    }
}
