//! `apix dead-letters`: what a group has given up.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::client::{Client, Target};
use crate::confirm::confirm;
use crate::table::{Align, Table};
use crate::terminal::{print_json, print_json_line, print_line};

/// List what a group has given up, hand it out again, or drop it
#[derive(Args, Debug)]
#[command(
    subcommand_precedence_over_arg = true,
    after_help = "\
Examples:
  apix dead-letters orders --group billing
  apix dead-letters orders --group billing retry --ids 1764000000000-0,1764000000000-1
  apix dead-letters orders --group billing retry --all
  apix dead-letters orders --group billing discard --all --yes"
)]
pub(crate) struct DeadLetters {
    /// The stream
    stream: String,
    /// The group
    #[arg(long, default_value = "processors")]
    group: String,
    #[command(subcommand)]
    command: Option<DeadLetterCommand>,
    /// Print for programs: with list, one dead letter a line
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Subcommand, Debug)]
enum DeadLetterCommand {
    /// The oldest first (what is done without a command)
    List {
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Hand them to the group again, with delivery counts from 1
    Retry(Choice),
    /// Drop them
    Discard {
        #[command(flatten)]
        choice: Choice,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Choice {
    /// These, with commas between
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    ids: Vec<String>,
    /// All of the group
    #[arg(long)]
    all: bool,
}

impl Choice {
    fn body(&self) -> Value {
        if self.all { json!({"all": true}) } else { json!({"messageIds": self.ids}) }
    }

    fn text(&self) -> String {
        if self.all {
            "all dead letters".to_owned()
        } else {
            format!("{} dead letters", self.ids.len())
        }
    }
}

/// Each as the server wrote it: payloads stay byte for byte.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    dead_letters: Vec<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetter {
    message_id: String,
    at: String,
    reason: String,
    #[serde(default)]
    attempts: Vec<Value>,
    event: Option<Event>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    event_type: String,
}

/// Dead letters a page.
const PAGE: u64 = 200;

pub(crate) async fn run(args: DeadLetters) -> Result<()> {
    let client = Client::new(&args.target)?;
    let base = ["v1", "streams", &args.stream, "groups", &args.group, "dead-letters"];
    match args.command.unwrap_or(DeadLetterCommand::List { limit: None }) {
        DeadLetterCommand::List { limit } => list(&client, &base, limit, args.json).await,
        DeadLetterCommand::Retry(choice) => act(&client, &base, "retry", &choice, args.json).await,
        DeadLetterCommand::Discard { choice, yes } => {
            confirm(&format!("drop {} of the group {:?}", choice.text(), args.group), yes)?;
            act(&client, &base, "discard", &choice, args.json).await
        }
    }
}

async fn list(client: &Client, path: &[&str], limit: Option<u64>, json: bool) -> Result<()> {
    let mut table = Table::new([
        ("MESSAGE ID", Align::Left),
        ("GIVEN UP", Align::Left),
        ("TRIES", Align::Right),
        ("TYPE", Align::Left),
        ("REASON", Align::Left),
    ]);
    let mut left = limit.unwrap_or(u64::MAX);
    let mut after: Option<String> = None;
    while left > 0 {
        let mut query = vec![("limit", left.min(PAGE).to_string())];
        query.extend(after.take().map(|after| ("after", after)));
        let page = client.get::<Page>(path, &query).await?.dead_letters;
        left = left.saturating_sub(page.len() as u64);
        for raw in page {
            if json {
                print_json_line(raw.get())?;
            }
            let one: DeadLetter = serde_json::from_str(raw.get())?;
            after = Some(one.message_id.clone());
            if !json {
                let kind = one.event.map_or_else(|| "(raw entry)".to_owned(), |e| e.event_type);
                let tries = one.attempts.len().to_string();
                table.row(vec![one.message_id, one.at, tries, kind, one.reason]);
            }
        }
        if after.is_none() {
            break;
        }
    }
    if table.is_empty() {
        if !json {
            crate::terminal::say(format_args!("no dead letters"));
        }
        return Ok(());
    }
    Ok(table.print()?)
}

async fn act(
    client: &Client,
    base: &[&str],
    what: &str,
    choice: &Choice,
    json: bool,
) -> Result<()> {
    let mut path = base.to_vec();
    path.push(what);
    let answer: Value = client.post(&path, &choice.body()).await?;
    if json {
        return Ok(print_json(&answer)?);
    }
    let (name, done) = match what {
        "retry" => ("retried", "handed out again"),
        _ => ("discarded", "dropped"),
    };
    print_line(&format!("{} {done}", answer[name]))?;
    Ok(())
}
