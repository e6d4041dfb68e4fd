//! `apix consume` without a group: new events as they come, changing nothing.

use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::Client;
use crate::consume::Consume;
use crate::failure::{Class, class_of, has_code};
use crate::terminal::{print_json_line, print_line, printable};

/// How long to wait when there was nothing new, and at most after a while of that.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(1_000);

/// Events a page.
const PAGE: u64 = 500;

#[derive(Deserialize)]
struct Page {
    events: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    message_id: String,
    event_type: String,
    payload: Box<RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    last_id: Option<String>,
}

/// Shows events until there were enough.
pub(crate) async fn follow(client: &Client, args: &Consume) -> Result<()> {
    let mut from = match &args.from {
        Some(from) => from.clone(),
        None => after_the_last(client, &args.stream).await?,
    };
    let (mut shown, mut pause, mut reached) = (0, SHORTEST_PAUSE, true);
    loop {
        let left = args.max.map_or(PAGE, |max| (max - shown).min(PAGE));
        if left == 0 {
            return Ok(());
        }
        let events = match page(client, &args.stream, &from, left).await {
            Ok(events) => events,
            Err(fault) if class_of(&fault) == Class::Unreachable => {
                if reached {
                    crate::terminal::say(format_args!("{fault:#}; trying again"));
                }
                (reached, pause) = (false, LONGEST_PAUSE);
                Vec::new()
            }
            Err(fault) => return Err(fault),
        };
        if events.is_empty() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            continue;
        }
        (reached, pause) = (true, SHORTEST_PAUSE);
        for raw in events {
            let seen: Seen = serde_json::from_str(raw.get())?;
            if args.json {
                print_json_line(raw.get())?;
            } else {
                let payload = seen.payload.get();
                let id = &seen.message_id;
                print_line(&printable(&format!("{id}  {}  {payload}", seen.event_type)))?;
            }
            from = format!("({}", seen.message_id);
            shown += 1;
        }
    }
}

/// Where new events begin: after the newest one, or at the start of a stream that is yet to be.
async fn after_the_last(client: &Client, stream: &str) -> Result<String> {
    match client.get::<Stats>(&["v1", "streams", stream], &[]).await {
        Ok(Stats { last_id: Some(last) }) => Ok(format!("({last}")),
        Ok(Stats { last_id: None }) => Ok("0-0".to_owned()),
        Err(fault) if has_code(&fault, "not_found") => {
            crate::terminal::say(format_args!(
                "there is no stream {stream:?} yet; waiting for its first event"
            ));
            Ok("0-0".to_owned())
        }
        Err(fault) => Err(fault),
    }
}

async fn page(client: &Client, stream: &str, from: &str, limit: u64) -> Result<Vec<Box<RawValue>>> {
    let query = [("from", from.to_owned()), ("limit", limit.to_string())];
    match client.get::<Page>(&["v1", "streams", stream, "events"], &query).await {
        Ok(page) => Ok(page.events),
        // Nothing to see is nothing wrong for one who waits.
        Err(fault) if has_code(&fault, "not_found") => Ok(Vec::new()),
        Err(fault) => Err(fault),
    }
}
