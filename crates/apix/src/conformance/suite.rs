//! Running the pairs of guarantees and operations.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::observed::Operation;
use super::subject::{Guarantee, Subject};
use super::world::World;
use super::{delivery, durability, hybrid, idempotency, isolation, order, retention, subscribers};

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
