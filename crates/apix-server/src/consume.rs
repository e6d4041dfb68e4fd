//! `apix consume`: the events of a stream, to look at or to handle.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::watch;

use crate::client::{Client, Target};
use crate::failure::{Class, class_of, has_code};
use crate::handler;
use crate::looking;
use crate::signals;
use crate::terminal::{print_json_line, print_line, printable};

/// Show the events of a stream, or with --group handle them
///
/// Without --group it only looks: new events are shown as they come, nothing is changed for anyone.
/// With --group each event is read for that group, printed and acknowledged; with --exec it is
/// acknowledged if the command succeeds and comes back later if it does not.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  apix consume orders                                  look, from now on
  apix consume orders --from 2026-11-24T00:00:00Z      look, from then on
  apix consume orders --group billing                  read, print, acknowledge
  apix consume orders --group billing --exec './bill'  payload on standard input; APIX_MESSAGE_ID,
                                                       APIX_EVENT_TYPE, APIX_DELIVERY_COUNT are set")]
pub(crate) struct Consume {
    /// The stream
    pub(crate) stream: String,
    /// The consumer group; without one, only look
    #[arg(long)]
    group: Option<String>,
    /// Name of this consumer in the group [default: cli-HOST]
    #[arg(long, requires = "group")]
    consumer: Option<String>,
    /// Events to read at once, 1 to 1000 [default: 10; with --exec 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    count: Option<u64>,
    /// Run this for each event; a failure rejects the event, which comes back later
    #[arg(long, value_name = "COMMAND", requires = "group")]
    exec: Option<String>,
    /// Look from this id or RFC 3339 time on, not from now
    #[arg(long, value_name = "ID|TIME", conflicts_with = "group")]
    pub(crate) from: Option<String>,
    /// Stop after so many events
    #[arg(long, value_name = "N")]
    pub(crate) max: Option<u64>,
    /// Print each event as JSON, one a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    target: Target,
}

/// An event handed to this consumer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Delivery {
    pub(crate) message_id: String,
    pub(crate) event_type: String,
    pub(crate) payload: Box<RawValue>,
    pub(crate) delivery_count: u32,
    lease_ms: u64,
}

#[derive(Deserialize)]
struct Batch {
    events: Vec<Box<RawValue>>,
}

/// How long a read waits for the first event.
const READ_WAIT: Duration = Duration::from_secs(5);

/// Delays between attempts while the server is away.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: Consume) -> Result<()> {
    let client = Client::new(&args.target)?;
    let stop = signals::shutdown()?;
    let Some(group) = args.group.clone() else {
        return tokio::select! {
            done = looking::follow(&client, &args) => done,
            () = signals::asked(stop) => Ok(()),
        };
    };
    let consumer = args.consumer.clone().unwrap_or_else(default_consumer);
    let consumer = Consumer { client, args, group, consumer, stop };
    consumer.work().await
}

/// Stable on one machine, so that the group's list of consumers does not grow with every call.
fn default_consumer() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let host: String = host.trim().chars().filter(allowed).take(100).collect();
    if host.is_empty() { "cli".to_owned() } else { format!("cli-{host}") }
}

/// One consumer of one group.
struct Consumer {
    client: Client,
    args: Consume,
    group: String,
    consumer: String,
    stop: watch::Receiver<bool>,
}

impl Consumer {
    /// Reads and handles until enough was handled or a signal says stop. What is being handled
    /// then is finished first.
    async fn work(&self) -> Result<()> {
        let (mut handled, mut delay, mut reached) = (0, FIRST_DELAY, false);
        while !self.stopping() && self.args.max.is_none_or(|max| handled < max) {
            let left = self.args.max.map_or(u64::MAX, |max| max - handled);
            let read = tokio::select! {
                read = self.read(left) => read,
                // What such a read still brings is not lost: its lease ends.
                () = signals::asked(self.stop.clone()) => break,
            };
            match read {
                Ok(batch) => {
                    (reached, delay) = (true, FIRST_DELAY);
                    handled += self.handle_all(batch).await?;
                }
                Err(fault) if reached && class_of(&fault) == Class::Unreachable => {
                    crate::terminal::say(format_args!(
                        "{fault:#}; trying again in {:.1} s",
                        delay.as_secs_f64()
                    ));
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = signals::asked(self.stop.clone()) => break,
                    }
                    delay = (delay * 2).min(LONGEST_DELAY);
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    async fn read(&self, at_most: u64) -> Result<Vec<Box<RawValue>>> {
        let default = if self.args.exec.is_some() { 1 } else { 10 };
        let count = self.args.count.unwrap_or(default).min(at_most);
        let wait_ms = u64::try_from(READ_WAIT.as_millis()).unwrap_or(u64::MAX);
        let body = json!({"consumer": self.consumer, "count": count, "waitMs": wait_ms});
        let request = self
            .client
            .streaming(Method::POST, &self.path("read"))?
            .timeout(READ_WAIT + self.client.answer_within())
            .json(&body);
        Ok(self.client.json::<Batch>(request).await?.events)
    }

    fn path<'a>(&'a self, call: &'a str) -> [&'a str; 6] {
        ["v1", "streams", &self.args.stream, "groups", &self.group, call]
    }

    /// Handles a batch in order. Returns how many were handled, well or not.
    async fn handle_all(&self, batch: Vec<Box<RawValue>>) -> Result<u64> {
        let deliveries: Vec<(Delivery, &RawValue)> = batch
            .iter()
            .map(|raw| Ok((serde_json::from_str(raw.get())?, &**raw)))
            .collect::<Result<_>>()
            .context("the server gave an event that is not APIX's")?;
        if let Some(command) = &self.args.exec {
            return self.execute_all(command, &deliveries).await;
        }
        for (delivery, raw) in &deliveries {
            self.print(delivery, raw)?;
        }
        let ids: Vec<&str> = deliveries.iter().map(|(one, _)| one.message_id.as_str()).collect();
        if !ids.is_empty() {
            self.settle("ack", &json!({"messageIds": ids, "consumer": self.consumer})).await?;
        }
        Ok(deliveries.len() as u64)
    }

    fn print(&self, delivery: &Delivery, raw: &RawValue) -> Result<()> {
        if self.args.json {
            print_json_line(raw.get())?;
            return Ok(());
        }
        let again = match delivery.delivery_count {
            0 | 1 => String::new(),
            count => format!("  (delivery {count})"),
        };
        print_line(&printable(&format!(
            "{}  {}  {}{again}",
            delivery.message_id,
            delivery.event_type,
            delivery.payload.get()
        )))?;
        Ok(())
    }

    async fn execute_all(&self, command: &str, batch: &[(Delivery, &RawValue)]) -> Result<u64> {
        let mut handled = 0;
        for (index, (delivery, _)) in batch.iter().enumerate() {
            if self.stopping() {
                self.give_back(&batch[index..]).await;
                break;
            }
            let failed = tokio::select! {
                failed = handler::handle(command, delivery) => failed?,
                lost = self.keep(&batch[index..]) => return Err(lost),
            };
            match failed {
                None => {
                    let ids = [&delivery.message_id];
                    let ack = json!({"messageIds": ids, "consumer": self.consumer});
                    self.settle("ack", &ack).await?;
                }
                Some(reason) => self.reject(delivery, &reason).await?,
            }
            handled += 1;
        }
        Ok(handled)
    }

    /// Extends the leases of what is being handled and what waits behind it. Ends only with an
    /// error that makes going on pointless.
    async fn keep(&self, batch: &[(Delivery, &RawValue)]) -> anyhow::Error {
        let lease_ms = batch.iter().map(|(one, _)| one.lease_ms).min().unwrap_or(30_000);
        let ids: Vec<&str> = batch.iter().map(|(one, _)| one.message_id.as_str()).collect();
        let extend =
            json!({"messageIds": ids, "consumer": self.consumer, "leaseMs": lease_ms.max(1)});
        loop {
            tokio::time::sleep(Duration::from_millis((lease_ms / 3).max(50))).await;
            if let Err(fault) = self.settle("extend", &extend).await {
                return fault;
            }
        }
    }

    async fn reject(&self, delivery: &Delivery, reason: &str) -> Result<()> {
        crate::terminal::say(format_args!(
            "{}: {reason}; rejected, it comes back later",
            delivery.message_id
        ));
        let body = json!({
            "messageId": delivery.message_id,
            "consumer": self.consumer,
            "deliveryCount": delivery.delivery_count,
            "reason": reason,
        });
        self.settle("reject", &body).await
    }

    /// Lets others have at once what was not begun. If that fails, they have it after the lease.
    async fn give_back(&self, batch: &[(Delivery, &RawValue)]) {
        for (delivery, _) in batch {
            let body = json!({
                "messageId": delivery.message_id,
                "consumer": self.consumer,
                "deliveryCount": delivery.delivery_count,
                "reason": "the consumer stopped before it was handled",
                "retryAfterMs": 0,
            });
            if self.settle("reject", &body).await.is_err() {
                return;
            }
        }
    }

    /// Settles. That another consumer has the event now, or that the server is away, is told and
    /// survived: the event comes again, as at-least-once says.
    async fn settle(&self, call: &str, body: &serde_json::Value) -> Result<()> {
        let request = self.client.request(Method::POST, &self.path(call))?.json(body);
        let Err(fault) = self.client.send(request).await else { return Ok(()) };
        if class_of(&fault) == Class::Unreachable || has_code(&fault, "lease_lost") {
            crate::terminal::say(format_args!("{fault:#}; events of this batch may come again"));
            return Ok(());
        }
        Err(fault)
    }
}
