//! Streams: appending, reading a range, and what can be seen of them.

use std::time::{SystemTime, UNIX_EPOCH};

use bytestring::ByteString;
use serde::Serialize;

use crate::event::StoredEvent;
use crate::group::GroupStats;
use crate::name::{ChannelName, StreamName};
use crate::position::{Epoch, MessageId};
use crate::retention::StreamSettings;

/// An event that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its id.
    pub message_id: MessageId,
    /// Its idempotency key was known: this is the id of the first one, and nothing was added.
    pub repeated: bool,
}

/// A hybrid event that was persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HybridAppended {
    /// Its id.
    pub message_id: MessageId,
    /// Its idempotency key was known: it was neither added nor shown again.
    pub repeated: bool,
    /// Broker subscriptions that the live message reached; `None` if it was persisted but could
    /// not be shown, or was a repeat.
    pub subscriber_count: Option<u64>,
}

/// Ascending or descending by id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    #[default]
    Ascending,
    /// Newest first.
    Descending,
}

/// Which events of a stream to read.
#[derive(Clone, Debug)]
pub struct RangeQuery {
    /// The lowest id, inclusive.
    pub from: MessageId,
    /// The highest id, inclusive.
    pub to: MessageId,
    /// At most so many events a page (at least 1).
    pub limit: usize,
    /// A page ends with the event whose payload makes it so many bytes (default 8 MiB): it may
    /// hold one event more than that, never none.
    pub limit_bytes: usize,
    /// Oldest or newest first.
    pub order: Order,
    /// Events of this type only.
    pub event_type: Option<ByteString>,
    /// Hybrid events of this channel only.
    pub channel: Option<ChannelName>,
}

impl Default for RangeQuery {
    fn default() -> Self {
        Self {
            from: MessageId::MIN,
            to: MessageId::MAX,
            limit: 100,
            limit_bytes: 8 << 20,
            order: Order::Ascending,
            event_type: None,
            channel: None,
        }
    }
}

impl RangeQuery {
    /// The first id that an event appended at or after `at` can have.
    pub fn first_id_at(at: SystemTime) -> MessageId {
        let ms = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        MessageId::new(u64::try_from(ms).unwrap_or(u64::MAX), 0)
    }

    /// Whether an event passes the filters.
    pub fn takes(&self, event: &StoredEvent) -> bool {
        self.event_type.as_ref().is_none_or(|wanted| *wanted == event.event_type)
            && self
                .channel
                .as_ref()
                .is_none_or(|wanted| event.realtime_channel.as_ref() == Some(wanted))
    }

    /// Whether a page of these events is full.
    pub fn is_full(&self, events: &[StoredEvent], payload_bytes: usize) -> bool {
        events.len() >= self.limit.max(1)
            || (!events.is_empty() && payload_bytes >= self.limit_bytes)
    }

    /// The query for what lies beyond `last`, the last id that was looked at.
    #[must_use]
    pub fn after(&self, last: MessageId) -> Self {
        match self.order {
            Order::Ascending => Self { from: last.next(), ..self.clone() },
            Order::Descending => Self { to: last.previous(), ..self.clone() },
        }
    }
}

/// A part of a range.
#[derive(Clone, Debug, Default)]
pub struct RangePage {
    /// The events that passed the filters.
    pub events: Vec<StoredEvent>,
    /// The last id that was looked at, if there may be more beyond it: where
    /// [`RangeQuery::after`] goes on. A page may be empty and still have one, when none of what
    /// was looked at passed the filters.
    pub more_after: Option<MessageId>,
}

/// What can be seen of a stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamStats {
    /// The stream.
    pub stream: StreamName,
    /// Its epoch.
    pub epoch: Epoch,
    /// Events that are kept.
    pub length: u64,
    /// Bytes that they take, as well as the broker can tell.
    pub bytes: u64,
    /// The oldest event that is kept.
    pub first_id: Option<MessageId>,
    /// The newest id that was ever given, kept or not.
    pub last_id: Option<MessageId>,
    /// Up to here events were removed by retention.
    pub trimmed_to: Option<MessageId>,
    /// Events that the hard limit removed before every group had acknowledged them.
    pub hard_limit_dropped: u64,
    /// Its settings.
    #[serde(flatten)]
    pub settings: StreamSettings,
    /// Its groups.
    pub groups: Vec<GroupStats>,
}

/// A stream that feeds a channel with hybrid events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// The stream.
    pub stream: StreamName,
    /// Its epoch; `None` if the stream is gone.
    pub epoch: Option<Epoch>,
    /// The last event of this channel on it, as far as is still known.
    pub tip: Option<MessageId>,
    /// The newest id that was ever given on the stream.
    pub last_id: Option<MessageId>,
    /// Up to here events were removed by retention.
    pub trimmed_to: Option<MessageId>,
}
