//! The measurements themselves.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use apix::{Json, TenantContext, TenantMessagingService};
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::args::{Bench, What};
use super::bed::{Arrived, Bed, Receiver};
use super::measure::{Latencies, Measurement, empty, print_lines, print_table, record};
use crate::client::Client;
use crate::config::BrokerConfig;
use crate::progress::Progress;
use crate::serve::open_broker;

/// The tenant of a run inside this process.
const TENANT: &str = "bench";

/// After so long without a message the rest of them counts as lost.
const SILENCE: Duration = Duration::from_secs(5);

/// Messages that are published and not received yet: well within a subscriber's queue of 1 MiB.
const WINDOW_BYTES: usize = 256 << 10;
const MAX_WINDOW: usize = 512;

/// Measures and prints.
pub(crate) async fn run(args: Bench) -> Result<()> {
    let bed = match &args.broker {
        None => Bed::Server(Box::new(Client::new(&args.target)?)),
        Some(url) => {
            let config = BrokerConfig {
                url: url.clone(),
                durability: args.durability,
                ..BrokerConfig::default()
            };
            let service = TenantMessagingService::new(open_broker(&config).await?);
            Bed::Process { service, ctx: TenantContext::trusted(TENANT)? }
        }
    };
    let done = measure(&args, &bed).await;
    if let Bed::Process { service, .. } = &bed {
        service.broker().close().await;
    }
    let all = done?;
    if args.json {
        print_lines(&all)?
    } else {
        print_table(&all)?
    }
    Ok(())
}

async fn measure(args: &Bench, bed: &Bed) -> Result<Vec<Measurement>> {
    let wanted = |what| args.what == what || args.what == What::All;
    let run = Run {
        bed: bed.clone(),
        name: format!("bench-{:08x}", getrandom::u32().context("no randomness")?),
        payload: payload(args.payload)?,
        events: args.events,
        callers: args.callers.min(args.events),
        batch: args.batch,
    };
    let mut all = Vec::new();
    if wanted(What::Add) {
        all.push(run.add().await?);
        run.bed.remove(&run.name).await?;
    }
    if wanted(What::Consume) {
        all.push(run.consume().await?);
        run.bed.remove(&run.name).await?;
    }
    if wanted(What::Pubsub) {
        all.push(run.pubsub().await?);
    }
    Ok(all)
}

/// JSON of exactly `bytes` bytes.
fn payload(bytes: u64) -> Result<Json> {
    let around = "{\"data\":\"\"}".len();
    let filling = usize::try_from(bytes).unwrap_or(around).saturating_sub(around);
    Ok(Json::parse(format!("{{\"data\":\"{}\"}}", "x".repeat(filling)))?)
}

struct Run {
    bed: Bed,
    name: String,
    payload: Json,
    events: u64,
    callers: u64,
    batch: Option<u64>,
}

impl Run {
    fn setting(&self) -> String {
        let bytes = self.payload.len();
        format!("{} callers, payloads of {bytes} B, {}", self.callers, self.bed.name())
    }

    async fn add(&self) -> Result<Measurement> {
        let batch = self.batch.unwrap_or(1);
        let (bed, stream, payload) = (self.bed.clone(), self.name.clone(), self.payload.clone());
        let (elapsed, latencies) = self
            .all_callers("events added", batch, move |_, count| {
                let (bed, stream, payload) = (bed.clone(), stream.clone(), payload.clone());
                async move {
                    bed.add(&stream, &payload, usize::try_from(count)?).await?;
                    Ok(count)
                }
            })
            .await?;
        let what = match batch {
            1 => "add, one event a call".to_owned(),
            batch => format!("add, {batch} events a call"),
        };
        Ok(Measurement {
            what,
            setting: self.setting(),
            latency_of: "call to id returned",
            events: self.events,
            elapsed,
            latencies,
            note: None,
        })
    }

    async fn consume(&self) -> Result<Measurement> {
        self.fill().await?;
        let batch = self.batch.unwrap_or(100);
        let (bed, stream) = (self.bed.clone(), self.name.clone());
        let (elapsed, latencies) = self
            .all_callers("events handled", batch, move |caller, count| {
                let (bed, stream) = (bed.clone(), stream.clone());
                async move {
                    let consumer = format!("caller-{caller}");
                    bed.handle(&stream, &consumer, usize::try_from(count)?).await
                }
            })
            .await?;
        Ok(Measurement {
            what: format!("read and acknowledge, up to {batch} events a call"),
            setting: self.setting(),
            latency_of: "read with its acknowledgement",
            events: self.events,
            elapsed,
            latencies,
            note: None,
        })
    }

    /// The events that are then consumed; not measured.
    async fn fill(&self) -> Result<()> {
        let mut progress = Progress::new(Some(self.events), "events prepared");
        let mut added = 0;
        while added < self.events {
            let count = (self.events - added).min(1_000);
            self.bed.add(&self.name, &self.payload, usize::try_from(count)?).await?;
            added += count;
            progress.at(added);
        }
        progress.finish();
        Ok(())
    }

    /// Runs all callers until `self.events` are done. `call` is told who calls and how many events
    /// to do at most, and says how many it did.
    async fn all_callers<F, Fut>(
        &self,
        unit: &'static str,
        batch: u64,
        call: F,
    ) -> Result<(Duration, Histogram<u64>)>
    where
        F: Fn(u64, u64) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<u64>> + Send + 'static,
    {
        let latencies = Arc::new(Latencies::new()?);
        let (taken, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let total = self.events;
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..self.callers {
            let (taken, done) = (Arc::clone(&taken), Arc::clone(&done));
            let (latencies, call) = (Arc::clone(&latencies), call.clone());
            callers.spawn(async move {
                let mut own = empty()?;
                loop {
                    let left = total.saturating_sub(taken.fetch_add(batch, Ordering::AcqRel));
                    if left == 0 {
                        break;
                    }
                    let (mut left, mut calls) = (left.min(batch), 0_u32);
                    // A read may bring fewer than was asked for.
                    while left > 0 && done.load(Ordering::Acquire) < total && calls < 1_000 {
                        let began = Instant::now();
                        let count = call(caller, left).await?;
                        record(&mut own, began);
                        done.fetch_add(count, Ordering::AcqRel);
                        left -= count.min(left);
                        calls += 1;
                    }
                }
                latencies.merge(&own)
            });
        }
        watch(&mut callers, &done, total, unit).await?;
        let elapsed = began.elapsed();
        let latencies = Arc::into_inner(latencies).context("a caller is still running")?;
        Ok((elapsed, latencies.into_histogram()))
    }

    async fn pubsub(&self) -> Result<Measurement> {
        let mut receiver = self.bed.subscribe(&self.name).await?;
        let epoch = Instant::now();
        let total = self.events;
        // Publishers that know no bound would only measure how fast a queue overflows.
        let window = (WINDOW_BYTES / self.payload.len()).clamp(1, MAX_WINDOW);
        let room = Arc::new(Semaphore::new(window));
        let freed = Arc::clone(&room);
        let receiving = tokio::spawn(async move {
            let received = receive(&mut receiver, epoch, total, &freed).await;
            // Nobody waits for room that will never be made.
            freed.close();
            received
        });
        let (bed, channel, bytes) = (self.bed.clone(), self.name.clone(), self.payload.len());
        self.all_callers("messages published", 1, move |_, _| {
            let (bed, channel, room) = (bed.clone(), channel.clone(), Arc::clone(&room));
            async move {
                match room.acquire().await {
                    Ok(permit) => permit.forget(),
                    Err(_) => return Ok(1),
                }
                bed.publish(&channel, stamped(epoch, bytes)).await?;
                Ok(1)
            }
        })
        .await?;
        let Received { count, missed, latencies, elapsed } = receiving.await??;
        let late = total - (count + missed).min(total);
        Ok(Measurement {
            what: format!("publish to one subscriber, {window} on the way"),
            setting: self.setting(),
            latency_of: "publish called to message received",
            events: count,
            elapsed,
            latencies,
            note: (count < total).then(|| {
                format!(
                    "of {total} messages the subscriber received {count}; it was told of {missed} \
                     that it missed, {late} did not come in time"
                )
            }),
        })
    }
}

/// What a subscriber got.
struct Received {
    count: u64,
    missed: u64,
    latencies: Histogram<u64>,
    elapsed: Duration,
}

async fn receive(
    receiver: &mut Receiver,
    epoch: Instant,
    total: u64,
    room: &Semaphore,
) -> Result<Received> {
    let mut got = Received { count: 0, missed: 0, latencies: empty()?, elapsed: Duration::ZERO };
    while got.count + got.missed < total {
        let Ok(arrived) = tokio::time::timeout(SILENCE, receiver.next()).await else { break };
        match arrived? {
            Arrived::Message(data) => {
                got.count += 1;
                record_sent_at(&mut got.latencies, epoch, &data);
                room.add_permits(1);
            }
            Arrived::Missed(count) => {
                let count = count.unwrap_or(0);
                got.missed += count;
                room.add_permits(usize::try_from(count).unwrap_or(MAX_WINDOW));
            }
        }
        got.elapsed = epoch.elapsed();
    }
    Ok(got)
}

/// Waits for all callers and shows how far they are.
async fn watch(
    callers: &mut JoinSet<Result<()>>,
    done: &AtomicU64,
    total: u64,
    unit: &'static str,
) -> Result<()> {
    let mut progress = Progress::new(Some(total), unit);
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            joined = callers.join_next() => match joined {
                None => break,
                // Dropping the others ends them.
                Some(ended) => ended??,
            },
            _ = tick.tick() => progress.at(done.load(Ordering::Acquire)),
        }
    }
    progress.finish();
    Ok(())
}

/// Data of about `bytes` bytes that says when it was sent, in microseconds since `epoch`.
fn stamped(epoch: Instant, bytes: usize) -> String {
    let at = epoch.elapsed().as_micros();
    let head = format!("{{\"at\":{at},\"x\":\"");
    let filling = bytes.saturating_sub(head.len() + 2);
    format!("{head}{}\"}}", "x".repeat(filling))
}

fn record_sent_at(latencies: &mut Histogram<u64>, epoch: Instant, data: &str) {
    #[derive(serde::Deserialize)]
    struct Stamp {
        at: u64,
    }
    if let Ok(Stamp { at }) = serde_json::from_str(data) {
        record(latencies, epoch + Duration::from_micros(at));
    }
}
