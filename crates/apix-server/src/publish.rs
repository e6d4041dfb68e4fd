//! `apix publish`: messages to everyone who is subscribed now.

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::client::{Client, Target};
use crate::event_args::wrap;
use crate::failure::Failure;
use crate::input::{Lines, read_json};
use crate::one_by_one::send_lines;
use crate::terminal::{print_json, print_line};

/// Publish a message on a channel, to everyone subscribed now; nothing is stored
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  apix publish notifications '{\"text\":\"hello\"}' --type greeting
  cat messages.ndjson | apix publish notifications --ndjson    lines are {\"type\",\"data\"}
  cat data.ndjson | apix publish notifications --ndjson --type tick")]
pub(crate) struct Publish {
    /// The channel
    channel: String,
    /// JSON text, @FILE, or - for standard input
    data: Option<String>,
    /// What it is, such as presence.changed; with --ndjson each line is then the data
    #[arg(long = "type", value_name = "TYPE")]
    message_type: Option<String>,
    /// Who caused it
    #[arg(long, value_name = "USER_ID")]
    user: Option<String>,
    /// Send many: one message on each line of standard input or @FILE, in their order
    #[arg(long)]
    ndjson: bool,
    /// Print answers for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageBody<'a> {
    #[serde(rename = "type")]
    message_type: &'a str,
    data: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Published {
    subscriber_count: u64,
}

pub(crate) async fn run(args: Publish) -> Result<()> {
    let client = Client::new(&args.target)?;
    let path = ["v1", "channels", args.channel.as_str(), "messages"];
    let user_id = args.user.as_deref();
    if args.ndjson {
        let lines = Lines::open(args.data.as_deref()).await?;
        let message_type = args.message_type.as_deref();
        return send_lines(&client, &path, lines, args.json, |line| match message_type {
            None => Ok(line),
            Some(message_type) => {
                wrap(line, |data| serde_json::to_vec(&MessageBody { message_type, data, user_id }))
            }
        })
        .await;
    }
    let Some(message_type) = args.message_type.as_deref() else {
        return Err(Failure::usage("no type; give one, as in --type presence.changed"));
    };
    let data = read_json("data", args.data.as_deref()).await?;
    let body = MessageBody { message_type, data, user_id };
    let published: Published = client.post(&path, &body).await?;
    if args.json {
        print_json(&serde_json::to_value(published)?)?;
    } else {
        print_line(&format!("subscribers reached: {}", published.subscriber_count))?;
    }
    Ok(())
}
