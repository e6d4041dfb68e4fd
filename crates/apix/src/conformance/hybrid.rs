//! Persisted, then shown; and who returns catches up without a gap, or is told.

use std::time::Duration;

use super::observed::Operation;
use super::world::{World, event, next, next_ids};
use super::{Case, silent, test};
use crate::error::ErrorKind;
use crate::live::LiveUpdate;
use crate::position::{ChannelPosition, MessageId, Position, Since};

pub(super) fn case(operation: Operation) -> Case {
    match operation {
        Operation::PublishHybrid => test(what_is_shown_is_what_was_persisted),
        Operation::Subscribe => test(who_returns_gets_what_was_missed_then_what_is_new),
        Operation::ReadRange => test(a_long_absence_is_caught_up_in_pages),
        Operation::ChannelFeeds => test(feeds_say_where_the_streams_are),
        Operation::Append => test(an_event_that_is_no_hybrid_is_not_shown),
        Operation::AppendBatch => test(other_events_between_do_not_matter),
        Operation::Publish => test(messages_and_hybrid_events_share_a_channel),
        Operation::DeleteStream => test(a_stream_made_again_is_noticed),
        Operation::Trim => test(what_was_trimmed_is_told),
        Operation::AppendAfter => silent("it is an append"),
        Operation::ReadGroup
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
        | Operation::DiscardDeadLetters => silent("groups do not change what channels show"),
        Operation::ConfigureStream | Operation::ListStreams | Operation::StreamStats => {
            silent("it shows nothing")
        }
    }
}

async fn what_is_shown_is_what_was_persisted(world: World) {
    let mut live = world.listen(None).await;
    let shown = world.show(5).await;
    assert!(!shown.repeated);
    if world.strict {
        assert_eq!(shown.subscriber_count, Some(1));
    }
    let message = loop {
        if let LiveUpdate::Message(message) = next(&mut live).await {
            break message;
        }
    };
    let origin = message.origin().unwrap();
    assert_eq!(origin.message_id, shown.message_id);
    assert_eq!(origin.stream, *world.stream().stream());
    assert_eq!(message.message_type(), "order.placed");
    assert_eq!(message.data().as_str(), event(5).payload.as_str());
    assert_eq!(world.ids().await, [shown.message_id]);
}

async fn who_returns_gets_what_was_missed_then_what_is_new(world: World) {
    let seen = world.show(0).await.message_id;
    let mut missed = Vec::new();
    for n in 1..=20 {
        missed.push(world.show(n).await.message_id);
    }
    let mut live = world.listen(Some(Since::Id(seen))).await;
    let new = world.show(21).await.message_id;
    let came = next_ids(&mut live, 21).await;
    missed.push(new);
    assert_eq!(came, missed);
    // Events are published while somebody returns, again and again.
    let mut position = live.position();
    drop(live);
    let mut expected = Vec::new();
    for round in 0..5 {
        let publisher = {
            let world = world.clone();
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for n in 0..20 {
                    ids.push(world.show(round * 100 + n).await.message_id);
                }
                ids
            })
        };
        tokio::task::yield_now().await;
        let mut live = world.listen(Some(Since::Streams(position.clone()))).await;
        let came = next_ids(&mut live, 20).await;
        expected.extend(publisher.await.unwrap());
        assert_eq!(came, expected.split_off(0));
        position = live.position();
    }
}

async fn a_long_absence_is_caught_up_in_pages(world: World) {
    let first = world.show(0).await.message_id;
    let mut missed = Vec::new();
    for n in 0..450 {
        missed.push(world.show(n).await.message_id);
    }
    let mut live = world.listen(Some(Since::Id(first))).await;
    assert_eq!(next_ids(&mut live, 450).await, missed);
}

async fn feeds_say_where_the_streams_are(world: World) {
    assert_eq!(world.broker.channel_feeds(&world.channel()).await.unwrap(), []);
    let tip = world.show(1).await.message_id;
    let last = world.add(2).await;
    let feeds = world.broker.channel_feeds(&world.channel()).await.unwrap();
    assert_eq!(feeds.len(), 1);
    assert_eq!(feeds[0].stream, *world.stream().stream());
    assert_eq!((feeds[0].tip, feeds[0].last_id), (Some(tip), Some(last)));
    let stats = world.broker.stream_stats(&world.stream()).await.unwrap();
    assert_eq!(feeds[0].epoch, Some(stats.epoch));
    // Who was there before the first event misses nothing of a stream that came later.
    let mut live = world.listen(Some(Since::Streams(ChannelPosition::new()))).await;
    assert_eq!(next_ids(&mut live, 1).await, [tip]);
    // Two streams on one channel: a bare id does not say which is meant.
    let service = world.service();
    let other = crate::name::StreamKey::new(&world.ctx, "other".parse().unwrap());
    world.broker.publish_hybrid(&other, &world.channel(), event(3)).await.unwrap();
    let resumed = service.resume_realtime_messages(&world.ctx, "room:1", Some(Since::Id(tip)));
    assert_eq!(resumed.await.unwrap_err().kind(), ErrorKind::SinceAmbiguous);
}

async fn an_event_that_is_no_hybrid_is_not_shown(world: World) {
    let mut live = world.listen(None).await;
    world.add(1).await;
    let shown = world.show(2).await.message_id;
    assert_eq!(next_ids(&mut live, 1).await, [shown]);
}

async fn other_events_between_do_not_matter(world: World) {
    let first = world.show(1).await.message_id;
    world.add_many(500).await;
    let second = world.show(2).await.message_id;
    world.add_many(500).await;
    let mut live = world.listen(Some(Since::Id(first))).await;
    let third = world.show(3).await.message_id;
    assert_eq!(next_ids(&mut live, 2).await, [second, third]);
}

async fn messages_and_hybrid_events_share_a_channel(world: World) {
    let mut live = world.listen(None).await;
    world.publish(1).await;
    world.show(2).await;
    world.publish(3).await;
    let mut came = Vec::new();
    while came.len() < 3 {
        match next(&mut live).await {
            LiveUpdate::Message(message) => came.push(message.origin().is_some()),
            missed @ LiveUpdate::Missed { .. } => {
                assert!(!world.strict, "{missed:?}");
                return;
            }
        }
    }
    assert_eq!(came, [false, true, false]);
}

async fn a_stream_made_again_is_noticed(world: World) {
    let first = world.show(1).await.message_id;
    let mut live = world.listen(None).await;
    let position = live.position();
    world.broker.delete_stream(&world.stream()).await.unwrap();
    let returned = world.listen(Some(Since::Streams(position.clone()))).await;
    told(returned).await;
    // An id holds milliseconds: those of two lives differ once the clock has moved on.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let new = world.show(2).await.message_id;
    // Who stayed is told, and gets the new event; who returns is told.
    assert!(matches!(next(&mut live).await, LiveUpdate::Missed { .. }));
    assert_eq!(next_ids(&mut live, 1).await, [new]);
    told(world.listen(Some(Since::Streams(position))).await).await;
    // A bare id of the earlier life is below those of this one, and still not taken for one.
    world.show(3).await;
    told(world.listen(Some(Since::Id(first))).await).await;
    let ahead = MessageId::new(new.ms + 1_000_000, 0);
    told(world.listen(Some(Since::Id(ahead))).await).await;
}

async fn told(mut live: crate::live::LiveSubscription) {
    let update = next(&mut live).await;
    assert_eq!(update, LiveUpdate::Missed { count: None, recoverable: false });
}

async fn what_was_trimmed_is_told(world: World) {
    let first = world.show(1).await.message_id;
    for n in 2..10 {
        world.show(n).await;
    }
    let last = world.show(10).await.message_id;
    world.set_stream(|settings| settings.retention.max_len = Some(1)).await;
    world.holds(&[last]).await;
    let stats = world.broker.stream_stats(&world.stream()).await.unwrap();
    let position = Position { id: first, epoch: Some(stats.epoch) };
    let since = [(world.stream().stream().clone(), position)].into();
    let mut live = world.listen(Some(Since::Streams(since))).await;
    let update = next(&mut live).await;
    assert_eq!(update, LiveUpdate::Missed { count: None, recoverable: false });
    assert_eq!(next_ids(&mut live, 1).await, [last]);
}
