//! `apix streams`: what streams there are, and their settings.

use anyhow::Result;
use apix::StreamSettings;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;

use crate::client::{Client, Target};
use crate::confirm::confirm;
use crate::failure::has_code;
use crate::groups::{Group, print_groups};
use crate::limit::Limit;
use crate::table::{Align, Table};
use crate::terminal::{age_text, bytes_text, print_json, print_line};

/// List streams, show one, set its retention, delete it
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  apix streams
  apix streams show orders
  apix streams configure orders --max-age 30d --max-len 1000000
  apix streams delete orders --yes")]
pub(crate) struct Streams {
    #[command(subcommand)]
    command: Option<StreamCommand>,
    /// Print for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Subcommand, Debug)]
enum StreamCommand {
    /// All streams that the token may read (what is done without a command)
    List,
    /// One stream with its groups
    Show {
        /// The stream
        stream: String,
    },
    /// Change settings; what is not named stays as it is
    Configure(Configure),
    /// Remove a stream with all its events, groups and dead letters
    Delete {
        /// The stream
        stream: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
struct Configure {
    /// The stream; it is made if there is none
    stream: String,
    /// Remove events older than this, such as 12h or 30d; none for no limit
    #[arg(long, value_name = "TIME", value_parser = Limit::parse_age)]
    max_age: Option<Limit>,
    /// Remove the oldest beyond so many events; none for no limit
    #[arg(long, value_name = "N", value_parser = Limit::parse_count)]
    max_len: Option<Limit>,
    /// Remove the oldest beyond so many bytes, such as 500MiB; none for no limit
    #[arg(long, value_name = "SIZE", value_parser = Limit::parse_size)]
    max_bytes: Option<Limit>,
    /// Beyond so many bytes even what no group has acknowledged goes; none for no limit
    #[arg(long, value_name = "SIZE", value_parser = Limit::parse_size)]
    hard_max_bytes: Option<Limit>,
    /// How long idempotency keys are known, such as 24h
    #[arg(long, value_name = "TIME", value_parser = Limit::parse_age)]
    idempotency_age: Option<Limit>,
    /// How many idempotency keys are known
    #[arg(long, value_name = "N", value_parser = Limit::parse_count)]
    idempotency_keys: Option<Limit>,
}

#[derive(Deserialize)]
struct Page {
    streams: Vec<Value>,
    next: Option<String>,
}

/// A stream as the server describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stream {
    stream: String,
    length: u64,
    bytes: u64,
    first_id: Option<String>,
    last_id: Option<String>,
    trimmed_to: Option<String>,
    hard_limit_dropped: u64,
    #[serde(default)]
    retention: apix::Retention,
    #[serde(default)]
    idempotency: apix::IdempotencyWindow,
    groups: Vec<Group>,
}

pub(crate) async fn run(args: Streams) -> Result<()> {
    let client = Client::new(&args.target)?;
    match args.command.unwrap_or(StreamCommand::List) {
        StreamCommand::List => list(&client, args.json).await,
        StreamCommand::Show { stream } => show(&client, &stream, args.json).await,
        StreamCommand::Configure(change) => configure(&client, &change).await,
        StreamCommand::Delete { stream, yes } => {
            confirm(&format!("remove the stream {stream:?} with all its events and groups"), yes)?;
            client.delete(&["v1", "streams", &stream]).await
        }
    }
}

async fn list(client: &Client, json: bool) -> Result<()> {
    let streams = all_streams(client).await?;
    if json {
        return Ok(print_json(&serde_json::json!({"streams": streams}))?);
    }
    let streams: Vec<Stream> = serde_json::from_value(streams.into())?;
    if streams.is_empty() {
        crate::terminal::say(format_args!("there are no streams yet; apix add STREAM makes one"));
        return Ok(());
    }
    let mut table = Table::new([
        ("STREAM", Align::Left),
        ("EVENTS", Align::Right),
        ("SIZE", Align::Right),
        ("GROUPS", Align::Right),
        ("LAST ID", Align::Left),
    ]);
    for stream in streams {
        table.row(vec![
            stream.stream,
            stream.length.to_string(),
            bytes_text(stream.bytes),
            stream.groups.len().to_string(),
            stream.last_id.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    Ok(table.print()?)
}

/// Page by page.
async fn all_streams(client: &Client) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    let mut query = Vec::new();
    loop {
        let Page { streams, next } = client.get(&["v1", "streams"], &query).await?;
        all.extend(streams);
        match next {
            Some(next) => query = vec![("after", next)],
            None => return Ok(all),
        }
    }
}

async fn show(client: &Client, name: &str, json: bool) -> Result<()> {
    let answer: Value = client.get(&["v1", "streams", name], &[]).await?;
    if json {
        return Ok(print_json(&answer)?);
    }
    let stream: Stream = serde_json::from_value(answer)?;
    let dash = |id: Option<String>| id.unwrap_or_else(|| "-".to_owned());
    let none = |limit: Option<String>| limit.unwrap_or_else(|| "none".to_owned());
    let retention = &stream.retention;
    let hard = (retention.hard_max_bytes > 0).then(|| bytes_text(retention.hard_max_bytes));
    let lines = [
        ("stream", stream.stream),
        ("events", stream.length.to_string()),
        ("size", bytes_text(stream.bytes)),
        ("first id", dash(stream.first_id)),
        ("last id", dash(stream.last_id)),
        ("trimmed to", dash(stream.trimmed_to)),
        ("lost to the hard limit", stream.hard_limit_dropped.to_string()),
        ("max age", none(retention.max_age_ms.map(age_text))),
        ("max events", none(retention.max_len.map(|n| n.to_string()))),
        ("max size", none(retention.max_bytes.map(bytes_text))),
        ("hard max size", none(hard)),
        ("idempotency keys for", age_text(stream.idempotency.max_age_ms)),
        ("idempotency keys", stream.idempotency.max_keys.to_string()),
    ];
    for (name, value) in lines {
        print_line(&format!("{name:<23} {value}"))?;
    }
    if stream.groups.is_empty() {
        return Ok(());
    }
    print_line("")?;
    print_groups(&stream.groups)
}

/// The call replaces all settings, so what is not named is read first.
async fn configure(client: &Client, change: &Configure) -> Result<()> {
    let path = ["v1", "streams", change.stream.as_str()];
    let mut settings = match client.get::<Stream>(&path, &[]).await {
        Ok(Stream { retention, idempotency, .. }) => StreamSettings { retention, idempotency },
        Err(fault) if has_code(&fault, "not_found") => StreamSettings::default(),
        Err(fault) => return Err(fault),
    };
    let retention = &mut settings.retention;
    if let Some(limit) = change.max_age {
        retention.max_age_ms = limit.as_option();
    }
    if let Some(limit) = change.max_len {
        retention.max_len = limit.as_option();
    }
    if let Some(limit) = change.max_bytes {
        retention.max_bytes = limit.as_option();
    }
    if let Some(limit) = change.hard_max_bytes {
        retention.hard_max_bytes = limit.as_option().unwrap_or(0);
    }
    if let Some(limit) = change.idempotency_age {
        settings.idempotency.max_age_ms = limit.required("--idempotency-age")?;
    }
    if let Some(limit) = change.idempotency_keys {
        settings.idempotency.max_keys = limit.required("--idempotency-keys")?;
    }
    client.put(&path, &settings).await
}
