//! Durable events and live updates for many tenants.
//!
//! # The words
//!
//! | word | meaning |
//! | --- | --- |
//! | **tenant** | an organisation; everything belongs to one, and none sees another's |
//! | **stream** | a persisted, ordered sequence of events of a tenant |
//! | **event** | what happened: type, JSON payload, time; kept until retention takes it |
//! | **channel** | a name to publish on and to subscribe to; stores nothing |
//! | **message** | what goes over a channel, to everyone subscribed at that moment |
//! | **hybrid event** | an event that is persisted first and then shown on a channel |
//! | **position** | how far a reader has seen a stream: id and **epoch**, one life of the stream |
//! | **consumer group** | readers that share out a stream; each event goes to one **consumer** of it |
//! | **delivery** | an event handed to a consumer, who holds it for a **lease** |
//! | **acknowledge** | say that a delivery was handled |
//! | **retry** | reject a delivery: the event is **parked** until its back-off is over |
//! | **redelivery** | a later delivery of the same event, with a higher delivery count |
//! | **dead letter** | an event that was given up, kept whole with its attempts |
//! | **pending** | handed out and not settled |
//! | **lag** | how many events a group has never been handed |
//! | **retention**, **trim** | the rule by which events are removed; removing them |
//! | **subscription** | one reader of a channel; **presence** is who is there |
//!
//! # Twenty lines
//!
//! ```no_run
//! # async fn example(broker: std::sync::Arc<dyn apix::Broker>) -> apix::Result<()> {
//! use apix::{Event, HybridOptions, Json, LiveUpdate, NewMessage, TenantContext, TenantMessagingService};
//!
//! let service = TenantMessagingService::new(broker);
//! let acme = TenantContext::trusted("acme")?;
//!
//! // An event on a stream: persisted, handed to one consumer, acknowledged.
//! let event = Event::new("order.placed", Json::parse(r#"{"total": 12.50}"#)?);
//! service.add_event_to_stream(&acme, "orders", event.clone()).await?;
//! for delivery in service.process_events_from_stream(&acme, "orders", "worker-1", 10).await? {
//!     service.acknowledge_event(&acme, "orders", &delivery).await?;
//! }
//!
//! // A message on a channel: to everyone subscribed now.
//! let mut live = service.subscribe_to_realtime_messages(&acme, "dashboard").await?;
//! let message = NewMessage::new("visitors", Json::parse("42")?);
//! service.publish_realtime_message(&acme, "dashboard", message).await?;
//!
//! // A hybrid event: persisted, then shown.
//! let options = HybridOptions { realtime_channel: "dashboard".into(), ..Default::default() };
//! service.publish_hybrid_event(&acme, event, &options).await?;
//! while let Some(Ok(LiveUpdate::Message(message))) = live.recv().await {
//!     println!("{}: {}", message.message_type(), message.data().as_str());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The map
//!
//! [`broker`] is the second file to read: the one trait that a broker implements, and what it must
//! guarantee. [`messaging`] is the service on top of it, [`worker`] the loop around a group,
//! [`live`] a channel with its catch-up, [`replay`] the past. [`name`], [`tenant`], [`event`],
//! [`message`], [`stream`], [`group`], [`position`], [`dead_letter`], [`retention`] and [`retry`]
//! are the vocabulary; [`json`] carries payloads verbatim; [`error`] is what can go wrong.
//! `conformance` (a feature) is the suite that every broker has to pass.
//!
//! This crate knows no broker, no HTTP and no Redis: `apix-embedded` and `apix-redis` implement
//! [`Broker`], `apix-gateway` serves [`TenantMessagingService`] over the network.

pub mod broker;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod dead_letter;
pub mod error;
pub mod event;
pub mod framing;
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
pub use framing::Framing;
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
pub use subscription::{
    QueueBudget, Subscription, SubscriptionSender, Update, subscription, subscription_within,
};
pub use tenant::{Action, Permissions, TenantContext};
pub use worker::{Rejection, Worker, WorkerOptions, WorkerReport};
