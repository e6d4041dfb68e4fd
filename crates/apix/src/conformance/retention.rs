//! Retention takes what it may and never what a group still needs, up to the hard limit.

use std::time::Duration;

use super::observed::Operation;
use super::world::{LONG_LEASE_MS, SHORT_LEASE_MS, World, event, eventually, keyed};
use super::{Case, silent, test};
use crate::dead_letter::DeadLetterChoice;
use crate::group::SeekTo;
use crate::retention::StreamSettings;

pub(super) fn case(operation: Operation) -> Case {
    match operation {
        Operation::Append => test(a_stream_without_groups_keeps_to_its_limits),
        Operation::AppendBatch => test(old_events_go_by_age),
        Operation::AppendAfter => test(an_emptied_stream_keeps_its_last_id),
        Operation::PublishHybrid => test(hybrid_events_are_trimmed_like_others),
        Operation::ReadRange => test(what_was_trimmed_is_not_read),
        Operation::ReadGroup => test(unread_events_stay),
        Operation::Acknowledge => test(what_every_group_acknowledged_goes),
        Operation::Retry => test(a_retry_due_in_ten_hours_does_not_pin_the_stream),
        Operation::GiveUp => test(dead_letters_do_not_pin_the_stream),
        Operation::SeekGroup => test(a_seek_to_the_end_lets_go),
        Operation::ConfigureStream => test(settings_are_what_was_set),
        Operation::DeleteGroup => test(a_deleted_group_lets_go),
        Operation::GroupStats => test(the_hard_limit_takes_the_oldest_and_counts),
        Operation::StreamStats => test(statistics_follow_the_trimmer),
        Operation::Trim => test(the_background_trims_by_itself),
        Operation::RetryDeadLetters => test(a_dead_letter_comes_again_after_its_event_was_trimmed),
        Operation::Extend | Operation::ConfigureGroup => {
            silent("what is pending is pending, however long")
        }
        Operation::DeadLetters | Operation::DiscardDeadLetters => {
            silent("dead letters are copies, which retention does not take")
        }
        Operation::DeleteStream => silent("deleting is not retention"),
        Operation::ListStreams => silent("an empty stream is a stream"),
        Operation::Publish | Operation::Subscribe => silent("nothing is stored"),
        Operation::ChannelFeeds => silent("the hybrid guarantee speaks of what was trimmed"),
    }
}

async fn a_stream_without_groups_keeps_to_its_limits(world: World) {
    world.set_stream(|settings| settings.retention.max_len = Some(3)).await;
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(world.add(n).await);
    }
    world.holds(&ids[7..]).await;
}

async fn old_events_go_by_age(world: World) {
    world.set_stream(|settings| settings.retention.max_age_ms = Some(1_000)).await;
    world.add_many(5).await;
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    let young = world.add(9).await;
    world.holds(&[young]).await;
}

async fn an_emptied_stream_keeps_its_last_id(world: World) {
    world.set_stream(|settings| settings.retention.max_age_ms = Some(1)).await;
    let last = world.add(1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    world.holds(&[]).await;
    let next = world.broker.append_after(&world.stream(), Some(last), event(2)).await.unwrap();
    assert!(next > last);
}

async fn hybrid_events_are_trimmed_like_others(world: World) {
    world.set_stream(|settings| settings.retention.max_len = Some(1)).await;
    world.show(1).await;
    let last = world.show(2).await.message_id;
    world.holds(&[last]).await;
}

async fn what_was_trimmed_is_not_read(world: World) {
    let ids = world.add_many(10).await;
    let before = world.broker.stream_stats(&world.stream()).await.unwrap().bytes;
    world.set_stream(|settings| settings.retention.max_bytes = Some(before / 2)).await;
    world.trim().await;
    let left = world.ids().await;
    assert!(!left.is_empty() && left.len() < 10, "{left:?}");
    assert!(ids.ends_with(&left));
}

async fn unread_events_stay(world: World) {
    world.set_stream(|settings| settings.retention.max_len = Some(1)).await;
    world.set_lease(LONG_LEASE_MS).await;
    let ids = world.add_many(6).await;
    world.holds(&ids).await;
    let came = world.read_as("c", 2, 1_000).await;
    world.holds(&ids).await;
    if world.strict {
        assert_eq!(world.acknowledge(&[&came[1]]).await, 1);
        world.holds(&ids).await;
    }
}

async fn what_every_group_acknowledged_goes(world: World) {
    world.set_stream(|settings| settings.retention.max_len = Some(1)).await;
    world.set_lease(LONG_LEASE_MS).await;
    let slow = world.group_named("slow");
    let ids = world.add_many(4).await;
    let held = world.read_of(&slow, "s", 1, 1_000).await;
    let came = world.read_all("c", 4).await;
    world.acknowledge(&came.values().collect::<Vec<_>>()).await;
    world.holds(&ids).await;
    if world.strict {
        world.broker.acknowledge(&slow, &[held[0].receipt()]).await.unwrap();
        world.holds(&ids[1..]).await;
    }
}

async fn a_retry_due_in_ten_hours_does_not_pin_the_stream(world: World) {
    if !world.strict {
        return;
    }
    world.set_stream(|settings| settings.retention.max_len = Some(1)).await;
    world.set_lease(LONG_LEASE_MS).await;
    let ids = world.add_many(3).await;
    let came = world.read_all("c", 3).await;
    world.retry_in(&came[&ids[0]], 10 * 3_600_000).await.unwrap();
    world.acknowledge(&[&came[&ids[1]], &came[&ids[2]]]).await;
    world.holds(&ids[2..]).await;
    let stats = world.stats().await;
    assert_eq!((stats.parked, stats.pending, stats.lost), (1, 0, 0));
}

async fn dead_letters_do_not_pin_the_stream(world: World) {
    if !world.strict {
        return;
    }
    world.set_stream(|settings| settings.retention.max_len = Some(1)).await;
    world.dead_letter(1).await;
    let last = world.dead_letter(2).await;
    world.holds(&[last]).await;
}

async fn a_seek_to_the_end_lets_go(world: World) {
    world.set_stream(|settings| settings.retention.max_len = Some(1)).await;
    let ids = world.add_many(4).await;
    world.read_as("c", 2, 1_000).await;
    world.broker.seek_group(&world.group(), SeekTo::End).await.unwrap();
    if world.strict {
        world.holds(&ids[3..]).await;
    }
}

async fn settings_are_what_was_set(world: World) {
    let read = |world: World| async move {
        world.broker.stream_stats(&world.stream()).await.unwrap().settings
    };
    world.add(1).await;
    assert_eq!(read(world.clone()).await, StreamSettings::default());
    let mut settings = StreamSettings::default();
    settings.retention.max_age_ms = None;
    settings.retention.max_bytes = Some(1 << 30);
    settings.retention.hard_max_bytes = 0;
    settings.idempotency.max_keys = 5;
    world.broker.configure_stream(&world.stream(), settings.clone()).await.unwrap();
    assert_eq!(read(world.clone()).await, settings);
    // Settings make a stream, which is empty.
    let other = world.other_tenant();
    other.set_stream(|_| ()).await;
    assert_eq!(other.ids().await, []);
}

async fn a_deleted_group_lets_go(world: World) {
    // The group is there before the events are: without one the background may take them.
    world.set_lease(LONG_LEASE_MS).await;
    world.set_stream(|settings| settings.retention.max_len = Some(1)).await;
    let ids = world.add_many(4).await;
    world.read_as("c", 2, 1_000).await;
    world.holds(&ids).await;
    world.broker.delete_group(&world.group()).await.unwrap();
    world.holds(&ids[3..]).await;
}

async fn the_hard_limit_takes_the_oldest_and_counts(world: World) {
    if !world.strict {
        return;
    }
    world.set_lease(LONG_LEASE_MS).await;
    let ids = world.add_many(300).await;
    world.read_as("c", 100, 1_000).await;
    let bytes = world.broker.stream_stats(&world.stream()).await.unwrap().bytes;
    world.set_stream(|settings| settings.retention.hard_max_bytes = bytes / 2).await;
    world.trim().await;
    let left = world.ids().await;
    assert!(!left.is_empty() && left.len() < 250, "{} are left", left.len());
    assert!(ids.ends_with(&left));
    let gone = (ids.len() - left.len()) as u64;
    let stats = world.broker.stream_stats(&world.stream()).await.unwrap();
    assert_eq!(stats.hard_limit_dropped, gone);
    let group = world.stats().await;
    assert_eq!(group.lost, gone, "each event that the group had not acknowledged");
    // No ghosts: what is pending is there to be delivered.
    assert_eq!(group.pending, 100u64.saturating_sub(gone));
    assert_eq!(group.lag, Some(left.len() as u64 - group.pending));
}

async fn statistics_follow_the_trimmer(world: World) {
    world.set_stream(|settings| settings.retention.max_len = Some(2)).await;
    let ids = world.add_many(5).await;
    world.holds(&ids[3..]).await;
    let stats = world.broker.stream_stats(&world.stream()).await.unwrap();
    assert_eq!((stats.length, stats.first_id, stats.last_id), (2, Some(ids[3]), Some(ids[4])));
    assert!(stats.trimmed_to.is_some_and(|to| to >= ids[2] && to < ids[3]));
    assert_eq!(stats.hard_limit_dropped, 0);
}

async fn the_background_trims_by_itself(world: World) {
    world.set_stream(|settings| settings.retention.max_len = Some(2)).await;
    let ids = world.add_many(5).await;
    eventually("the background trims", || async { world.ids().await == ids[3..] }).await;
}

async fn a_dead_letter_comes_again_after_its_event_was_trimmed(world: World) {
    if !world.strict {
        return;
    }
    world.set_stream(|settings| settings.retention.max_len = Some(1)).await;
    let id = world.dead_letter(1).await;
    let last = world.broker.append(&world.stream(), vec![keyed(2, "k")]).await.unwrap()[0];
    let delivery = world.read_one("c").await;
    world.acknowledge(&[&delivery]).await;
    world.holds(&[last.message_id]).await;
    world.broker.retry_dead_letters(&world.group(), &DeadLetterChoice::All).await.unwrap();
    let again = world.read_one("c").await;
    assert_eq!(again.event.message_id, id);
    assert_eq!(again.event.payload.as_str(), event(1).payload.as_str());
    world.set_lease(SHORT_LEASE_MS).await;
    assert_eq!(world.acknowledge(&[&again]).await, 1);
}
