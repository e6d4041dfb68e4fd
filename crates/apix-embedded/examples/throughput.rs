//! What the engine does on this machine: flushed appends by 1, 64 and 1,024 callers, the way of an
//! event from append to acknowledgement, and live messages.
//!
//! `cargo run --release -p apix-embedded --example throughput [SECONDS] [LOG_MIB]`: `LOG_MIB` is how
//! much of the log is used before it is written back.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use apix::{
    Broker, ChannelKey, ChannelName, ConsumerName, Event, GroupKey, GroupName, Json, Limits,
    NewEvent, NewMessage, ReadOptions, StreamKey, StreamName, TenantContext,
};
use apix_embedded::{EmbeddedBroker, EmbeddedOptions};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    let log_mib = std::env::args().nth(2).map(|text| text.parse::<usize>()).transpose()?;
    let span = Duration::from_secs(seconds);
    for callers in [1, 64, 1_024] {
        let folder = Folder::new(log_mib)?;
        let broker = folder.open().await?;
        appends(&broker, callers, span).await?;
        broker.close().await;
    }
    let folder = Folder::new(log_mib)?;
    let broker = folder.open().await?;
    end_to_end(&broker, span).await?;
    live(&broker, span).await?;
    broker.close().await;
    Ok(())
}

/// A folder beside the current one, so that it lies on a disk; removed at the end.
struct Folder {
    path: std::path::PathBuf,
    log_mib: Option<usize>,
}

impl Folder {
    fn new(log_mib: Option<usize>) -> Outcome<Self> {
        let name = format!("throughput-{}", std::process::id());
        let path = std::env::current_dir()?.join("target").join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Self { path, log_mib })
    }

    async fn open(&self) -> Outcome<Arc<EmbeddedBroker>> {
        let mut options = EmbeddedOptions::directory(&self.path);
        options.log_bytes = self.log_mib.map_or(options.log_bytes, |mib| mib << 20);
        Ok(Arc::new(EmbeddedBroker::open(options).await?))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn event() -> Outcome<NewEvent> {
    let payload = Json::parse(format!("{{\"text\":\"{}\"}}", "x".repeat(238)))?;
    Ok(Event::new("bench.event", payload).checked(None, &Limits::default())?)
}

fn stream() -> Outcome<StreamKey> {
    Ok(StreamKey::new(&TenantContext::trusted("bench")?, StreamName::new("events")?))
}

fn print(what: &str, count: u64, took: Duration, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| {
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation
        )]
        let index = (times.len() as f64 * part) as usize;
        times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    let rate = u128::from(count) * 1_000 / took.as_millis().max(1);
    println!("{what}: {rate}/s, p50 {:.2?}, p99 {:.2?}", at(0.5), at(0.99));
}

/// Each caller appends one event after the other.
async fn appends(broker: &Arc<EmbeddedBroker>, callers: usize, span: Duration) -> Outcome<()> {
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let (broker, stream, event) = (Arc::clone(broker), stream()?, event()?);
        tasks.spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < span {
                let at = Instant::now();
                broker.append(&stream, vec![event.clone()]).await?;
                times.push(at.elapsed());
            }
            Ok::<_, apix::Error>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    print(&format!("{callers} callers append"), times.len() as u64, begun.elapsed(), times);
    Ok(())
}

/// 256 callers append while 4 workers read and acknowledge in batches.
async fn end_to_end(broker: &Arc<EmbeddedBroker>, span: Duration) -> Outcome<()> {
    let group = GroupKey::new(stream()?, GroupName::new("workers")?);
    let (stop, handled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..4 {
        let (broker, group) = (Arc::clone(broker), group.clone());
        let (stop, handled) = (Arc::clone(&stop), Arc::clone(&handled));
        let consumer = ConsumerName::new(format!("worker-{worker}"))?;
        workers.spawn(async move {
            let options = ReadOptions { max_events: 500, wait: Duration::from_millis(100) };
            while !stop.load(Ordering::Relaxed) {
                let read = broker.read_group(&group, &consumer, options).await?;
                let receipts: Vec<_> = read.iter().map(|one| one.receipt()).collect();
                handled.fetch_add(
                    broker.acknowledge(&group, &receipts).await?.count,
                    Ordering::Relaxed,
                );
            }
            Ok::<_, apix::Error>(())
        });
    }
    let begun = Instant::now();
    appends(broker, 256, span).await?;
    while broker.group_stats(&group).await?.lag != Some(0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = workers.join_next().await {
        done??;
    }
    print("added, read and acknowledged", handled.load(Ordering::Relaxed), took, Vec::new());
    Ok(())
}

/// One publisher, ten subscribers.
async fn live(broker: &Arc<EmbeddedBroker>, span: Duration) -> Outcome<()> {
    let channel = ChannelKey::new(&TenantContext::trusted("bench")?, ChannelName::new("news")?);
    let message = NewMessage::new("bench", Json::parse("{\"n\":1}")?);
    let message = message.checked(&channel, None, &Limits::default())?;
    for subscribers in [0, 10] {
        let mut subscriptions = Vec::new();
        for _ in 0..subscribers {
            subscriptions.push(broker.subscribe(&channel).await?);
        }
        let begun = Instant::now();
        let mut count = 0;
        while begun.elapsed() < span {
            for _ in 0..100 {
                broker.publish(&channel, message.clone()).await?;
            }
            subscriptions.iter_mut().for_each(|one| while one.try_recv().is_some() {});
            count += 100;
        }
        print(&format!("published to {subscribers}"), count, begun.elapsed(), Vec::new());
    }
    Ok(())
}
