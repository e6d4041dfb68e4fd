//! Every webhook payload that GitHub documents, through all three patterns of APIX:
//!
//! 1. added to the stream `github` as NDJSON over HTTP, with the event's name as its type;
//! 2. handled by a worker of the group `processors`, sixteen at a time, one in ten failing at first;
//! 3. published again as hybrid events, which a live WebSocket subscriber sees.
//!
//! At the end it checks that everything was handled and seen, byte for byte as it was sent, and
//! prints a summary.

mod live;
mod payloads;
mod producer;
mod server;
mod summary;
mod work;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;

/// Sends GitHub's example webhooks through a stream, a worker and a live channel.
#[derive(Parser)]
struct Arguments {
    /// `embedded` (in a temporary folder), `memory`, or the URL of a Redis.
    #[arg(long, default_value = "embedded")]
    broker: String,
    /// Where the payloads are: installed by `npm ci` in this folder.
    #[arg(
        long,
        default_value = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/node_modules/@octokit/webhooks-examples/api.github.com/index.json"
        )
    )]
    payloads: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    rustls::crypto::ring::default_provider().install_default().ok();
    let payloads = payloads::read(&arguments.payloads)?;
    let begun = Instant::now();
    let server = server::start(&arguments.broker).await.context("cannot start APIX")?;

    let subscriber = live::Subscriber::open(&server).await?;
    let ids = producer::add_as_ndjson(&server, &payloads).await?;
    let work = work::handle_all(&server, payloads.len()).await?;
    let shown = producer::publish_hybrid(&server, &payloads).await?;
    let seen = subscriber.see(shown.len()).await?;

    let checked = summary::check(&payloads, &ids, &work, &shown, &seen)?;
    checked.print(&arguments.broker, begun.elapsed());
    server.stop().await
}
