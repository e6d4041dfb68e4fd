//! How long to wait between attempts to connect.

use std::time::Duration;

use apix::Backoff;

/// 20 ms at first, doubling up to 1 s, each less a random part of up to a half, so that the
/// processes that lost a server together do not come back together.
#[derive(Debug, Default)]
pub(crate) struct Reconnect {
    attempts: u32,
}

impl Reconnect {
    /// How long to wait now.
    pub(crate) fn next(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        Backoff { base_ms: 20, max_ms: 1_000, factor: 2.0, jitter: 0.5 }.random_delay(self.attempts)
    }
}
