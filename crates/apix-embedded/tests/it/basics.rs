//! Each operation once, on disk and in memory, with the folder opened again in between.

use std::time::{Duration, Instant};

use apix::dead_letter::LEASE_EXPIRED;
use apix::{
    Broker, DeadBody, DeadLetterChoice, ErrorKind, GroupSettings, MessageId, RangeQuery, Receipt,
    Retention, SeekTo, Settled, Settlement, StreamSettings, Update,
};
use apix_embedded::{EmbeddedBroker, EmbeddedOptions};

use crate::scene::{
    add, at_once, channel, consumer, event, group, ids, keyed_event, open, stream, waiting,
};

#[tokio::test]
async fn an_event_goes_round_and_survives_a_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    let (orders, anna) = (stream("orders"), consumer("anna"));
    let workers = group(&orders, "workers");
    let first = add(&broker, &orders, 1).await;
    let second = add(&broker, &orders, 2).await;
    assert!(second > first);
    let read = broker.read_group(&workers, &anna, at_once(10)).await.unwrap();
    assert_eq!(ids(&read), [first, second]);
    assert_eq!(read[0].event.payload.as_str(), "1");
    assert_eq!(read[0].delivery_count, 1);
    let done = broker.acknowledge(&workers, &[read[0].receipt()]).await.unwrap();
    assert_eq!(done.count, 1);
    broker.close().await;
    assert_eq!(broker.check().await.unwrap_err().kind(), ErrorKind::Unavailable);

    let broker = open(folder.path()).await;
    let stats = broker.stream_stats(&orders).await.unwrap();
    assert_eq!((stats.length, stats.groups[0].pending, stats.groups[0].lag), (2, 1, Some(0)));
    assert!(broker.read_group(&workers, &anna, at_once(10)).await.unwrap().is_empty());
    let done = broker.acknowledge(&workers, &[read[1].receipt()]).await.unwrap();
    assert_eq!((done.count, done.lease_lost.len()), (1, 0));
    let page = broker.read_range(&orders, &RangeQuery::default()).await.unwrap();
    let kept: Vec<MessageId> = page.events.iter().map(|event| event.message_id).collect();
    assert_eq!(kept, [first, second]);
    let third = add(&broker, &orders, 3).await;
    assert!(third > second);
    broker.close().await;
}

async fn both() -> [(EmbeddedBroker, Option<tempfile::TempDir>); 2] {
    let folder = tempfile::tempdir().unwrap();
    [
        (open(folder.path()).await, Some(folder)),
        (EmbeddedBroker::open(EmbeddedOptions::memory()).await.unwrap(), None),
    ]
}

#[tokio::test]
async fn a_retry_comes_when_it_is_due_and_then_becomes_a_dead_letter() {
    for (broker, _folder) in both().await {
        let (orders, anna) = (stream("orders"), consumer("anna"));
        let workers = group(&orders, "workers");
        let settings = GroupSettings { max_deliveries: 2, ..GroupSettings::default() };
        broker.configure_group(&workers, settings).await.unwrap();
        let id = add(&broker, &orders, 1).await;
        let read = broker.read_group(&workers, &anna, at_once(1)).await.unwrap();
        let after = Some(Duration::from_millis(50));
        let retry = Settlement::Retry { after, reason: "no".into() };
        let begun = Instant::now();
        let settled =
            broker.settle(&workers, vec![(read[0].receipt(), retry.clone())]).await.unwrap();
        assert!(matches!(settled[0], Ok(Settled::RetryAt(_))));
        assert_eq!(broker.group_stats(&workers).await.unwrap().parked, 1);
        let read = broker.read_group(&workers, &anna, waiting(1, 2_000)).await.unwrap();
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_millis(50), "{waited:?}");
        assert_eq!((read[0].event.message_id, read[0].delivery_count), (id, 2));
        let settled = broker.settle(&workers, vec![(read[0].receipt(), retry)]).await.unwrap();
        assert!(matches!(settled[0], Ok(Settled::DeadLettered)));
        let letters = broker.dead_letters(&workers, None, 10).await.unwrap();
        assert_eq!((letters[0].message_id, &*letters[0].reason), (id, "no"));
        assert_eq!(letters[0].attempts.len(), 2);
        assert!(matches!(&letters[0].body, DeadBody::Event(event) if event.message_id == id));
        let all = DeadLetterChoice::All;
        assert_eq!(broker.retry_dead_letters(&workers, &all).await.unwrap(), 1);
        let read = broker.read_group(&workers, &anna, at_once(1)).await.unwrap();
        assert_eq!((read[0].event.message_id, read[0].delivery_count), (id, 1));
        broker.close().await;
    }
}

#[tokio::test]
async fn an_event_whose_lease_ends_goes_to_another_and_the_first_has_lost_it() {
    for (broker, _folder) in both().await {
        let orders = stream("orders");
        let workers = group(&orders, "workers");
        let settings =
            GroupSettings { lease_ms: 100, max_deliveries: 2, ..GroupSettings::default() };
        broker.configure_group(&workers, settings).await.unwrap();
        let id = add(&broker, &orders, 1).await;
        let first = broker.read_group(&workers, &consumer("anna"), at_once(1)).await.unwrap();
        let second =
            broker.read_group(&workers, &consumer("bert"), waiting(1, 2_000)).await.unwrap();
        assert_eq!((second[0].event.message_id, second[0].delivery_count), (id, 2));
        let late = broker.acknowledge(&workers, &[first[0].receipt()]).await.unwrap();
        assert_eq!((late.count, late.lease_lost), (0, vec![id]));
        let none = broker.read_group(&workers, &consumer("bert"), waiting(1, 300)).await.unwrap();
        assert!(none.is_empty());
        let letters = broker.dead_letters(&workers, None, 10).await.unwrap();
        assert_eq!(letters[0].reason, LEASE_EXPIRED);
        assert_eq!(letters[0].attempts.len(), 2);
        broker.close().await;
    }
}

#[tokio::test]
async fn idempotency_keys_add_once() {
    for (broker, _folder) in both().await {
        let orders = stream("orders");
        let batch = vec![keyed_event(1, "a"), keyed_event(1, "a"), keyed_event(2, "b")];
        let first = broker.append(&orders, batch).await.unwrap();
        assert_eq!(first[0].message_id, first[1].message_id);
        assert_eq!([first[0].repeated, first[1].repeated, first[2].repeated], [false, true, false]);
        let refused = broker.append(&orders, vec![event(9), keyed_event(3, "a")]).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::IdempotencyConflict);
        assert_eq!(broker.stream_stats(&orders).await.unwrap().length, 2);
        broker.close().await;
    }
}

#[tokio::test]
async fn a_hybrid_event_is_stored_then_shown_with_the_one_before_it() {
    for (broker, _folder) in both().await {
        let (orders, news) = (stream("orders"), channel("news"));
        let mut subscription = broker.subscribe(&news).await.unwrap();
        let first = broker.publish_hybrid(&orders, &news, event(1)).await.unwrap();
        add(&broker, &orders, 0).await;
        let second = broker.publish_hybrid(&orders, &news, event(2)).await.unwrap();
        assert_eq!(second.subscriber_count, Some(1));
        for (id, previous) in
            [(first.message_id, None), (second.message_id, Some(first.message_id))]
        {
            let Some(Update::Message(message)) = subscription.recv().await else { panic!() };
            let origin = message.origin().unwrap();
            assert_eq!((origin.message_id, origin.prev_message_id), (id, previous));
        }
        let feeds = broker.channel_feeds(&news).await.unwrap();
        assert_eq!((feeds.len(), feeds[0].tip), (1, Some(second.message_id)));
        broker.delete_stream(&orders).await.unwrap();
        let feeds = broker.channel_feeds(&news).await.unwrap();
        assert_eq!((feeds.len(), feeds[0].epoch.as_ref(), feeds[0].tip), (1, None, None));
        broker.close().await;
        assert_eq!(subscription.recv().await, None);
    }
}

#[tokio::test]
async fn retention_takes_what_is_finished_and_the_hard_limit_the_rest() {
    for (broker, _folder) in both().await {
        let (orders, anna) = (stream("orders"), consumer("anna"));
        let workers = group(&orders, "workers");
        let retention = Retention { max_len: Some(2), ..Retention::default() };
        let mut settings = StreamSettings { retention, ..StreamSettings::default() };
        broker.configure_stream(&orders, settings.clone()).await.unwrap();
        broker.seek_group(&workers, SeekTo::Start).await.unwrap();
        for n in 0..6 {
            add(&broker, &orders, n).await;
        }
        assert_eq!(broker.trim(&orders).await.unwrap(), 0);
        let read = broker.read_group(&workers, &anna, at_once(3)).await.unwrap();
        let receipts: Vec<Receipt> = read[..2].iter().map(|one| one.receipt()).collect();
        broker.acknowledge(&workers, &receipts).await.unwrap();
        broker.trim(&orders).await.unwrap();
        assert_eq!(broker.stream_stats(&orders).await.unwrap().length, 4);
        settings.retention.hard_max_bytes = 1;
        broker.configure_stream(&orders, settings).await.unwrap();
        broker.trim(&orders).await.unwrap();
        let stats = broker.stream_stats(&orders).await.unwrap();
        assert_eq!((stats.length, stats.hard_limit_dropped), (0, 4));
        let group = &stats.groups[0];
        assert_eq!((group.lost, group.pending, group.lag), (4, 0, Some(0)));
        assert_eq!(stats.trimmed_to, stats.last_id);
        broker.close().await;
    }
}
