//! At least once: what was read comes again unless it was settled, with counts never too low.

use std::time::Duration;

use super::observed::Operation;
use super::world::{LONG_LEASE_MS, SHORT_LEASE_MS, World, event, eventually};
use super::{Case, silent, test};
use crate::dead_letter::{DeadBody, DeadLetterChoice, LEASE_EXPIRED};
use crate::error::ErrorKind;
use crate::event::Receipt;
use crate::group::{GroupSettings, SeekTo, Settled, Settlement};

pub(super) fn case(operation: Operation) -> Case {
    match operation {
        Operation::Append => test(what_is_appended_is_delivered_as_it_was_sent),
        Operation::AppendBatch => test(every_event_of_a_batch_is_delivered),
        Operation::AppendAfter => test(an_expected_append_is_delivered),
        Operation::PublishHybrid => test(hybrid_events_are_delivered_to_groups_too),
        Operation::ReadGroup => test(what_is_not_settled_comes_to_another),
        Operation::Acknowledge => test(only_the_holder_acknowledges),
        Operation::Retry => test(a_rejected_event_comes_back_until_it_is_given_up),
        Operation::GiveUp => test(what_is_given_up_is_kept_whole),
        Operation::Extend => test(an_extended_delivery_stays_with_its_holder),
        Operation::SeekGroup => test(a_seek_back_delivers_again),
        Operation::ConfigureGroup => test(settings_take_effect),
        Operation::DeleteGroup => test(a_new_group_of_the_name_begins_at_the_start),
        Operation::GroupStats => test(statistics_count_what_is_out),
        Operation::DeadLetters => test(dead_letters_are_listed_in_pages),
        Operation::RetryDeadLetters => test(a_dead_letter_goes_to_its_group_again),
        Operation::DiscardDeadLetters => test(a_discarded_dead_letter_is_gone),
        Operation::DeleteStream => test(a_deleted_stream_delivers_nothing_more),
        Operation::Trim => test(what_is_out_or_unread_is_not_trimmed),
        Operation::ConfigureStream => silent("settings of retention: see there"),
        Operation::ReadRange => silent("reading a range hands nothing out"),
        Operation::ListStreams | Operation::StreamStats => silent("it hands nothing out"),
        Operation::Publish | Operation::Subscribe | Operation::ChannelFeeds => {
            silent("messages on channels are at most once")
        }
    }
}

async fn what_is_appended_is_delivered_as_it_was_sent(world: World) {
    let id = world.add(7).await;
    let delivery = world.read_one("c").await;
    assert_eq!(delivery.event.message_id, id);
    assert_eq!(delivery.event.payload.as_str(), event(7).payload.as_str());
    assert_eq!(delivery.event.event_type, "order.placed");
    assert_eq!(delivery.event.organization_id, *world.ctx.organization_id());
    assert!(delivery.delivery_count >= 1);
    if world.strict {
        assert_eq!(delivery.delivery_count, 1);
        assert_eq!(world.acknowledge(&[&delivery]).await, 1);
        assert_eq!(world.acknowledge(&[&delivery]).await, 0);
        world.read_nothing("c").await;
    }
}

async fn every_event_of_a_batch_is_delivered(world: World) {
    world.set_lease(LONG_LEASE_MS).await;
    let ids = world.add_many(250).await;
    let came = world.read_all("c", 250).await;
    assert!(came.keys().eq(ids.iter()));
}

async fn an_expected_append_is_delivered(world: World) {
    let first = world.broker.append_after(&world.stream(), None, event(1)).await.unwrap();
    assert_eq!(world.read_one("c").await.event.message_id, first);
}

async fn hybrid_events_are_delivered_to_groups_too(world: World) {
    let id = world.show(1).await.message_id;
    let delivery = world.read_one("c").await;
    assert_eq!(delivery.event.message_id, id);
    assert_eq!(delivery.event.realtime_channel.as_ref(), Some(world.channel().channel()));
}

async fn what_is_not_settled_comes_to_another(world: World) {
    world.set_lease(SHORT_LEASE_MS).await;
    let id = world.add(1).await;
    let dead = world.read_one("dead").await;
    if world.strict {
        world.read_nothing("alive").await;
    }
    let taken = world.read_one("alive").await;
    assert_eq!(taken.event.message_id, id);
    assert!(taken.delivery_count > dead.delivery_count);
    if world.strict {
        assert_eq!(taken.delivery_count, 2);
        let late = world.retry_in(&dead, 0).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LeaseLost);
    }
    assert_eq!(world.acknowledge(&[&taken]).await, 1);
}

async fn only_the_holder_acknowledges(world: World) {
    world.set_lease(SHORT_LEASE_MS).await;
    let id = world.add(1).await;
    let dead = world.read_one("dead").await;
    let taken = world.read_one("alive").await;
    let extended = Settlement::Extend { lease: Duration::from_millis(LONG_LEASE_MS) };
    if world.strict {
        world.settle(&taken, extended).await.unwrap();
        let late = world.broker.acknowledge(&world.group(), &[dead.receipt()]).await.unwrap();
        assert_eq!((late.count, late.lease_lost), (0, vec![id]));
        world.read_nothing("third").await;
        let anyone = [Receipt::of_anyone(id)];
        let done = world.broker.acknowledge(&world.group(), &anyone).await.unwrap();
        assert_eq!((done.count, done.lease_lost), (1, vec![]));
        let again = world.broker.acknowledge(&world.group(), &anyone).await.unwrap();
        assert_eq!((again.count, again.lease_lost), (0, vec![]));
    } else {
        world.broker.acknowledge(&world.group(), &[dead.receipt()]).await.unwrap();
    }
}

async fn a_rejected_event_comes_back_until_it_is_given_up(world: World) {
    world
        .set_group(GroupSettings {
            max_deliveries: 3,
            lease_ms: LONG_LEASE_MS,
            ..GroupSettings::default()
        })
        .await;
    let id = world.add(1).await;
    let mut counts = Vec::new();
    loop {
        let delivery = world.read_one("c").await;
        counts.push(delivery.delivery_count);
        match world.retry_in(&delivery, 30).await {
            Ok(Settled::DeadLettered) => break,
            Ok(Settled::RetryAt(_)) => {}
            // Where the group was lost in between, the delivery was too.
            Err(error) if !world.strict && error.kind() == ErrorKind::LeaseLost => {
                world.broker.acknowledge(&world.group(), &[]).await.unwrap();
            }
            other => panic!("{other:?}"),
        }
        assert!(counts.len() < 20, "never given up: {counts:?}");
    }
    assert!(counts.is_sorted(), "{counts:?}");
    let dead = world.broker.dead_letters(&world.group(), None, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].message_id, id);
    assert!(dead[0].attempts.iter().any(|one| one.reason == "not yet" && one.consumer == "c"));
    if world.strict {
        assert_eq!(counts, [1, 2, 3]);
        assert_eq!(dead[0].attempts.len(), 3);
        assert_eq!(world.stats().await.pending, 0);
        world.read_nothing("c").await;
    }
}

async fn what_is_given_up_is_kept_whole(world: World) {
    world.set_lease(LONG_LEASE_MS).await;
    let id = world.add(9).await;
    let delivery = world.read_one("c").await;
    let why = Settlement::DeadLetter { reason: "bad address".into() };
    if world.strict {
        assert_eq!(world.settle(&delivery, why.clone()).await.unwrap(), Settled::DeadLettered);
        let again = world.settle(&delivery, why).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::LeaseLost);
        let dead = world.broker.dead_letters(&world.group(), None, 10).await.unwrap();
        assert_eq!((dead[0].message_id, &*dead[0].reason), (id, "bad address"));
        let DeadBody::Event(copy) = &dead[0].body else { panic!("{:?}", dead[0]) };
        assert_eq!(**copy, delivery.event);
        // The copy stays when the stream's event goes.
        world.set_stream(|settings| settings.retention.max_len = Some(1)).await;
        let kept = world.add(10).await;
        world.read_one("c").await;
        world.holds(&[kept]).await;
        assert_eq!(world.broker.dead_letters(&world.group(), None, 10).await.unwrap(), dead);
        return;
    }
    match world.settle(&delivery, why).await {
        Ok(settled) => assert_eq!(settled, Settled::DeadLettered),
        Err(error) => assert_eq!(error.kind(), ErrorKind::LeaseLost),
    }
}

async fn an_extended_delivery_stays_with_its_holder(world: World) {
    world.set_lease(SHORT_LEASE_MS).await;
    world.add(1).await;
    let held = world.read_one("slow").await;
    let extend = Settlement::Extend { lease: Duration::from_millis(4 * SHORT_LEASE_MS) };
    if !world.strict {
        let _ = world.settle(&held, extend).await;
        world.read_one("other").await;
        return;
    }
    assert!(matches!(world.settle(&held, extend.clone()).await, Ok(Settled::HeldUntil(_))));
    tokio::time::sleep(Duration::from_millis(2 * SHORT_LEASE_MS)).await;
    world.read_nothing("other").await;
    let taken = world.read_one("other").await;
    assert_eq!(taken.delivery_count, held.delivery_count + 1);
    let late = world.settle(&held, extend).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LeaseLost);
}

async fn a_seek_back_delivers_again(world: World) {
    world.set_lease(LONG_LEASE_MS).await;
    let ids = world.add_many(6).await;
    let came = world.read_all("c", 6).await;
    world.acknowledge(&came.values().take(3).collect::<Vec<_>>()).await;
    world.broker.seek_group(&world.group(), SeekTo::Start).await.unwrap();
    if world.strict {
        assert_eq!(world.stats().await.pending, 0);
    }
    assert!(world.read_all("c", 6).await.keys().eq(ids.iter()));
    if world.strict {
        let stale = world.retry_in(&came[&ids[5]], 0).await;
        // The holder has the same name and, after a seek, the same count: it is its own again.
        assert!(stale.is_ok() || stale.unwrap_err().kind() == ErrorKind::LeaseLost);
    }
    world.broker.seek_group(&world.group(), SeekTo::Id(ids[4])).await.unwrap();
    assert!(world.read_all("c", 2).await.keys().eq(&ids[4..]));
    world.broker.seek_group(&world.group(), SeekTo::End).await.unwrap();
    let last = world.add(99).await;
    assert_eq!(world.read_one("c").await.event.message_id, last);
}

async fn settings_take_effect(world: World) {
    world.set_group(GroupSettings { paused: true, ..GroupSettings::default() }).await;
    world.add_many(5).await;
    world.read_nothing("c").await;
    world.set_group(GroupSettings { max_in_flight: Some(2), ..GroupSettings::default() }).await;
    if world.strict {
        let mut out = Vec::new();
        while out.len() < 2 {
            out.extend(world.read_as("c", 10, 1_000).await);
        }
        assert_eq!(out.len(), 2);
        world.read_nothing("d").await;
        world.acknowledge(&[&out[0]]).await;
        assert_eq!(world.read_as("d", 10, 1_000).await.len(), 1);
    }
    world.set_group(GroupSettings { lease_ms: SHORT_LEASE_MS, ..GroupSettings::default() }).await;
    // What is out keeps its lease or gets the new one; what is handed out from now on has it.
    let came = world.read_all("e", if world.strict { 2 } else { 5 }).await;
    assert!(came.values().all(|one| one.lease == Duration::from_millis(SHORT_LEASE_MS)));
}

async fn a_new_group_of_the_name_begins_at_the_start(world: World) {
    let ids = world.add_many(3).await;
    world.read_all("c", 3).await;
    world.broker.delete_group(&world.group()).await.unwrap();
    let gone = world.broker.group_stats(&world.group()).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert!(world.read_all("c", 3).await.keys().eq(ids.iter()));
    let unknown = world.group_named("unknown");
    let refused = world.broker.delete_group(&unknown).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}

async fn statistics_count_what_is_out(world: World) {
    world.set_lease(LONG_LEASE_MS).await;
    let ids = world.add_many(10).await;
    if !world.strict {
        world.read_all("c", 10).await;
        world.stats().await;
        return;
    }
    let came = world.read_as("c", 4, 1_000).await;
    assert_eq!(came.len(), 4);
    world.acknowledge(&[&came[0]]).await;
    world.retry_in(&came[1], 20_000).await.unwrap();
    world.retry_in(&came[2], 3_600_000).await.unwrap();
    let stats = world.stats().await;
    assert_eq!((stats.lag, stats.pending, stats.parked), (Some(6), 1, 2));
    assert_eq!(stats.oldest_unacknowledged_id, Some(ids[1]));
    assert_eq!(stats.last_delivered_id, ids[3]);
    assert!(stats.oldest_unacknowledged_ms.is_some());
    let consumer = stats.consumers.iter().find(|one| one.consumer == "c").unwrap();
    assert_eq!(consumer.pending, 1);
    world.give_up(&came[3]).await;
    let stats = world.stats().await;
    assert_eq!((stats.pending, stats.dead_letters, stats.lost), (0, 1, 0));
}

async fn dead_letters_are_listed_in_pages(world: World) {
    world.set_lease(LONG_LEASE_MS).await;
    let ids = world.add_many(25).await;
    if !world.strict {
        let group = world.group();
        world.read_all("c", 25).await;
        assert_eq!(world.broker.dead_letters(&group, None, 10).await.unwrap(), []);
        return;
    }
    for delivery in world.read_all("c", 25).await.values().rev() {
        world.give_up(delivery).await;
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = world.broker.dead_letters(&world.group(), after, 10).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.message_id);
        listed.extend(page.iter().map(|one| one.message_id));
    }
    assert_eq!(listed, ids);
    let unknown = world.group_named("unknown");
    let refused = world.broker.dead_letters(&unknown, None, 10).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}

async fn a_dead_letter_goes_to_its_group_again(world: World) {
    if !world.strict {
        world.add(1).await;
        world.read_one("c").await;
        let none = world.broker.retry_dead_letters(&world.group(), &DeadLetterChoice::All).await;
        assert_eq!(none.unwrap(), 0);
        return;
    }
    let id = world.dead_letter(1).await;
    let other = world.dead_letter(2).await;
    let audit = world.group_named("audit");
    let seen = world.read_of(&audit, "a", 10, 1_000).await;
    assert_eq!(seen.len(), 2);
    let receipts: Vec<Receipt> = seen.iter().map(|one| one.receipt()).collect();
    world.broker.acknowledge(&audit, &receipts).await.unwrap();

    let choice = DeadLetterChoice::Ids(vec![id]);
    assert_eq!(world.broker.retry_dead_letters(&world.group(), &choice).await.unwrap(), 1);
    let again = world.read_one("c").await;
    assert_eq!((again.event.message_id, again.delivery_count), (id, 1));
    assert!(world.read_of(&audit, "a", 10, 150).await.is_empty());
    // It is held and settled as any other delivery.
    world.read_nothing("d").await;
    world.retry_in(&again, 20).await.unwrap();
    let again = world.read_one("d").await;
    assert_eq!(again.delivery_count, 2);
    assert_eq!(world.acknowledge(&[&again]).await, 1);
    let left = world.broker.dead_letters(&world.group(), None, 10).await.unwrap();
    assert_eq!(left.iter().map(|one| one.message_id).collect::<Vec<_>>(), [other]);
    // What was tried the first time is still told after a second one.
    let choice = DeadLetterChoice::Ids(vec![other]);
    world.broker.retry_dead_letters(&world.group(), &choice).await.unwrap();
    world.give_up(&world.read_one("c").await).await;
    let left = world.broker.dead_letters(&world.group(), None, 10).await.unwrap();
    assert_eq!(left[0].attempts.len(), 2, "{left:?}");
    world.read_nothing("c").await;
}

async fn a_discarded_dead_letter_is_gone(world: World) {
    world
        .set_group(GroupSettings {
            lease_ms: SHORT_LEASE_MS,
            max_deliveries: 1,
            ..GroupSettings::default()
        })
        .await;
    // A consumer that dies with its event every time.
    let id = world.add(1).await;
    world.read_one("c").await;
    eventually("the event is given up", || async {
        world.read_as("c", 1, 50).await;
        world.stats().await.dead_letters == 1
    })
    .await;
    let dead = world.broker.dead_letters(&world.group(), None, 10).await.unwrap();
    assert!(dead[0].attempts.iter().any(|one| one.reason == LEASE_EXPIRED), "{dead:?}");
    let choice = DeadLetterChoice::Ids(vec![id]);
    assert_eq!(world.broker.discard_dead_letters(&world.group(), &choice).await.unwrap(), 1);
    assert_eq!(world.broker.discard_dead_letters(&world.group(), &choice).await.unwrap(), 0);
    assert_eq!(world.stats().await.dead_letters, 0);
}

async fn a_deleted_stream_delivers_nothing_more(world: World) {
    world.add_many(3).await;
    world.read_all("c", 3).await;
    world.broker.delete_stream(&world.stream()).await.unwrap();
    let refused = world.broker.group_stats(&world.group()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    let again = world.add(9).await;
    let came = world.read_one("c").await;
    assert_eq!(came.event.message_id, again);
    let refused = world.broker.delete_stream(&world.other_tenant().stream()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}

async fn what_is_out_or_unread_is_not_trimmed(world: World) {
    world.set_lease(SHORT_LEASE_MS).await;
    world.set_stream(|settings| settings.retention.max_len = Some(1)).await;
    let ids = world.add_many(10).await;
    world.read_as("c", 5, 1_000).await;
    world.trim().await;
    assert!(world.read_all("d", 10).await.keys().eq(ids.iter()));
}
