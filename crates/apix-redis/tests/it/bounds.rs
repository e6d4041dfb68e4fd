//! What is bounded, and what is left behind.

use std::time::{Duration, Instant};

use apix::{
    Broker, ConsumerName, ErrorKind, Event, GroupKey, GroupName, Json, Limits, ReadOptions, SeekTo,
    Settlement, StreamSettings,
};
use apix_redis::{RedisBroker, RedisOptions};

use super::server::RedisServer;
use super::tenant::{Tenant, event};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_without_a_connection_to_wait_on_still_come_soon() {
    let server = RedisServer::start().await;
    let options = RedisOptions { max_blocking_connections: 1, ..server.options() };
    let tenant = Tenant::with(RedisBroker::connect(options).await.unwrap());
    tenant.read("c", 1, 0).await;
    // Two wait, one of them without a connection; both get their event.
    for n in 0..5 {
        let begun = Instant::now();
        let (one, other, ()) =
            tokio::join!(tenant.read("a", 1, 5_000), tenant.read("b", 1, 5_000), async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                tenant.add_many(2).await;
            });
        assert_eq!((one.len(), other.len()), (1, 1), "{n}");
        assert!(begun.elapsed() < Duration::from_millis(600), "{:?}", begun.elapsed());
        tenant.acknowledge(&[one, other].concat()).await;
    }
    let clients = server.client().call(&["CLIENT", "LIST"]);
    let waiting = clients.text().lines().filter(|line| line.contains("name=apix-read ")).count();
    assert_eq!(waiting, 1);
}

#[tokio::test]
async fn idempotency_keys_are_bounded_in_number_and_age() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let keyed = |n: u64| {
        let mut event = Event::new("t", Json::parse("1").unwrap());
        event.idempotency_key = Some(format!("k{n}").into());
        event.checked(None, &Limits::default()).unwrap()
    };
    let mut settings = StreamSettings::default();
    settings.idempotency.max_keys = 20;
    tenant.broker.configure_stream(&tenant.stream, settings.clone()).await.unwrap();
    for n in 0..100 {
        tenant.broker.append(&tenant.stream, vec![keyed(n)]).await.unwrap();
    }
    let mut client = server.client();
    let prefix = "{tenant:acme:stream:orders}";
    assert_eq!(client.call(&["HLEN", &format!("{prefix}:idem")]).int(), 20);
    assert_eq!(client.call(&["LLEN", &format!("{prefix}:idemlog")]).int(), 20);
    let again = tenant.broker.append(&tenant.stream, vec![keyed(99), keyed(1)]).await.unwrap();
    assert_eq!([again[0].repeated, again[1].repeated], [true, false]);

    settings.idempotency.max_age_ms = 50;
    tenant.broker.configure_stream(&tenant.stream, settings).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let again = tenant.broker.append(&tenant.stream, vec![keyed(99)]).await.unwrap();
    assert!(!again[0].repeated);
    tenant.broker.trim(&tenant.stream).await.unwrap();
    assert_eq!(client.call(&["HLEN", &format!("{prefix}:idem")]).int(), 1);
}

fn sized(bytes: usize) -> apix::NewEvent {
    let event = Event::new("t", Json::encode(&"x".repeat(bytes)).unwrap());
    event.checked(None, &Limits::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_bytes_that_are_there_count_towards_the_hard_limit() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let mut settings = StreamSettings::default();
    settings.retention.hard_max_bytes = 100 << 20;
    tenant.broker.configure_stream(&tenant.stream, settings.clone()).await.unwrap();
    tenant.read("c", 1, 0).await;
    for _ in 0..10 {
        tenant.add_many(1_000).await;
    }
    // By the oldest and the newest, an entry has 250 kB, and all have 2.5 GB.
    for _ in 0..8 {
        tenant.broker.append(&tenant.stream, vec![sized(500_000)]).await.unwrap();
    }
    assert_eq!(tenant.broker.trim(&tenant.stream).await.unwrap(), 0);
    // More than is allowed: the oldest go, no more of them than that takes.
    settings.retention.hard_max_bytes = 3 << 20;
    tenant.broker.configure_stream(&tenant.stream, settings).await.unwrap();
    while tenant.broker.trim(&tenant.stream).await.unwrap() > 0 {}
    let stats = tenant.broker.stream_stats(&tenant.stream).await.unwrap();
    assert!((4..=6).contains(&stats.length), "{}", stats.length);
    assert_eq!(stats.hard_limit_dropped, 10_008 - stats.length);
    assert_eq!(tenant.broker.group_stats(&tenant.group).await.unwrap().lost, 10_008 - stats.length);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_events_are_handed_out_again_in_parts() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let added = tenant.broker.append(&tenant.stream, vec![sized(500_000)]).await.unwrap();
        ids.insert(added[0].message_id);
    }
    let came = tenant.read("c", 30, 1_000).await;
    let give_up = |delivery: &apix::Delivery| {
        (delivery.receipt(), Settlement::DeadLetter { reason: "no".into() })
    };
    let settled = came.iter().map(give_up).collect();
    for settled in tenant.broker.settle(&tenant.group, settled).await.unwrap() {
        settled.unwrap();
    }
    let all = apix::DeadLetterChoice::All;
    assert_eq!(tenant.broker.retry_dead_letters(&tenant.group, &all).await.unwrap(), 30);
    let first = tenant.read("c", 30, 1_000).await;
    assert!((1..25).contains(&first.len()), "{}", first.len());
    tenant.acknowledge(&first).await;
    let mut again: std::collections::BTreeSet<_> =
        first.iter().map(|one| one.event.message_id).collect();
    while again.len() < 30 {
        let some = tenant.read("c", 30, 1_000).await;
        assert!(!some.is_empty());
        tenant.acknowledge(&some).await;
        again.extend(some.iter().map(|one| one.event.message_id));
    }
    assert_eq!(again, ids);
    assert!(tenant.broker.dead_letters(&tenant.group, None, 10).await.unwrap().is_empty());
    // Where the server does not know what is unread, it is not counted at any price.
    let middle = *ids.iter().nth(10).unwrap();
    tenant.broker.seek_group(&tenant.group, SeekTo::Id(middle)).await.unwrap();
    let stats = tenant.broker.group_stats(&tenant.group).await.unwrap();
    assert!(stats.lag.is_none() || stats.lag == Some(20), "{:?}", stats.lag);
}

#[tokio::test]
async fn a_deleted_stream_leaves_nothing() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.broker.publish_hybrid(&tenant.stream, &tenant.channel, event(0)).await.unwrap();
    tenant.add_many(5).await;
    let came = tenant.read("c", 4, 1_000).await;
    tenant.retry(&came[0], 10_000).await.unwrap();
    tenant.retry(&came[1], 10_000_000).await.unwrap();
    let give_up = Settlement::DeadLetter { reason: "no".into() };
    let done = vec![(came[2].receipt(), give_up)];
    tenant.broker.settle(&tenant.group, done).await.unwrap().remove(0).unwrap();
    let extend = Settlement::Extend { lease: Duration::from_secs(3_600) };
    let done = vec![(came[3].receipt(), extend)];
    tenant.broker.settle(&tenant.group, done).await.unwrap().remove(0).unwrap();
    tenant.broker.delete_stream(&tenant.stream).await.unwrap();
    let left = server.client().call(&["KEYS", "*"]);
    let mut left: Vec<_> = left.array().iter().map(|key| key.text().to_owned()).collect();
    left.sort();
    assert_eq!(left, ["{apix}:format", "{tenant:acme:channel:news}:feeds"]);
    let gone = tenant.broker.delete_stream(&tenant.stream).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_made_while_it_is_deleted_is_listed() {
    let server = RedisServer::start().await;
    let (one, other) = (Tenant::on(&server).await, Tenant::on(&server).await);
    let mut client = server.client();
    for round in 0..150 {
        one.add(1).await;
        // The other does not know the stream yet.
        let (_, made) = tokio::join!(one.broker.delete_stream(&one.stream), async {
            other.broker.configure_stream(&other.stream, StreamSettings::default()).await
        });
        made.unwrap();
        if client.call(&["EXISTS", "tenant:acme:stream:orders"]).int() == 1 {
            let listed = other.broker.list_streams(other.stream.tenant()).await.unwrap();
            assert_eq!(listed.len(), 1, "{round}");
            one.broker.delete_stream(&one.stream).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_hybrid_event_that_may_not_be_shown_is_kept() {
    let server = RedisServer::start().await;
    let mut admin = server.client();
    let rules = ["on", "nopass", "~*", "+@all", "resetchannels", "&apix:probe:*"];
    admin.call(&[&["ACL", "SETUSER", "quiet"], &rules[..]].concat());
    let options = RedisOptions {
        username: Some("quiet".into()),
        password: Some(apix_redis::Secret::Text("any".into())),
        ..server.options()
    };
    let tenant = Tenant::with(RedisBroker::connect(options).await.unwrap());
    let kept =
        tenant.broker.publish_hybrid(&tenant.stream, &tenant.channel, event(1)).await.unwrap();
    assert_eq!(kept.subscriber_count, None);
    // Without a doorbell, reads go on.
    let delivery = tenant.read_one("c").await;
    assert_eq!(delivery.event.message_id, kept.message_id);
    tenant.retry(&delivery, 10).await.unwrap();
    assert_eq!(tenant.read_one("c").await.delivery_count, 2);
}

#[tokio::test]
async fn a_seek_and_a_lost_group_wake_who_waits() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let id = tenant.add(1).await;
    let came = tenant.read("c", 10, 1_000).await;
    tenant.acknowledge(&came).await;
    let (again, ()) = tokio::join!(tenant.read("c", 10, 5_000), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        tenant.broker.seek_group(&tenant.group, SeekTo::Start).await.unwrap();
    });
    assert_eq!(again[0].event.message_id, id);
    let mut client = server.client();
    let (again, ()) = tokio::join!(tenant.read("c", 10, 5_000), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.call(&["XGROUP", "DESTROY", "tenant:acme:stream:orders", "processors"]);
    });
    assert_eq!(again[0].event.message_id, id);
    assert!(again[0].delivery_count >= 2);
}

#[tokio::test]
async fn one_broker_reads_many_groups_at_once() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.add_many(10).await;
    let mut reads = tokio::task::JoinSet::new();
    for n in 0..200 {
        let broker = tenant.broker.clone();
        let group = GroupName::new(format!("g{n}")).unwrap();
        let group = GroupKey::new(tenant.stream.clone(), group);
        reads.spawn(async move {
            let consumer = ConsumerName::new("c").unwrap();
            let options = ReadOptions { max_events: 100, wait: Duration::from_secs(5) };
            broker.read_group(&group, &consumer, options).await.unwrap().len()
        });
    }
    assert!(reads.join_all().await.iter().all(|count| *count == 10));
    let stats = tenant.broker.stream_stats(&tenant.stream).await.unwrap();
    assert_eq!(stats.groups.len(), 200);
}
