//! Which events are out of their streams and still in the store.
//!
//! Events of all streams lie side by side in the order of appending. To remove each by itself would
//! write a page an event, so they are removed a block at a time: when all of a block is dead, and
//! once before, when most of it is.

use std::collections::{BTreeMap, VecDeque};

/// Events in a block: some neighbouring pages.
const BLOCK: u64 = 64;
/// A block is gone through for the first time when so many of its events are dead.
const MOST: u32 = 48;

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    dead: u64,
    removed: u64,
}

/// Dead events by blocks of positions.
#[derive(Debug, Default)]
pub(crate) struct DeadBlocks {
    blocks: BTreeMap<u64, Block>,
    due: VecDeque<u64>,
}

impl DeadBlocks {
    /// The event at `pos` is dead.
    pub(crate) fn add(&mut self, pos: u64) {
        let number = pos / BLOCK;
        let block = self.blocks.entry(number).or_default();
        block.dead |= 1 << (pos % BLOCK);
        if matches!(block.dead.count_ones(), MOST | u64::BITS) {
            self.due.push_back(number);
        }
    }

    /// The store does not have the event at `pos` any more.
    pub(crate) fn gone(&mut self, pos: u64) {
        let number = pos / BLOCK;
        let block = self.blocks.entry(number).or_default();
        block.dead |= 1 << (pos % BLOCK);
        block.removed |= 1 << (pos % BLOCK);
        if block.dead == u64::MAX {
            self.due.push_back(number);
        }
    }

    /// The store has none of the events in `first..end`. Only what shares a block with others is
    /// noted.
    pub(crate) fn gap(&mut self, first: u64, end: u64) {
        let (first_whole, end_whole) = (first.next_multiple_of(BLOCK), end / BLOCK * BLOCK);
        (first..first_whole.min(end)).chain(end_whole.max(first_whole)..end).for_each(|pos| {
            self.gone(pos);
        });
    }

    /// Dead events to be removed now, in ascending runs, of at most so many blocks.
    pub(crate) fn take(&mut self, most: usize) -> Vec<u64> {
        let mut positions = Vec::new();
        for number in self.due.drain(..most.min(self.due.len())) {
            let Some(block) = self.blocks.get_mut(&number) else { continue };
            let left = block.dead & !block.removed;
            positions.extend(
                (0..BLOCK).filter(|bit| left >> bit & 1 == 1).map(|bit| number * BLOCK + bit),
            );
            block.removed = block.dead;
            if block.removed == u64::MAX {
                self.blocks.remove(&number);
            }
        }
        positions
    }

    /// Whether there is something to remove now.
    pub(crate) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dead_event_is_removed_once() {
        let mut dead = DeadBlocks::default();
        let mut removed = Vec::new();
        for pos in (0..256).filter(|pos| pos % 4 != 0).chain((0..256).filter(|pos| pos % 4 == 0)) {
            dead.add(pos);
            if pos % 10 == 0 {
                removed.extend(dead.take(1));
            }
        }
        removed.extend(dead.take(usize::MAX));
        assert!(!dead.is_due() && dead.blocks.is_empty());
        removed.sort_unstable();
        assert_eq!(removed, (0..256).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_gone_completes_a_block() {
        let mut dead = DeadBlocks::default();
        dead.gap(1, 100);
        dead.gap(110, 1_000_001);
        (100..110).for_each(|pos| dead.add(pos));
        assert_eq!(dead.take(usize::MAX), (100..110).collect::<Vec<_>>());
        // The first position is 1, and the last block is not full yet.
        assert_eq!(dead.blocks.len(), 2);
    }
}
