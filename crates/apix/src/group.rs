//! Consumer groups: settings, reading, seeking, and what can be seen of them.

use std::time::{Duration, SystemTime};

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::name::GroupName;
use crate::position::MessageId;
use crate::retry::Backoff;

/// Settings of one consumer group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GroupSettings {
    /// How long a delivery is held before it goes to another consumer, in milliseconds
    /// (default 30,000).
    pub lease_ms: u64,
    /// After so many deliveries an event goes to the dead letters (default 5).
    pub max_deliveries: u32,
    /// When a rejected event comes back, where the rejection does not say.
    pub backoff: Backoff,
    /// The most deliveries that are out at once, over all consumers (default none).
    pub max_in_flight: Option<u64>,
    /// A paused group is handed nothing; what is out can be settled.
    pub paused: bool,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            lease_ms: 30_000,
            max_deliveries: 5,
            backoff: Backoff::default(),
            max_in_flight: None,
            paused: false,
        }
    }
}

/// The longest lease: a day.
pub const MAX_LEASE_MS: u64 = 24 * 3_600 * 1_000;

impl GroupSettings {
    /// Refuses settings under which nothing could be handled.
    pub fn check(&self) -> Result<()> {
        if !(100..=MAX_LEASE_MS).contains(&self.lease_ms) {
            return Err(Error::invalid(format!("leaseMs must be from 100 to {MAX_LEASE_MS}")));
        }
        if self.max_deliveries == 0 {
            return Err(Error::invalid("maxDeliveries must be at least 1"));
        }
        if self.max_in_flight == Some(0) {
            return Err(Error::invalid(
                "maxInFlight must be at least 1; use paused to stop a group",
            ));
        }
        self.backoff.check()
    }

    /// The lease as a duration.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

/// How much a group read may bring, and how long it may wait for the first event.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    /// At most so many deliveries (at least 1).
    pub max_events: usize,
    /// Zero looks and returns at once.
    pub wait: Duration,
}

/// Where a group is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// Before the oldest event that is kept.
    Start,
    /// After the newest.
    End,
    /// This event is the next one.
    Id(MessageId),
    /// The first event that was appended at or after this instant is the next one.
    Time(SystemTime),
}

/// What to do with a delivery other than acknowledging it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It comes back: after the given delay, or after the group's back-off.
    Retry {
        /// The delay; `None` for the group's back-off.
        after: Option<Duration>,
        /// Why.
        reason: ByteString,
    },
    /// It is given up now.
    DeadLetter {
        /// Why.
        reason: ByteString,
    },
    /// It is held for so long from now. The delivery count does not change.
    Extend {
        /// How long.
        lease: Duration,
    },
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is due again then.
    RetryAt(SystemTime),
    /// It is a dead letter: by wish, or because `max_deliveries` was reached.
    DeadLettered,
    /// It is held until then.
    HeldUntil(SystemTime),
}

/// What an acknowledgement did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// How many were pending and are now done. An event that is not pending, because it was
    /// settled before or does not exist, is not counted and is no error.
    pub count: u64,
    /// Which are pending, but not with the holder that was named: they were left alone.
    pub lease_lost: Vec<MessageId>,
}

/// What can be seen of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupStats {
    /// The group.
    pub group: GroupName,
    /// Its settings.
    #[serde(flatten)]
    pub settings: GroupSettings,
    /// The last event that was handed out for the first time.
    pub last_delivered_id: MessageId,
    /// Events never handed out; `None` where the broker cannot tell.
    pub lag: Option<u64>,
    /// Events handed out and not settled.
    pub pending: u64,
    /// Rejected events that wait for their time; not counted in `pending`.
    pub parked: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// The oldest event that is pending, parked or not yet handed out.
    pub oldest_unacknowledged_id: Option<MessageId>,
    /// How long ago that event was appended, in milliseconds.
    pub oldest_unacknowledged_ms: Option<u64>,
    /// Events that were removed (by a hard limit, or by another service) before this group
    /// acknowledged them.
    pub lost: u64,
    /// How long ago the group last read or settled, in milliseconds, where known.
    pub idle_ms: Option<u64>,
    /// Its consumers.
    pub consumers: Vec<ConsumerStats>,
}

/// What can be seen of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerStats {
    /// Its name.
    pub consumer: ByteString,
    /// Deliveries that it holds.
    pub pending: u64,
    /// How long ago it last read or settled, in milliseconds.
    pub idle_ms: u64,
}
