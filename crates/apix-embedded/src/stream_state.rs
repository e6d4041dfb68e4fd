//! One stream in memory: where its events are, the newest of them, and its idempotency keys.

use std::collections::{BTreeMap, HashMap, VecDeque};

use apix::{Epoch, GroupName, IdempotencyWindow, MessageId, StreamName, StreamSettings, TenantId};
use bytes::Bytes;
use bytestring::ByteString;

use crate::codec::rows::StreamRecord;
use crate::group::{GroupNo, StreamNo};
use crate::slots::{Slot, Slots};
use crate::waiting::Source;

/// One stream.
#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) no: StreamNo,
    pub(crate) tenant: TenantId,
    pub(crate) name: StreamName,
    pub(crate) epoch: Epoch,
    pub(crate) settings: StreamSettings,
    pub(crate) last_id: Option<MessageId>,
    pub(crate) trimmed_to: Option<MessageId>,
    pub(crate) hard_dropped: u64,
    pub(crate) groups: BTreeMap<GroupName, GroupNo>,
    pub(crate) keys: KeyWindow,
    /// Stored bytes of all events.
    pub(crate) bytes: u64,
    slots: Slots,
    /// The records of the newest events: of the last `tail.len()` slots.
    tail: VecDeque<Bytes>,
}

impl StreamState {
    pub(crate) fn new(no: StreamNo, tenant: TenantId, name: StreamName, row: StreamRecord) -> Self {
        Self {
            no,
            tenant,
            name,
            epoch: row.epoch,
            settings: row.settings,
            last_id: row.last_id,
            trimmed_to: row.trimmed_to,
            hard_dropped: row.hard_dropped,
            groups: BTreeMap::new(),
            keys: KeyWindow::default(),
            bytes: 0,
            slots: Slots::default(),
            tail: VecDeque::new(),
        }
    }

    /// What the store keeps of the stream itself.
    pub(crate) fn record(&self) -> StreamRecord {
        StreamRecord {
            epoch: self.epoch.clone(),
            last_id: self.last_id,
            trimmed_to: self.trimmed_to,
            hard_dropped: self.hard_dropped,
            settings: self.settings.clone(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The `index`-th event that is kept.
    pub(crate) fn slot(&self, index: usize) -> Option<Slot> {
        self.slots.get(index)
    }

    /// The index of the first event that is not below `id`.
    pub(crate) fn first_from(&self, id: MessageId) -> usize {
        self.slots.partition_point(|each| each < id)
    }

    /// The index of the first event above `id`.
    pub(crate) fn first_after(&self, id: MessageId) -> usize {
        // Readers mostly stand at the end.
        if self.slots.last().is_none_or(|last| last.id() <= id) {
            return self.slots.len();
        }
        self.slots.partition_point(|each| each <= id)
    }

    /// Where the `index`-th event is.
    pub(crate) fn source(&self, index: usize) -> Option<Source> {
        let before_tail = self.slots.len() - self.tail.len();
        match index.checked_sub(before_tail).and_then(|index| self.tail.get(index)) {
            Some(record) => Some(Source::Cached(record.clone())),
            None => self.slots.get(index).map(|slot| Source::Entry(slot.pos)),
        }
    }

    /// Where the event `id` is, if it is kept.
    pub(crate) fn source_of(&self, id: MessageId) -> Option<Source> {
        let index = self.first_from(id);
        self.slots.get(index).filter(|slot| slot.id() == id)?;
        self.source(index)
    }

    /// The bytes of an event that is kept.
    pub(crate) fn bytes_of(&self, id: MessageId) -> Option<usize> {
        let slot = self.slots.get(self.first_from(id)).filter(|slot| slot.id() == id)?;
        usize::try_from(slot.bytes).ok()
    }

    /// Adds an event behind all others. `record` is what the tail keeps of it; only an event whose
    /// successors are kept too may be without.
    pub(crate) fn push(&mut self, slot: Slot, record: Option<Bytes>) {
        self.last_id = Some(slot.id());
        self.bytes += u64::from(slot.bytes);
        self.slots.push(&slot);
        if let Some(record) = record {
            self.tail.push_back(record);
        }
    }

    /// Removes the oldest event.
    pub(crate) fn pop(&mut self) -> Option<Slot> {
        let slot = self.slots.pop()?;
        self.bytes -= u64::from(slot.bytes);
        if self.tail.len() > self.slots.len() {
            self.tail.pop_front();
        }
        self.trimmed_to = Some(slot.id());
        Some(slot)
    }

    /// Lets the record of the event at `pos` go from memory, if it is the oldest there.
    pub(crate) fn forget_record(&mut self, pos: u64) {
        let oldest = self.slots.len() - self.tail.len();
        if self.slots.get(oldest).is_some_and(|slot| slot.pos == pos) {
            self.tail.pop_front();
        }
    }

    /// Forgets the idempotency keys that the window no longer holds. Gives back their rows.
    pub(crate) fn forget_keys(&mut self, now_ms: u64) -> impl Iterator<Item = u64> + '_ {
        let Self { keys, settings, .. } = self;
        std::iter::from_fn(move || keys.forget(&settings.idempotency, now_ms))
    }

    /// All positions, of a stream that is deleted.
    pub(crate) fn positions(&self) -> impl Iterator<Item = u64> + '_ {
        self.slots.iter().map(|slot| slot.pos)
    }
}

/// What is known of an idempotency key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownKey {
    pub(crate) digest: [u8; 16],
    pub(crate) id: MessageId,
    pub(crate) at_ms: u64,
    /// The row that the store keeps it in.
    pub(crate) row: u64,
}

/// The idempotency keys of one stream, bounded in age and number.
#[derive(Debug, Default)]
pub(crate) struct KeyWindow {
    known: HashMap<ByteString, KnownKey>,
    order: VecDeque<ByteString>,
}

impl KeyWindow {
    /// The key, if it is still known.
    pub(crate) fn get(
        &self,
        key: &str,
        window: &IdempotencyWindow,
        now_ms: u64,
    ) -> Option<KnownKey> {
        let known = self.known.get(key)?;
        (now_ms.saturating_sub(known.at_ms) <= window.max_age_ms).then_some(*known)
    }

    /// Remembers a key. Returns the row of the one that it replaces.
    pub(crate) fn insert(&mut self, key: ByteString, known: KnownKey) -> Option<u64> {
        let replaced = self.known.insert(key.clone(), known);
        if replaced.is_some() {
            self.order.retain(|other| *other != key);
        }
        self.order.push_back(key);
        replaced.map(|known| known.row)
    }

    /// Forgets the oldest key that the window no longer holds, and returns its row.
    fn forget(&mut self, window: &IdempotencyWindow, now_ms: u64) -> Option<u64> {
        let oldest = self.order.front()?;
        let known = self.known.get(oldest)?;
        let old = now_ms.saturating_sub(known.at_ms) > window.max_age_ms;
        if !old && self.known.len() as u64 <= window.max_keys {
            return None;
        }
        let row = known.row;
        self.known.remove(oldest);
        self.order.pop_front();
        Some(row)
    }

    /// The rows of all keys, of a stream that is deleted.
    pub(crate) fn rows(&self) -> impl Iterator<Item = u64> + '_ {
        self.known.values().map(|known| known.row)
    }
}
