//! A slow subscriber slows nobody and is never silently short of messages.

use std::time::{Duration, Instant};

use super::observed::Operation;
use super::world::{PATIENCE, World, next, next_ids};
use super::{Case, silent, test};
use crate::live::LiveUpdate;
use crate::subscription::Update;

pub(super) fn case(operation: Operation) -> Case {
    match operation {
        Operation::Publish => test(received_and_missed_are_what_was_published),
        Operation::PublishHybrid => test(a_slow_subscriber_catches_up_hybrid_events),
        Operation::Subscribe => test(every_subscriber_gets_everything),
        Operation::Append
        | Operation::AppendBatch
        | Operation::AppendAfter
        | Operation::ReadRange
        | Operation::ReadGroup
        | Operation::Acknowledge
        | Operation::Retry
        | Operation::GiveUp
        | Operation::Extend
        | Operation::SeekGroup
        | Operation::ConfigureGroup
        | Operation::DeleteGroup
        | Operation::GroupStats
        | Operation::DeadLetters
        | Operation::RetryDeadLetters
        | Operation::DiscardDeadLetters
        | Operation::ConfigureStream
        | Operation::DeleteStream
        | Operation::ListStreams
        | Operation::StreamStats
        | Operation::Trim
        | Operation::ChannelFeeds => silent("it sends nothing to subscribers"),
    }
}

/// More than a subscriber's queue holds, at about 200 bytes each.
const FLOOD: u64 = 12_000;

async fn received_and_missed_are_what_was_published(world: World) {
    if !world.strict {
        world.broker.subscribe(&world.channel()).await.unwrap();
        world.publish(1).await;
        return;
    }
    let mut slow = world.broker.subscribe(&world.channel()).await.unwrap();
    let mut fast = world.broker.subscribe(&world.channel()).await.unwrap();
    let reader = tokio::spawn(async move {
        let mut count = 0;
        while count < FLOOD {
            match fast.recv().await {
                Some(Update::Message(_)) => count += 1,
                other => return Err(format!("after {count}: {other:?}")),
            }
        }
        Ok(())
    });
    for n in 0..FLOOD {
        world.publish(n).await;
        // The broker is not to be outrun: the fast one is to miss nothing.
        if n % 500 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    tokio::time::timeout(PATIENCE, reader).await.unwrap().unwrap().unwrap();
    let (mut received, mut missed) = (0, 0);
    let until = Instant::now() + PATIENCE;
    while received + missed < FLOOD {
        match tokio::time::timeout_at(until.into(), slow.recv()).await.unwrap().unwrap() {
            Update::Message(_) => received += 1,
            Update::Missed { count, .. } => missed += count.unwrap(),
        }
    }
    assert!(missed > 0, "the flood was too small");
    assert_eq!(received + missed, FLOOD);
}

async fn a_slow_subscriber_catches_up_hybrid_events(world: World) {
    let count = if world.strict { 4_000 } else { 20 };
    let mut slow = world.listen(None).await;
    let mut shown = Vec::new();
    for n in 0..count {
        shown.push(world.show(n).await.message_id);
    }
    assert_eq!(next_ids(&mut slow, shown.len()).await, shown);
}

async fn every_subscriber_gets_everything(world: World) {
    let mut subscribers = Vec::new();
    for _ in 0..20 {
        subscribers.push(world.listen(None).await);
    }
    for n in 0..10 {
        world.show(n).await;
    }
    let ids = world.ids().await;
    for live in &mut subscribers {
        assert_eq!(next_ids(live, 10).await, ids);
    }
    if world.strict {
        let gone = subscribers.split_off(1);
        drop(gone);
        world.publish(1).await;
        assert!(matches!(next(&mut subscribers[0]).await, LiveUpdate::Message(_)));
        drop(subscribers);
        super::world::eventually("nobody is subscribed", || async { world.publish(2).await == 0 })
            .await;
    }
}
