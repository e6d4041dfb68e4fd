//! Reads follow the ids of a stream, and a retried event holds nothing back.

use std::time::{Duration, SystemTime};

use super::observed::Operation;
use super::world::{LONG_LEASE_MS, World, event, next_ids};
use super::{Case, silent, test};
use crate::error::ErrorKind;
use crate::group::SeekTo;
use crate::position::MessageId;
use crate::stream::{Order, RangeQuery};

pub(super) fn case(operation: Operation) -> Case {
    match operation {
        Operation::Append => test(ids_grow_whoever_appends),
        Operation::AppendBatch => test(a_batch_stands_together_in_its_order),
        Operation::AppendAfter => test(writers_that_expect_a_position_do_not_fork),
        Operation::PublishHybrid => test(each_hybrid_event_names_the_one_before),
        Operation::ReadRange => test(ranges_are_read_both_ways_in_pages),
        Operation::ReadGroup => test(groups_read_in_the_order_of_ids),
        Operation::Retry => test(a_retried_event_holds_nothing_back),
        Operation::SeekGroup => test(a_group_goes_on_from_where_it_was_set),
        Operation::Subscribe => test(hybrid_events_arrive_in_order),
        Operation::RetryDeadLetters
        | Operation::Acknowledge
        | Operation::GiveUp
        | Operation::Extend => silent("it changes no order"),
        Operation::ConfigureGroup
        | Operation::DeleteGroup
        | Operation::GroupStats
        | Operation::DeadLetters
        | Operation::DiscardDeadLetters
        | Operation::ConfigureStream
        | Operation::DeleteStream
        | Operation::ListStreams
        | Operation::StreamStats
        | Operation::Trim
        | Operation::ChannelFeeds => silent("it reads no events"),
        Operation::Publish => silent("only streams have an order that is promised"),
    }
}

async fn ids_grow_whoever_appends(world: World) {
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let world = world.clone();
        writers.spawn(async move {
            let mut ids = Vec::new();
            for n in 0..25 {
                ids.push(world.add(n).await);
            }
            ids
        });
    }
    let mut all = Vec::new();
    for ids in writers.join_all().await {
        assert!(ids.is_sorted(), "one writer's ids grow");
        all.extend(ids);
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 200);
    assert_eq!(world.ids().await, all);
}

async fn a_batch_stands_together_in_its_order(world: World) {
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let world = world.clone();
        writers.spawn(async move { world.add_many(50).await });
    }
    let all = {
        let batches = writers.join_all().await;
        let stored = world.ids().await;
        assert_eq!(stored.len(), 200);
        for batch in batches {
            let first = stored.iter().position(|id| *id == batch[0]).unwrap();
            assert_eq!(stored[first..first + 50], batch[..]);
        }
        stored
    };
    let query = RangeQuery { limit: 500, ..RangeQuery::default() };
    let page = world.broker.read_range(&world.stream(), &query).await.unwrap();
    let first_of_each = page.events.iter().filter(|one| one.payload.as_str().contains(":0,"));
    assert_eq!(first_of_each.count(), 4);
    assert!(all.is_sorted());
}

async fn writers_that_expect_a_position_do_not_fork(world: World) {
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let world = world.clone();
        writers.spawn(async move {
            let (mut last, mut written) = (None, 0);
            while written < 10 {
                match world.broker.append_after(&world.stream(), last, event(1)).await {
                    Ok(id) => {
                        last = Some(id);
                        written += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                        last = world.broker.stream_stats(&world.stream()).await.unwrap().last_id;
                    }
                }
            }
        });
    }
    writers.join_all().await;
    assert_eq!(world.ids().await.len(), 40);
}

async fn each_hybrid_event_names_the_one_before(world: World) {
    let mut ids = Vec::new();
    for n in 0..5 {
        world.add(n).await;
        ids.push(world.show(n).await.message_id);
    }
    let query =
        RangeQuery { channel: Some(world.channel().channel().clone()), ..RangeQuery::default() };
    let page = world.broker.read_range(&world.stream(), &query).await.unwrap();
    let chain: Vec<_> =
        page.events.iter().map(|one| (one.prev_message_id, one.message_id)).collect();
    let before = std::iter::once(None).chain(ids.iter().copied().map(Some));
    assert_eq!(chain, before.zip(ids.iter().copied()).collect::<Vec<_>>());
}

async fn ranges_are_read_both_ways_in_pages(world: World) {
    let ids = world.add_many(60).await;
    for order in [Order::Ascending, Order::Descending] {
        let mut query = RangeQuery { limit: 7, order, ..RangeQuery::default() };
        let mut read = Vec::new();
        loop {
            let page = world.broker.read_range(&world.stream(), &query).await.unwrap();
            assert!(page.events.len() <= 7);
            read.extend(page.events.iter().map(|one| one.message_id));
            match page.more_after {
                Some(last) => query = query.after(last),
                None => break,
            }
        }
        if order == Order::Descending {
            read.reverse();
        }
        assert_eq!(read, ids, "{order:?}");
    }
    let query = RangeQuery { from: ids[10], to: ids[12], ..RangeQuery::default() };
    let page = world.broker.read_range(&world.stream(), &query).await.unwrap();
    assert_eq!(page.events.iter().map(|one| one.message_id).collect::<Vec<_>>(), ids[10..=12]);
    let query = RangeQuery { event_type: Some("other".into()), ..RangeQuery::default() };
    let page = world.broker.read_range(&world.stream(), &query).await.unwrap();
    assert_eq!(page.events, []);
    let nowhere = world.other_tenant();
    let refused = nowhere.broker.read_range(&nowhere.stream(), &query).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}

async fn groups_read_in_the_order_of_ids(world: World) {
    if !world.strict {
        return;
    }
    world.set_lease(LONG_LEASE_MS).await;
    let ids = world.add_many(50).await;
    let mut read = Vec::new();
    while read.len() < 50 {
        let batch = world.read_as("c", 7, 1_000).await;
        assert!((1..=7).contains(&batch.len()));
        read.extend(batch.iter().map(|one| one.event.message_id));
    }
    assert_eq!(read, ids);
}

async fn a_retried_event_holds_nothing_back(world: World) {
    if !world.strict {
        return;
    }
    world.set_lease(LONG_LEASE_MS).await;
    let ids = world.add_many(3).await;
    let first = world.read_as("c", 1, 1_000).await.remove(0);
    // Long enough for a busy machine to read the others meanwhile.
    world.retry_in(&first, 2_000).await.unwrap();
    let rest = world.read_as("c", 10, 1_000).await;
    assert_eq!(rest.iter().map(|one| one.event.message_id).collect::<Vec<_>>(), ids[1..]);
    let again = world.read_one("c").await;
    assert_eq!((again.event.message_id, again.delivery_count), (ids[0], 2));
}

async fn a_group_goes_on_from_where_it_was_set(world: World) {
    let before = world.add(1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let between = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let after = world.add(2).await;
    let next = |to| {
        let world = world.clone();
        async move {
            world.broker.seek_group(&world.group(), to).await.unwrap();
            world.read_one("c").await.event.message_id
        }
    };
    assert_eq!(next(SeekTo::Id(after)).await, after);
    assert_eq!(next(SeekTo::Time(between)).await, after);
    assert_eq!(next(SeekTo::Id(MessageId::MIN)).await, before);
    assert_eq!(next(SeekTo::Start).await, before);
    let nowhere = world.other_tenant();
    let refused = nowhere.broker.seek_group(&nowhere.group(), SeekTo::Start).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}

async fn hybrid_events_arrive_in_order(world: World) {
    let mut live = world.listen(None).await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let world = world.clone();
        writers.spawn(async move {
            for n in 0..25 {
                world.show(n).await;
            }
        });
    }
    let came = next_ids(&mut live, 100).await;
    writers.join_all().await;
    assert_eq!(came, world.ids().await);
}
