//! Whether the server still is what it was at the start: a primary that evicts nothing and keeps
//! events as safely as was asked for. Its settings may change, and it may become a replica.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use apix::{Durability, Error, ErrorKind, Result};

use crate::connect::Connection;
use crate::link::Link;
use crate::startup;

/// How often the server is asked.
const EVERY: Duration = Duration::from_secs(60);
/// How often while it is not what it should be.
const EVERY_WHEN_UNMET: Duration = Duration::from_secs(1);

/// What all calls are held against before they are sent.
#[derive(Debug)]
pub(crate) struct Guard {
    durability: Durability,
    timeout: Duration,
    is_unmet: AtomicBool,
    why: Mutex<String>,
}

impl Guard {
    pub(crate) fn new(durability: Durability, timeout: Duration) -> Self {
        Self { durability, timeout, is_unmet: AtomicBool::new(false), why: Mutex::default() }
    }

    /// Fails while the server is not what it should be.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.is_unmet.load(Ordering::Relaxed) {
            return Ok(());
        }
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Err(Error::new(ErrorKind::DurabilityUnmet, why))
    }

    /// Asks on a new connection, before anything else is sent there.
    pub(crate) async fn ask(&self, connection: &mut Connection) -> Result<()> {
        let replies = connection.call(startup::questions(), self.timeout).await?;
        self.judge(startup::judge(&replies, self.durability).map(drop))
    }

    /// Asks at intervals until the broker is closed.
    pub(crate) async fn keep_watching(link: Link, closing: CancellationToken) {
        let guard = link.guard();
        loop {
            let unmet = guard.is_unmet.load(Ordering::Relaxed);
            let pause = if unmet { EVERY_WHEN_UNMET } else { EVERY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = closing.cancelled() => return,
            }
            // Whether the server can be reached at all is seen by everybody.
            if let Ok(replies) = link.call_unguarded(startup::questions(), guard.timeout).await {
                let _ = guard.judge(startup::judge(&replies, guard.durability).map(drop));
            }
        }
    }

    /// Takes in what was found. Only that the server told what it is counts, not that it did not
    /// answer.
    fn judge(&self, found: Result<()>) -> Result<()> {
        match &found {
            Ok(()) => {
                if self.is_unmet.swap(false, Ordering::Relaxed) {
                    info!("redis is again what it has to be");
                }
            }
            Err(fault) if fault.kind() == ErrorKind::Unsupported => {
                let why = fault.message().to_owned();
                *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
                if !self.is_unmet.swap(true, Ordering::Relaxed) {
                    error!(error = %fault, "redis is no longer what it has to be; calls are refused");
                }
            }
            Err(_) => {}
        }
        found
    }
}
