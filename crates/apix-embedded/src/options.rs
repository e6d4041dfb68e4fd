//! Where the engine keeps its data, and how safely.

use std::path::PathBuf;
use std::time::Duration;

use apix::subscription::DEFAULT_QUEUE_BYTES;
use apix::{Durability, Error, ErrorKind, Result};

use crate::clock::Clock;

/// Bytes of the newest events that are served from memory unless
/// [`tail_cache_bytes`](EmbeddedOptions::tail_cache_bytes) says otherwise: 16 MiB, a tenth of a second
/// or more of the busiest stream. What is older comes from the page cache of the system.
pub const DEFAULT_TAIL_CACHE_BYTES: usize = 16 << 20;

/// Where the data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In this folder, which is made if it does not exist.
    Directory(PathBuf),
    /// In the memory of this process, gone with it.
    Memory,
}

/// How to open an [`EmbeddedBroker`](crate::EmbeddedBroker).
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Where the data is (default: the folder `apix-data`).
    pub location: Location,
    /// How safe an event is when its id is returned (default [`Durability::Disk`]). In memory it
    /// is always [`Durability::Memory`], whatever stands here.
    pub durability: Durability,
    /// How often retention is applied (default 1 s).
    pub trim_every: Duration,
    /// Bytes of the newest events that are served from memory, with what each takes beside its own
    /// bytes (default [`DEFAULT_TAIL_CACHE_BYTES`]).
    pub tail_cache_bytes: usize,
    /// Bytes of the log that are used before it is written back into the data file (default
    /// 32 MiB): less makes the folder smaller and opening after a kill faster, more makes writing
    /// cheaper.
    pub log_bytes: usize,
    /// Bytes of events that wait to be written; callers beyond wait their turn (default 64 MiB).
    pub waiting_bytes: usize,
    /// Bytes of messages that wait for one subscriber (default 1 MiB).
    pub queue_bytes: usize,
    /// Where the time comes from.
    pub clock: Clock,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            location: Location::Directory(PathBuf::from("apix-data")),
            durability: Durability::Disk,
            trim_every: Duration::from_secs(1),
            tail_cache_bytes: DEFAULT_TAIL_CACHE_BYTES,
            log_bytes: 32 << 20,
            waiting_bytes: 64 << 20,
            queue_bytes: DEFAULT_QUEUE_BYTES,
            clock: Clock::System,
        }
    }
}

impl EmbeddedOptions {
    /// Everything in memory.
    pub fn memory() -> Self {
        Self { location: Location::Memory, ..Self::default() }
    }

    /// Everything in `folder`, flushed.
    pub fn directory(folder: impl Into<PathBuf>) -> Self {
        Self { location: Location::Directory(folder.into()), ..Self::default() }
    }

    /// The durability that holds at this location, or why there is none.
    pub(crate) fn effective_durability(&self) -> Result<Durability> {
        let refused = |why: &'static str| Err(Error::new(ErrorKind::Unsupported, why));
        match (&self.location, self.durability) {
            (_, Durability::Replicas(_)) => refused(
                "the embedded broker is one process and has no replicas; use the durability disk, \
                 or a Redis broker",
            ),
            (Location::Memory, _) => Ok(Durability::Memory),
            (Location::Directory(_), Durability::Memory) => refused(
                "the durability memory keeps nothing on disk; use the broker memory: for it, or \
                 the durability disk or disk-interval",
            ),
            (_, Durability::DiskInterval { every_ms: 0 }) => {
                Err(Error::invalid("everyMs of disk-interval must be at least 1"))
            }
            (Location::Directory(_), kept) => Ok(kept),
        }
    }
}
