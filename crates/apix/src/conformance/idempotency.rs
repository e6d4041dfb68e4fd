//! One idempotency key within its window adds one event, and a hybrid one is shown once.

use super::observed::Operation;
use super::world::{World, keyed, next_ids};
use super::{Case, silent, test};
use crate::error::ErrorKind;
use crate::position::MessageId;

pub(super) fn case(operation: Operation) -> Case {
    match operation {
        Operation::Append => test(a_repeat_returns_the_first_id),
        Operation::AppendBatch => test(a_batch_is_all_or_none),
        Operation::PublishHybrid => test(a_repeated_hybrid_event_is_not_shown_again),
        Operation::ConfigureStream => test(the_oldest_keys_are_forgotten),
        Operation::Trim => test(a_key_outlives_its_event),
        Operation::DeleteStream => test(a_stream_made_again_knows_no_keys),
        Operation::AppendAfter => silent("the expected position makes a repeat harmless"),
        Operation::ReadRange
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
        | Operation::ListStreams
        | Operation::StreamStats
        | Operation::Publish
        | Operation::Subscribe
        | Operation::ChannelFeeds => silent("it adds no event"),
    }
}

async fn put(world: &World, n: u64, key: &str) -> crate::Result<(MessageId, bool)> {
    let appended = world.broker.append(&world.stream(), vec![keyed(n, key)]).await?;
    Ok((appended[0].message_id, appended[0].repeated))
}

async fn a_repeat_returns_the_first_id(world: World) {
    let first = put(&world, 1, "k").await.unwrap();
    assert!(!first.1);
    let other = put(&world, 1, "other").await.unwrap();
    assert_ne!(first.0, other.0);
    assert_eq!(put(&world, 1, "k").await.unwrap(), (first.0, true));
    assert_eq!(put(&world, 2, "k").await.unwrap_err().kind(), ErrorKind::IdempotencyConflict);
    // Many at once: one of them adds it.
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let world = world.clone();
        callers.spawn(async move { put(&world, 3, "race").await.unwrap() });
    }
    let answers = callers.join_all().await;
    assert!(answers.iter().all(|one| one.0 == answers[0].0));
    assert_eq!(answers.iter().filter(|one| !one.1).count(), 1);
    assert_eq!(world.ids().await.len(), 3);
}

async fn a_batch_is_all_or_none(world: World) {
    let first = put(&world, 1, "a").await.unwrap().0;
    let append = |events| {
        let world = world.clone();
        async move { world.broker.append(&world.stream(), events).await }
    };
    let refused = append(vec![keyed(5, "b"), keyed(6, "a"), keyed(7, "c")]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::IdempotencyConflict);
    let refused = append(vec![keyed(5, "b"), keyed(6, "b")]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::IdempotencyConflict);
    assert_eq!(world.ids().await, [first]);
    let appended = append(vec![keyed(5, "b"), keyed(1, "a"), keyed(5, "b")]).await.unwrap();
    assert_eq!(appended.iter().map(|one| one.repeated).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(appended[1].message_id, first);
    assert_eq!(appended[2].message_id, appended[0].message_id);
    assert_eq!(world.ids().await, [first, appended[0].message_id]);
}

async fn a_repeated_hybrid_event_is_not_shown_again(world: World) {
    let show = |n, key: &'static str| {
        let world = world.clone();
        async move {
            let event = keyed(n, key);
            world.broker.publish_hybrid(&world.stream(), &world.channel(), event).await
        }
    };
    let mut live = world.listen(None).await;
    let first = show(1, "k").await.unwrap();
    let again = show(1, "k").await.unwrap();
    assert_eq!((again.message_id, again.repeated), (first.message_id, true));
    assert_eq!(again.subscriber_count, None);
    assert_eq!(show(2, "k").await.unwrap_err().kind(), ErrorKind::IdempotencyConflict);
    let last = show(3, "l").await.unwrap();
    assert_eq!(next_ids(&mut live, 2).await, [first.message_id, last.message_id]);
    assert_eq!(world.ids().await, [first.message_id, last.message_id]);
}

async fn the_oldest_keys_are_forgotten(world: World) {
    world.set_stream(|settings| settings.idempotency.max_keys = 3).await;
    let first = put(&world, 1, "a").await.unwrap().0;
    for (n, key) in [(2, "b"), (3, "c")] {
        put(&world, n, key).await.unwrap();
    }
    assert_eq!(put(&world, 1, "a").await.unwrap(), (first, true));
    put(&world, 4, "d").await.unwrap();
    let (anew, repeated) = put(&world, 1, "a").await.unwrap();
    assert!(anew > first && !repeated);
    world.set_stream(|settings| settings.idempotency.max_age_ms = 50).await;
    put(&world, 5, "e").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(120)).await;
    assert!(!put(&world, 5, "e").await.unwrap().1);
}

async fn a_key_outlives_its_event(world: World) {
    world.set_stream(|settings| settings.retention.max_len = Some(1)).await;
    let first = put(&world, 1, "k").await.unwrap().0;
    let last = world.add(2).await;
    world.holds(&[last]).await;
    assert_eq!(put(&world, 1, "k").await.unwrap(), (first, true));
    world.holds(&[last]).await;
}

async fn a_stream_made_again_knows_no_keys(world: World) {
    put(&world, 1, "k").await.unwrap();
    world.broker.delete_stream(&world.stream()).await.unwrap();
    assert!(!put(&world, 2, "k").await.unwrap().1);
    assert_eq!(world.ids().await.len(), 1);
}
