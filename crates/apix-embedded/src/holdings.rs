//! What a group holds, by id. Events that stay long lie apart from those that come and go, so that
//! they do not make the way to these longer.

use std::collections::BTreeMap;

use apix::MessageId;

use crate::held::Held;

/// What is held, and the [segment](crate::journal) that the store has it in; 0 for none.
#[derive(Debug)]
pub(crate) struct Holding {
    pub(crate) held: Held,
    pub(crate) segment: u64,
}

/// Everything that a group holds. Each id is in one of the two.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    recent: BTreeMap<MessageId, Holding>,
    /// What was still held when the rows of the store were last written anew.
    resting: BTreeMap<MessageId, Holding>,
    /// No id of `resting` is greater.
    rests_to: Option<MessageId>,
}

impl Holdings {
    pub(crate) fn len(&self) -> usize {
        self.recent.len() + self.resting.len()
    }

    fn may_rest(&self, id: MessageId) -> bool {
        self.rests_to.is_some_and(|last| id <= last)
    }

    pub(crate) fn get(&self, id: MessageId) -> Option<&Holding> {
        match self.recent.get(&id) {
            None if self.may_rest(id) => self.resting.get(&id),
            recent => recent,
        }
    }

    pub(crate) fn get_mut(&mut self, id: MessageId) -> Option<&mut Holding> {
        let may_rest = self.may_rest(id);
        match self.recent.get_mut(&id) {
            None if may_rest => self.resting.get_mut(&id),
            recent => recent,
        }
    }

    /// Puts `held` in, in the place of what was there under its id.
    pub(crate) fn insert(&mut self, id: MessageId, held: Held) {
        if self.may_rest(id) {
            self.resting.remove(&id);
        }
        self.recent.insert(id, Holding { held, segment: 0 });
    }

    pub(crate) fn remove(&mut self, id: MessageId) -> Option<Held> {
        let may_rest = self.may_rest(id);
        let removed = match self.recent.remove(&id) {
            None if may_rest => self.resting.remove(&id),
            recent => recent,
        };
        removed.map(|holding| holding.held)
    }

    /// Notes that `id` is written in `segment`, and lets it rest.
    pub(crate) fn rest_in(&mut self, id: MessageId, segment: u64) {
        if let Some(holding) = self.recent.remove(&id) {
            self.resting.insert(id, Holding { segment, ..holding });
            self.rests_to = self.rests_to.max(Some(id));
        } else if let Some(holding) = self.resting.get_mut(&id) {
            holding.segment = segment;
        }
    }

    /// Lets everything rest.
    pub(crate) fn rest(&mut self) {
        self.resting.append(&mut self.recent);
        self.rests_to = self.resting.keys().next_back().copied();
    }

    /// The ids, in no order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = MessageId> + '_ {
        self.resting.keys().chain(self.recent.keys()).copied()
    }

    /// How many are not below `from`.
    pub(crate) fn count_from(&self, from: MessageId) -> usize {
        self.resting.range(from..).count() + self.recent.range(from..).count()
    }

    /// The oldest that is not below `from` and is `wanted`.
    pub(crate) fn first_from(
        &self,
        from: MessageId,
        wanted: impl Fn(&Held) -> bool,
    ) -> Option<MessageId> {
        let wanted = |(id, holding): (&MessageId, &Holding)| wanted(&holding.held).then_some(*id);
        let recent = self.recent.range(from..).find_map(wanted);
        // No further than that: there may be many.
        let end = recent.unwrap_or(MessageId::MAX);
        let resting = self.resting.range(from..=end.max(from)).find_map(wanted);
        resting.or(recent)
    }

    /// Takes everything out.
    pub(crate) fn take(&mut self) -> Vec<(MessageId, Held)> {
        let Self { recent, resting, .. } = std::mem::take(self);
        resting.into_iter().chain(recent).map(|(id, holding)| (id, holding.held)).collect()
    }
}
