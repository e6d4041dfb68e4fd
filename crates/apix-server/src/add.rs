//! `apix add`: events onto a stream.

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Target};
use crate::event_args::EventArgs;
use crate::input::Lines;
use crate::terminal::{print_json, print_line};
use crate::upload::{Report, upload};

/// Add an event to a stream, or with --ndjson one a line
///
/// Prints the message id once the event is as safe as the server's durability says.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  apix add orders '{\"total\":42}' --type order.created
  apix add orders @order.json --type order.created --idempotency-key order-17
  cat events.ndjson | apix add orders --ndjson             lines are {\"eventType\",\"payload\",…}
  cat payloads.ndjson | apix add orders --ndjson --type order.created")]
pub(crate) struct Add {
    /// The stream
    stream: String,
    /// JSON text, @FILE, or - for standard input
    payload: Option<String>,
    /// Send many: one event on each line of standard input or @FILE
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

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Added {
    message_id: String,
}

pub(crate) async fn run(args: Add) -> Result<()> {
    let client = Client::new(&args.target)?;
    if args.ndjson {
        args.event.check_for_lines()?;
        let lines = Lines::open(args.payload.as_deref()).await?;
        let report = Report { json: args.json };
        return upload(&client, &args.stream, lines, args.event.event_type, report).await;
    }
    let body = args.event.body(args.payload.as_deref()).await?;
    let added: Added = client.post(&["v1", "streams", &args.stream, "events"], &body).await?;
    if args.json {
        print_json(&serde_json::to_value(added)?)?;
    } else {
        print_line(&added.message_id)?;
    }
    Ok(())
}
