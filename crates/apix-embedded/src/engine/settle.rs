//! Settling: acknowledge, retry, give up, extend.

use std::time::Duration;

use apix::{
    Acknowledged, Error, ErrorKind, GroupKey, MessageId, Receipt, Result, Settled, Settlement,
};

use super::state::Engine;
use super::turn::Turn;
use crate::clock::whole_ms;
use crate::group::GroupNo;
use crate::held::Kept;
use crate::store::Change;

/// A retry due later than this is kept beside the stream, which then need not keep the event.
const LONG_RETRY_MS: u64 = 60_000;

impl Engine {
    /// Acknowledges deliveries.
    pub(crate) fn acknowledge(
        &mut self,
        turn: &mut Turn,
        key: &GroupKey,
        receipts: &[Receipt],
    ) -> Acknowledged {
        let mut done = Acknowledged::default();
        let group = self.group_no(key).ok();
        for receipt in receipts {
            let Some(no) = group else { continue };
            if self.finish_event(turn, no, receipt) {
                done.count += 1;
            } else if self.is_held(no, receipt.message_id) {
                done.lease_lost.push(receipt.message_id);
            }
        }
        if let Some(no) = group {
            self.note_settled(turn, no, receipts.iter());
        }
        done
    }

    fn is_held(&self, no: GroupNo, id: MessageId) -> bool {
        self.groups.get(&no).is_some_and(|group| group.held(id).is_some())
    }

    /// Removes what is held if the receipt may do so. Without a holder it may also finish an event
    /// that waits for its retry: its work is done, whoever did it.
    fn finish_event(&mut self, turn: &mut Turn, no: GroupNo, receipt: &Receipt) -> bool {
        let Some(group) = self.groups.get_mut(&no) else { return false };
        let id = receipt.message_id;
        let waits = receipt.holder.is_none() && group.held(id).is_some();
        if !waits && !group.is_held_by(id, receipt.holder.as_ref()) {
            return false;
        }
        if group.take(id).is_some_and(|held| held.copy.is_some()) {
            turn.batch.changes.push(Change::DropCopy { group: no, id });
        }
        true
    }

    fn note_settled<'a>(
        &mut self,
        turn: &mut Turn,
        no: GroupNo,
        receipts: impl Iterator<Item = &'a Receipt>,
    ) {
        turn.touched.push(no);
        let Some(group) = self.groups.get_mut(&no) else { return };
        group.active = turn.now.elapsed_ms;
        for holder in receipts.filter_map(|receipt| receipt.holder.as_ref()) {
            group.seen(&holder.consumer, turn.now);
        }
        self.trim.mark(group.stream);
    }

    /// Settles deliveries, each by itself.
    pub(crate) fn settle(
        &mut self,
        turn: &mut Turn,
        key: &GroupKey,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Vec<Result<Settled>> {
        let Ok(no) = self.group_no(key) else {
            return settlements.iter().map(|(receipt, _)| Err(lost(receipt.message_id))).collect();
        };
        let results = settlements
            .iter()
            .map(|(receipt, settlement)| self.settle_one(turn, no, receipt, settlement))
            .collect();
        self.note_settled(turn, no, settlements.iter().map(|(receipt, _)| receipt));
        results
    }

    fn settle_one(
        &mut self,
        turn: &mut Turn,
        no: GroupNo,
        receipt: &Receipt,
        settlement: &Settlement,
    ) -> Result<Settled> {
        let id = receipt.message_id;
        let group = self.groups.get_mut(&no).ok_or_else(|| lost(id))?;
        if !group.is_held_by(id, receipt.holder.as_ref()) {
            return Err(lost(id));
        }
        let count = group.held(id).map_or(0, |held| held.count);
        match settlement {
            Settlement::Extend { lease } => {
                let lease_ms = whole_ms(*lease);
                group.extend(id, lease_ms, turn.now);
                Ok(Settled::HeldUntil(turn.now.system_time_in(lease_ms)))
            }
            Settlement::Retry { after, reason } if count < group.settings.max_deliveries => {
                let after = after.unwrap_or_else(|| group.settings.backoff.random_delay(count));
                self.park(turn, no, id, after, reason)
            }
            Settlement::Retry { reason, .. } | Settlement::DeadLetter { reason } => {
                group.reject(id, reason, turn.now);
                self.bury(turn, no, id, reason)?;
                Ok(Settled::DeadLettered)
            }
        }
    }

    fn park(
        &mut self,
        turn: &mut Turn,
        no: GroupNo,
        id: MessageId,
        after: Duration,
        reason: &str,
    ) -> Result<Settled> {
        let delay_ms = whole_ms(after);
        if delay_ms > LONG_RETRY_MS {
            let record = self.held_record(turn, no, id)?;
            let kept = if self.is_stored() {
                turn.batch.changes.push(Change::PutCopy { group: no, id, data: record });
                Kept::Stored
            } else {
                Kept::Here(record)
            };
            if let Some(group) = self.groups.get_mut(&no) {
                group.keep_copy(id, kept);
            }
        }
        let group = self.groups.get_mut(&no).ok_or_else(|| lost(id))?;
        group.park(id, delay_ms, reason, turn.now);
        Ok(Settled::RetryAt(turn.now.system_time_in(delay_ms)))
    }
}

fn lost(id: MessageId) -> Error {
    Error::new(
        ErrorKind::LeaseLost,
        format!(
            "the event {id} is not held by this consumer with this delivery count; it was settled, \
             or its lease ended and another has it"
        ),
    )
}
