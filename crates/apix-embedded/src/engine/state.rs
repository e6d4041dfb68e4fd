//! The engine's memory, and how a turn of the writer begins and ends.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use apix::{Epoch, Error, GroupKey, Result, StreamKey, StreamName, StreamSettings, TenantId};

use super::feeds::Feeds;
use super::trim::TrimPlan;
use super::turn::Turn;
use crate::clock::Now;
use crate::codec::rows;
use crate::dead_blocks::DeadBlocks;
use crate::group::{GroupNo, GroupState, StreamNo};
use crate::row_log::RowLog;
use crate::store::{Change, Store, StoreFault, StoreOptions};
use crate::stream_state::StreamState;

/// About what a record in memory takes beside its own bytes: its allocation, what shares it, and its
/// places in two queues.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// What of the options concerns the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineOptions {
    pub(crate) trim_every_ms: u64,
    pub(crate) tail_cache_bytes: usize,
    pub(crate) store: StoreOptions,
}

/// All streams and groups.
#[derive(Debug)]
pub(crate) struct Engine {
    /// None: everything is in memory.
    pub(super) store: Option<Store>,
    pub(super) options: EngineOptions,
    pub(super) streams: BTreeMap<StreamNo, StreamState>,
    pub(super) names: BTreeMap<TenantId, BTreeMap<StreamName, StreamNo>>,
    pub(super) groups: HashMap<GroupNo, GroupState>,
    pub(super) feeds: Feeds,
    pub(super) index_rows: RowLog,
    pub(super) key_rows: RowLog,
    pub(super) next_no: u64,
    pub(super) next_pos: u64,
    pub(super) next_change_row: u64,
    pub(super) next_keys_row: u64,
    /// Events whose records are in memory, oldest first: stream, position, bytes.
    tail_order: VecDeque<(StreamNo, u64, usize)>,
    tail_bytes: usize,
    timers: BTreeSet<(u64, GroupNo)>,
    /// Events of deleted streams that the store still has,
    pub(super) purge: VecDeque<u64>,
    /// and events that retention took.
    pub(super) dead: DeadBlocks,
    pub(super) trim: TrimPlan,
}

impl Engine {
    /// An engine without events.
    pub(super) fn empty(store: Option<Store>, options: EngineOptions, now: Now) -> Self {
        Self {
            store,
            options,
            streams: BTreeMap::new(),
            names: BTreeMap::new(),
            groups: HashMap::new(),
            feeds: Feeds::default(),
            index_rows: RowLog::default(),
            key_rows: RowLog::default(),
            next_no: 1,
            next_pos: 1,
            next_change_row: 1,
            next_keys_row: 1,
            tail_order: VecDeque::new(),
            tail_bytes: 0,
            timers: BTreeSet::new(),
            purge: VecDeque::new(),
            dead: DeadBlocks::default(),
            trim: TrimPlan::starting(now.elapsed_ms + options.trim_every_ms),
        }
    }

    /// Whether there is a store to write to.
    pub(super) fn is_stored(&self) -> bool {
        self.store.is_some()
    }

    pub(super) fn stream_no(&self, key: &StreamKey) -> Option<StreamNo> {
        self.names.get(key.tenant())?.get(key.stream()).copied()
    }

    /// The stream, or that there is none.
    pub(super) fn stream(&self, key: &StreamKey) -> Result<&StreamState> {
        self.stream_no(key)
            .and_then(|no| self.streams.get(&no))
            .ok_or_else(|| Error::not_found(format!("there is no stream '{}'", key.stream())))
    }

    /// The group's number, or that there is none.
    pub(super) fn group_no(&self, key: &GroupKey) -> Result<GroupNo> {
        self.stream(&key.stream)
            .ok()
            .and_then(|stream| stream.groups.get(&key.group).copied())
            .ok_or_else(|| {
                Error::not_found(format!(
                    "there is no group '{}' of a stream '{}'",
                    key.group,
                    key.stream.stream()
                ))
            })
    }

    fn new_no(&mut self, turn: &mut Turn) -> u64 {
        let no = self.next_no;
        self.next_no += 1;
        turn.batch.changes.push(Change::NextNo(self.next_no));
        turn.batch.flush = true;
        no
    }

    pub(super) fn new_feed_no(&mut self, turn: &mut Turn) -> u64 {
        self.new_no(turn)
    }

    /// The stream, made if there is none.
    pub(super) fn ensure_stream(&mut self, turn: &mut Turn, key: &StreamKey) -> Result<StreamNo> {
        if let Some(no) = self.stream_no(key) {
            return Ok(no);
        }
        let row = rows::StreamRecord {
            epoch: Epoch::random()?,
            last_id: None,
            trimmed_to: None,
            hard_dropped: 0,
            settings: StreamSettings::default(),
        };
        let no = self.new_no(turn);
        let (tenant, name) = (key.tenant().clone(), key.stream().clone());
        self.add_stream(StreamState::new(no, tenant, name, row));
        self.write_stream(turn, no);
        Ok(no)
    }

    pub(super) fn add_stream(&mut self, stream: StreamState) {
        let streams = self.names.entry(stream.tenant.clone()).or_default();
        streams.insert(stream.name.clone(), stream.no);
        self.streams.insert(stream.no, stream);
    }

    /// Lets the commit write the stream's row.
    pub(super) fn write_stream(&mut self, turn: &mut Turn, no: StreamNo) {
        if let Some(stream) = self.streams.get(&no).filter(|_| self.store.is_some()) {
            turn.batch.changes.push(Change::PutStream {
                no,
                tenant: stream.tenant.as_str().to_owned(),
                name: stream.name.as_str().to_owned(),
                data: stream.record().encode(),
            });
        }
    }

    /// The group, made at the start of its stream if there is none; the stream too.
    pub(super) fn ensure_group(&mut self, turn: &mut Turn, key: &GroupKey) -> Result<GroupNo> {
        let stream = self.ensure_stream(turn, &key.stream)?;
        if let Some(no) = self.streams.get(&stream).and_then(|s| s.groups.get(&key.group)) {
            return Ok(*no);
        }
        let no = self.new_no(turn);
        self.add_group(GroupState::new(no, stream, key.group.clone(), turn.now));
        self.write_group_row(turn, no);
        Ok(no)
    }

    pub(super) fn add_group(&mut self, group: GroupState) {
        if let Some(stream) = self.streams.get_mut(&group.stream) {
            stream.groups.insert(group.name.clone(), group.no);
            self.groups.insert(group.no, group);
        }
    }

    /// Lets the commit write the group's settings.
    pub(super) fn write_group_row(&mut self, turn: &mut Turn, no: GroupNo) {
        if let Some(group) = self.groups.get(&no).filter(|_| self.store.is_some()) {
            // Settings are plain data; they cannot fail to be written.
            let settings = serde_json::to_string(&group.settings).unwrap_or_default();
            turn.batch.changes.push(Change::PutGroup {
                no,
                stream: group.stream,
                name: group.name.as_str().to_owned(),
                settings: rows::encode_text(&settings),
            });
            turn.batch.flush = true;
        }
    }

    /// When the engine has something to do by itself.
    pub(crate) fn next_wake(&self) -> u64 {
        let timer = self.timers.first().map_or(u64::MAX, |(at, _)| *at);
        timer.min(self.trim.next_at)
    }

    /// Does what time asks for.
    pub(crate) fn tick(&mut self, turn: &mut Turn) {
        while let Some(&(at, group)) = self.timers.first() {
            if at > turn.now.elapsed_ms {
                break;
            }
            self.timers.pop_first();
            if let Some(group) = self.groups.get_mut(&group) {
                group.wake = None;
            }
            self.pass_time(turn, group);
            turn.touched.push(group);
        }
        self.trim_in_turn(turn);
    }

    /// Ends a turn: hands out what waiting readers can have, and completes what is to be written.
    pub(crate) fn finish(&mut self, turn: &mut Turn) {
        let mut touched = std::mem::take(&mut turn.touched);
        touched.sort_unstable();
        touched.dedup();
        for &group in &touched {
            self.serve_waiters(turn, group);
            self.write_group_changes(turn, group);
            self.set_timer(group);
        }
        if !self.is_stored() {
            turn.batch.changes.clear();
            turn.batch.keys.clear();
            self.next_pos += std::mem::take(&mut turn.batch.entries).len() as u64;
            return;
        }
        self.number_rows(turn);
    }

    fn number_rows(&mut self, turn: &mut Turn) {
        turn.batch.first_pos = self.next_pos;
        if !turn.batch.entries.is_empty() {
            self.index_rows.add(self.next_pos, turn.batch.entries.len());
            self.next_pos += turn.batch.entries.len() as u64;
        }
        if !turn.batch.keys.is_empty() {
            self.key_rows.add(self.next_keys_row, turn.batch.keys.len());
            turn.batch.keys_row = self.next_keys_row;
            self.next_keys_row += 1;
        }
        // Only now: a row of this very turn may be empty again already.
        let before = turn.batch.changes.len();
        for pos in std::mem::take(&mut turn.released_positions) {
            if let Some(row) = self.index_rows.release(pos) {
                turn.batch.changes.push(Change::DropIndex(row));
            }
        }
        if turn.batch.changes.len() > before {
            turn.batch.changes.push(Change::NextPos(self.next_pos));
        }
        for row in std::mem::take(&mut turn.released_keys) {
            if let Some(row) = self.key_rows.release(row) {
                turn.batch.changes.push(Change::DropKeys(row));
            }
        }
    }

    pub(super) fn set_timer(&mut self, no: GroupNo) {
        let Some(group) = self.groups.get_mut(&no) else { return };
        let wake = group.next_wake();
        if wake != group.wake {
            if let Some(before) = group.wake {
                self.timers.remove(&(before, no));
            }
            if let Some(at) = wake {
                self.timers.insert((at, no));
            }
            group.wake = wake;
        }
    }

    /// Writes the turn. In memory there is nothing to write.
    pub(crate) fn commit(&mut self, turn: &Turn) -> Result<(), StoreFault> {
        match &mut self.store {
            Some(store) if !turn.batch.is_empty() => store.commit(&turn.batch),
            _ => Ok(()),
        }
    }

    /// Notes that a record is in memory.
    pub(super) fn remember_tail(&mut self, stream: StreamNo, pos: u64, bytes: usize) {
        if self.is_stored() {
            let bytes = bytes + RECORD_OVERHEAD_BYTES;
            self.tail_order.push_back((stream, pos, bytes));
            self.tail_bytes += bytes;
        }
    }

    /// Lets the oldest records go from memory, once they are in the store.
    pub(crate) fn shrink_tail(&mut self) {
        while self.tail_bytes > self.options.tail_cache_bytes {
            let Some((stream, pos, bytes)) = self.tail_order.pop_front() else { break };
            self.tail_bytes -= bytes;
            if let Some(stream) = self.streams.get_mut(&stream) {
                stream.forget_record(pos);
            }
        }
    }

    /// Flushes what was committed without a flush.
    pub(crate) fn flush(&mut self) -> Result<(), StoreFault> {
        self.store.as_mut().map_or(Ok(()), Store::flush)
    }

    /// Lets go of the store.
    pub(crate) fn close(mut self, now: Now) -> Result<(), StoreFault> {
        let mut turn = Turn::new(now);
        self.write_tips(&mut turn);
        if let Some(mut store) = self.store.take() {
            if !turn.batch.is_empty() {
                store.commit(&turn.batch)?;
            }
            store.close()?;
        }
        Ok(())
    }

    /// Forgets a group in memory and lets the commit remove all of it.
    pub(super) fn remove_group(&mut self, turn: &mut Turn, no: GroupNo) {
        let Some(mut group) = self.groups.remove(&no) else { return };
        if let Some(at) = group.wake {
            self.timers.remove(&(at, no));
        }
        if let Some(stream) = self.streams.get_mut(&group.stream) {
            stream.groups.remove(&group.name);
        }
        for waiter in group.waiters.drain(..) {
            turn.answer(waiter.answer, Ok(None));
        }
        let rows = group.journal.clear();
        turn.batch.changes.push(Change::DropGroup { no, rows });
        turn.batch.flush = true;
    }
}
