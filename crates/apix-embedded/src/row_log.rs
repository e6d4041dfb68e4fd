//! Rows that hold several things each, and go when the last of them has gone.

use std::collections::VecDeque;

/// How many things each row still holds.
#[derive(Debug, Default)]
pub(crate) struct RowLog {
    rows: VecDeque<(u64, u32)>,
}

impl RowLog {
    /// Adds a row behind all others.
    pub(crate) fn add(&mut self, row: u64, live: usize) {
        self.rows.push_back((row, u32::try_from(live).unwrap_or(u32::MAX)));
    }

    /// One thing has gone from the row that begins at or before `at`. Returns that row if it was
    /// the last.
    pub(crate) fn release(&mut self, at: u64) -> Option<u64> {
        let index = self.rows.partition_point(|(row, _)| *row <= at).checked_sub(1)?;
        let (row, live) = self.rows.get_mut(index)?;
        *live = live.saturating_sub(1);
        let emptied = (*live == 0).then_some(*row);
        while self.rows.front().is_some_and(|(_, live)| *live == 0) {
            self.rows.pop_front();
        }
        emptied
    }
}
