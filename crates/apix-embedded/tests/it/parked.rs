//! What a group holds survives however often its rows are written anew.

use std::collections::BTreeSet;
use std::time::Duration;

use apix::{Broker, Delivery, MessageId, ReadOptions, Receipt, SeekTo, Settlement};
use apix_embedded::EmbeddedBroker;

use crate::scene::{consumer, event, group, open, stream};

const PARKED: usize = 3_000;
/// Waits for what was rejected without a delay: it is due with the next millisecond.
const READ: ReadOptions = ReadOptions { max_events: 500, wait: Duration::from_millis(50) };

async fn add(broker: &EmbeddedBroker, count: usize) {
    let batch: Vec<_> = (0..500).map(event).collect();
    for _ in 0..count / 500 {
        broker.append(&stream("orders"), batch.clone()).await.unwrap();
    }
}

async fn read(broker: &EmbeddedBroker) -> Vec<Delivery> {
    broker.read_group(&group(&stream("orders"), "workers"), &consumer("a"), READ).await.unwrap()
}

async fn park(broker: &EmbeddedBroker, read: &[Delivery], after: Duration) {
    let retry = || Settlement::Retry { after: Some(after), reason: "later".into() };
    let settled = read.iter().map(|one| (one.receipt(), retry())).collect();
    let settled = broker.settle(&group(&stream("orders"), "workers"), settled).await.unwrap();
    assert!(settled.into_iter().all(|one| one.is_ok()));
}

/// Handles so many events beside the parked ones: some of them fail at first, and come at once.
async fn handle(broker: &EmbeddedBroker, count: usize) {
    add(broker, count).await;
    loop {
        let read = read(broker).await;
        if read.is_empty() {
            return;
        }
        let (failed, done): (Vec<_>, Vec<_>) = read
            .into_iter()
            .enumerate()
            .partition(|(at, one)| at % 7 == 0 && one.delivery_count == 1);
        let failed: Vec<_> = failed.into_iter().map(|(_, one)| one).collect();
        park(broker, &failed, Duration::ZERO).await;
        let receipts: Vec<_> = done.iter().map(|(_, one)| one.receipt()).collect();
        let workers = group(&stream("orders"), "workers");
        broker.acknowledge(&workers, &receipts).await.unwrap();
    }
}

async fn parked(broker: &EmbeddedBroker) -> (u64, u64, u64) {
    let stats = broker.group_stats(&group(&stream("orders"), "workers")).await.unwrap();
    (stats.parked, stats.pending, stats.lag.unwrap())
}

#[tokio::test]
async fn parked_events_outlive_the_rows_of_many_others() {
    let folder = tempfile::tempdir().unwrap();

    let workers = group(&stream("orders"), "workers");
    let broker = open(folder.path()).await;
    add(&broker, PARKED).await;
    let mut left: BTreeSet<MessageId> = BTreeSet::new();
    for _ in 0..PARKED / 500 {
        let read = read(&broker).await;
        park(&broker, &read, Duration::from_secs(3_600)).await;
        left.extend(read.iter().map(|one| one.event.message_id));
    }
    let mut broker = broker;
    for round in 0..3 {
        // Some hundred KiB of changes: the rows are written anew several times.
        handle(&broker, 10_000).await;
        // Whoever knows the id may finish a parked event: a few of many segments.
        let some: Vec<_> = left.iter().copied().skip(round).step_by(400).collect();
        let receipts: Vec<_> = some.iter().map(|id| Receipt::of_anyone(*id)).collect();
        let done = broker.acknowledge(&workers, &receipts).await.unwrap();
        assert_eq!(done.count, some.len() as u64);
        some.iter().for_each(|id| assert!(left.remove(id)));
        handle(&broker, 5_000).await;
        assert_eq!(parked(&broker).await, (left.len() as u64, 0, 0));
        broker.close().await;
        broker = open(folder.path()).await;
        assert_eq!(parked(&broker).await, (left.len() as u64, 0, 0), "round {round}");
    }
    let receipts: Vec<_> = left.iter().map(|id| Receipt::of_anyone(*id)).collect();
    assert_eq!(broker.acknowledge(&workers, &receipts).await.unwrap().count, left.len() as u64);
    broker.seek_group(&workers, SeekTo::End).await.unwrap();
    broker.close().await;
    let broker = open(folder.path()).await;
    assert_eq!(parked(&broker).await, (0, 0, 0));
    broker.close().await;
}
