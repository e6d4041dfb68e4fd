//! What handlers decided, gathered and sent to the broker: everything that waits goes in one call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Rejection, WorkerReport};
use crate::error::{Error, ErrorKind};
use crate::event::{Delivery, Holder, Receipt};
use crate::group::Settlement;
use crate::messaging::{MAX_PAGE, TenantMessagingService};
use crate::name::{ConsumerName, GroupName, StreamName};
use crate::position::MessageId;
use crate::retry::Backoff;
use crate::tenant::TenantContext;

/// One delivery's lease as this worker knows it.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    message_id: MessageId,
    consumer: ConsumerName,
    delivery_count: u32,
    length: Duration,
    held_until: Arc<Mutex<Instant>>,
}

impl Lease {
    pub(super) fn of(delivery: &Delivery) -> Self {
        Self {
            message_id: delivery.event.message_id,
            consumer: delivery.consumer.clone(),
            delivery_count: delivery.delivery_count,
            length: delivery.lease,
            held_until: Arc::new(Mutex::new(delivery.received_at + delivery.lease)),
        }
    }

    /// How often it has to be extended: twice before it ends, so that one failure is no loss.
    pub(super) fn keep_every(&self) -> Duration {
        self.length / 3
    }

    fn receipt(&self) -> Receipt {
        let held_until = *self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
        Receipt {
            message_id: self.message_id,
            holder: Some(Holder {
                consumer: self.consumer.clone(),
                delivery_count: Some(self.delivery_count),
                held_until: Some(held_until),
            }),
        }
    }

    fn extended(&self, asked_at: Instant) {
        *self.held_until.lock().unwrap_or_else(PoisonError::into_inner) = asked_at + self.length;
    }
}

/// What became of a delivery in its handler.
#[derive(Debug)]
pub(super) enum Verdict {
    Handled,
    Rejected(Rejection),
    /// The worker stops before the handler has finished.
    Released,
    StillRunning,
}

/// The task that settles.
pub(super) struct Settler {
    task: JoinHandle<WorkerReport>,
}

struct Settling {
    service: TenantMessagingService,
    ctx: TenantContext,
    stream: StreamName,
    group: GroupName,
    report: WorkerReport,
}

impl Settler {
    pub(super) fn start(
        service: TenantMessagingService,
        ctx: TenantContext,
        stream: StreamName,
        group: GroupName,
    ) -> (Self, mpsc::UnboundedSender<(Lease, Verdict)>) {
        // As many verdicts wait as there are handlers and leases: the concurrency bounds it.
        let (sender, mut verdicts) = mpsc::unbounded_channel();
        let mut settling =
            Settling { service, ctx, stream, group, report: WorkerReport::default() };
        let task = tokio::spawn(async move {
            let mut waiting = Vec::new();
            while verdicts.recv_many(&mut waiting, MAX_PAGE).await > 0 {
                settling.settle(&mut waiting).await;
            }
            settling.report
        });
        (Self { task }, sender)
    }

    /// The report, once every sender is gone and everything was settled.
    pub(super) async fn finish(self) -> WorkerReport {
        self.task.await.unwrap_or_default()
    }
}

impl Settling {
    async fn settle(&mut self, waiting: &mut Vec<(Lease, Verdict)>) {
        let (mut done, mut others) = (Vec::new(), Vec::new());
        for (lease, verdict) in waiting.drain(..) {
            let settlement = match verdict {
                Verdict::Handled => {
                    done.push(lease.receipt());
                    continue;
                }
                Verdict::Rejected(Rejection { reason, dead_letter: true, .. }) => {
                    Settlement::DeadLetter { reason }
                }
                Verdict::Rejected(Rejection { reason, after, .. }) => {
                    Settlement::Retry { after, reason }
                }
                Verdict::Released => Settlement::Retry {
                    after: Some(Duration::ZERO),
                    reason: "the worker stopped".into(),
                },
                Verdict::StillRunning => Settlement::Extend { lease: lease.length },
            };
            others.push((lease, settlement));
        }
        self.acknowledge(done).await;
        self.settle_others(others).await;
    }

    async fn acknowledge(&mut self, done: Vec<Receipt>) {
        if done.is_empty() {
            return;
        }
        let stream = self.stream.as_str();
        let mut tries = Tries::new();
        loop {
            let group = self.group.clone();
            match self.service.acknowledge_events(&self.ctx, stream, group, &done).await {
                Ok(acknowledged) => {
                    let lost = acknowledged.lease_lost.len() as u64;
                    self.report.lease_lost += lost;
                    self.report.handled += done.len() as u64 - lost;
                    return;
                }
                Err(error) if tries.again(&error).await => {}
                Err(error) => {
                    let count = done.len();
                    tracing::warn!(%stream, count, %error, "not acknowledged; will be redelivered");
                    return;
                }
            }
        }
    }

    async fn settle_others(&mut self, others: Vec<(Lease, Settlement)>) {
        if others.is_empty() {
            return;
        }
        let stream = self.stream.as_str();
        let mut tries = Tries::new();
        let results = loop {
            let asked_at = Instant::now();
            let settlements =
                others.iter().map(|(lease, what)| (lease.receipt(), what.clone())).collect();
            let group = self.group.clone();
            match self.service.settle_events(&self.ctx, stream, group, settlements).await {
                Ok(results) => break results.into_iter().map(move |result| (result, asked_at)),
                Err(error) if tries.again(&error).await => {}
                Err(error) => {
                    let count = others.len();
                    tracing::warn!(%stream, count, %error, "not settled; the leases will end");
                    return;
                }
            }
        };
        for ((lease, settlement), (result, asked_at)) in others.iter().zip(results) {
            let extension = matches!(settlement, Settlement::Extend { .. });
            match result {
                Ok(_) if extension => lease.extended(asked_at),
                Ok(_) => self.report.rejected += 1,
                Err(error) if error.kind() == ErrorKind::LeaseLost => {
                    // A handler that goes on without its lease is counted when it is done.
                    self.report.lease_lost += u64::from(!extension);
                }
                Err(error) => tracing::warn!(%stream, %error, "not settled; the lease will end"),
            }
        }
    }
}

/// A settlement is tried again while the failure may pass: for about half a minute.
struct Tries {
    count: u32,
    backoff: Backoff,
}

impl Tries {
    fn new() -> Self {
        let backoff = Backoff { base_ms: 50, max_ms: 5_000, factor: 2.0, jitter: 0.5 };
        Self { count: 0, backoff }
    }

    async fn again(&mut self, error: &Error) -> bool {
        self.count += 1;
        if !error.is_retryable() || self.count > 12 {
            return false;
        }
        tokio::time::sleep(self.backoff.random_delay(self.count)).await;
        true
    }
}
