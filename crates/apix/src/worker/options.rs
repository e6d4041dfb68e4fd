//! How a worker works, and what its handlers and it say.

use std::time::Duration;

use bytestring::ByteString;

use crate::name::{ConsumerName, GroupName};

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The group (default `processors`).
    pub group: GroupName,
    /// The name of this consumer. It must be this worker's alone; by default it is made of the
    /// process id and a random part.
    pub consumer: Option<ConsumerName>,
    /// How many events are handled at once (default 10).
    pub concurrency: usize,
    /// How long a read waits for the first event (default 1 s).
    pub wait: Duration,
    /// How long handlers may take to finish after the shutdown signal (default 25 s). What is
    /// not finished then goes to other consumers at once.
    pub drain_timeout: Duration,
    /// A handler that takes longer is stopped and its event rejected (default none).
    pub handler_timeout: Option<Duration>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            group: GroupName::default(),
            consumer: None,
            concurrency: 10,
            wait: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(25),
            handler_timeout: None,
        }
    }
}

/// Why a handler did not handle an event, and what is to become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub(super) reason: ByteString,
    pub(super) after: Option<Duration>,
    pub(super) dead_letter: bool,
}

impl Rejection {
    /// The event comes back after the group's back-off.
    pub fn retry(reason: impl Into<ByteString>) -> Self {
        Self { reason: reason.into(), after: None, dead_letter: false }
    }

    /// The event comes back after `delay`.
    pub fn retry_after(reason: impl Into<ByteString>, delay: Duration) -> Self {
        Self { after: Some(delay), ..Self::retry(reason) }
    }

    /// The event is given up: no retry can help.
    pub fn dead_letter(reason: impl Into<ByteString>) -> Self {
        Self { dead_letter: true, ..Self::retry(reason) }
    }
}

impl<E: std::error::Error> From<E> for Rejection {
    fn from(error: E) -> Self {
        Self::retry(error.to_string())
    }
}

/// What a worker did until it stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Events that were handled and acknowledged.
    pub handled: u64,
    /// Deliveries that were rejected.
    pub rejected: u64,
    /// Deliveries that were handled after another consumer had taken them over.
    pub lease_lost: u64,
}
