//! Which rows of the store a group's state is in, so that writing it anew costs what has changed
//! and not what is held: a hundred thousand events that wait for hours are written once.
//!
//! Changes go to *young* rows. When these outweigh what would have to be written anew, what is still
//! held of them moves to *segments*: rows of which each tells the state of some events, and no other
//! row tells anything of these. A segment stays for as long as nothing happens to its events; the
//! first change to one of them makes it *spent*, and the next move takes the others along.

use std::collections::HashMap;

use apix::MessageId;

/// Young rows are not worth a move before so many bytes.
const MIN_YOUNG_BYTES: usize = 64 << 10;

/// Rows of the store, the events that they tell of, and their bytes.
#[derive(Debug, Default)]
struct Rows {
    rows: Vec<u64>,
    ids: Vec<MessageId>,
    bytes: usize,
}

impl Rows {
    fn add(&mut self, mut other: Self) {
        self.rows.append(&mut other.rows);
        self.ids.append(&mut other.ids);
        self.bytes += other.bytes;
    }
}

/// What the store has of a group beside its rows of their own.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    young: Rows,
    spent: Rows,
    segments: HashMap<u64, Rows>,
    /// Whether the row of the snapshot tells of events too.
    snapshot_spent: bool,
}

/// What a move takes along.
#[derive(Debug)]
pub(crate) struct Moved {
    /// Rows that go.
    pub(crate) rows: Vec<u64>,
    /// The events that they told of; those still held are to be written.
    pub(crate) ids: Vec<MessageId>,
    /// Whether the snapshot has to be voided.
    pub(crate) void_snapshot: bool,
}

impl Journal {
    /// Something happens to an event whose state is in the row `segment`; 0 is none.
    pub(crate) fn spend(&mut self, segment: u64) {
        if let Some(rows) = self.segments.remove(&segment) {
            self.spent.add(rows);
        }
    }

    /// Notes a row of changes.
    pub(crate) fn add_young(&mut self, row: u64, ids: &[MessageId], bytes: usize) {
        self.young.add(Rows { rows: vec![row], ids: ids.to_vec(), bytes });
    }

    /// Notes a segment.
    pub(crate) fn add_segment(&mut self, row: u64, ids: &[MessageId], bytes: usize) {
        self.segments.insert(row, Rows { rows: vec![row], ids: ids.to_vec(), bytes });
    }

    /// Notes a row that was found when the store was opened: all of them are spent.
    pub(crate) fn add_loaded(&mut self, row: u64, bytes: usize) {
        self.spent.add(Rows { rows: vec![row], ids: Vec::new(), bytes });
    }

    /// Notes the snapshot that was found when the store was opened.
    pub(crate) fn add_loaded_snapshot(&mut self, bytes: usize) {
        self.snapshot_spent = true;
        self.spent.bytes += bytes;
    }

    /// Notes what is held after all rows were found.
    pub(crate) fn loaded(&mut self, held: impl Iterator<Item = MessageId>) {
        self.spent.ids.extend(held);
    }

    /// Whether a move is worth what it writes.
    pub(crate) fn is_due(&self) -> bool {
        self.young.bytes > MIN_YOUNG_BYTES.max(self.spent.bytes)
    }

    /// Begins a move: what is to be written anew, and what goes.
    pub(crate) fn take(&mut self) -> Moved {
        let mut all = std::mem::take(&mut self.young);
        all.add(std::mem::take(&mut self.spent));
        all.rows.sort_unstable();
        let void_snapshot = std::mem::take(&mut self.snapshot_spent);
        Moved { rows: all.rows, ids: all.ids, void_snapshot }
    }

    /// Forgets everything. Returns all rows.
    pub(crate) fn clear(&mut self) -> Vec<u64> {
        let mut rows = self.take().rows;
        rows.extend(self.segments.drain().map(|(row, _)| row));
        rows.sort_unstable();
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<u64>) -> Vec<MessageId> {
        range.map(|seq| MessageId::new(1, seq)).collect()
    }

    #[test]
    fn a_segment_is_written_again_only_once_something_happened_to_it() {
        let mut journal = Journal::default();
        journal.add_segment(1, &ids(0..10), 1 << 20);
        journal.add_segment(2, &ids(10..20), 1 << 20);
        journal.add_young(3, &ids(20..21), MIN_YOUNG_BYTES + 1);
        assert!(journal.is_due(), "segments that rest cost nothing");
        let moved = journal.take();
        assert_eq!((moved.rows, moved.ids), (vec![3], ids(20..21)));
        journal.spend(2);
        journal.spend(2);
        journal.add_young(4, &ids(10..11), MIN_YOUNG_BYTES + 1);
        assert!(!journal.is_due(), "a spent segment is not worth so little");
        journal.add_young(5, &ids(11..12), 1 << 20);
        assert!(journal.is_due());
        let moved = journal.take();
        assert_eq!(moved.rows, [2, 4, 5]);
        assert_eq!(moved.ids.len(), 12);
        assert_eq!(journal.clear(), [1]);
    }
}
