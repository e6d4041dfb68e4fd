//! When a rejected event comes back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Exponential back-off with jitter.
///
/// The delay after the n-th delivery is `base_ms × factor^(n-1)`, at most `max_ms`, less a random
/// part of up to `jitter` of it, so that events that failed together do not return together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Backoff {
    /// Delay after the first delivery, in milliseconds (default 500).
    pub base_ms: u64,
    /// The longest delay, in milliseconds (default 60,000).
    pub max_ms: u64,
    /// Growth from one delivery to the next (default 2).
    pub factor: f64,
    /// Random part, 0 to 1 (default 0.2).
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base_ms: 500, max_ms: 60_000, factor: 2.0, jitter: 0.2 }
    }
}

impl Backoff {
    /// Refuses settings that have no meaning.
    pub fn check(&self) -> Result<()> {
        if !(1.0..=100.0).contains(&self.factor) {
            return Err(Error::invalid("backoff.factor must be from 1 to 100"));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(Error::invalid("backoff.jitter must be from 0 to 1"));
        }
        if self.base_ms > self.max_ms {
            return Err(Error::invalid("backoff.baseMs must not exceed backoff.maxMs"));
        }
        Ok(())
    }

    /// The delay after the `delivery_count`-th delivery; `random` is uniform in 0..1.
    pub fn delay(&self, delivery_count: u32, random: f64) -> Duration {
        let power = f64::from(delivery_count.saturating_sub(1).min(1_000));
        #[allow(clippy::cast_precision_loss)] // delays far below 2^52 ms
        let (base, max) = (self.base_ms as f64, self.max_ms as f64);
        let full = (base * self.factor.powf(power)).min(max);
        Duration::from_secs_f64(full * (1.0 - self.jitter * random) / 1_000.0)
    }

    /// [`delay`](Self::delay) with a random part of its own.
    pub fn random_delay(&self, delivery_count: u32) -> Duration {
        // Without randomness the delay is the full one: later, never lost.
        let random = getrandom::u32().map_or(0.0, |bits| f64::from(bits) / f64::from(u32::MAX));
        self.delay(delivery_count, random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_longest_and_stay_there() {
        let backoff = Backoff { base_ms: 100, max_ms: 1_000, factor: 2.0, jitter: 0.5 };
        let full = |n| backoff.delay(n, 0.0).as_millis();
        assert_eq!(
            [full(0), full(1), full(2), full(4), full(5), full(u32::MAX)],
            [100, 100, 200, 800, 1_000, 1_000]
        );
        assert_eq!(backoff.delay(1, 1.0).as_millis(), 50);
    }
}
