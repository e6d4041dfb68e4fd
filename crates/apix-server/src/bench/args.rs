//! What to measure, and against what.

use apix::Durability;
use clap::{Args, ValueEnum};

use crate::broker_url::{BrokerUrl, parse_durability};
use crate::client::Target;

/// Measure rates and latencies of a server, or of a broker inside this process
///
/// Every caller waits for its answer before it sends again (a closed loop), so latencies are those
/// at full speed with that many callers. Streams and groups of the run are removed afterwards.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  apix bench                                          all, over HTTP, against APIX_URL
  apix bench add --callers 1024 --events 500000
  apix bench --broker embedded:/tmp/bench             no HTTP: the engine itself, flushed to disk
  apix bench --broker redis://127.0.0.1:6379 --batch 100")]
pub(crate) struct Bench {
    /// What to measure
    #[arg(value_enum, default_value_t)]
    pub(crate) what: What,
    /// Events or messages in all
    #[arg(
        long,
        default_value_t = 20_000,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) events: u64,
    /// How many callers at once
    #[arg(
        long,
        default_value_t = 64,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=65_536)
    )]
    pub(crate) callers: u64,
    /// Events a call [default: 1 to add, 100 to read]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) batch: Option<u64>,
    /// Bytes of each payload
    #[arg(
        long,
        default_value_t = 250,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(11..=1_048_576)
    )]
    pub(crate) payload: u64,
    /// Measure this broker inside this process, without HTTP; no server is asked then
    #[arg(long, value_name = "URL")]
    pub(crate) broker: Option<BrokerUrl>,
    /// Durability of that broker
    #[arg(long, value_parser = parse_durability, requires = "broker")]
    pub(crate) durability: Option<Durability>,
    /// Print one JSON object a measurement
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// A measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Adding events to a stream
    Add,
    /// Reading and acknowledging events in a group
    Consume,
    /// Publishing messages to one subscriber
    Pubsub,
    /// All three
    #[default]
    All,
}
