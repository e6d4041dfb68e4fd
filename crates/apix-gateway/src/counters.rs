//! What the live half counts, for whoever measures it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Live connections that began.
    Opened,
    /// Live connections that ended.
    Closed,
    /// Handshakes refused: too many a second from one address.
    HandshakeRate,
    /// Handshakes refused: the tenant has as many connections as it may.
    TenantConnections,
    /// Connections closed: too many frames a second.
    MessageRate,
    /// Channels refused: the connection has as many as it may.
    Channels,
    /// Connections closed: a frame was too large.
    FrameSize,
    /// Connections closed: what was sent was not taken.
    TooSlow,
    /// Connections ended: no sign of life.
    Silent,
    /// Connections closed by an operator.
    EndedByOperator,
    /// Events of connections that could not be appended.
    ConnectionEventsLost,
}

impl Counted {
    const ALL: [Self; 11] = [
        Self::Opened,
        Self::Closed,
        Self::HandshakeRate,
        Self::TenantConnections,
        Self::MessageRate,
        Self::Channels,
        Self::FrameSize,
        Self::TooSlow,
        Self::Silent,
        Self::EndedByOperator,
        Self::ConnectionEventsLost,
    ];
}

/// A counter for each.
#[derive(Default)]
pub(crate) struct Counters([AtomicU64; Counted::ALL.len()]);

impl Counters {
    pub(crate) fn count(&self, what: Counted) {
        self.0[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Everything that was counted.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Counted, u64)> + '_ {
        Counted::ALL.into_iter().map(|what| (what, self.0[what as usize].load(Ordering::Relaxed)))
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.all().filter(|(_, count)| *count > 0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_counter() {
        let counters = Counters::default();
        for (index, what) in Counted::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, index);
            for _ in 0..=index {
                counters.count(what);
            }
        }
        let counts: Vec<u64> = counters.all().map(|(_, count)| count).collect();
        assert_eq!(counts, (1..=11).collect::<Vec<_>>());
        assert!(format!("{counters:?}").starts_with("{Opened: 1, Closed: 2"));
    }
}
