//! How good the link to a client is, by the time that its answers to pings take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What a link is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Quality {
    /// An answer within 50 ms.
    Excellent,
    /// Within 150 ms.
    Good,
    /// Within 400 ms.
    Fair,
    /// Later.
    Poor,
}

impl Quality {
    pub(crate) const fn of_rtt_ms(rtt_ms: u64) -> Self {
        match rtt_ms {
            0..50 => Self::Excellent,
            50..150 => Self::Good,
            150..400 => Self::Fair,
            _ => Self::Poor,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Excellent => "excellent",
            Self::Good => "good",
            Self::Fair => "fair",
            Self::Poor => "poor",
        }
    }
}

/// Signs of life of one client: who writes asks, who reads hears.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    heard: AtomicBool,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    count: u64,
    /// When the last ping went out; nothing once it is answered.
    at: Option<Instant>,
}

impl Pulse {
    /// What to send as the next ping. Nothing if nothing was heard since the one before: then the
    /// client is gone.
    pub(crate) fn next_ping(&self, now: Instant) -> Option<Bytes> {
        let heard = self.heard.swap(false, Ordering::Relaxed);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.count > 0 && !heard {
            return None;
        }
        asked.count += 1;
        asked.at = Some(now);
        Some(Bytes::copy_from_slice(&asked.count.to_be_bytes()))
    }

    /// Anything was heard of the client.
    pub(crate) fn heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// A pong came: how long the last ping took, if it is the answer to that one.
    pub(crate) fn answered(&self, pong: &[u8], now: Instant) -> Option<Duration> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if pong != asked.count.to_be_bytes() {
            return None;
        }
        asked.at.take().map(|at| now.saturating_duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_belong_to_the_worse_quality() {
        for (rtt_ms, quality) in [
            (0, Quality::Excellent),
            (49, Quality::Excellent),
            (50, Quality::Good),
            (149, Quality::Good),
            (150, Quality::Fair),
            (399, Quality::Fair),
            (400, Quality::Poor),
            (u64::MAX, Quality::Poor),
        ] {
            assert_eq!(Quality::of_rtt_ms(rtt_ms), quality, "{rtt_ms}");
        }
        assert_eq!(serde_json::to_string(&Quality::Fair).unwrap(), "\"fair\"");
        assert_eq!(Quality::Fair.as_str(), "fair");
    }

    #[test]
    fn only_the_answer_to_the_last_ping_counts_and_silence_ends_it() {
        let (pulse, begun) = (Pulse::default(), Instant::now());
        let first = pulse.next_ping(begun).unwrap();
        pulse.heard();
        let second = pulse.next_ping(begun).unwrap();
        let later = begun + Duration::from_millis(70);
        assert_eq!(pulse.answered(&first, later), None);
        assert_eq!(pulse.answered(&second, later), Some(Duration::from_millis(70)));
        assert_eq!(pulse.answered(&second, later), None);
        assert_eq!(pulse.next_ping(later), None);
    }
}
