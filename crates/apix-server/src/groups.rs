//! `apix groups`: the consumer groups of a stream.

use anyhow::Result;
use apix::GroupSettings;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Client, Target};
use crate::confirm::confirm;
use crate::failure::has_code;
use crate::limit::Limit;
use crate::table::{Align, Table};
use crate::terminal::{age_text, count_or_dash, print_json, print_line};

/// List a stream's groups, show one, set it, move it, delete it
#[derive(Args, Debug)]
#[command(
    subcommand_precedence_over_arg = true,
    after_help = "\
Examples:
  apix groups orders
  apix groups orders show billing
  apix groups orders configure billing --lease 2m --max-deliveries 10
  apix groups orders seek billing start
  apix groups orders delete billing --yes"
)]
pub(crate) struct Groups {
    /// The stream
    stream: String,
    #[command(subcommand)]
    command: Option<GroupCommand>,
    /// Print for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Subcommand, Debug)]
enum GroupCommand {
    /// All groups (what is done without a command)
    List,
    /// One group with its consumers and settings
    Show {
        /// The group
        group: String,
    },
    /// Change settings; what is not named stays as it is
    Configure(Configure),
    /// Set where the group reads next; what it has pending is let go
    Seek {
        /// The group
        group: String,
        /// start, end, a message id or an RFC 3339 time
        to: String,
    },
    /// Remove a group with all that it has pending and given up
    Delete {
        /// The group
        group: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
struct Configure {
    /// The group; it is made if there is none
    group: String,
    /// How long a delivery is held before it goes to another consumer, such as 30s
    #[arg(long, value_name = "TIME", value_parser = Limit::parse_age)]
    lease: Option<Limit>,
    /// After so many deliveries an event goes to the dead letters
    #[arg(long, value_name = "N")]
    max_deliveries: Option<u32>,
    /// The most deliveries out at once; none for no limit
    #[arg(long, value_name = "N", value_parser = Limit::parse_count)]
    max_in_flight: Option<Limit>,
    /// Delay after the first failure, such as 500ms
    #[arg(long, value_name = "TIME", value_parser = Limit::parse_age)]
    backoff: Option<Limit>,
    /// The longest delay, such as 1m
    #[arg(long, value_name = "TIME", value_parser = Limit::parse_age)]
    backoff_max: Option<Limit>,
    /// Growth of the delay from one failure to the next
    #[arg(long, value_name = "FACTOR")]
    backoff_factor: Option<f64>,
    /// Hand out nothing; what is out can be settled
    #[arg(long, conflicts_with = "resume")]
    pause: bool,
    /// Hand out again
    #[arg(long)]
    resume: bool,
}

/// A group as the server describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Group {
    group: String,
    lag: Option<u64>,
    pending: u64,
    parked: u64,
    dead_letters: u64,
    lost: u64,
    last_delivered_id: String,
    oldest_unacknowledged_ms: Option<u64>,
    idle_ms: Option<u64>,
    lease_ms: u64,
    max_deliveries: u32,
    max_in_flight: Option<u64>,
    paused: bool,
    backoff: apix::Backoff,
    #[serde(default)]
    consumers: Vec<Consumer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Consumer {
    consumer: String,
    pending: u64,
    idle_ms: u64,
}

pub(crate) async fn run(args: Groups) -> Result<()> {
    let client = Client::new(&args.target)?;
    let stream = args.stream.as_str();
    match args.command.unwrap_or(GroupCommand::List) {
        GroupCommand::List => list(&client, stream, args.json).await,
        GroupCommand::Show { group } => show(&client, stream, &group, args.json).await,
        GroupCommand::Configure(change) => configure(&client, stream, &change).await,
        GroupCommand::Seek { group, to } => {
            let path = ["v1", "streams", stream, "groups", &group, "seek"];
            let request = client.request(reqwest::Method::POST, &path)?.json(&json!({"to": to}));
            client.send(request).await.map(drop)
        }
        GroupCommand::Delete { group, yes } => {
            confirm(&format!("remove the group {group:?} with all that it has pending"), yes)?;
            client.delete(&["v1", "streams", stream, "groups", &group]).await
        }
    }
}

async fn list(client: &Client, stream: &str, json: bool) -> Result<()> {
    let answer: Value = client.get(&["v1", "streams", stream, "groups"], &[]).await?;
    if json {
        return Ok(print_json(&answer)?);
    }
    let groups: Vec<Group> = serde_json::from_value(answer["groups"].clone())?;
    if groups.is_empty() {
        crate::terminal::say(format_args!("{stream} has no groups yet; the first read makes one"));
        return Ok(());
    }
    print_groups(&groups)
}

/// A table of groups.
pub(crate) fn print_groups(groups: &[Group]) -> Result<()> {
    let mut table = Table::new([
        ("GROUP", Align::Left),
        ("LAG", Align::Right),
        ("PENDING", Align::Right),
        ("RETRY LATER", Align::Right),
        ("DEAD LETTERS", Align::Right),
        ("OLDEST", Align::Right),
        ("CONSUMERS", Align::Right),
        ("LAST USED", Align::Right),
    ]);
    for group in groups {
        let ago = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), age_text);
        let name =
            if group.paused { format!("{} (paused)", group.group) } else { group.group.clone() };
        table.row(vec![
            name,
            count_or_dash(group.lag),
            group.pending.to_string(),
            group.parked.to_string(),
            group.dead_letters.to_string(),
            ago(group.oldest_unacknowledged_ms),
            group.consumers.len().to_string(),
            ago(group.idle_ms),
        ]);
    }
    Ok(table.print()?)
}

async fn show(client: &Client, stream: &str, name: &str, json: bool) -> Result<()> {
    let answer: Value = client.get(&["v1", "streams", stream, "groups", name], &[]).await?;
    if json {
        return Ok(print_json(&answer)?);
    }
    let group: Group = serde_json::from_value(answer)?;
    let backoff = &group.backoff;
    let lines = [
        ("last delivered", group.last_delivered_id.clone()),
        ("lost", group.lost.to_string()),
        ("lease", age_text(group.lease_ms)),
        ("max deliveries", group.max_deliveries.to_string()),
        ("max in flight", group.max_in_flight.map_or_else(|| "none".into(), |n| n.to_string())),
        (
            "back-off",
            format!(
                "{} × {} up to {}",
                age_text(backoff.base_ms),
                backoff.factor,
                age_text(backoff.max_ms)
            ),
        ),
    ];
    print_groups(std::slice::from_ref(&group))?;
    print_line("")?;
    for (name, value) in lines {
        print_line(&format!("{name:<15} {value}"))?;
    }
    if group.consumers.is_empty() {
        return Ok(());
    }
    print_line("")?;
    let mut table = Table::new([
        ("CONSUMER", Align::Left),
        ("PENDING", Align::Right),
        ("LAST USED", Align::Right),
    ]);
    for consumer in group.consumers {
        let idle = age_text(consumer.idle_ms);
        table.row(vec![consumer.consumer, consumer.pending.to_string(), idle]);
    }
    Ok(table.print()?)
}

/// The call replaces all settings, so what is not named is read first.
async fn configure(client: &Client, stream: &str, change: &Configure) -> Result<()> {
    let path = ["v1", "streams", stream, "groups", change.group.as_str()];
    let mut settings = match client.get::<Group>(&path, &[]).await {
        Ok(group) => GroupSettings {
            lease_ms: group.lease_ms,
            max_deliveries: group.max_deliveries,
            backoff: group.backoff,
            max_in_flight: group.max_in_flight,
            paused: group.paused,
        },
        Err(fault) if has_code(&fault, "not_found") => GroupSettings::default(),
        Err(fault) => return Err(fault),
    };
    if let Some(lease) = change.lease {
        settings.lease_ms = lease.required("--lease")?;
    }
    if let Some(count) = change.max_deliveries {
        settings.max_deliveries = count;
    }
    if let Some(limit) = change.max_in_flight {
        settings.max_in_flight = limit.as_option();
    }
    if let Some(delay) = change.backoff {
        settings.backoff.base_ms = delay.required("--backoff")?;
    }
    if let Some(delay) = change.backoff_max {
        settings.backoff.max_ms = delay.required("--backoff-max")?;
    }
    if let Some(factor) = change.backoff_factor {
        settings.backoff.factor = factor;
    }
    settings.paused = (settings.paused || change.pause) && !change.resume;
    client.put(&path, &settings).await
}
