//! What is measured: a server over HTTP, or a broker in this process.

use anyhow::{Context as _, Result};
use apix::{
    Event, GroupName, Json, LiveSubscription, LiveUpdate, NewMessage, ReadRequest, Receipt,
    TenantContext, TenantMessagingService,
};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::broker_url::durability_text;
use crate::client::Client;
use crate::failure::Failure;
use crate::live::LiveConnection;

/// The type of every event of a run.
const EVENT_TYPE: &str = "bench";

/// Where the calls go. Clones share connections.
#[derive(Clone)]
pub(super) enum Bed {
    Server(Box<Client>),
    Process { service: TenantMessagingService, ctx: TenantContext },
}

/// The receiving end of a channel.
pub(super) enum Receiver {
    Server(Box<LiveConnection>),
    Process(Box<LiveSubscription>),
}

/// What arrived: a message's data, or how many are missing.
pub(super) enum Arrived {
    Message(String),
    Missed(Option<u64>),
}

#[derive(Deserialize)]
struct Batch {
    events: Vec<Handed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Handed {
    message_id: String,
}

#[derive(Deserialize)]
struct Update<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Bed {
    /// Where it happens, and how safe events are there.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Server(client) => format!("over HTTP, {}", client.base()),
            Self::Process { service, .. } => {
                let info = service.broker().info();
                let durability = durability_text(info.durability);
                format!("in this process, {}, durability {durability}", info.name)
            }
        }
    }

    /// Adds `count` events in one call.
    pub(super) async fn add(&self, stream: &str, payload: &Json, count: usize) -> Result<()> {
        match self {
            Self::Server(client) => {
                let event =
                    format!("{{\"eventType\":\"{EVENT_TYPE}\",\"payload\":{}}}", payload.as_str());
                let body =
                    if count == 1 { event } else { format!("[{}]", vec![event; count].join(",")) };
                let path = ["v1", "streams", stream, "events"];
                let body = RawValue::from_string(body)?;
                client.post::<serde_json::Value>(&path, &body).await.map(drop)
            }
            Self::Process { service, ctx } if count == 1 => {
                let event = Event::new(EVENT_TYPE, payload.clone());
                service.add_event_to_stream(ctx, stream, event).await?;
                Ok(())
            }
            Self::Process { service, ctx } => {
                let events = vec![Event::new(EVENT_TYPE, payload.clone()); count];
                service.add_events_to_stream(ctx, stream, events).await?;
                Ok(())
            }
        }
    }

    /// Reads up to `count` events and acknowledges them. Returns how many.
    pub(super) async fn handle(&self, stream: &str, consumer: &str, count: usize) -> Result<u64> {
        match self {
            Self::Server(client) => {
                let path = ["v1", "streams", stream, "groups", GroupName::DEFAULT, "read"];
                let read = json!({"consumer": consumer, "count": count, "waitMs": 200});
                let batch: Batch = client.post(&path, &read).await?;
                let ids: Vec<&str> = batch.events.iter().map(|one| &*one.message_id).collect();
                if !ids.is_empty() {
                    let path = ["v1", "streams", stream, "groups", GroupName::DEFAULT, "ack"];
                    let ack = json!({"messageIds": ids});
                    client.post::<serde_json::Value>(&path, &ack).await?;
                }
                Ok(ids.len() as u64)
            }
            Self::Process { service, ctx } => {
                let wait = std::time::Duration::from_millis(200);
                let request = ReadRequest { batch_size: count, wait, ..ReadRequest::default() };
                let batch = service.read_group(ctx, stream, consumer, request).await?;
                let receipts: Vec<Receipt> = batch.iter().map(apix::Delivery::receipt).collect();
                let group = GroupName::default();
                let done = service.acknowledge_events(ctx, stream, group, &receipts).await?;
                Ok(done.count)
            }
        }
    }

    /// Publishes one message.
    pub(super) async fn publish(&self, channel: &str, data: String) -> Result<()> {
        match self {
            Self::Server(client) => {
                let body = RawValue::from_string(format!(
                    "{{\"type\":\"{EVENT_TYPE}\",\"data\":{data}}}"
                ))?;
                let path = ["v1", "channels", channel, "messages"];
                client.post::<serde_json::Value>(&path, &body).await.map(drop)
            }
            Self::Process { service, ctx } => {
                let message = NewMessage::new(EVENT_TYPE, Json::parse(data)?);
                service.publish_realtime_message(ctx, channel, message).await?;
                Ok(())
            }
        }
    }

    pub(super) async fn subscribe(&self, channel: &str) -> Result<Receiver> {
        match self {
            Self::Server(client) => {
                let mut connection = LiveConnection::open(client).await?;
                let wanted = json!({"channels": [channel]});
                connection.send("subscribe_updates", 1, &wanted).await?;
                while connection.next().await?.event != "ack" {}
                Ok(Receiver::Server(Box::new(connection)))
            }
            Self::Process { service, ctx } => {
                let live = service.subscribe_to_realtime_messages(ctx, channel).await?;
                Ok(Receiver::Process(Box::new(live)))
            }
        }
    }

    /// Removes what a run has left behind.
    pub(super) async fn remove(&self, stream: &str) -> Result<()> {
        match self {
            Self::Server(client) => client.delete(&["v1", "streams", stream]).await,
            Self::Process { service, ctx } => Ok(service.delete_stream(ctx, stream).await?),
        }
    }
}

impl Receiver {
    pub(super) async fn next(&mut self) -> Result<Arrived> {
        match self {
            Self::Server(connection) => loop {
                let frame = connection.next().await?;
                match frame.event.as_str() {
                    "realtime_update" => {
                        let update: Update<'_> =
                            serde_json::from_str(frame.data()).context("not an update")?;
                        return Ok(Arrived::Message(update.data.get().to_owned()));
                    }
                    "missed" => {
                        let missed: serde_json::Value = serde_json::from_str(frame.data())?;
                        return Ok(Arrived::Missed(missed["count"].as_u64()));
                    }
                    _ => {}
                }
            },
            Self::Process(live) => match live.recv().await {
                Some(Ok(LiveUpdate::Message(message))) => {
                    Ok(Arrived::Message(message.data().as_str().to_owned()))
                }
                Some(Ok(LiveUpdate::Missed { count, .. })) => Ok(Arrived::Missed(count)),
                Some(Err(fault)) => Err(fault.into()),
                None => Err(Failure::unreachable("the broker has closed")),
            },
        }
    }
}
