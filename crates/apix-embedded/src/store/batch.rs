//! What one commit writes.

use apix::MessageId;
use bytes::Bytes;

use crate::codec::rows::{IndexRecord, KeyRecord};
use crate::group::{GroupNo, StreamNo};

/// One row to write or remove, in the order in which the engine decided it.
#[derive(Debug)]
pub(crate) enum Change {
    /// The next number that a stream, group or feed gets.
    NextNo(u64),
    /// The next position, for when no index row tells it.
    NextPos(u64),
    PutStream {
        no: StreamNo,
        tenant: String,
        name: String,
        data: Vec<u8>,
    },
    DropStream(StreamNo),
    PutGroup {
        no: GroupNo,
        stream: StreamNo,
        name: String,
        settings: Vec<u8>,
    },
    /// The group with everything that belongs to it; the rows of its changes are named.
    DropGroup {
        no: GroupNo,
        rows: Vec<u64>,
    },
    PutDelta {
        row: u64,
        group: GroupNo,
        data: Vec<u8>,
    },
    /// What a group's state begins with; it voids these rows of changes.
    PutSnapshot {
        group: GroupNo,
        upto: u64,
        data: Vec<u8>,
        rows: Vec<u64>,
    },
    /// Rows of changes go, in ascending order: others tell of what they told.
    DropDeltas(Vec<u64>),
    PutCopy {
        group: GroupNo,
        id: MessageId,
        data: Bytes,
    },
    DropCopy {
        group: GroupNo,
        id: MessageId,
    },
    PutDead {
        group: GroupNo,
        id: MessageId,
        data: Bytes,
    },
    DropDead {
        group: GroupNo,
        id: MessageId,
    },
    DropEntries(Vec<u64>),
    DropIndex(u64),
    DropKeys(u64),
    PutFeed {
        no: u64,
        tenant: String,
        channel: String,
        stream: String,
    },
    PutTip {
        feed: u64,
        id: Option<MessageId>,
    },
    DropFeed(u64),
}

/// One commit.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The position of the first of `entries`.
    pub(crate) first_pos: u64,
    /// Events in the order of their positions.
    pub(crate) entries: Vec<Bytes>,
    /// Their index, in the same order.
    pub(crate) index: Vec<IndexRecord>,
    /// Idempotency keys, and their row.
    pub(crate) keys: Vec<KeyRecord>,
    pub(crate) keys_row: u64,
    pub(crate) changes: Vec<Change>,
    /// Whether callers wait for what has to be flushed.
    pub(crate) flush: bool,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.keys.is_empty() && self.changes.is_empty()
    }

    /// The newest blob that this commit writes as a dead letter.
    pub(crate) fn dead(&self, group: GroupNo, id: MessageId) -> Option<Bytes> {
        self.changes.iter().rev().find_map(|change| match change {
            Change::PutDead { group: of, id: at, data } if (*of, *at) == (group, id) => {
                Some(data.clone())
            }
            _ => None,
        })
    }

    /// The newest copy that this commit writes.
    pub(crate) fn copy(&self, group: GroupNo, id: MessageId) -> Option<Bytes> {
        self.changes.iter().rev().find_map(|change| match change {
            Change::PutCopy { group: of, id: at, data } if (*of, *at) == (group, id) => {
                Some(data.clone())
            }
            _ => None,
        })
    }
}
