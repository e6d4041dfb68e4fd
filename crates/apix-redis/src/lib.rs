//! APIX on one Redis 7+ or Valkey 8+ server.
//!
//! # What may be lost, and when
//!
//! "Returned" is an event whose id was returned, an acknowledgement or a retry that succeeded.
//!
//! | durability | the server must be set to | process of APIX dies | server is killed | power cut |
//! | --- | --- | --- | --- | --- |
//! | `Disk` | `appendonly yes`, `appendfsync always` | nothing returned | nothing returned | nothing returned, as far as the disk keeps what it flushed |
//! | `DiskInterval` | `appendonly yes`, `appendfsync everysec` or `always` | nothing returned | up to about a second (two, while the disk is slow) | the same |
//! | `Memory` | anything; what it is set to is a warning of [`info`](apix::Broker::info) | nothing returned | what the server loses: everything, or back to its last snapshot | the same |
//! | `Replicas` | refused: not in this version | | | |
//!
//! - A server that cannot give the durability is refused by [`RedisBroker::connect`], also one that
//!   may evict streams (`maxmemory-policy allkeys-…`). Where CONFIG is forbidden (managed servers),
//!   INFO decides as far as it can, and a warning says so; `Disk` is refused then, and under
//!   `no-appendfsync-on-rewrite yes`, which leaves flushes out while the file is rewritten.
//! - The same is asked again on each new connection and every minute. While the server is not set to
//!   it any more, or has become a replica, calls are
//!   [`DurabilityUnmet`](apix::ErrorKind::DurabilityUnmet), and so is `check`.
//! - A call that was under way when the connection broke is
//!   [`Unavailable`](apix::ErrorKind::Unavailable): it may or may not have taken effect, and is
//!   never repeated by itself. A repeat with an idempotency key is safe.
//! - What was handed out and not settled comes again, whatever dies, after its lease. Delivery
//!   counts are never too low; after the loss of a group (`XGROUP DESTROY`, a flush) they may be one
//!   too high for each loss. A group that another service then makes again, wherever it begins, is
//!   known by the lack of the consumer `apix:parked`, and set back to where APIX had got.
//! - While the server's memory is full (`maxmemory`), appends are
//!   [`StorageFull`](apix::ErrorKind::StorageFull); reads, leases, settlements, retention, settings
//!   and a restart go on.
//! - Live messages between the server and this process are lost while the connection is down or
//!   silent (found within 5 s); every subscriber is then told by
//!   [`Update::Missed`](apix::Update::Missed) with no count.
//! - A stream that another service deletes (`DEL`, `FLUSHALL`) begins another life with another
//!   epoch when it is next written to; what was parked is gone with it, dead letters stay.
//!
//! # Neighbours
//!
//! Services that use plain XADD, XREADGROUP, XACK, PUBLISH and SUBSCRIBE on the keys of the contract
//! work beside this broker. What they read has a lease by its idle time; what they acknowledge is
//! done; what they trim or delete while it is pending is acknowledged and counted as
//! [`lost`](apix::GroupStats::lost). Trimming *unread* entries leaves no trace that could be counted.
//! A stream that they make is listed from its first use by APIX on.
//!
//! # Rights
//!
//! An ACL user needs, for each tenant `ORG` that it may serve (or `*` for all):
//!
//! ```text
//! ~tenant:ORG:* ~{tenant:ORG:* &tenant:ORG:* ~{apix}:format &apix:probe:*
//! +@connection +@pubsub +@read +@write +@scripting +@transaction +info +config|get +time
//! ```
//!
//! Without `config|get` the durabilities that need it are refused; without `{apix}:format` the form
//! of the data is not checked; without `client|unblock` (in `@connection`) a retry may come a second
//! late. Databases isolate nothing: channels are shared by all databases of a server.
//!
//! # How it works
//!
//! One connection (`link`) carries the calls of all tasks, pipelined; one (`listener`) all
//! channels; a bounded number (`pool`) the reads that wait. What must be atomic is one script
//! (`scripts`). `keys` is the only file that formats a key, `connect` the only one that knows
//! how many servers there are.

mod append;
mod backoff;
mod broker;
mod connect;
mod dead_letters;
mod entry;
mod error;
mod groups;
mod guard;
mod keys;
mod link;
mod listener;
mod local;
mod losses;
mod options;
mod packed;
mod pool;
mod pubsub;
mod reader;
mod resp;
mod scripts;
mod settle;
mod shared;
mod startup;
mod streams;
mod sweep;
mod tls;
mod trim;
mod wire;

pub use broker::RedisBroker;
pub use options::{RedisOptions, Secret, TlsOptions};
