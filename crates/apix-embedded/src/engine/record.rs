//! Writing down what changed in groups.

use apix::MessageId;

use super::state::Engine;
use super::turn::Turn;
use crate::codec::group as group_codec;
use crate::group::{GroupNo, GroupState};
use crate::store::Change;

/// Events with all their attempts take up to 22 KiB each: so a row stays far below what SQLite can
/// hold.
const HELD_PER_ROW: usize = 5_000;

/// So many share a segment, and are written again when something happens to one of them.
const HELD_PER_SEGMENT: usize = 256;

impl Engine {
    /// Lets the commit write what changed in a group.
    pub(super) fn write_group_changes(&mut self, turn: &mut Turn, no: GroupNo) {
        let Some(group) = self.groups.get_mut(&no) else { return };
        let Some(changes) = group.take_changes() else { return };
        if self.store.is_none() {
            return;
        }
        if changes.reset {
            let rows = group.journal.clear();
            void(turn, group, &mut self.next_change_row, rows);
            let mut held: Vec<_> = group.held_ids().collect();
            held.sort_unstable();
            if !held.is_empty() {
                write_young(turn, group, &mut self.next_change_row, &held);
            }
        } else if group.journal.is_due() {
            move_held(turn, group, &mut self.next_change_row, changes.touched);
        } else {
            write_young(turn, group, &mut self.next_change_row, &changes.touched);
        }
    }
}

/// Writes that nothing is held, whatever rows there were.
fn void(turn: &mut Turn, group: &GroupState, next_row: &mut u64, rows: Vec<u64>) {
    let nothing = std::iter::empty();
    let data = group_codec::encode(group.cursor, group.lost, true, 0, nothing);
    let upto = take_row(next_row);
    turn.batch.changes.push(Change::PutSnapshot { group: group.no, upto, data, rows });
}

/// Writes what became of some events.
fn write_young(turn: &mut Turn, group: &mut GroupState, next_row: &mut u64, ids: &[MessageId]) {
    for some in parts(ids, HELD_PER_ROW) {
        let (row, bytes) = write_row(turn, group, next_row, some);
        group.journal.add_young(row, some, bytes);
    }
}

/// Writes what is held of `touched` and of all that was written before outside of segments, into
/// segments; the rows that told of it go.
fn move_held(turn: &mut Turn, group: &mut GroupState, next_row: &mut u64, touched: Vec<MessageId>) {
    let moved = group.journal.take();
    if moved.void_snapshot {
        void(turn, group, next_row, moved.rows);
    } else {
        turn.batch.changes.push(Change::DropDeltas(moved.rows));
    }
    let mut ids = touched;
    ids.extend(moved.ids);
    ids.sort_unstable();
    ids.dedup();
    ids.retain(|id| group.held(*id).is_some());
    if ids.is_empty() {
        return write_young(turn, group, next_row, &[]);
    }
    for some in parts(&ids, HELD_PER_SEGMENT) {
        let (row, bytes) = write_row(turn, group, next_row, some);
        some.iter().for_each(|id| group.settle_in(*id, row));
        group.journal.add_segment(row, some, bytes);
    }
}

/// At least one part, also of nothing: for the cursor.
fn parts(ids: &[MessageId], most: usize) -> impl Iterator<Item = &[MessageId]> {
    let whole = ids.is_empty().then_some(ids);
    ids.chunks(most).chain(whole)
}

fn write_row(
    turn: &mut Turn,
    group: &GroupState,
    next_row: &mut u64,
    ids: &[MessageId],
) -> (u64, usize) {
    let held = ids.iter().map(|id| (*id, group.held(*id)));
    let data = group_codec::encode(group.cursor, group.lost, false, ids.len(), held);
    let (row, bytes) = (take_row(next_row), data.len());
    turn.batch.changes.push(Change::PutDelta { row, group: group.no, data });
    (row, bytes)
}

fn take_row(next_row: &mut u64) -> u64 {
    *next_row += 1;
    *next_row - 1
}
