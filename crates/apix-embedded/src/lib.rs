//! The durable engine of APIX inside the process, on SQLite: nothing to install.
//!
//! ```
//! use apix::{Broker, Event, Json, Limits, StreamKey, StreamName, TenantContext};
//! use apix_embedded::{EmbeddedBroker, EmbeddedOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> apix::Result<()> {
//! let broker = EmbeddedBroker::open(EmbeddedOptions::memory()).await?;
//! let stream = StreamKey::new(&TenantContext::trusted("acme")?, StreamName::new("orders")?);
//! let event = Event::new("order.placed", Json::parse(r#"{"total":42}"#)?);
//! let appended = broker.append(&stream, vec![event.checked(None, &Limits::default())?]).await?;
//! assert_eq!(broker.stream_stats(&stream).await?.last_id, Some(appended[0].message_id));
//! broker.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What may be lost
//!
//! An *answered* event is one whose id was returned to its producer.
//!
//! | durability | `kill -9` of the process | power cut or crash of the machine |
//! | --- | --- | --- |
//! | `disk` (default) | no answered event, setting, dead letter or retried one; no acknowledgement; no delivery count | no answered event, setting or dead letter; acknowledgements, retries and delivery counts of the time since the last flush (each append makes one): such events come again |
//! | `disk-interval` | nothing, as above | everything of the last interval (default 100 ms), as a whole: what is older than something kept is kept |
//! | `memory` (the broker `memory:`) | everything | everything |
//!
//! A failed write or flush is an error to everyone who waited for it, and the store is opened
//! again: what was in flight counts as unknown. A full disk refuses with
//! [`StorageFull`](apix::ErrorKind::StorageFull) and stores nothing. A record that does not read
//! back is [`Corrupt`](apix::ErrorKind::Corrupt), with its place. A panic of the writer thread counts
//! as a failed flush; in memory it takes everything, as the end of the process would.
//!
//! Damage to the log is found by what later commits say was flushed before them; damage to its very
//! last commit looks like a write that a power cut interrupted, and is taken for one.
//!
//! # How it works
//!
//! One writer thread owns the state of all streams and groups. It takes every command that waits,
//! applies them in memory, writes one transaction, flushes once, and then answers all of them: so
//! callers that wait together share one flush, and nobody sees what is not flushed. Live messages
//! go from publisher to subscribers without the writer.
//!
//! The newest events are served from memory, older ones by connections of their own that only read.
//! What retention takes is out of its stream at once, and leaves the file a block at a time, when
//! most of its neighbours have gone too; the file then reuses the space.

mod broker;
mod checksum;
mod client;
mod clock;
mod codec;
mod commit;
mod dead_blocks;
mod engine;
mod fanout;
mod fetch;
mod folder;
mod group;
mod held;
mod holdings;
mod hybrid;
mod journal;
mod lock;
mod options;
mod reading;
mod row_log;
mod slots;
mod store;
mod stream_state;
mod waiting;

pub use broker::EmbeddedBroker;
pub use clock::{Clock, ManualClock};
pub use options::{DEFAULT_TAIL_CACHE_BYTES, EmbeddedOptions, Location};
