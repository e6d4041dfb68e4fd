//! Giving events up, and what can be done with what was given up.

use apix::dead_letter::kept_reason;
use apix::{DeadLetterChoice, Error, ErrorKind, GroupKey, MessageId, Result};
use bytes::Bytes;

use super::state::Engine;
use super::turn::Turn;
use crate::codec::rows::DeadRecord;
use crate::group::GroupNo;
use crate::held::{Held, HeldState, Kept};
use crate::store::{Change, damaged};
use crate::waiting::Source;

/// The most dead letters that one turn does something with,
const PART: usize = 1_000;
/// and about how many bytes of events it moves: everybody else waits for the turn.
pub(super) const PART_BYTES: usize = 4 << 20;

/// Dead letters to do something with, those after `after`.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub(crate) which: DeadLetterChoice,
    pub(crate) after: Option<MessageId>,
}

/// What was done with a part of them.
#[derive(Debug)]
pub(crate) struct DonePart {
    pub(crate) count: u64,
    /// The last one that was looked at, if there may be more.
    pub(crate) more_after: Option<MessageId>,
}

impl DonePart {
    /// `done` of `chosen`, which are at most a part of all.
    fn of(chosen: &[MessageId], done: usize, count: u64) -> Self {
        let more = done < chosen.len() || chosen.len() == PART;
        let more_after = chosen[..done].last().copied().filter(|_| more);
        Self { count, more_after }
    }
}

/// Dead letters that were found: the records that are in memory; the others are in the store.
#[derive(Debug)]
pub(crate) struct FoundDead {
    pub(crate) group: GroupNo,
    pub(crate) letters: Vec<(MessageId, Option<Bytes>)>,
}

impl Engine {
    /// Gives up a held event. The dead letter is written in the commit that lets go of the event.
    /// Returns its bytes.
    pub(super) fn bury(
        &mut self,
        turn: &mut Turn,
        no: GroupNo,
        id: MessageId,
        reason: &str,
    ) -> Result<usize> {
        let (event, reason) = match self.held_record(turn, no, id) {
            Ok(record) => (record, kept_reason(reason)),
            // What cannot be read must not come back for ever: the letter says where it was.
            Err(fault) if fault.kind() == ErrorKind::Corrupt => {
                tracing::error!(event = %id, error = %fault, "gave up an event that cannot be read");
                (Bytes::new(), kept_reason(&format!("{reason}; {fault}")))
            }
            Err(fault) => return Err(fault),
        };
        let Some(group) = self.groups.get_mut(&no) else { return Ok(0) };
        let Some(held) = group.take(id) else { return Ok(0) };
        let copied = held.copy.is_some();
        let record = DeadRecord { reason, at_ms: turn.now.unix_ms, attempts: held.attempts, event };
        let data = Bytes::from(record.encode());
        let bytes = data.len();
        let here = self.store.is_none().then(|| data.clone());
        group.dead.insert(id, here);
        if copied {
            turn.batch.changes.push(Change::DropCopy { group: no, id });
        }
        turn.batch.changes.push(Change::PutDead { group: no, id, data });
        turn.batch.flush = true;
        self.trim.mark(group.stream);
        turn.touched.push(no);
        Ok(bytes)
    }

    /// The record of an event that the group holds, wherever it is.
    pub(super) fn held_record(&self, turn: &Turn, no: GroupNo, id: MessageId) -> Result<Bytes> {
        let missing =
            |what: &str| damaged(format_args!("apix.db: table {what}, event {id} of group {no}"));
        let group = self.groups.get(&no).ok_or_else(|| missing("consumer_group"))?;
        match group.held(id).and_then(|held| held.copy.as_ref()) {
            Some(Kept::Here(record)) => return Ok(record.clone()),
            Some(Kept::Stored) => {
                if let Some(record) = turn.batch.copy(no, id) {
                    return Ok(record);
                }
                let store = self.store.as_ref().ok_or_else(|| missing("group_copy"))?;
                let record = store.copy(no, id).map_err(|fault| fault.error)?;
                return record.ok_or_else(|| missing("group_copy"));
            }
            None => {}
        }
        let stream = self.streams.get(&group.stream).ok_or_else(|| missing("stream"))?;
        match (stream.source_of(id), &self.store) {
            (Some(Source::Cached(record)), _) => Ok(record),
            (Some(Source::Entry(pos)), Some(store)) => {
                let record = store.entry(pos).map_err(|fault| fault.error)?;
                record
                    .filter(|record| {
                        crate::codec::event::decode(&stream.tenant, id, record).is_some()
                    })
                    .ok_or_else(|| {
                        damaged(format_args!("apix.db: table entry, pos {pos}, event {id}"))
                    })
            }
            _ => Err(missing("entry")),
        }
    }

    /// A page of dead letters.
    pub(crate) fn dead_letters(
        &self,
        key: &GroupKey,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<FoundDead> {
        let group = self.group_no(key)?;
        let from = after.map_or(MessageId::MIN, MessageId::next);
        let state = self.groups.get(&group);
        let letters = state.into_iter().flat_map(|state| state.dead.range(from..)).take(limit);
        Ok(FoundDead { group, letters: letters.map(|(id, here)| (*id, here.clone())).collect() })
    }

    /// The next part of the chosen dead letters that there are.
    fn part(&self, no: GroupNo, chosen: &Chosen) -> Vec<MessageId> {
        let Some(group) = self.groups.get(&no) else { return Vec::new() };
        let from = chosen.after.map_or(MessageId::MIN, MessageId::next);
        match &chosen.which {
            DeadLetterChoice::All => {
                group.dead.range(from..).map(|(id, _)| *id).take(PART).collect()
            }
            DeadLetterChoice::Ids(ids) => {
                let there = |id: &MessageId| *id >= from && group.dead.contains_key(id);
                let mut ids: Vec<_> = ids.iter().copied().filter(there).collect();
                ids.sort_unstable();
                ids.dedup();
                ids.truncate(PART);
                ids
            }
        }
    }

    fn dead_record(&self, turn: &Turn, no: GroupNo, id: MessageId) -> Result<DeadRecord> {
        let damage = || damaged(format_args!("apix.db: table dead_letter, group {no}, event {id}"));
        let here = self.groups.get(&no).and_then(|group| group.dead.get(&id).cloned().flatten());
        let data = match (here.or_else(|| turn.batch.dead(no, id)), &self.store) {
            (Some(data), _) => Some(data),
            (None, Some(store)) => store.dead(no, id).map_err(|fault| fault.error)?,
            (None, None) => None,
        };
        data.and_then(DeadRecord::decode).ok_or_else(damage)
    }

    /// Hands a part of the dead letters out again.
    pub(crate) fn retry_dead_letters(
        &mut self,
        turn: &mut Turn,
        key: &GroupKey,
        chosen: &Chosen,
    ) -> Result<DonePart> {
        let no = self.group_no(key)?;
        let ids = self.part(no, chosen);
        let (mut records, mut done, mut bytes) = (Vec::new(), 0, 0);
        for id in &ids {
            let record = self.dead_record(turn, no, *id)?;
            done += 1;
            bytes += record.event.len();
            if !record.event.is_empty() {
                records.push((*id, record));
            }
            if bytes >= PART_BYTES {
                break;
            }
        }
        let count = records.len() as u64;
        for (id, record) in records {
            self.revive(turn, no, id, record);
        }
        turn.batch.flush |= count > 0;
        turn.touched.push(no);
        Ok(DonePart::of(&ids, done, count))
    }

    fn revive(&mut self, turn: &mut Turn, no: GroupNo, id: MessageId, record: DeadRecord) {
        let stored = self.store.is_some();
        let Some(group) = self.groups.get_mut(&no) else { return };
        group.dead.remove(&id);
        turn.batch.changes.push(Change::DropDead { group: no, id });
        // A group that was set back may hold the same event already: it comes once.
        if group.held(id).is_some() {
            return;
        }
        let copy = if stored {
            turn.batch.changes.push(Change::PutCopy { group: no, id, data: record.event });
            Kept::Stored
        } else {
            Kept::Here(record.event)
        };
        let state = HeldState::Due { since: turn.now.elapsed_ms };
        // The count begins again; what was tried before is not forgotten.
        let attempts = record.attempts;
        let held = Held { count: 0, consumer: None, state, attempts, copy: Some(copy) };
        group.put(id, held);
    }

    /// Drops a part of the dead letters.
    pub(crate) fn discard_dead_letters(
        &mut self,
        turn: &mut Turn,
        key: &GroupKey,
        chosen: &Chosen,
    ) -> Result<DonePart> {
        let no = self.group_no(key)?;
        let ids = self.part(no, chosen);
        if let Some(group) = self.groups.get_mut(&no) {
            for id in &ids {
                group.dead.remove(id);
                turn.batch.changes.push(Change::DropDead { group: no, id: *id });
            }
        }
        turn.batch.flush |= !ids.is_empty();
        Ok(DonePart::of(&ids, ids.len(), ids.len() as u64))
    }

    /// Whether an event that its reader did not find in the store should be there.
    pub(crate) fn should_have(&self, key: &apix::StreamKey, id: MessageId) -> Option<Error> {
        let source = self.stream(key).ok()?.source_of(id)?;
        let Source::Entry(pos) = source else { return None };
        Some(damaged(format_args!("apix.db: table entry, pos {pos}, event {id} of {key}")))
    }
}
