//! A group read that waits for its first event.

use std::time::Instant;

use apix::{ConsumerName, MessageId, Result, StreamName, TenantId};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::group::GroupNo;

/// Where the bytes of an event are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Here.
    Cached(Bytes),
    /// In the store, at this position.
    Entry(u64),
    /// In the store, kept beside its stream for a group.
    Copy(GroupNo),
}

/// An event that the engine has found; its reader decodes it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) id: MessageId,
    pub(crate) source: Source,
}

/// Events of one stream, in order.
#[derive(Clone, Debug)]
pub(crate) struct FoundIn {
    pub(crate) tenant: TenantId,
    pub(crate) stream: StreamName,
    pub(crate) events: Vec<Found>,
}

/// Deliveries as the engine hands them out.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) found: FoundIn,
    /// Delivery counts, one for each event.
    pub(crate) counts: Vec<u32>,
    pub(crate) lease_ms: u64,
    /// When they were handed out.
    pub(crate) at: Instant,
}

/// The one who waits.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) consumer: ConsumerName,
    pub(crate) max_events: usize,
    /// Until when, in elapsed milliseconds.
    pub(crate) until: u64,
    pub(crate) answer: oneshot::Sender<Result<Option<Handed>>>,
}
