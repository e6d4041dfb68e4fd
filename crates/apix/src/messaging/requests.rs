//! What can be asked of the service, within which bounds, and what it answers.

use std::time::Duration;

use crate::name::GroupName;
use crate::position::MessageId;

/// The most deliveries that one read hands out.
pub const MAX_READ_EVENTS: usize = 1_000;
/// The longest that one read waits.
pub const MAX_READ_WAIT: Duration = Duration::from_secs(30);
/// What a read brings when the caller does not say.
pub const DEFAULT_BATCH_SIZE: usize = 10;
/// The most events, dead letters or ids in one page or call.
pub const MAX_PAGE: usize = 1_000;
/// The stream of hybrid events that name none.
pub const DEFAULT_HYBRID_STREAM: &str = "events";
/// The channel of hybrid events that name none.
pub const DEFAULT_HYBRID_CHANNEL: &str = "notifications";

/// How a group is read.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// The group (default `processors`).
    pub group: GroupName,
    /// At most so many deliveries, 1 to 1,000 (default 10).
    pub batch_size: usize,
    /// How long to wait for the first, at most 30 s (default 1 s).
    pub wait: Duration,
}

impl Default for ReadRequest {
    fn default() -> Self {
        Self {
            group: GroupName::default(),
            batch_size: DEFAULT_BATCH_SIZE,
            wait: Duration::from_secs(1),
        }
    }
}

/// Where a hybrid event goes.
#[derive(Clone, Debug)]
pub struct HybridOptions {
    /// Whether it is stored (default yes).
    pub persist_to_stream: bool,
    /// Whether it is shown live (default yes).
    pub notify_realtime: bool,
    /// The stream (default `events`).
    pub stream_name: String,
    /// The channel (default `notifications`).
    pub realtime_channel: String,
}

impl Default for HybridOptions {
    fn default() -> Self {
        Self {
            persist_to_stream: true,
            notify_realtime: true,
            stream_name: DEFAULT_HYBRID_STREAM.to_owned(),
            realtime_channel: DEFAULT_HYBRID_CHANNEL.to_owned(),
        }
    }
}

/// What became of a hybrid event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HybridReceipt {
    /// Its id, if it was persisted.
    pub stream_message_id: Option<MessageId>,
    /// Broker subscriptions reached, if it was shown.
    pub subscriber_count: Option<u64>,
    /// Whether its idempotency key was known: then nothing was added or shown.
    pub repeated: bool,
}
