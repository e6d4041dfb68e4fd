//! Retention: the oldest events go, but none that a group has not finished, up to the hard limit.

use std::collections::BTreeSet;

use apix::{MessageId, Result, StreamKey};

use super::state::Engine;
use super::turn::Turn;
use crate::clock::Now;
use crate::group::StreamNo;
use crate::slots::Slot;
use crate::store::Change;
use crate::stream_state::StreamState;

/// The most events that one call removes.
const MAX_TRIMMED: usize = 5_000;

/// The most events of deleted streams that go from the store in one turn.
const MAX_PURGED: usize = 5_000;

/// The most blocks of events that retention took that go from the store in one turn.
const MAX_PURGED_BLOCKS: usize = 100;

/// The most streams that are looked at in one turn only because time has passed.
const MAX_LOOKED_AT: usize = 2_000;

/// A consumer that holds nothing is forgotten after this: an hour.
const CONSUMER_IDLE_MS: u64 = 3_600 * 1_000;

/// Which streams to look at.
#[derive(Debug)]
pub(super) struct TrimPlan {
    pub(super) next_at: u64,
    /// Streams that something happened to since they were last looked at.
    marked: BTreeSet<StreamNo>,
    /// The stream that the round over all of them has come to.
    round: StreamNo,
}

impl TrimPlan {
    pub(super) fn starting(next_at: u64) -> Self {
        Self { next_at, marked: BTreeSet::new(), round: 0 }
    }

    pub(super) fn mark(&mut self, stream: StreamNo) {
        self.marked.insert(stream);
    }
}

impl Engine {
    /// Applies a stream's retention.
    pub(crate) fn trim(&mut self, turn: &mut Turn, key: &StreamKey) -> Result<u64> {
        let no = self.stream(key)?.no;
        Ok(self.trim_stream(turn, no) as u64)
    }

    /// The round that is made at intervals; at once again while there is more to remove.
    pub(super) fn trim_in_turn(&mut self, turn: &mut Turn) {
        if turn.now.elapsed_ms < self.trim.next_at {
            return;
        }
        let mut streams = std::mem::take(&mut self.trim.marked);
        let round: Vec<_> =
            self.streams.range(self.trim.round..).map(|(no, _)| *no).take(MAX_LOOKED_AT).collect();
        self.trim.round =
            if round.len() == MAX_LOOKED_AT { round[MAX_LOOKED_AT - 1] + 1 } else { 0 };
        let ended = self.trim.round == 0;
        streams.extend(round);
        let mut left = MAX_TRIMMED;
        while let Some(no) = streams.pop_first() {
            let removed = self.trim_stream(turn, no);
            if removed >= MAX_TRIMMED {
                streams.insert(no);
            }
            left = left.saturating_sub(removed);
            if left == 0 {
                break;
            }
        }
        if ended {
            self.forget_idle(turn);
        }
        let purging = self.purge_some(turn);
        let more = purging || !streams.is_empty() || !ended;
        self.trim.marked.append(&mut streams);
        let pause = if more { 1 } else { self.options.trim_every_ms };
        self.trim.next_at = turn.now.elapsed_ms + pause.min(self.options.trim_every_ms);
    }

    fn forget_idle(&mut self, turn: &mut Turn) {
        for group in self.groups.values_mut() {
            group.forget_consumers(CONSUMER_IDLE_MS, turn.now);
        }
        self.forget_feeds(turn);
    }

    /// Removes from the store what is in no stream any more. Returns whether there is more.
    fn purge_some(&mut self, turn: &mut Turn) -> bool {
        let some = self.purge.len().min(MAX_PURGED);
        let mut positions: Vec<u64> = self.purge.drain(..some).collect();
        positions.iter().for_each(|pos| self.dead.gone(*pos));
        positions.extend(self.dead.take(MAX_PURGED_BLOCKS));
        if !positions.is_empty() {
            // Rows of the index may go with these: what only they know is written first.
            self.write_tips(turn);
            turn.released_positions.extend(&positions);
            turn.batch.changes.push(Change::DropEntries(positions));
        }
        !self.purge.is_empty() || self.dead.is_due()
    }

    fn trim_stream(&mut self, turn: &mut Turn, no: StreamNo) -> usize {
        let Some(stream) = self.streams.get_mut(&no) else { return 0 };
        turn.released_keys.extend(stream.forget_keys(turn.now.unix_ms));
        if !has_excess(stream, turn.now) {
            return 0;
        }
        let pin = self.pin(no);
        let Some(stream) = self.streams.get_mut(&no) else { return 0 };
        let (mut removed, mut forced) = (Vec::new(), Vec::new());
        while removed.len() < MAX_TRIMMED {
            let Some(slot) = stream.slot(0) else { break };
            let kept = pin.is_some_and(|pin| slot.id() >= pin);
            if !(over_limits(stream, &slot, turn.now) && !kept || over_hard_limit(stream)) {
                break;
            }
            if kept {
                forced.push(slot.id());
            }
            stream.pop();
            removed.push(slot.pos);
        }
        if removed.is_empty() {
            return 0;
        }
        stream.hard_dropped += forced.len() as u64;
        if !forced.is_empty() {
            self.lose(turn, no, &forced);
        }
        self.write_stream(turn, no);
        if self.is_stored() {
            removed.iter().for_each(|pos| self.dead.add(*pos));
        }
        removed.len()
    }

    /// The oldest event that a group has not finished; nothing from there on may go.
    fn pin(&mut self, no: StreamNo) -> Option<MessageId> {
        let stream = self.streams.get(&no)?;
        let mut pins = Vec::new();
        for group in stream.groups.values() {
            let Some(group) = self.groups.get_mut(group) else { continue };
            pins.extend(group.oldest_pin());
            pins.extend(stream.slot(stream.first_after(group.cursor)).map(|slot| slot.id()));
        }
        pins.into_iter().min()
    }

    /// Counts what the hard limit took from groups, and leaves no trace of it there.
    fn lose(&mut self, turn: &mut Turn, no: StreamNo, removed: &[MessageId]) {
        let Some(stream) = self.streams.get(&no) else { return };
        tracing::warn!(
            tenant = %stream.tenant, stream = %stream.name, events = removed.len(),
            "the hard limit removed events that a group had not acknowledged"
        );
        for group_no in stream.groups.values() {
            let Some(group) = self.groups.get_mut(group_no) else { continue };
            let before = group.lost;
            for &id in removed {
                let held = group.held(id).map(|held| held.copy.is_some());
                match held {
                    Some(true) => {}
                    Some(false) => {
                        group.take(id);
                        group.lost += 1;
                    }
                    None => group.lost += u64::from(id > group.cursor),
                }
                group.cursor = group.cursor.max(id);
            }
            if group.lost != before {
                group.mark_changed();
                turn.touched.push(*group_no);
            }
        }
    }
}

fn has_excess(stream: &StreamState, now: Now) -> bool {
    stream.slot(0).is_some_and(|slot| over_limits(stream, &slot, now)) || over_hard_limit(stream)
}

fn over_limits(stream: &StreamState, slot: &Slot, now: Now) -> bool {
    let retention = &stream.settings.retention;
    let too_old = |age: u64| now.unix_ms.saturating_sub(slot.ms) > age;
    retention.max_age_ms.is_some_and(too_old)
        || retention.max_len.is_some_and(|most| stream.len() as u64 > most)
        || retention.max_bytes.is_some_and(|most| stream.bytes > most)
}

fn over_hard_limit(stream: &StreamState) -> bool {
    let most = stream.settings.retention.hard_max_bytes;
    most > 0 && stream.bytes > most
}
