//! Where the events of one stream are, in order: sixteen bytes an event, in pieces of which each
//! counts from its own base, so that nothing large is ever moved or doubled.

use std::collections::VecDeque;

use apix::MessageId;

/// The most events in one piece: 8 KiB.
const PIECE: usize = 512;

/// Where one event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) ms: u64,
    pub(crate) seq: u64,
    pub(crate) pos: u64,
    pub(crate) bytes: u32,
}

impl Slot {
    pub(crate) fn id(&self) -> MessageId {
        MessageId::new(self.ms, self.seq)
    }
}

/// A slot, counted from the base of its piece.
#[derive(Clone, Copy, Debug)]
struct Packed {
    ms: u32,
    seq: u32,
    pos: u32,
    bytes: u32,
}

/// Slots that follow each other.
#[derive(Debug)]
struct Piece {
    /// How many slots were ever pushed before the first one of this piece.
    before: u64,
    base: Slot,
    packed: Vec<Packed>,
}

impl Piece {
    /// A piece that `slot` fits into.
    fn starting(before: u64, slot: &Slot) -> Self {
        // The number within a millisecond begins anew with each; it is small unless a clock stood
        // still for billions of events.
        let seq = if u32::try_from(slot.seq).is_ok() { 0 } else { slot.seq };
        Self { before, base: Slot { seq, ..*slot }, packed: Vec::new() }
    }

    /// The slot as it is kept here, unless it does not fit.
    fn pack(&self, slot: &Slot) -> Option<Packed> {
        let from = |value: u64, base: u64| u32::try_from(value.checked_sub(base)?).ok();
        Some(Packed {
            ms: from(slot.ms, self.base.ms)?,
            seq: from(slot.seq, self.base.seq)?,
            pos: from(slot.pos, self.base.pos)?,
            bytes: slot.bytes,
        })
    }

    fn unpack(&self, packed: &Packed) -> Slot {
        Slot {
            ms: self.base.ms + u64::from(packed.ms),
            seq: self.base.seq + u64::from(packed.seq),
            pos: self.base.pos + u64::from(packed.pos),
            bytes: packed.bytes,
        }
    }

    /// Whether any of its slots is one that `below` does not hold for.
    fn ends_beyond(&self, below: impl Fn(MessageId) -> bool) -> bool {
        self.packed.last().is_some_and(|last| !below(self.unpack(last).id()))
    }
}

/// The slots of one stream, in ascending order of ids and positions.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    /// None of them is empty.
    pieces: VecDeque<Piece>,
    /// How many slots were ever pushed, and popped.
    pushed: u64,
    popped: u64,
}

impl Slots {
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.pushed - self.popped).unwrap_or(usize::MAX)
    }

    pub(crate) fn get(&self, index: usize) -> Option<Slot> {
        let number = self.popped + index as u64;
        if number >= self.pushed {
            return None;
        }
        let piece = self.pieces.partition_point(|piece| piece.before <= number).checked_sub(1)?;
        let piece = self.pieces.get(piece)?;
        let within = usize::try_from(number - piece.before).ok()?;
        piece.packed.get(within).map(|packed| piece.unpack(packed))
    }

    pub(crate) fn last(&self) -> Option<Slot> {
        let piece = self.pieces.back()?;
        piece.packed.last().map(|packed| piece.unpack(packed))
    }

    /// The index of the first slot that `below` does not hold for; it must hold for all before it
    /// and for none after it.
    pub(crate) fn partition_point(&self, below: impl Fn(MessageId) -> bool) -> usize {
        let found = self.pieces.partition_point(|piece| !piece.ends_beyond(&below));
        let Some(piece) = self.pieces.get(found) else { return self.len() };
        let within = piece.packed.partition_point(|packed| below(piece.unpack(packed).id()));
        // Popped slots may still lie in the first piece.
        let number = (piece.before + within as u64).max(self.popped);
        usize::try_from(number - self.popped).unwrap_or(usize::MAX)
    }

    /// Adds a slot behind all others.
    pub(crate) fn push(&mut self, slot: &Slot) {
        let open = self.pieces.back_mut().filter(|piece| piece.packed.len() < PIECE);
        match open.and_then(|piece| piece.pack(slot).map(|packed| (piece, packed))) {
            Some((piece, packed)) => piece.packed.push(packed),
            None => {
                let mut piece = Piece::starting(self.pushed, slot);
                piece.packed.extend(piece.pack(slot));
                self.pieces.push_back(piece);
            }
        }
        self.pushed += 1;
    }

    /// Removes the first slot. Its memory goes with the last one of its piece.
    pub(crate) fn pop(&mut self) -> Option<Slot> {
        let first = self.get(0)?;
        self.popped += 1;
        let used_up = |piece: &Piece| piece.before + piece.packed.len() as u64 <= self.popped;
        if self.pieces.front().is_some_and(used_up) {
            self.pieces.pop_front();
        }
        Some(first)
    }

    /// All slots, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.pieces.iter().flat_map(|piece| {
            let gone = usize::try_from(self.popped.saturating_sub(piece.before)).unwrap_or(0);
            piece.packed.iter().skip(gone).map(|packed| piece.unpack(packed))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot(ms: u64, seq: u64, pos: u64) -> Slot {
        Slot { ms, seq, pos, bytes: 7 }
    }

    /// The same slots in the plainest way.
    fn compare(slots: &Slots, model: &VecDeque<Slot>) {
        assert_eq!(slots.len(), model.len());
        assert_eq!(slots.last(), model.back().copied());
        assert_eq!(slots.get(model.len()), None);
        assert!(slots.iter().eq(model.iter().copied()));
        for (index, one) in model.iter().enumerate() {
            assert_eq!(slots.get(index), Some(*one));
            assert_eq!(slots.partition_point(|id| id < one.id()), index);
            assert_eq!(slots.partition_point(|id| id <= one.id()), index + 1);
        }
        assert_eq!(slots.partition_point(|_| true), model.len());
        assert_eq!(slots.partition_point(|_| false), 0);
    }

    #[test]
    fn what_does_not_fit_begins_a_piece() {
        let far = u64::from(u32::MAX) + 1;
        let ids = [(1, 0, 1), (1, 1, 2), (1, far, 3), (1, far + 1, 4), (2, 0, 5), (2, 1, far + 9)];
        let (mut slots, mut model) = (Slots::default(), VecDeque::new());
        for (ms, seq, pos) in ids {
            slots.push(&slot(ms, seq, pos));
            model.push_back(slot(ms, seq, pos));
            compare(&slots, &model);
        }
        slots.push(&slot(u64::MAX, u64::MAX, u64::MAX));
        assert_eq!(slots.last(), Some(slot(u64::MAX, u64::MAX, u64::MAX)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn they_are_what_a_plain_queue_is(
            steps in proptest::collection::vec((0_u64..3, 1_usize..400, 0_usize..300), 1..12),
        ) {
            let (mut slots, mut model) = (Slots::default(), VecDeque::new());
            let (mut ms, mut seq, mut pos) = (1, 0, 1);
            for (jump, push, pop) in steps {
                for at in 0..push {
                    // Mostly the same millisecond, sometimes the next, sometimes weeks later.
                    if at % 10 == 0 {
                        let step = [0, 1, 1 << 31][usize::try_from(jump).unwrap()];
                        (ms, seq) = if step == 0 { (ms, seq + 1) } else { (ms + step, 0) };
                    } else {
                        seq += 1;
                    }
                    pos += 1 + jump;
                    slots.push(&slot(ms, seq, pos));
                    model.push_back(slot(ms, seq, pos));
                }
                for _ in 0..pop {
                    prop_assert_eq!(slots.pop(), model.pop_front());
                }
                compare(&slots, &model);
            }
        }
    }
}
