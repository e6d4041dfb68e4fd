//! What is tested, and what it has to hold.

use std::sync::Arc;

use async_trait::async_trait;

use super::observed::Operation;
use crate::broker::Broker;

/// A broker under test.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// The broker, running.
    async fn broker(&self) -> Arc<dyn Broker>;

    /// Ends the broker as a kill does and starts it again on what is left. `None` if it keeps
    /// nothing over a restart. Cases of one test run one after the other if this is `Some`.
    async fn restart(&self) -> Option<Arc<dyn Broker>> {
        None
    }

    /// Makes a fault before an operation, if this subject is one that does.
    async fn disturb(&self, _before: Operation) {}

    /// Whether [`disturb`](Self::disturb) does anything.
    fn disturbs(&self) -> bool {
        false
    }
}

/// The guarantees of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// An id is returned only after the event is as safe as the durability says.
    Durability,
    /// What was read is redelivered unless it was settled; counts are never too low.
    AtLeastOnce,
    /// Retention never removes what a group has not acknowledged, up to the hard limit.
    Retention,
    /// Reads follow the ids; a retried event holds nothing back.
    Order,
    /// A hybrid event is persisted, then shown; who returns catches up without a gap.
    Hybrid,
    /// One idempotency key adds one event.
    Idempotency,
    /// Nothing of one tenant is readable, countable or nameable by another.
    Isolation,
    /// A slow subscriber slows nobody and is never silently short.
    SlowSubscribers,
}
