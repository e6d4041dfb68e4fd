//! What one group holds: deliveries that are out, rejected events with their due times, events due
//! again, and the ids of its dead letters. All in memory; [`codec`](crate::codec::group) writes it.

use std::collections::BTreeMap;

use apix::{ConsumerName, GroupName, GroupSettings, Holder, MessageId};
use bytes::Bytes;

use crate::clock::Now;
use crate::held::{Agenda, Consumer, Held, HeldState, Kept};
use crate::holdings::{Holding, Holdings};
use crate::journal::Journal;
use crate::waiting::Waiter;

/// A number of a stream, never used twice in one folder.
pub(crate) type StreamNo = u64;
/// A number of a group, never used twice in one folder.
pub(crate) type GroupNo = u64;

/// The state of one consumer group.
#[derive(Debug)]
pub(crate) struct GroupState {
    pub(crate) no: GroupNo,
    pub(crate) stream: StreamNo,
    pub(crate) name: GroupName,
    pub(crate) settings: GroupSettings,
    /// The last event handed out for the first time; what is greater is unread.
    pub(crate) cursor: MessageId,
    /// Events that were removed before the group had finished them.
    pub(crate) lost: u64,
    held: Holdings,
    agenda: Agenda,
    /// Below this nothing pins the stream: where the search for the oldest pin begins.
    pin_hint: MessageId,
    /// Dead letters; their bodies are in the store, or here.
    pub(crate) dead: BTreeMap<MessageId, Option<Bytes>>,
    pub(crate) waiters: Vec<Waiter>,
    /// When it last read or settled.
    pub(crate) active: u64,
    pub(crate) journal: Journal,
    /// What the next commit writes: these ids,
    touched: Vec<MessageId>,
    /// and whether everything before them is void.
    reset: bool,
    changed: bool,
    /// The instant that it is registered to be woken at.
    pub(crate) wake: Option<u64>,
}

/// What a commit has to write of a group.
#[derive(Debug)]
pub(crate) struct GroupChanges {
    pub(crate) touched: Vec<MessageId>,
    pub(crate) reset: bool,
}

impl GroupState {
    pub(crate) fn new(no: GroupNo, stream: StreamNo, name: GroupName, now: Now) -> Self {
        Self {
            no,
            stream,
            name,
            settings: GroupSettings::default(),
            cursor: MessageId::MIN,
            lost: 0,
            held: Holdings::default(),
            agenda: Agenda::default(),
            pin_hint: MessageId::MIN,
            dead: BTreeMap::new(),
            waiters: Vec::new(),
            active: now.elapsed_ms,
            journal: Journal::default(),
            touched: Vec::new(),
            reset: false,
            changed: false,
            wake: None,
        }
    }

    pub(crate) fn held(&self, id: MessageId) -> Option<&Held> {
        self.held.get(id).map(|holding| &holding.held)
    }

    /// Everything that is held, in no order.
    pub(crate) fn held_ids(&self) -> impl Iterator<Item = MessageId> + '_ {
        self.held.ids()
    }

    pub(crate) fn held_after(&self, id: MessageId) -> usize {
        self.held.count_from(id.next())
    }

    pub(crate) fn oldest_held(&self) -> Option<MessageId> {
        self.held.first_from(MessageId::MIN, |_| true)
    }

    /// Deliveries that are out.
    pub(crate) fn in_flight(&self) -> u64 {
        self.agenda.leases.len() as u64
    }

    pub(crate) fn pending(&self) -> u64 {
        (self.agenda.leases.len() + self.agenda.expired) as u64
    }

    pub(crate) fn parked(&self) -> u64 {
        self.held.len() as u64 - self.pending()
    }

    pub(crate) fn consumers(&self) -> impl Iterator<Item = (&ConsumerName, &Consumer)> {
        self.agenda.consumers.iter()
    }

    /// The oldest held event that the stream has to keep.
    pub(crate) fn oldest_pin(&mut self) -> Option<MessageId> {
        let pin = self.held.first_from(self.pin_hint, |held| held.copy.is_none());
        self.pin_hint = pin.unwrap_or(self.cursor);
        pin
    }

    /// Notes that `consumer` was seen.
    pub(crate) fn seen(&mut self, consumer: &ConsumerName, now: Now) {
        self.active = now.elapsed_ms;
        match self.agenda.consumers.get_mut(consumer) {
            Some(known) => known.seen = now.elapsed_ms,
            None => {
                let known = Consumer { pending: 0, seen: now.elapsed_ms };
                self.agenda.consumers.insert(consumer.clone(), known);
            }
        }
    }

    /// Forgets consumers that hold nothing and were not seen for `idle_ms`.
    pub(crate) fn forget_consumers(&mut self, idle_ms: u64, now: Now) {
        self.agenda
            .consumers
            .retain(|_, known| known.pending > 0 || known.seen + idle_ms > now.elapsed_ms);
    }

    /// Puts an event in, in the place of what was held under its id.
    pub(crate) fn put(&mut self, id: MessageId, held: Held) {
        self.touch(id, self.held.get(id).map_or(0, |before| before.segment));
        self.restore(id, held);
    }

    /// [`put`](Self::put) of what the store already has.
    pub(crate) fn restore(&mut self, id: MessageId, held: Held) {
        if let Some(before) = self.held.get(id) {
            self.agenda.remove(id, &before.held);
        }
        self.agenda.add(id, &held);
        self.pin_hint = self.pin_hint.min(id);
        self.held.insert(id, held);
    }

    /// Takes an event out: it is finished, or given up, or lost.
    pub(crate) fn take(&mut self, id: MessageId) -> Option<Held> {
        let segment = self.held.get(id)?.segment;
        self.touch(id, segment);
        self.unrestore(id)
    }

    /// [`take`](Self::take) of what the store no longer has.
    pub(crate) fn unrestore(&mut self, id: MessageId) -> Option<Held> {
        let held = self.held.remove(id)?;
        self.agenda.remove(id, &held);
        Some(held)
    }

    /// Changes what is held; `kept` says that the store need not know.
    fn change(&mut self, id: MessageId, kept: bool, change: impl FnOnce(&mut Held)) {
        if let Some(Holding { held, segment }) = self.held.get_mut(id) {
            self.agenda.remove(id, held);
            change(held);
            self.agenda.add(id, held);
            if !kept {
                let segment = std::mem::take(segment);
                self.touch(id, segment);
            }
        }
    }

    /// The next commit writes what becomes of `id`, which was in `segment`.
    fn touch(&mut self, id: MessageId, segment: u64) {
        self.journal.spend(segment);
        self.touched.push(id);
    }

    /// Notes that `id` is written in `segment` alone.
    pub(crate) fn settle_in(&mut self, id: MessageId, segment: u64) {
        self.held.rest_in(id, segment);
    }

    /// Notes that all rows of the store were read.
    pub(crate) fn note_loaded(&mut self) {
        self.held.rest();
        self.journal.loaded(self.held.ids());
    }

    /// Hands an event to `consumer`, for the first time or again. Returns the delivery count.
    pub(crate) fn hand(&mut self, id: MessageId, consumer: &ConsumerName, now: Now) -> u32 {
        let state = HeldState::Out { until: now.begun_ms + self.settings.lease_ms };
        if self.held.get(id).is_none() {
            let consumer = Some(consumer.clone());
            self.put(id, Held { count: 1, consumer, state, attempts: Vec::new(), copy: None });
            return 1;
        }
        let mut count = 0;
        self.change(id, false, |held| {
            held.note_lease_end(now);
            held.count = held.count.saturating_add(1);
            held.consumer = Some(consumer.clone());
            held.state = state;
            count = held.count;
        });
        count
    }

    /// Remembers that the lease of an event ended which is now given up.
    pub(crate) fn lease_ended(&mut self, id: MessageId, now: Now) {
        self.change(id, true, |held| held.note_lease_end(now));
    }

    /// Remembers why a delivery failed of an event that is now given up.
    pub(crate) fn reject(&mut self, id: MessageId, reason: &str, now: Now) {
        self.change(id, true, |held| held.failed(now.unix_ms, reason));
    }

    /// Lets a rejected event wait for `delay_ms`.
    pub(crate) fn park(&mut self, id: MessageId, delay_ms: u64, reason: &str, now: Now) {
        self.change(id, false, |held| {
            held.failed(now.unix_ms, reason);
            held.state = HeldState::Parked {
                until: now.begun_ms.saturating_add(delay_ms),
                due_unix_ms: now.unix_ms.saturating_add(delay_ms),
                delay_ms,
            };
        });
    }

    /// Notes that an event is kept beside its stream.
    pub(crate) fn keep_copy(&mut self, id: MessageId, copy: Kept) {
        self.change(id, false, |held| held.copy = Some(copy));
    }

    /// Makes the lease of an event that is out, or was, last `lease_ms` from now.
    pub(crate) fn extend(&mut self, id: MessageId, lease_ms: u64, now: Now) {
        let until = now.begun_ms.saturating_add(lease_ms);
        self.change(id, true, |held| held.state = HeldState::Out { until });
    }

    /// Replaces the settings. A shorter lease holds for what is out too, from now on.
    pub(crate) fn set_settings(&mut self, settings: GroupSettings, now: Now) {
        let until = now.begun_ms.saturating_add(settings.lease_ms);
        if settings.lease_ms < self.settings.lease_ms {
            let longer = self.agenda.leases.range((until + 1, MessageId::MIN)..);
            let longer: Vec<MessageId> = longer.map(|(_, id)| *id).collect();
            for id in longer {
                self.change(id, true, |held| held.state = HeldState::Out { until });
            }
        }
        self.settings = settings;
    }

    /// Moves what is due by now: parked events become ready, and so do those whose lease ended,
    /// which are returned.
    pub(crate) fn pass_time(&mut self, now: Now) -> Vec<MessageId> {
        while let Some(&(until, id)) = self.agenda.parked.first() {
            if until > now.elapsed_ms {
                break;
            }
            self.change(id, false, |held| held.state = HeldState::Due { since: until });
        }
        let mut expired = Vec::new();
        while let Some(&(until, id)) = self.agenda.leases.first() {
            if until > now.elapsed_ms {
                break;
            }
            self.change(id, true, |held| held.state = HeldState::Expired { since: until });
            expired.push(id);
        }
        expired
    }

    /// The event that waits longest to be handed out again.
    pub(crate) fn next_ready(&self) -> Option<MessageId> {
        self.agenda.ready.first().map(|(_, id)| *id)
    }

    /// When time next changes something here.
    pub(crate) fn next_wake(&self) -> Option<u64> {
        let lease = self.agenda.leases.first().map(|(until, _)| *until);
        let parked = self.agenda.parked.first().map(|(until, _)| *until);
        let waiter = self.waiters.iter().map(|waiter| waiter.until).min();
        [lease, parked, waiter].into_iter().flatten().min()
    }

    /// Whether `holder`, or anyone if none is named, has the event.
    pub(crate) fn is_held_by(&self, id: MessageId, holder: Option<&Holder>) -> bool {
        let Some(held) = self.held(id).filter(|held| held.is_pending()) else { return false };
        holder.is_none_or(|holder| {
            held.consumer.as_ref() == Some(&holder.consumer)
                && holder.delivery_count.is_none_or(|count| count == held.count)
        })
    }

    /// Lets everything go and reads on after `cursor`.
    pub(crate) fn seek(&mut self, cursor: MessageId) -> Vec<(MessageId, Held)> {
        self.cursor = cursor;
        self.reset = true;
        self.touched.clear();
        self.clear_held()
    }

    /// Lets everything go.
    pub(crate) fn clear_held(&mut self) -> Vec<(MessageId, Held)> {
        let mut consumers = std::mem::take(&mut self.agenda.consumers);
        consumers.values_mut().for_each(|consumer| consumer.pending = 0);
        self.agenda = Agenda { consumers, ..Agenda::default() };
        self.pin_hint = MessageId::MIN;
        self.held.take()
    }

    /// The cursor or a counter changed.
    pub(crate) fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// What changed since the last commit, if anything did.
    pub(crate) fn take_changes(&mut self) -> Option<GroupChanges> {
        if self.touched.is_empty() && !self.reset && !self.changed {
            return None;
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        self.changed = false;
        Some(GroupChanges { touched, reset: std::mem::take(&mut self.reset) })
    }
}
