//! Durable events and live updates for many tenants.
pub mod broker;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod dead_letter;
pub mod error;
pub mod event;
pub mod group;
pub mod json;
pub mod live;
pub mod message;
pub mod messaging;
pub mod name;
pub mod position;
pub mod replay;
pub mod retention;
pub mod retry;
pub mod stream;
pub mod subscription;
pub mod tenant;
pub mod worker;

pub use broker::{Broker, BrokerInfo, Durability};
pub use dead_letter::{Attempt, DeadBody, DeadLetter, DeadLetterChoice};
pub use error::{Error, ErrorKind, Result};
pub use event::{
    Delivery, Event, Holder, Idempotency, Limits, NewEvent, Origin, Receipt, StoredEvent, Timestamp,
};
pub use group::{
    Acknowledged, ConsumerStats, GroupSettings, GroupStats, ReadOptions, SeekTo, Settled,
    Settlement,
};
pub use json::Json;
pub use live::{LiveSubscription, LiveUpdate};
pub use message::{Message, NewMessage};
pub use messaging::{HybridOptions, HybridReceipt, ReadRequest, TenantMessagingService};
pub use name::{
    ChannelKey, ChannelName, ConsumerName, GroupKey, GroupName, StreamKey, StreamName, TenantId,
    user_in_name,
};
pub use position::{ChannelPosition, Epoch, MessageId, Position, Since};
pub use replay::Replay;
pub use retention::{IdempotencyWindow, Retention, StreamSettings};
pub use retry::Backoff;
pub use stream::{Appended, Feed, HybridAppended, Order, RangePage, RangeQuery, StreamStats};
pub use subscription::{Subscription, SubscriptionSender, Update, subscription};
pub use tenant::{Action, Permissions, TenantContext};
pub use worker::{Rejection, Worker, WorkerOptions, WorkerReport};
