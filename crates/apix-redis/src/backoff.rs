//! How long to wait between attempts to connect.

use std::time::Duration;

use apix::Backoff;

/// 20 ms at first, doubling up to 1 s, each less a random part of up to a half, so that the
/// processes that lost a server together do not come back together.
///
/// A connection that did not last counts as an attempt, too: a server may accept each and end it at
/// once. As it was greeted, a quarter of the time will do.
#[derive(Debug, Default)]
pub(crate) struct Reconnect {
    attempts: u32,
}

/// A connection that has served for so long was a good one.
const GOOD: Duration = Duration::from_secs(1);

impl Reconnect {
    /// How long to wait after a connection that has `served` for so long.
    pub(crate) fn after(&mut self, served: Duration) -> Duration {
        if served < GOOD {
            return self.next() / 4;
        }
        self.attempts = 0;
        Duration::ZERO
    }

    /// How long to wait now.
    pub(crate) fn next(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        Backoff { base_ms: 20, max_ms: 1_000, factor: 2.0, jitter: 0.5 }.random_delay(self.attempts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_connection_begins_anew() {
        let mut pause = Reconnect::default();
        assert_eq!(pause.after(Duration::from_secs(5)), Duration::ZERO);
        for _ in 0..10 {
            pause.after(Duration::ZERO);
        }
        assert!(pause.after(Duration::ZERO) >= Duration::from_millis(125));
        assert_eq!(pause.after(Duration::from_secs(5)), Duration::ZERO);
        assert!(pause.next() <= Duration::from_millis(20));
    }
}
