//! `apix tail`: a channel's messages as they come.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::client::{Client, ErrorPart, Target};
use crate::failure::{Class, Failure, class_of};
use crate::live::{Frame, LiveConnection};
use crate::signals;
use crate::terminal::{print_json_line, print_line, printable};

/// Show the messages of channels as they come; reconnects, and catches up what is stored
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  apix tail notifications
  apix tail room:1 room:2 --json | jq .data
  apix tail payments --since 0-0                     hybrid events from the beginning, then live
  apix tail payments --since '{\"events\":{\"id\":\"1764000000000-0\"}}'")]
pub(crate) struct Tail {
    /// The channels
    #[arg(required = true)]
    channels: Vec<String>,
    /// Begin after this position: a message id, or {"STREAM":{"id":…,"epoch":…}}
    #[arg(long, value_name = "POSITION")]
    since: Option<String>,
    /// Stop after so many messages
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Print each message as the server sent it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Delays between attempts to connect again.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: Tail) -> Result<()> {
    let client = Client::new(&args.target)?;
    let since = args.since.as_deref().map(position).transpose()?;
    let mut tail = Following::new(&args, since);
    let stop = signals::asked(signals::shutdown()?);
    tokio::select! {
        done = tail.follow(&client) => done,
        () = stop => Ok(()),
    }
}

/// An id, or a position per stream.
fn position(text: &str) -> Result<Value> {
    if !text.starts_with('{') {
        return Ok(Value::from(text));
    }
    serde_json::from_str(text).map_err(|fault| {
        Failure::usage(format!(
            "the position is not JSON ({fault}); it looks like 1764000000000-0 or \
             '{{\"STREAM\":{{\"id\":\"1764000000000-0\"}}}}'"
        ))
    })
}

/// What is followed, and how far it was seen.
struct Following<'a> {
    args: &'a Tail,
    positions: BTreeMap<String, Value>,
    shown: u64,
    subscribed_once: bool,
}

/// What of an update says where it stands.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Update<'a> {
    channel: String,
    #[serde(rename = "type")]
    message_type: String,
    #[serde(borrow)]
    data: &'a RawValue,
    timestamp: String,
    stream: Option<String>,
    message_id: Option<String>,
    epoch: Option<String>,
}

#[derive(Deserialize)]
struct Subscribed {
    #[serde(default)]
    subscribed: Vec<Accepted>,
    #[serde(default)]
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Accepted {
    channel: String,
    position: Option<Value>,
}

#[derive(Deserialize)]
struct Refused {
    channel: String,
    code: String,
    message: Option<String>,
}

#[derive(Deserialize)]
struct Missed {
    channel: String,
    count: Option<u64>,
    recoverable: Option<bool>,
}

impl<'a> Following<'a> {
    fn new(args: &'a Tail, since: Option<Value>) -> Self {
        let at = |since: Value| args.channels.iter().map(move |c| (c.clone(), since.clone()));
        let positions = since.map(|since| at(since).collect()).unwrap_or_default();
        Self { args, positions, shown: 0, subscribed_once: false }
    }

    /// Follows until enough was shown, over as many connections as it takes.
    async fn follow(&mut self, client: &Client) -> Result<()> {
        let mut delay = FIRST_DELAY;
        loop {
            let shown_before = self.shown;
            let fault = match self.one_connection(client).await {
                Ok(()) => return Ok(()),
                Err(fault) => fault,
            };
            // What was never reached is most likely a wrong address.
            if class_of(&fault) != Class::Unreachable || !self.subscribed_once {
                return Err(fault);
            }
            if self.shown > shown_before {
                delay = FIRST_DELAY;
            }
            crate::terminal::say(format_args!(
                "{fault:#}; connecting again in {:.1} s",
                delay.as_secs_f64()
            ));
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(LONGEST_DELAY);
        }
    }

    async fn one_connection(&mut self, client: &Client) -> Result<()> {
        let mut connection = LiveConnection::open(client).await?;
        connection.send("subscribe_updates", 1, &json!({"channels": self.wanted()})).await?;
        while !self.done() {
            let frame = connection.next().await?;
            self.take(&frame)?;
        }
        connection.close().await;
        Ok(())
    }

    /// The channels, each with how far it was seen.
    fn wanted(&self) -> Vec<Value> {
        let wanted = |channel: &String| match self.positions.get(channel) {
            Some(since) => json!({"channel": channel, "since": since}),
            None => json!({"channel": channel}),
        };
        self.args.channels.iter().map(wanted).collect()
    }

    fn done(&self) -> bool {
        self.args.max.is_some_and(|max| self.shown >= max)
    }

    fn take(&mut self, frame: &Frame) -> Result<()> {
        match frame.event.as_str() {
            "ack" if frame.id == Some(Value::from(1)) => self.subscribed(parse(frame)?),
            "realtime_update" => self.show(frame),
            "missed" => {
                let Missed { channel, count, recoverable } = parse(frame)?;
                let count =
                    count.map_or_else(|| "messages".to_owned(), |n| format!("{n} messages"));
                let lost = if recoverable == Some(true) { "" } else { ", which are lost" };
                crate::terminal::say(format_args!(
                    "missed {count} on {}{lost}",
                    printable(&channel)
                ));
                Ok(())
            }
            "exception" => {
                let ErrorPart { code, message } = parse(frame)?;
                Err(Failure::said(Class::Refused, &code, &message))
            }
            "reconnect" => Err(Failure::unreachable("the server asks to connect again")),
            _ => Ok(()),
        }
    }

    fn subscribed(&mut self, answer: Subscribed) -> Result<()> {
        if let Some(Refused { channel, code, message }) = answer.refused.into_iter().next() {
            let message = message.unwrap_or_else(|| "the subscription was refused".to_owned());
            return Err(Failure::said(Class::Refused, &code, &format!("{channel}: {message}")));
        }
        self.subscribed_once = true;
        for Accepted { channel, position } in answer.subscribed {
            // The same place as was asked for, with every stream named that feeds the channel.
            if let Some(position) = position.filter(Value::is_object) {
                self.positions.insert(channel, position);
            }
        }
        Ok(())
    }

    fn show(&mut self, frame: &Frame) -> Result<()> {
        let update: Update<'_> = parse(frame)?;
        if self.args.json {
            print_json_line(frame.data())?;
        } else {
            let id = update.message_id.as_deref().map(|id| format!("  {id}")).unwrap_or_default();
            print_line(&printable(&format!(
                "{}  {}{id}  {}  {}",
                update.timestamp,
                update.channel,
                update.message_type,
                update.data.get()
            )))?;
        }
        self.shown += 1;
        if let (Some(stream), Some(id)) = (update.stream, update.message_id) {
            let seen = match update.epoch {
                Some(epoch) => json!({"id": id, "epoch": epoch}),
                None => json!({"id": id}),
            };
            let position = self.positions.entry(update.channel).or_insert_with(|| json!({}));
            if !position.is_object() {
                *position = json!({});
            }
            position[stream] = seen;
        }
        Ok(())
    }
}

fn parse<'a, T: Deserialize<'a>>(frame: &'a Frame) -> Result<T> {
    serde_json::from_str(frame.data()).map_err(|_| {
        Failure::error(
            Class::Other,
            format!("the server sent a {:?} frame that is not APIX's", frame.event),
        )
    })
}
