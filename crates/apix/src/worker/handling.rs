//! Deliveries that are being handled: one task each, with its lease kept.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Rejection;
use super::settling::{Lease, Verdict};
use crate::event::Delivery;

/// The handler, and what is running of it.
pub(super) struct Handling<H> {
    handler: Arc<H>,
    verdicts: mpsc::UnboundedSender<(Lease, Verdict)>,
    timeout: Option<Duration>,
    running: TaskTracker,
    /// Cancelled when the time to finish is over.
    abandon: CancellationToken,
}

impl<H> Handling<H> {
    pub(super) fn new(
        handler: Arc<H>,
        verdicts: mpsc::UnboundedSender<(Lease, Verdict)>,
        timeout: Option<Duration>,
    ) -> Self {
        let (running, abandon) = (TaskTracker::new(), CancellationToken::new());
        Self { handler, verdicts, timeout, running, abandon }
    }

    /// Waits until every handler has finished, or stops those that have not within `limit`.
    pub(super) async fn drain(&self, limit: Duration) {
        self.running.close();
        if tokio::time::timeout(limit, self.running.wait()).await.is_err() {
            self.abandon.cancel();
            self.running.wait().await;
        }
    }
}

/// Handles one delivery in a task of its own, which keeps `permit` until it is done.
pub(super) fn handle<H, F, E>(
    handling: &Handling<H>,
    delivery: Delivery,
    permit: OwnedSemaphorePermit,
) where
    H: Fn(Delivery) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Rejection>,
{
    let handler = Arc::clone(&handling.handler);
    let verdicts = handling.verdicts.clone();
    let abandon = handling.abandon.clone();
    let timeout = handling.timeout;
    let lease = Lease::of(&delivery);
    handling.running.spawn(async move {
        let _permit = permit;
        // The call itself may panic too, before there is a future.
        let work = AssertUnwindSafe(async move {
            handler(delivery).await.map_err(|error| -> Rejection { error.into() })
        });
        let work = limited(work.catch_unwind(), timeout);
        tokio::pin!(work);
        let verdict = loop {
            tokio::select! {
                verdict = &mut work => break verdict,
                () = abandon.cancelled() => break Verdict::Released,
                () = tokio::time::sleep(lease.keep_every()) => {
                    // The settler is gone only after every handler.
                    let _ = verdicts.send((lease.clone(), Verdict::StillRunning));
                }
            }
        };
        let _ = verdicts.send((lease, verdict));
    });
}

type Caught = Result<Result<(), Rejection>, Box<dyn std::any::Any + Send>>;

async fn limited(work: impl Future<Output = Caught>, timeout: Option<Duration>) -> Verdict {
    let caught = match timeout {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(caught) => caught,
            Err(_) => {
                let reason = format!("the handler took longer than {} ms", limit.as_millis());
                return Verdict::Rejected(Rejection::retry(reason));
            }
        },
    };
    match caught {
        Ok(Ok(())) => Verdict::Handled,
        Ok(Err(rejection)) => Verdict::Rejected(rejection),
        Err(panic) => Verdict::Rejected(Rejection::retry(panic_reason(&*panic))),
    }
}

fn panic_reason(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!("the handler panicked: {said}")
}
