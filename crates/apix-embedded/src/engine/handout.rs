//! Handing out: first what is due again, then new events.

use apix::dead_letter::LEASE_EXPIRED;
use apix::{ConsumerName, GroupKey, Result};
use tokio::sync::oneshot;

use super::dead::PART_BYTES;
use super::state::Engine;
use super::turn::Turn;
use crate::clock::Now;
use crate::group::{GroupNo, GroupState};
use crate::held::Kept;
use crate::stream_state::StreamState;
use crate::waiting::{Found, FoundIn, Handed, Source, Waiter};

/// A read brings no more than this at once, but at least one event.
const MAX_READ_BYTES: usize = 16 << 20;

/// A lease that ended with an event that cannot be given up now is looked at again after this.
const LOOK_AGAIN_MS: u64 = 1_000;
/// What is too much for one turn is looked at again so soon.
const NEXT_PART_MS: u64 = 5;
/// What a copy whose event has left the stream counts for.
const UNKNOWN_BYTES: usize = 64 << 10;

/// A read of a group.
#[derive(Debug)]
pub(crate) struct GroupRead {
    pub(crate) consumer: ConsumerName,
    pub(crate) max_events: usize,
    pub(crate) wait_ms: u64,
}

impl Engine {
    /// Hands out what there is, or lets the reader wait.
    pub(crate) fn read_group(
        &mut self,
        turn: &mut Turn,
        key: &GroupKey,
        read: GroupRead,
        answer: oneshot::Sender<Result<Option<Handed>>>,
    ) {
        let group = match self.ensure_group(turn, key) {
            Ok(group) => group,
            Err(error) => return turn.answer(answer, Err(error)),
        };
        if let Some(state) = self.groups.get_mut(&group) {
            state.seen(&read.consumer, turn.now);
        }
        turn.touched.push(group);
        let until = turn.now.begun_ms.saturating_add(read.wait_ms);
        let GroupRead { consumer, max_events, wait_ms } = read;
        let waiter = Waiter { consumer, max_events: max_events.max(1), until, answer };
        // Whoever waited before is served before.
        self.serve_waiters(turn, group);
        if let Some(waiter) = self.serve(turn, group, waiter) {
            match self.groups.get_mut(&group) {
                Some(state) if wait_ms > 0 => state.waiters.push(waiter),
                _ => turn.answer(waiter.answer, Ok(None)),
            }
        }
    }

    /// Serves those who wait, in the order in which they came, and ends waits that are over.
    pub(super) fn serve_waiters(&mut self, turn: &mut Turn, no: GroupNo) {
        let Some(group) = self.groups.get_mut(&no) else { return };
        if group.waiters.is_empty() {
            return;
        }
        let mut left = Vec::new();
        for waiter in std::mem::take(&mut group.waiters) {
            let over = waiter.until <= turn.now.elapsed_ms;
            match self.serve(turn, no, waiter) {
                Some(waiter) if over => turn.answer(waiter.answer, Ok(None)),
                Some(waiter) => left.push(waiter),
                None => {}
            }
        }
        if let Some(group) = self.groups.get_mut(&no) {
            group.waiters = left;
        }
    }

    /// Serves one reader; gives it back if there is nothing for it.
    fn serve(&mut self, turn: &mut Turn, no: GroupNo, waiter: Waiter) -> Option<Waiter> {
        // A reader that has gone must not take deliveries with it.
        if waiter.answer.is_closed() {
            return None;
        }
        match self.hand_out(turn, no, &waiter.consumer, waiter.max_events) {
            Some(handed) => {
                turn.answer(waiter.answer, Ok(Some(handed)));
                None
            }
            None => Some(waiter),
        }
    }

    fn hand_out(
        &mut self,
        turn: &mut Turn,
        no: GroupNo,
        consumer: &ConsumerName,
        max_events: usize,
    ) -> Option<Handed> {
        self.pass_time(turn, no);
        let group = self.groups.get(&no)?;
        if group.settings.paused {
            return None;
        }
        let room = group
            .settings
            .max_in_flight
            .map_or(u64::MAX, |most| most.saturating_sub(group.in_flight()));
        let max = max_events.min(usize::try_from(room).unwrap_or(usize::MAX));
        let stream = self.streams.get(&group.stream)?;
        let mut handed = Handed {
            found: FoundIn {
                tenant: stream.tenant.clone(),
                stream: stream.name.clone(),
                events: Vec::new(),
            },
            counts: Vec::new(),
            lease_ms: group.settings.lease_ms,
            at: turn.now.instant,
        };
        let mut bytes = 0;
        self.hand_out_due(turn, no, consumer, max, &mut handed, &mut bytes);
        let stream = self.streams.get(&self.groups.get(&no)?.stream)?;
        let group = self.groups.get_mut(&no)?;
        hand_out_new(stream, group, consumer, max, &mut handed, &mut bytes, turn.now);
        (!handed.counts.is_empty()).then_some(handed)
    }

    fn hand_out_due(
        &mut self,
        turn: &mut Turn,
        no: GroupNo,
        consumer: &ConsumerName,
        max: usize,
        handed: &mut Handed,
        bytes: &mut usize,
    ) {
        let mut buried = 0;
        while handed.counts.len() < max && *bytes < MAX_READ_BYTES && buried < PART_BYTES {
            let Some(group) = self.groups.get_mut(&no) else { return };
            let Some(id) = group.next_ready() else { return };
            let Some(held) = group.held(id) else { return };
            if held.count >= group.settings.max_deliveries {
                let reason = held.attempts.last().map(|last| last.reason.clone());
                let reason = reason.unwrap_or_else(|| LEASE_EXPIRED.into());
                let Ok(letter) = self.bury(turn, no, id, &reason) else { return };
                buried += letter;
                continue;
            }
            let stream = self.streams.get(&group.stream);
            let source = match &held.copy {
                Some(Kept::Here(record)) => Some(Source::Cached(record.clone())),
                Some(Kept::Stored) => Some(Source::Copy(no)),
                None => stream.and_then(|stream| stream.source_of(id)),
            };
            let Some(source) = source else {
                // Retention lets go of what is held only by removing it here first.
                group.take(id);
                group.lost += 1;
                continue;
            };
            *bytes += size_of(&source, stream.and_then(|stream| stream.bytes_of(id)));
            handed.counts.push(group.hand(id, consumer, turn.now));
            handed.found.events.push(Found { id, source });
        }
    }

    /// Moves what is due, and gives up what was handed out too often: so much at a time that
    /// nobody else waits long for it.
    pub(super) fn pass_time(&mut self, turn: &mut Turn, no: GroupNo) {
        let Some(group) = self.groups.get_mut(&no) else { return };
        let most = group.settings.max_deliveries;
        let mut buried = 0;
        for id in group.pass_time(turn.now) {
            let Some(group) = self.groups.get_mut(&no) else { return };
            if group.held(id).is_none_or(|held| held.count < most) {
                continue;
            }
            if buried >= PART_BYTES {
                group.extend(id, NEXT_PART_MS, turn.now);
                continue;
            }
            group.lease_ended(id, turn.now);
            match self.bury(turn, no, id, LEASE_EXPIRED) {
                Ok(bytes) => buried += bytes,
                Err(_) => {
                    if let Some(group) = self.groups.get_mut(&no) {
                        group.extend(id, LOOK_AGAIN_MS, turn.now);
                    }
                }
            }
        }
    }
}

/// How much an answer grows by an event; `stored` is its size in the stream, if it is there.
fn size_of(source: &Source, stored: Option<usize>) -> usize {
    match source {
        Source::Cached(record) => record.len(),
        Source::Entry(_) | Source::Copy(_) => stored.unwrap_or(UNKNOWN_BYTES),
    }
}

/// Hands out events that the group has not seen.
fn hand_out_new(
    stream: &StreamState,
    group: &mut GroupState,
    consumer: &ConsumerName,
    max: usize,
    handed: &mut Handed,
    bytes: &mut usize,
    now: Now,
) {
    let mut index = stream.first_after(group.cursor);
    while handed.counts.len() < max && *bytes < MAX_READ_BYTES {
        let Some(slot) = stream.slot(index) else { return };
        let id = slot.id();
        group.cursor = id;
        group.mark_changed();
        // A dead letter that was retried after the group had been set back before it.
        if group.held(id).is_none()
            && let Some(source) = stream.source(index)
        {
            *bytes += slot.bytes as usize;
            handed.counts.push(group.hand(id, consumer, now));
            handed.found.events.push(Found { id, source });
        }
        index += 1;
    }
}
