//! The end of a credential, for what goes on longer than one call.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

/// When a credential ends; an API key does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expiry(Option<Instant>);

impl Expiry {
    /// `time` of the wall clock, as the clocks stand now.
    pub(crate) fn at(time: Option<SystemTime>) -> Self {
        let now = Instant::now();
        Self(time.map(|time| {
            let left = time.duration_since(SystemTime::now()).unwrap_or_default();
            // A time too far away to be told apart from never.
            now.checked_add(left).unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into()))
        }))
    }

    /// Done when the credential has ended.
    pub(crate) async fn reached(self) {
        match self.0 {
            Some(instant) => sleep_until(instant).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_far_end_is_no_panic_and_a_past_one_is_reached() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert!(Expiry::at(Some(far)).0.unwrap() > Instant::now());
        Expiry::at(Some(SystemTime::UNIX_EPOCH)).reached().await;
        assert!(Expiry::at(None).0.is_none());
    }
}
