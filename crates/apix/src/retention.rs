//! How long events are kept, and the settings of streams.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// When events are removed from a stream.
///
/// The first three limits never remove what a group has not acknowledged. The last one does:
/// past it the oldest go, and each is counted and reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retention {
    /// Age by id, in milliseconds (default 7 days); `null` for no limit.
    pub max_age_ms: Option<u64>,
    /// Number of events (default none).
    pub max_len: Option<u64>,
    /// Stored bytes (default none).
    pub max_bytes: Option<u64>,
    /// The hard limit in stored bytes (default 1 GiB; 0 for none).
    pub hard_max_bytes: u64,
}

/// Seven days.
pub const DEFAULT_MAX_AGE_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// One GiB.
pub const DEFAULT_HARD_MAX_BYTES: u64 = 1 << 30;

impl Default for Retention {
    fn default() -> Self {
        Self {
            max_age_ms: Some(DEFAULT_MAX_AGE_MS),
            max_len: None,
            max_bytes: None,
            hard_max_bytes: DEFAULT_HARD_MAX_BYTES,
        }
    }
}

/// How long and for how many events idempotency keys are remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IdempotencyWindow {
    /// Age of a key, in milliseconds (default 24 h).
    pub max_age_ms: u64,
    /// Number of keys on one stream (default 1,000,000); past it the oldest are forgotten.
    pub max_keys: u64,
}

impl Default for IdempotencyWindow {
    fn default() -> Self {
        Self { max_age_ms: 24 * 3_600 * 1_000, max_keys: 1_000_000 }
    }
}

/// Settings of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StreamSettings {
    /// When events are removed.
    pub retention: Retention,
    /// How long a repeated idempotency key is known.
    pub idempotency: IdempotencyWindow,
}

impl StreamSettings {
    /// Refuses settings that would lose everything at once.
    pub fn check(&self) -> Result<()> {
        let retention = &self.retention;
        if [retention.max_age_ms, retention.max_len, retention.max_bytes].contains(&Some(0)) {
            return Err(Error::invalid(
                "maxAgeMs, maxLen and maxBytes must be greater than 0; leave one out for no limit",
            ));
        }
        if self.idempotency.max_age_ms == 0 || self.idempotency.max_keys == 0 {
            return Err(Error::invalid(
                "idempotency.maxAgeMs and idempotency.maxKeys must be greater than 0",
            ));
        }
        Ok(())
    }
}
