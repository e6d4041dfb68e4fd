//! What was answered is there after a kill.

use super::observed::Operation;
use super::world::{LONG_LEASE_MS, World, event, keyed, next_ids};
use super::{Case, silent, test};
use crate::dead_letter::DeadLetterChoice;
use crate::error::ErrorKind;
use crate::group::{GroupSettings, SeekTo};
use crate::position::{Position, Since};

pub(super) fn case(operation: Operation) -> Case {
    match operation {
        Operation::Append => test(an_appended_event_survives),
        Operation::AppendBatch => test(a_batch_survives_whole),
        Operation::AppendAfter => test(the_expected_position_survives),
        Operation::PublishHybrid => test(a_hybrid_event_and_its_channel_survive),
        Operation::ReadGroup => test(deliveries_are_counted_over_a_kill),
        Operation::Acknowledge => test(what_was_settled_long_ago_stays_settled),
        Operation::Retry => test(a_parked_event_comes_back),
        Operation::GiveUp => test(a_dead_letter_survives),
        Operation::SeekGroup => test(a_seek_survives),
        Operation::ConfigureGroup => test(group_settings_survive),
        Operation::DeleteGroup => test(a_deleted_group_stays_deleted),
        Operation::RetryDeadLetters => test(a_dead_letter_sent_again_comes),
        Operation::DiscardDeadLetters => test(a_discarded_dead_letter_stays_away),
        Operation::ConfigureStream => test(stream_settings_survive),
        Operation::DeleteStream => test(a_deleted_stream_stays_deleted),
        Operation::Trim => test(what_was_trimmed_stays_trimmed),
        Operation::Extend => silent("an extension that is lost is a lease that ends early"),
        Operation::ReadRange
        | Operation::GroupStats
        | Operation::DeadLetters
        | Operation::ListStreams
        | Operation::StreamStats
        | Operation::ChannelFeeds => silent("it changes nothing"),
        Operation::Publish | Operation::Subscribe => silent("nothing is stored"),
    }
}

async fn an_appended_event_survives(world: World) {
    let first = world.broker.append(&world.stream(), vec![keyed(1, "k")]).await.unwrap()[0];
    let Some(world) = world.after_restart().await else { return };
    assert_eq!(world.ids().await, [first.message_id]);
    let again = world.broker.append(&world.stream(), vec![keyed(1, "k")]).await.unwrap()[0];
    assert_eq!((again.message_id, again.repeated), (first.message_id, true));
    assert!(world.add(2).await > first.message_id);
}

async fn a_batch_survives_whole(world: World) {
    let ids = world.add_many(100).await;
    let Some(world) = world.after_restart().await else { return };
    assert_eq!(world.ids().await, ids);
}

async fn the_expected_position_survives(world: World) {
    let append = |world: World, expected, n| async move {
        world.broker.append_after(&world.stream(), expected, event(n)).await
    };
    let first = append(world.clone(), None, 1).await.unwrap();
    let Some(world) = world.after_restart().await else { return };
    let refused = append(world.clone(), None, 2).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    append(world, Some(first), 2).await.unwrap();
}

async fn a_hybrid_event_and_its_channel_survive(world: World) {
    let first = world.show(1).await.message_id;
    let epoch = world.broker.channel_feeds(&world.channel()).await.unwrap()[0].epoch.clone();
    let Some(world) = world.after_restart().await else { return };
    let second = world.show(2).await.message_id;
    let since =
        Since::Streams([(world.stream().stream().clone(), Position { id: first, epoch })].into());
    let mut live = world.listen(Some(since)).await;
    assert_eq!(next_ids(&mut live, 1).await, [second]);
}

async fn deliveries_are_counted_over_a_kill(world: World) {
    world.set_lease(500).await;
    world.add_many(20).await;
    let mut world = world;
    for handed_out in 1..=2 {
        let came = world.read_all("c", 20).await;
        assert!(came.values().all(|delivery| delivery.delivery_count >= handed_out), "{came:?}");
        match world.after_restart().await {
            Some(restarted) => world = restarted,
            None => return,
        }
    }
}

async fn what_was_settled_long_ago_stays_settled(world: World) {
    world.set_lease(LONG_LEASE_MS).await;
    world.add_many(3).await;
    let came = world.read_all("c", 3).await;
    world.acknowledge(&came.values().collect::<Vec<_>>()).await;
    // An append that is safe makes what was acknowledged before it safe too.
    let last = world.add(4).await;
    let Some(world) = world.after_restart().await else { return };
    let next = world.read_one("c").await;
    assert_eq!(next.event.message_id, last);
}

async fn a_parked_event_comes_back(world: World) {
    let id = world.add(1).await;
    let delivery = world.read_one("c").await;
    world.retry_in(&delivery, 300).await.unwrap();
    world.add(2).await;
    let Some(world) = world.after_restart().await else { return };
    let came = world.read_all("c", 2).await;
    assert!(came[&id].delivery_count >= 2);
}

async fn a_dead_letter_survives(world: World) {
    let id = world.dead_letter(1).await;
    let Some(world) = world.after_restart().await else { return };
    let dead = world.broker.dead_letters(&world.group(), None, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].message_id, &*dead[0].reason), (id, "no use"));
    world.read_nothing("c").await;
}

async fn a_seek_survives(world: World) {
    world.add_many(3).await;
    world.broker.seek_group(&world.group(), SeekTo::End).await.unwrap();
    let last = world.add(4).await;
    let Some(world) = world.after_restart().await else { return };
    assert_eq!(world.read_one("c").await.event.message_id, last);
}

async fn group_settings_survive(world: World) {
    let settings = GroupSettings { lease_ms: 1_234, max_deliveries: 9, ..Default::default() };
    world.set_group(settings.clone()).await;
    let Some(world) = world.after_restart().await else { return };
    assert_eq!(world.stats().await.settings, settings);
}

async fn a_deleted_group_stays_deleted(world: World) {
    world.dead_letter(1).await;
    world.broker.delete_group(&world.group()).await.unwrap();
    let Some(world) = world.after_restart().await else { return };
    let gone = world.broker.group_stats(&world.group()).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

async fn a_dead_letter_sent_again_comes(world: World) {
    let id = world.dead_letter(1).await;
    let again = world.broker.retry_dead_letters(&world.group(), &DeadLetterChoice::All).await;
    assert_eq!(again.unwrap(), 1);
    let Some(world) = world.after_restart().await else { return };
    assert_eq!(world.read_one("c").await.event.message_id, id);
}

async fn a_discarded_dead_letter_stays_away(world: World) {
    world.dead_letter(1).await;
    world.broker.discard_dead_letters(&world.group(), &DeadLetterChoice::All).await.unwrap();
    let Some(world) = world.after_restart().await else { return };
    assert_eq!(world.broker.dead_letters(&world.group(), None, 10).await.unwrap(), []);
    world.read_nothing("c").await;
}

async fn stream_settings_survive(world: World) {
    world.set_stream(|settings| settings.retention.max_len = Some(7)).await;
    let Some(world) = world.after_restart().await else { return };
    let stats = world.broker.stream_stats(&world.stream()).await.unwrap();
    assert_eq!(stats.settings.retention.max_len, Some(7));
}

async fn a_deleted_stream_stays_deleted(world: World) {
    world.dead_letter(1).await;
    let before = world.broker.stream_stats(&world.stream()).await.unwrap().epoch;
    world.broker.delete_stream(&world.stream()).await.unwrap();
    let Some(world) = world.after_restart().await else { return };
    let gone = world.broker.stream_stats(&world.stream()).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    world.add(1).await;
    assert_ne!(world.broker.stream_stats(&world.stream()).await.unwrap().epoch, before);
}

async fn what_was_trimmed_stays_trimmed(world: World) {
    world.set_stream(|settings| settings.retention.max_len = Some(2)).await;
    let ids = world.add_many(5).await;
    world.holds(&ids[3..]).await;
    let Some(world) = world.after_restart().await else { return };
    assert_eq!(world.ids().await, &ids[3..]);
    let stats = world.broker.stream_stats(&world.stream()).await.unwrap();
    assert_eq!((stats.length, stats.last_id), (2, ids.last().copied()));
    assert!(stats.trimmed_to.is_some_and(|to| to >= ids[2] && to < ids[3]));
}
