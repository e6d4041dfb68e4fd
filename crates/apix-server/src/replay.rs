//! `apix replay`: past events as NDJSON, streamed.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};
use futures_util::StreamExt as _;
use reqwest::{Method, Response, header};
use serde::Deserialize;

use crate::client::{Client, ErrorPart, Target};
use crate::failure::{Class, Failure};
use crate::progress::Progress;
use crate::signals;
use crate::terminal::rate_text;

/// Print past events of a stream as NDJSON, changing nothing
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  apix replay orders > orders.ndjson
  apix replay orders --from 2026-11-24T00:00:00Z --event-type order.created | jq .payload
  apix replay orders --order desc --limit 10                the newest ten
  apix replay orders --rate 100 | while read -r event; do …; done")]
pub(crate) struct Replay {
    /// The stream
    stream: String,
    /// From this id (inclusive; `(ID` excludes it) or RFC 3339 time
    #[arg(long, value_name = "ID|TIME")]
    from: Option<String>,
    /// Up to this id or time, inclusive
    #[arg(long, value_name = "ID|TIME")]
    to: Option<String>,
    /// At most so many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Oldest or newest first
    #[arg(long, value_enum, default_value_t)]
    order: Order,
    /// Events of this type only
    #[arg(long, value_name = "TYPE")]
    event_type: Option<String>,
    /// At most so many events a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Order {
    #[default]
    Asc,
    Desc,
}

pub(crate) async fn run(args: Replay) -> Result<()> {
    let client = Client::new(&args.target)?;
    let stop = signals::asked(signals::shutdown()?);
    tokio::select! {
        done = replay(&client, &args) => done,
        () = stop => Ok(()),
    }
}

async fn replay(client: &Client, args: &Replay) -> Result<()> {
    let mut query = Vec::new();
    let mut ask = |name, value: &Option<String>| {
        query.extend(value.clone().map(|value| (name, value)));
    };
    ask("from", &args.from);
    ask("to", &args.to);
    ask("eventType", &args.event_type);
    ask("limit", &args.limit.map(|limit| limit.to_string()));
    if matches!(args.order, Order::Desc) {
        ask("order", &Some("desc".to_owned()));
    }
    let request = client
        .streaming(Method::GET, &["v1", "streams", &args.stream, "events"])?
        .header(header::ACCEPT, "application/x-ndjson")
        .query(&query);
    let response = client.send(request).await?;
    let mut printer = Printer::new(args.rate);
    let done = printer.print_all(client, response).await;
    let elapsed = printer.progress.finish();
    if !io::stdout().is_terminal() && io::stderr().is_terminal() {
        let count = printer.printed;
        crate::terminal::say(format_args!(
            "{count} events in {:.1} s ({})",
            elapsed.as_secs_f64(),
            rate_text(count, elapsed)
        ));
    }
    done
}

/// What ends an answer that could not be finished.
#[derive(Deserialize)]
struct Broken {
    error: ErrorPart,
}

/// Passes lines on, as they came.
struct Printer {
    interval: Option<Duration>,
    due: Instant,
    printed: u64,
    progress: Progress,
}

impl Printer {
    fn new(rate: Option<u32>) -> Self {
        let interval = rate.map(|rate| Duration::from_secs(1) / rate);
        // Where the events themselves go to the terminal they are progress enough.
        let progress = if io::stdout().is_terminal() {
            Progress::hidden()
        } else {
            Progress::new(None, "events")
        };
        Self { interval, due: Instant::now(), printed: 0, progress }
    }

    async fn print_all(&mut self, client: &Client, response: Response) -> Result<()> {
        let mut arriving = response.bytes_stream();
        let mut rest: Vec<u8> = Vec::new();
        while let Some(part) = arriving.next().await {
            rest.extend_from_slice(&part.map_err(|fault| client.no_answer(&fault))?);
            let Some(end) = rest.iter().rposition(|&byte| byte == b'\n') else { continue };
            self.print(&rest[..=end]).await?;
            rest.drain(..=end);
        }
        if rest.is_empty() {
            return Ok(());
        }
        Err(Failure::unreachable("the answer broke off in the middle of an event"))
    }

    /// Whole lines, at once or at the pace that was asked for.
    async fn print(&mut self, lines: &[u8]) -> Result<()> {
        let mut end = lines.len();
        let last = lines[..lines.len() - 1].iter().rposition(|&byte| byte == b'\n');
        let last = &lines[last.map_or(0, |at| at + 1)..];
        let broken = failure_of(last);
        if broken.is_some() {
            end -= last.len();
        }
        if self.interval.is_none() {
            self.write(&lines[..end])?;
        } else {
            for line in lines[..end].split_inclusive(|&byte| byte == b'\n') {
                self.wait().await;
                self.write(line)?;
            }
        }
        broken.map_or(Ok(()), Err)
    }

    fn write(&mut self, lines: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(lines)?;
        out.flush()?;
        self.printed += lines.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.progress.at(self.printed);
        Ok(())
    }

    /// Until the next event is due. Time lost is not made up for: the pace is an upper bound.
    async fn wait(&mut self) {
        let Some(interval) = self.interval else { return };
        tokio::time::sleep_until(self.due.into()).await;
        self.due = self.due.max(Instant::now()) + interval;
    }
}

/// Events begin with their id; a line that begins with an error ends the answer.
fn failure_of(line: &[u8]) -> Option<anyhow::Error> {
    if !line.starts_with(b"{\"error\"") {
        return None;
    }
    let Broken { error } = serde_json::from_slice(line).ok()?;
    Some(Failure::said(Class::Unreachable, &error.code, &error.message))
}
