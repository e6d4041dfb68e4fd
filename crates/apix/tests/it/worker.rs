use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apix::{
    Backoff, Delivery, GroupName, GroupSettings, Rejection, TenantMessagingService, Worker,
    WorkerOptions, WorkerReport,
};
use tokio_util::sync::CancellationToken;

use crate::{acme, event, service};

/// Adds events, configures the group, and runs `handler` until it has said that it is done.
async fn work<F, T>(
    service: &TenantMessagingService,
    count: u64,
    settings: GroupSettings,
    options: WorkerOptions,
    handler: impl Fn(Delivery, CancellationToken) -> F + Send + Sync + 'static,
) -> WorkerReport
where
    F: Future<Output = Result<(), T>> + Send + 'static,
    T: Into<Rejection>,
{
    let ctx = acme();
    let events = (0..count).map(event).collect();
    service.add_events_to_stream(&ctx, "jobs", events).await.unwrap();
    service.configure_group(&ctx, "jobs", GroupName::default(), settings).await.unwrap();
    let worker = Worker::new(service.clone(), ctx, "jobs", options).unwrap();
    let done = CancellationToken::new();
    let run = worker.run(
        {
            let done = done.clone();
            move |delivery| handler(delivery, done.clone())
        },
        done.clone().cancelled_owned(),
    );
    tokio::time::timeout(Duration::from_secs(30), run).await.expect("the worker ends").unwrap()
}

fn quick() -> GroupSettings {
    let backoff = Backoff { base_ms: 10, max_ms: 20, ..Backoff::default() };
    GroupSettings { backoff, ..GroupSettings::default() }
}

#[tokio::test]
async fn a_worker_handles_what_fails_at_first() {
    let service = service().await;
    let seen: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (handled, most_seen) = (Arc::new(AtomicU64::new(0)), Arc::clone(&most));
    let options = WorkerOptions { concurrency: 16, ..WorkerOptions::default() };
    let report = work(&service, 500, quick(), options, move |delivery, done| {
        let (seen, running, most, handled) =
            (Arc::clone(&seen), Arc::clone(&running), Arc::clone(&most), Arc::clone(&handled));
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            running.fetch_sub(1, Ordering::SeqCst);
            let payload = delivery.event.payload.as_str().to_owned();
            let fails = payload.ends_with('3') && delivery.delivery_count == 1;
            *seen.lock().unwrap().entry(payload).or_default() += 1;
            if fails {
                return Err(Rejection::retry("a first time"));
            }
            if handled.fetch_add(1, Ordering::SeqCst) + 1 == 500 {
                assert_eq!(seen.lock().unwrap().values().sum::<u32>(), 550);
                done.cancel();
            }
            Ok(())
        }
    })
    .await;
    assert_eq!(report, WorkerReport { handled: 500, rejected: 50, lease_lost: 0 });
    assert!((2..=16).contains(&most_seen.load(Ordering::SeqCst)));
    let stats = service.group_stats(&acme(), "jobs", GroupName::default()).await.unwrap();
    assert_eq!((stats.lag, stats.pending, stats.parked, stats.dead_letters), (Some(0), 0, 0, 0));
}

#[tokio::test]
async fn panics_timeouts_and_hopeless_events_become_dead_letters() {
    let service = service().await;
    let settings = GroupSettings { max_deliveries: 2, ..quick() };
    let options = WorkerOptions {
        handler_timeout: Some(Duration::from_millis(50)),
        ..WorkerOptions::default()
    };
    let tries = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&tries);
    let report = work(&service, 3, settings, options, move |delivery, done| {
        let tries = Arc::clone(&counted);
        async move {
            if tries.fetch_add(1, Ordering::SeqCst) + 1 == 5 {
                done.cancel();
            }
            match delivery.event.payload.as_str() {
                "0" => panic!("out of {}", "luck"),
                "1" => std::future::pending().await,
                _ => Err(Rejection::dead_letter("unknown customer")),
            }
        }
    })
    .await;
    assert_eq!((report.handled, report.rejected, tries.load(Ordering::SeqCst)), (0, 5, 5));
    let dead = service.dead_letters(&acme(), "jobs", GroupName::default(), None, 10).await.unwrap();
    let reasons: Vec<&str> = dead.iter().map(|one| &*one.reason).collect();
    assert_eq!(reasons.len(), 3, "{dead:?}");
    let tried =
        |n: usize| dead[n].attempts.iter().map(|one| one.reason.to_string()).collect::<Vec<_>>();
    assert_eq!(tried(0), ["the handler panicked: out of luck"; 2]);
    assert_eq!(tried(1), ["the handler took longer than 50 ms"; 2]);
    assert_eq!(reasons[2], "unknown customer");
}

#[tokio::test]
async fn a_lease_is_kept_while_the_handler_works() {
    let service = service().await;
    let settings = GroupSettings { lease_ms: 150, ..GroupSettings::default() };
    let report =
        work(&service, 4, settings, WorkerOptions::default(), |delivery, done| async move {
            assert_eq!(delivery.delivery_count, 1, "handed out twice");
            tokio::time::sleep(Duration::from_millis(700)).await;
            done.cancel();
            Ok::<(), Rejection>(())
        })
        .await;
    assert_eq!(report, WorkerReport { handled: 4, rejected: 0, lease_lost: 0 });
}

#[tokio::test]
async fn what_is_not_finished_in_time_goes_to_others_at_once() {
    let service = service().await;
    let options =
        WorkerOptions { drain_timeout: Duration::from_millis(50), ..WorkerOptions::default() };
    let settings = GroupSettings { lease_ms: 60_000, ..GroupSettings::default() };
    let report = work(&service, 1, settings, options, |_, done| async move {
        done.cancel();
        std::future::pending::<Result<(), Rejection>>().await
    })
    .await;
    assert_eq!(report.rejected, 1);
    let next = service.process_events_from_stream(&acme(), "jobs", "other", 10).await.unwrap();
    assert_eq!((next.len(), next[0].delivery_count), (1, 2));
}

#[tokio::test]
async fn a_worker_that_may_not_read_says_so() {
    let service = service().await;
    let permissions = apix::Permissions::parse(["streams:read:other"]).unwrap();
    let tenant = "acme".parse().unwrap();
    let ctx = apix::TenantContext::authenticated(tenant, None, Arc::new(permissions)).unwrap();
    let worker = Worker::new(service, ctx, "jobs", WorkerOptions::default()).unwrap();
    let handler = |_| async { Ok::<(), Rejection>(()) };
    let refused = worker.run(handler, std::future::pending()).await.unwrap_err();
    assert_eq!(refused.kind(), apix::ErrorKind::PermissionDenied);
    assert!(refused.message().contains("streams:read:jobs"), "{refused}");
}
