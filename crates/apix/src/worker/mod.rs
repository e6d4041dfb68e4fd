//! The loop that users otherwise write by hand.
//!
//! A worker reads a group, handles events with a bound on how many at once, acknowledges in
//! batches, rejects with back-off, gives up after the group's `max_deliveries`, extends the
//! leases of what it still handles, and stops cleanly: it reads no more, lets the handlers finish,
//! and settles what they say.
//!
//! ```no_run
//! # async fn example(service: apix::TenantMessagingService) -> apix::Result<()> {
//! use apix::worker::{Rejection, Worker, WorkerOptions};
//!
//! let ctx = apix::TenantContext::trusted("acme")?;
//! let worker = Worker::new(service, ctx, "orders", WorkerOptions { concurrency: 16, ..Default::default() })?;
//! worker
//!     .run(
//!         |delivery| async move {
//!             println!("{}: {}", delivery.event.event_type, delivery.event.payload.as_str());
//!             Ok::<(), Rejection>(())
//!         },
//!         async { drop(tokio::signal::ctrl_c().await) },
//!     )
//!     .await?;
//! # Ok(())
//! # }
//! ```

mod handling;
mod options;
mod run;
mod settling;

pub use options::{Rejection, WorkerOptions, WorkerReport};
pub use run::Worker;
