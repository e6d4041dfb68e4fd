//! An event that a group holds, and the orders in which time asks for such events.

use std::collections::{BTreeSet, HashMap};

use apix::dead_letter::{LEASE_EXPIRED, MAX_KEPT_ATTEMPTS, kept_reason};
use apix::{Attempt, ConsumerName, MessageId};
use bytes::Bytes;

use crate::clock::Now;

/// Where the copy of an event is that is kept beside its stream.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    /// Here: the engine has no store.
    Here(Bytes),
    /// In the store.
    Stored,
}

/// What becomes of an event that the group has not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldState {
    /// A consumer has it until then.
    Out { until: u64 },
    /// Its lease ended then; nobody has taken it yet.
    Expired { since: u64 },
    /// It was rejected and waits.
    Parked { until: u64, due_unix_ms: u64, delay_ms: u64 },
    /// It waits for a reader since then.
    Due { since: u64 },
}

/// An event that was handed out, or is to be handed out again.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// How many times it was handed out.
    pub(crate) count: u32,
    /// Who has or had it.
    pub(crate) consumer: Option<ConsumerName>,
    pub(crate) state: HeldState,
    /// The last deliveries that failed.
    pub(crate) attempts: Vec<Attempt>,
    /// A copy, so that the stream need not keep the event.
    pub(crate) copy: Option<Kept>,
}

impl Held {
    /// Whether somebody has it, or had it and nobody took it since.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.state, HeldState::Out { .. } | HeldState::Expired { .. })
    }

    /// Remembers that the lease ended, if it did.
    pub(crate) fn note_lease_end(&mut self, now: Now) {
        if let HeldState::Expired { since } = self.state {
            let ago = now.elapsed_ms.saturating_sub(since);
            self.failed(now.unix_ms.saturating_sub(ago), LEASE_EXPIRED);
        }
    }

    /// Remembers a delivery that failed; the oldest give way.
    pub(crate) fn failed(&mut self, at_ms: u64, reason: &str) {
        if self.attempts.len() >= MAX_KEPT_ATTEMPTS {
            self.attempts.remove(0);
        }
        let consumer = self.consumer.as_ref().map(|name| name.as_text().clone());
        self.attempts.push(Attempt {
            at_ms,
            consumer: consumer.unwrap_or_default(),
            reason: kept_reason(reason),
        });
    }
}

/// What is known of one consumer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Consumer {
    pub(crate) pending: u64,
    pub(crate) seen: u64,
}

/// The held events in the orders that time asks for.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    pub(crate) leases: BTreeSet<(u64, MessageId)>,
    pub(crate) parked: BTreeSet<(u64, MessageId)>,
    pub(crate) ready: BTreeSet<(u64, MessageId)>,
    /// How many of `ready` are still their consumers'.
    pub(crate) expired: usize,
    pub(crate) consumers: HashMap<ConsumerName, Consumer>,
}

impl Agenda {
    fn consumer_pending(&mut self, held: &Held, change: i64) {
        if let Some(name) = &held.consumer {
            let consumer = match self.consumers.get_mut(name) {
                Some(consumer) => consumer,
                None => self.consumers.entry(name.clone()).or_default(),
            };
            consumer.pending = consumer.pending.saturating_add_signed(change);
        }
    }

    pub(crate) fn add(&mut self, id: MessageId, held: &Held) {
        match held.state {
            HeldState::Out { until } => {
                self.leases.insert((until, id));
                self.consumer_pending(held, 1);
            }
            HeldState::Expired { since } => {
                self.ready.insert((since, id));
                self.expired += 1;
                self.consumer_pending(held, 1);
            }
            HeldState::Parked { until, .. } => {
                self.parked.insert((until, id));
            }
            HeldState::Due { since } => {
                self.ready.insert((since, id));
            }
        }
    }

    pub(crate) fn remove(&mut self, id: MessageId, held: &Held) {
        match held.state {
            HeldState::Out { until } => {
                self.leases.remove(&(until, id));
                self.consumer_pending(held, -1);
            }
            HeldState::Expired { since } => {
                self.ready.remove(&(since, id));
                self.expired -= 1;
                self.consumer_pending(held, -1);
            }
            HeldState::Parked { until, .. } => {
                self.parked.remove(&(until, id));
            }
            HeldState::Due { since } => {
                self.ready.remove(&(since, id));
            }
        }
    }
}
