//! Whether events that wait for their retry slow the others of their group down: the same work,
//! in turns beside no parked event and beside many. Each side is a process of its own, so that they
//! share no cache.
//!
//! `cargo run --release -p apix-embedded --example parked [PAIRS] [PARKED] [RETRY_SECONDS]`

use std::error::Error;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use apix::{
    Broker, ConsumerName, Event, GroupKey, GroupName, Json, Limits, NewEvent, ReadOptions,
    Settlement, StreamKey, StreamName, TenantContext,
};
use apix_embedded::{EmbeddedBroker, EmbeddedOptions};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// One measurement: so often so many events are added and handled, in batches of so many.
const ROUNDS: usize = 10;
const EVENTS: usize = 20_000;
const BATCH: usize = 500;

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let is_side = arguments.next_if(|first| first == "side").is_some();
    let mut numbers = arguments.map(|text| text.parse::<usize>());
    if is_side {
        let parked = numbers.next().transpose()?.unwrap_or(0);
        let retry = numbers.next().transpose()?.unwrap_or(0);
        return Side::open().await?.serve(parked, Duration::from_secs(retry as u64)).await;
    }
    let pairs = numbers.next().transpose()?.unwrap_or(11).max(7);
    let parked = numbers.next().transpose()?.unwrap_or(100_000);
    let retry = numbers.next().transpose()?.unwrap_or(3_600);
    compare(pairs, parked, retry)
}

fn compare(pairs: usize, parked: usize, retry: usize) -> Outcome<()> {
    let (mut without, mut with) = (Other::start(0, retry)?, Other::start(parked, retry)?);
    println!("{parked} parked for {retry} s; read and acknowledged per second");
    // Not counted: what grows at first has grown.
    without.rate()?;
    with.rate()?;
    let mut ratios = Vec::new();
    for pair in 0..pairs {
        // Each is first as often as the other.
        let (a, b) = if pair % 2 == 0 {
            let a = without.rate()?;
            (a, with.rate()?)
        } else {
            let b = with.rate()?;
            (without.rate()?, b)
        };
        println!("pair {}: without {a:.0}, with {b:.0}, ratio {:.3}", pair + 1, b / a);
        ratios.push(b / a);
    }
    ratios.sort_by(f64::total_cmp);
    let outer = outer_rank(pairs);
    println!(
        "ratio with / without: median {:.3}, 95 % interval {:.3} to {:.3}",
        f64::midpoint(ratios[(pairs - 1) / 2], ratios[pairs / 2]),
        ratios[outer],
        ratios[pairs - 1 - outer]
    );
    without.end()?;
    with.end()
}

/// The process of one side: a line to it asks for a measurement, a line from it is the rate.
struct Other {
    child: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(parked: usize, retry: usize) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["side".to_owned(), parked.to_string(), retry.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let asks = child.stdin.take().ok_or("no input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        Ok(Self { child, asks, answers })
    }

    fn rate(&mut self) -> Outcome<f64> {
        writeln!(self.asks)?;
        Ok(self.answers.next().ok_or("the side has ended")??.parse()?)
    }

    fn end(self) -> Outcome<()> {
        let Self { mut child, asks, .. } = self;
        drop(asks);
        child.wait()?;
        Ok(())
    }
}

/// How many of the smallest and largest values of a sample lie outside of an interval that holds
/// the median with at least 95 %, whatever the distribution is.
fn outer_rank(samples: usize) -> usize {
    let (mut outside, mut chance) = (0, 0.0);
    let mut exactly = 0.5_f64.powi(i32::try_from(samples).unwrap_or(i32::MAX));
    for below in 0..samples / 2 {
        chance += exactly;
        if chance > 0.025 {
            break;
        }
        outside = below;
        exactly *= (samples - below) as f64 / (below + 1) as f64;
    }
    outside
}

/// One broker with one group.
struct Side {
    broker: EmbeddedBroker,
    group: GroupKey,
    consumer: ConsumerName,
    folder: std::path::PathBuf,
}

impl Side {
    /// A folder beside the current one, so that it lies on a disk; removed at the end.
    async fn open() -> Outcome<Self> {
        let name = format!("parked-{}", std::process::id());
        let folder = std::env::current_dir()?.join("target").join(name);
        let broker = EmbeddedBroker::open(EmbeddedOptions::directory(&folder)).await?;
        let stream = StreamKey::new(&TenantContext::trusted("bench")?, StreamName::new("events")?);
        let group = GroupKey::new(stream, GroupName::new("workers")?);
        Ok(Self { broker, group, consumer: ConsumerName::new("worker")?, folder })
    }

    /// Measures once for each line of the input.
    async fn serve(self, parked: usize, retry: Duration) -> Outcome<()> {
        self.park(parked, retry).await?;
        for ask in std::io::stdin().lines() {
            ask?;
            println!("{}", self.rate().await?);
        }
        self.broker.close().await;
        std::fs::remove_dir_all(&self.folder)?;
        Ok(())
    }

    async fn add(&self, events: usize) -> Outcome<()> {
        let payload = Json::parse(format!("{{\"text\":\"{}\"}}", "x".repeat(238)))?;
        let event = Event::new("bench.event", payload).checked(None, &Limits::default())?;
        let batch: Vec<NewEvent> = vec![event; BATCH];
        for _ in 0..events.div_ceil(BATCH) {
            self.broker.append(&self.group.stream, batch.clone()).await?;
        }
        Ok(())
    }

    /// Lets so many events wait for their retry.
    async fn park(&self, events: usize, after: Duration) -> Outcome<()> {
        self.add(events).await?;
        let options = ReadOptions { max_events: BATCH, wait: Duration::ZERO };
        loop {
            let read = self.broker.read_group(&self.group, &self.consumer, options).await?;
            if read.is_empty() {
                return Ok(());
            }
            let retry = || Settlement::Retry { after: Some(after), reason: "later".into() };
            let settled = read.iter().map(|one| (one.receipt(), retry())).collect();
            for result in self.broker.settle(&self.group, settled).await? {
                result?;
            }
        }
    }

    /// Handles some events by reading and acknowledging; how many a second.
    async fn rate(&self) -> Outcome<f64> {
        let options = ReadOptions { max_events: BATCH, wait: Duration::ZERO };
        let mut took = Duration::ZERO;
        for _ in 0..ROUNDS {
            self.add(EVENTS).await?;
            let (begun, mut handled) = (Instant::now(), 0);
            while handled < EVENTS {
                let read = self.broker.read_group(&self.group, &self.consumer, options).await?;
                let receipts: Vec<_> = read.iter().map(|one| one.receipt()).collect();
                let done = self.broker.acknowledge(&self.group, &receipts).await?;
                handled += usize::try_from(done.count)?;
            }
            took += begun.elapsed();
        }
        Ok((ROUNDS * EVENTS) as f64 / took.as_secs_f64())
    }
}
