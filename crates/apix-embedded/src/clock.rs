//! Time as the engine sees it: Unix milliseconds for ids and ages, elapsed milliseconds for leases
//! and waits, so that a wall clock that steps never shortens a lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where the engine takes its time from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clocks.
    #[default]
    System,
    /// A clock that a test moves.
    Manual(Arc<ManualClock>),
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock {
    unix_ms: AtomicU64,
    elapsed_ms: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `unix_ms`.
    pub fn new(unix_ms: u64) -> Arc<Self> {
        Arc::new(Self { unix_ms: AtomicU64::new(unix_ms), elapsed_ms: AtomicU64::new(0) })
    }

    /// Lets so many milliseconds pass.
    pub fn advance(&self, ms: u64) {
        self.unix_ms.fetch_add(ms, Ordering::SeqCst);
        self.elapsed_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Sets what the wall clock shows, as an operator or a time service does: no time passes.
    pub fn set_unix_ms(&self, unix_ms: u64) {
        self.unix_ms.store(unix_ms, Ordering::SeqCst);
    }

    /// What the wall clock shows.
    pub fn unix_ms(&self) -> u64 {
        self.unix_ms.load(Ordering::SeqCst)
    }
}

/// One instant, read once for all that happens in one turn of the writer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// The wall clock.
    pub(crate) unix_ms: u64,
    /// Since the engine was opened, in whole milliseconds; never steps back.
    pub(crate) elapsed_ms: u64,
    /// The same, with a begun millisecond as a whole one: what deadlines are counted from, so that
    /// none comes early.
    pub(crate) begun_ms: u64,
    /// The same instant for callers within this process.
    pub(crate) instant: Instant,
}

impl Now {
    /// So many milliseconds from now, as the rest of the world writes it.
    pub(crate) fn system_time_in(&self, ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.unix_ms.saturating_add(ms))
    }
}

/// A clock with the instant that it counts from.
#[derive(Debug)]
pub(crate) struct Timekeeper {
    clock: Clock,
    opened: Instant,
}

impl Timekeeper {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, opened: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        let instant = Instant::now();
        match &self.clock {
            Clock::System => {
                let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let elapsed_ms = whole_ms(instant.duration_since(self.opened));
                Now { unix_ms: whole_ms(unix), elapsed_ms, begun_ms: elapsed_ms + 1, instant }
            }
            Clock::Manual(manual) => {
                let elapsed_ms = manual.elapsed_ms.load(Ordering::SeqCst);
                Now { unix_ms: manual.unix_ms(), elapsed_ms, begun_ms: elapsed_ms, instant }
            }
        }
    }

    /// How long the writer may sleep when nothing is due before `deadline_ms`. A manual clock wakes
    /// nobody, so it is looked at again soon.
    pub(crate) fn sleep_until(&self, deadline_ms: u64) -> Duration {
        let left = Duration::from_millis(deadline_ms.saturating_sub(self.now().elapsed_ms));
        match &self.clock {
            Clock::System => left,
            Clock::Manual(_) => left.min(Duration::from_millis(2)),
        }
    }
}

/// Milliseconds of a duration; the largest number for what no number can hold.
pub(crate) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
