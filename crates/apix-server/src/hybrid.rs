//! `apix hybrid`: events that are stored first and then shown live.

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Target};
use crate::event_args::{EventArgs, EventBody, event_of_line};
use crate::failure::Failure;
use crate::input::Lines;
use crate::one_by_one::send_lines;
use crate::terminal::{print_json, print_line};

/// Store an event on a stream, then show it live on a channel, in one call
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  apix hybrid '{\"amount\":5}' --type payment.completed --stream payments --channel notifications
  cat events.ndjson | apix hybrid --ndjson                lines as POST /v1/hybrid-events takes them
  cat payloads.ndjson | apix hybrid --ndjson --type payment.completed --stream payments")]
pub(crate) struct Hybrid {
    /// JSON text, @FILE, or - for standard input
    payload: Option<String>,
    /// The stream (the server's default is events)
    #[arg(long)]
    stream: Option<String>,
    /// The channel (the server's default is notifications)
    #[arg(long)]
    channel: Option<String>,
    /// Send many: one event on each line of standard input or @FILE, in their order
    #[arg(long)]
    ndjson: bool,
    #[command(flatten)]
    event: EventArgs,
    /// Print answers for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Serialize)]
struct HybridBody<'a> {
    #[serde(flatten)]
    event: EventBody<'a>,
    options: Options<'a>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Options<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    realtime_channel: Option<&'a str>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriber_count: Option<u64>,
}

const PATH: [&str; 2] = ["v1", "hybrid-events"];

pub(crate) async fn run(args: Hybrid) -> Result<()> {
    let client = Client::new(&args.target)?;
    let options =
        Options { stream_name: args.stream.as_deref(), realtime_channel: args.channel.as_deref() };
    if args.ndjson {
        args.event.check_for_lines()?;
        let lines = Lines::open(args.payload.as_deref()).await?;
        let event_type = args.event.event_type.as_deref();
        if event_type.is_none() && (args.stream.is_some() || args.channel.is_some()) {
            return Err(Failure::usage(
                "with --ndjson and no --type each line is a whole hybrid event: put streamName \
                 and realtimeChannel into the options of the lines, or give --type",
            ));
        }
        return send_lines(&client, &PATH, lines, args.json, |line| match event_type {
            None => Ok(line),
            Some(_) => with_options(&event_of_line(event_type, line)?, options),
        })
        .await;
    }
    let event = args.event.body(args.payload.as_deref()).await?;
    let shown: Shown = client.post(&PATH, &HybridBody { event, options }).await?;
    if args.json {
        print_json(&serde_json::to_value(shown)?)?;
        return Ok(());
    }
    let id = shown.stream_message_id.unwrap_or_default();
    match shown.subscriber_count {
        Some(count) => print_line(&format!("{id}  subscribers reached: {count}"))?,
        None => print_line(&format!(
            "{id}  stored; not shown live (a repeat, or the channel is out of reach)"
        ))?,
    }
    Ok(())
}

/// The event, a JSON object that was just written here, with `options` as its last member.
fn with_options(event: &[u8], options: Options<'_>) -> Result<Vec<u8>> {
    let open = event.strip_suffix(b"}").unwrap_or(event);
    let mut body = open.to_vec();
    body.extend_from_slice(b",\"options\":");
    body.extend_from_slice(&serde_json::to_vec(&options)?);
    body.push(b'}');
    Ok(body)
}
