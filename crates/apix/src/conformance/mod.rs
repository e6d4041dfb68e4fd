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
mod subscribers;
mod world;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use observed::Operation;
pub use world::World;

use crate::broker::Broker;

/// A broker under test.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// The broker, running.
    async fn broker(&self) -> Arc<dyn Broker>;

    /// Ends the broker as a kill does and starts it again on what is left. `None` if it keeps
    /// nothing over a restart. Cases of one test run one after the other if this is `Some`.
    async fn restart(&self) -> Option<Arc<dyn Broker>> {
        None
    }

    /// Makes a fault before an operation, if this subject is one that does.
    async fn disturb(&self, _before: Operation) {}

    /// Whether [`disturb`](Self::disturb) does anything.
    fn disturbs(&self) -> bool {
        false
    }
}

/// The guarantees of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// An id is returned only after the event is as safe as the durability says.
    Durability,
    /// What was read is redelivered unless it was settled; counts are never too low.
    AtLeastOnce,
    /// Retention never removes what a group has not acknowledged, up to the hard limit.
    Retention,
    /// Reads follow the ids; a retried event holds nothing back.
    Order,
    /// A hybrid event is persisted, then shown; who returns catches up without a gap.
    Hybrid,
    /// One idempotency key adds one event.
    Idempotency,
    /// Nothing of one tenant is readable, countable or nameable by another.
    Isolation,
    /// A slow subscriber slows nobody and is never silently short.
    SlowSubscribers,
}

type Run = Box<dyn Fn(World) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// How a pair of guarantee and operation is shown.
pub(crate) enum Case {
    Test(Run),
    NotSpokenOf(&'static str),
}

pub(crate) fn test<F, T>(run: F) -> Case
where
    F: Fn(World) -> T + Send + Sync + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    Case::Test(Box::new(move |world| Box::pin(run(world))))
}

pub(crate) const fn silent(reason: &'static str) -> Case {
    Case::NotSpokenOf(reason)
}

fn case(guarantee: Guarantee, operation: Operation) -> Case {
    match guarantee {
        Guarantee::Durability => durability::case(operation),
        Guarantee::AtLeastOnce => delivery::case(operation),
        Guarantee::Retention => retention::case(operation),
        Guarantee::Order => order::case(operation),
        Guarantee::Hybrid => hybrid::case(operation),
        Guarantee::Idempotency => idempotency::case(operation),
        Guarantee::Isolation => isolation::case(operation),
        Guarantee::SlowSubscribers => subscribers::case(operation),
    }
}

/// The longest that one case may take: some flush thousands of times, on disks that others use too.
const CASE_LIMIT: Duration = Duration::from_secs(180);

/// Runs one guarantee against every operation that it speaks of, each with a tenant of its own.
///
/// # Panics
/// Naming every pair that failed, and why.
pub async fn run(subject: Arc<dyn Subject>, guarantee: Guarantee) {
    let mut failed = Vec::new();
    let mut shown = 0;
    for operation in Operation::ALL {
        match case(guarantee, operation) {
            Case::NotSpokenOf(reason) => assert!(!reason.is_empty()),
            Case::Test(run) => {
                let world = World::new(Arc::clone(&subject)).await;
                shown += 1;
                if let Err(fault) = one(run(world)).await {
                    failed.push(format!("{guarantee:?} of {operation:?}: {fault}"));
                }
            }
        }
    }
    assert!(shown > 0, "{guarantee:?} is shown by nothing");
    assert!(failed.is_empty(), "{} of {shown} pairs failed:\n{}", failed.len(), failed.join("\n"));
}

/// Runs every pair of every guarantee but durability (whose cases restart the broker) for fifty
/// tenants at once: the same names in all of them.
///
/// # Panics
/// Naming every pair that failed, and why.
pub async fn run_with_fifty_tenants(subject: Arc<dyn Subject>) {
    const GUARANTEES: [Guarantee; 7] = [
        Guarantee::AtLeastOnce,
        Guarantee::Retention,
        Guarantee::Order,
        Guarantee::Hybrid,
        Guarantee::Idempotency,
        Guarantee::Isolation,
        Guarantee::SlowSubscribers,
    ];
    let mut tenants = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let subject = Arc::clone(&subject);
        tenants.spawn(async move {
            let mut failed = Vec::new();
            for guarantee in GUARANTEES {
                for operation in Operation::ALL {
                    if let Case::Test(run) = case(guarantee, operation) {
                        let world = World::new(Arc::clone(&subject)).await;
                        if let Err(fault) = one(run(world)).await {
                            failed.push(format!("{guarantee:?} of {operation:?}: {fault}"));
                        }
                    }
                }
            }
            failed
        });
    }
    let failed: Vec<String> = tenants.join_all().await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{} pairs failed:\n{}", failed.len(), failed.join("\n"));
}

async fn one(run: Pin<Box<dyn Future<Output = ()> + Send>>) -> Result<(), String> {
    let mut task = tokio::spawn(run);
    match tokio::time::timeout(CASE_LIMIT, &mut task).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(panic)) => Err(panic_text(panic)),
        Err(_) => {
            task.abort();
            Err(format!("not done within {} s", CASE_LIMIT.as_secs()))
        }
    }
}

fn panic_text(fault: tokio::task::JoinError) -> String {
    let Ok(panic) = fault.try_into_panic() else { return "cancelled".to_owned() };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
}

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
