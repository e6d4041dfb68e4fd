//! The worker: reading, and stopping.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::event::Delivery;
use crate::messaging::{ReadRequest, TenantMessagingService};
use crate::name::{ConsumerName, StreamName};
use crate::retry::Backoff;
use crate::tenant::TenantContext;

use super::handling::{Handling, handle};
use super::options::{Rejection, WorkerOptions, WorkerReport};
use super::settling::Settler;

/// A worker of one stream and group.
#[derive(Debug)]
pub struct Worker {
    service: TenantMessagingService,
    ctx: TenantContext,
    stream: StreamName,
    consumer: ConsumerName,
    options: WorkerOptions,
}

impl Worker {
    /// A worker on `stream`, not yet running.
    pub fn new(
        service: TenantMessagingService,
        ctx: TenantContext,
        stream: &str,
        options: WorkerOptions,
    ) -> Result<Self> {
        if options.concurrency == 0 {
            return Err(Error::invalid("a worker's concurrency must be at least 1"));
        }
        let consumer = match &options.consumer {
            Some(consumer) => consumer.clone(),
            None => own_name()?,
        };
        Ok(Self { service, ctx, stream: StreamName::new(stream)?, consumer, options })
    }

    /// The name under which it reads.
    pub fn consumer(&self) -> &ConsumerName {
        &self.consumer
    }

    /// Handles events until `shutdown` completes. Failures that may pass (a broker that restarts)
    /// are waited out; others, such as a missing permission, end the worker with the error after
    /// what it holds was settled.
    pub async fn run<H, F, E>(
        self,
        handler: H,
        shutdown: impl Future<Output = ()>,
    ) -> Result<WorkerReport>
    where
        H: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Rejection>,
    {
        let free = Arc::new(Semaphore::new(self.options.concurrency));
        let (settler, settle) = Settler::start(
            self.service.clone(),
            self.ctx.clone(),
            self.stream.clone(),
            self.options.group.clone(),
        );
        let handling = Handling::new(Arc::new(handler), settle, self.options.handler_timeout);
        let stop = CancellationToken::new();
        let ended = {
            let read = self.read(&free, &handling, &stop);
            tokio::pin!(read);
            tokio::select! {
                // What the last read brings is still handled: dropped, it would be held by nobody
                // until its lease ends.
                () = shutdown => {
                    stop.cancel();
                    read.await
                }
                ended = &mut read => ended,
            }
        };
        handling.drain(self.options.drain_timeout).await;
        drop(handling);
        let report = settler.finish().await;
        ended.map(|()| report)
    }

    /// Reads as many events as there are free handlers, again and again, until `stop`.
    async fn read<H, F, E>(
        &self,
        free: &Arc<Semaphore>,
        handling: &Handling<H>,
        stop: &CancellationToken,
    ) -> Result<()>
    where
        H: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Rejection>,
    {
        let stream = self.stream.as_str();
        let backoff = Backoff { base_ms: 100, max_ms: 5_000, factor: 2.0, jitter: 0.5 };
        let mut failures = 0;
        while let Some(batch_size) = until(stop, one_free(free)).await {
            let request = ReadRequest {
                group: self.options.group.clone(),
                batch_size,
                wait: self.options.wait,
            };
            let consumer = self.consumer.as_str();
            match self.service.read_group(&self.ctx, stream, consumer, request).await {
                Ok(deliveries) => {
                    if failures > 0 {
                        tracing::info!(%stream, failures, "worker reads again");
                    }
                    failures = 0;
                    for delivery in deliveries {
                        // There are as many permits as were asked for; they are never closed.
                        if let Ok(permit) = Arc::clone(free).acquire_owned().await {
                            handle(handling, delivery, permit);
                        }
                    }
                }
                Err(error) if error.is_retryable() => {
                    if failures == 0 {
                        tracing::warn!(%stream, %error, "worker cannot read; trying again");
                    }
                    failures += 1;
                    until(stop, tokio::time::sleep(backoff.random_delay(failures))).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Waits for a free handler; how many there are. Handlers that are done at once are waited for, so
/// that one read fills all their places instead of one each.
async fn one_free(free: &Semaphore) -> usize {
    drop(free.acquire().await);
    let mut count = free.available_permits();
    loop {
        tokio::task::yield_now().await;
        let more = free.available_permits();
        if more <= count {
            return count.clamp(1, crate::messaging::MAX_READ_EVENTS);
        }
        count = more;
    }
}

/// What `work` gives, unless `stop` comes first.
async fn until<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        done = work => Some(done),
    }
}

fn own_name() -> Result<ConsumerName> {
    let random = getrandom::u32().map_err(|fault| {
        Error::unavailable("no randomness to be had").with_source(fault.to_string())
    })?;
    ConsumerName::new(format!("worker-{}-{random:08x}", std::process::id()))
}
