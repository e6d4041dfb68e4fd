//! The worker: sixteen at a time, and one in ten events fails at first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use apix::{Backoff, Delivery, GroupName, GroupSettings, Rejection, Worker, WorkerOptions};
use tokio_util::sync::CancellationToken;

use crate::server::Server;

/// What the worker did.
#[derive(Default)]
pub(crate) struct Work {
    /// Payloads that were handled, by the id of their event.
    pub(crate) handled: BTreeMap<String, String>,
    /// Failures on purpose.
    pub(crate) failed_at_first: usize,
    pub(crate) took: Duration,
}

impl Work {
    /// Handles a delivery; every tenth event fails the first time.
    fn handle(&mut self, delivery: &Delivery) -> Result<(), Rejection> {
        let id = delivery.event.message_id.to_string();
        let tenth = (self.handled.len() + self.failed_at_first).is_multiple_of(10);
        if tenth && delivery.delivery_count == 1 {
            self.failed_at_first += 1;
            return Err(Rejection::retry("the first try fails on purpose"));
        }
        self.handled.insert(id, delivery.event.payload.as_str().to_owned());
        Ok(())
    }
}

/// Runs a worker until it has handled `count` events.
pub(crate) async fn handle_all(server: &Server, count: usize) -> anyhow::Result<Work> {
    let begun = Instant::now();
    let backoff = Backoff { base_ms: 100, ..Backoff::default() };
    let settings = GroupSettings { backoff, ..GroupSettings::default() };
    let (service, ctx) = (server.service.clone(), server.ctx.clone());
    service.configure_group(&ctx, "github", GroupName::default(), settings).await?;

    let options = WorkerOptions { concurrency: 16, ..WorkerOptions::default() };
    let worker = Worker::new(service, ctx, "github", options)?;
    let work: Arc<Mutex<Work>> = Arc::default();
    let done = CancellationToken::new();
    let handler = {
        let (work, done) = (Arc::clone(&work), done.clone());
        move |delivery: Delivery| {
            let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
            let outcome = work.handle(&delivery);
            if work.handled.len() == count {
                done.cancel();
            }
            async move { outcome }
        }
    };
    let run = worker.run(handler, done.cancelled_owned());
    let report = tokio::time::timeout(Duration::from_secs(60), run)
        .await
        .context("the worker has not handled everything within a minute")??;
    anyhow::ensure!(report.lease_lost == 0, "{} leases were lost", report.lease_lost);

    let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
    work.took = begun.elapsed();
    Ok(std::mem::take(&mut *work))
}
