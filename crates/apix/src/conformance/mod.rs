//! One suite of guarantees that every broker has to pass.
//!
//! It runs every [`Guarantee`] of the broker's contract against every [`Operation`] that it
//! speaks of. The pairs are enumerated by exhaustive matches: a new operation, or a new guarantee,
//! does not compile until somebody has said for each pair how it is shown, or why the guarantee
//! does not speak of it.
//!
//! A broker's test crate implements [`Subject`] and writes
//!
//! ```ignore
//! apix::conformance_suite!(my_broker_on_disk, || async { MySubject::start().await });
//! ```
//!
//! which makes one test per guarantee, and one with fifty tenants at once. A subject whose
//! [`disturb`](Subject::disturb) strews faults between operations runs the same cases, without
//! those assertions that hold only while nothing is lost (exact counts of acknowledgements).

#![allow(clippy::unwrap_used)] // a failed assertion is the point of a test

mod delivery;
mod durability;
mod hybrid;
mod idempotency;
mod isolation;
mod observed;
mod order;
mod retention;
mod subject;
mod subscribers;
mod suite;
mod world;

pub use observed::Operation;
pub use subject::{Guarantee, Subject};
pub use suite::{run, run_with_fifty_tenants};

use suite::{Case, silent, test};

/// Makes the tests of a broker: a module with one test per guarantee and one with fifty tenants.
#[macro_export]
macro_rules! conformance_suite {
    ($name:ident, $start:expr) => {
        mod $name {
            use super::*;

            $crate::conformance_suite!(@tests $start;
                durability Durability, at_least_once AtLeastOnce, retention Retention,
                order Order, hybrid Hybrid, idempotency Idempotency, isolation Isolation,
                slow_subscribers SlowSubscribers);

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn fifty_tenants_at_once() {
                let subject = std::sync::Arc::new(($start)().await);
                $crate::conformance::run_with_fifty_tenants(subject).await;
            }
        }
    };
    (@tests $start:expr; $($test:ident $guarantee:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let subject = std::sync::Arc::new(($start)().await);
                $crate::conformance::run(subject, $crate::conformance::Guarantee::$guarantee).await;
            }
        )+
    };
}
