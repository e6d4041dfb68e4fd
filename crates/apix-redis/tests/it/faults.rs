//! Servers and networks that fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use apix::{Broker, Durability, ErrorKind, Json, MessageId, RangeQuery, Update};
use apix_redis::{RedisBroker, RedisOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::server::RedisServer;
use super::tenant::{Tenant, event, eventually};

/// Every event of the stream by its number, with its ids.
async fn stored(tenant: &Tenant) -> BTreeMap<u64, Vec<MessageId>> {
    let mut all: BTreeMap<u64, Vec<MessageId>> = BTreeMap::new();
    let mut query = RangeQuery { limit: 1_000, ..RangeQuery::default() };
    loop {
        let page = tenant.broker.read_range(&tenant.stream, &query).await.unwrap();
        for event in page.events {
            all.entry(event.payload.decode().unwrap()).or_default().push(event.message_id);
        }
        match page.more_after {
            Some(last) => query = query.after(last),
            None => return all,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_returned_id_is_lost_when_the_server_is_killed_under_load() {
    let server = RedisServer::durable().await;
    let options = RedisOptions { durability: Durability::Disk, ..server.options() };
    let tenant = Arc::new(Tenant::with(RedisBroker::connect(options).await.unwrap()));
    tenant.read("c", 1, 0).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8_u64 {
        let (tenant, stop) = (Arc::clone(&tenant), Arc::clone(&stop));
        writers.spawn(async move {
            let mut returned = Vec::new();
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let number = writer * 1_000_000 + n;
                match tenant.broker.append(&tenant.stream, vec![event(number)]).await {
                    Ok(appended) => returned.push((number, appended[0].message_id)),
                    Err(fault) => assert_eq!(fault.kind(), ErrorKind::Unavailable, "{fault:?}"),
                }
            }
            returned
        });
    }
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.kill();
        server.run().await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let returned: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    assert!(returned.len() > 100, "only {}", returned.len());
    let stored = stored(&tenant).await;
    for (number, id) in &returned {
        assert_eq!(stored.get(number), Some(&vec![*id]), "event {number}");
    }
    assert!(stored.values().all(|ids| ids.len() == 1), "none came twice into the stream");
    // All of it is delivered.
    let mut delivered = BTreeSet::new();
    while delivered.len() < stored.len() {
        let came = tenant.read("c", 1_000, 1_000).await;
        assert!(!came.is_empty());
        delivered.extend(came.iter().map(|one| one.event.message_id));
        tenant.acknowledge(&came).await;
    }
}

/// Forwards to a server until it is told to swallow everything.
struct Proxy {
    port: u16,
    swallows: Arc<AtomicBool>,
}

impl Proxy {
    async fn to(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let swallows = Arc::new(AtomicBool::new(false));
        let (target, silent) = (server.port, Arc::clone(&swallows));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else { continue };
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::spawn(forward(near_read, far_write, Arc::clone(&silent)));
                tokio::spawn(forward(far_read, near_write, Arc::clone(&silent)));
            }
        });
        Self { port, swallows }
    }
}

async fn forward(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    swallows: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if !swallows.load(Ordering::Relaxed) && to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_open_and_silent_is_found_within_five_seconds() {
    let server = RedisServer::start().await;
    let proxy = Proxy::to(&server).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let options =
        RedisOptions { url, connect_timeout: Duration::from_secs(1), ..RedisOptions::default() };
    let tenant = Tenant::with(RedisBroker::connect(options).await.unwrap());
    let mut live = tenant.broker.subscribe(&tenant.channel).await.unwrap();
    eventually("all is well", async || tenant.broker.check().await.is_ok()).await;

    proxy.swallows.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    // Nobody asks for anything: it is found all the same.
    tokio::time::sleep(Duration::from_millis(4_950)).await;
    let noticed = tenant.broker.check().await.unwrap_err();
    assert_eq!(noticed.kind(), ErrorKind::Unavailable);
    assert!(begun.elapsed() < Duration::from_millis(5_200), "{:?}", begun.elapsed());

    proxy.swallows.store(false, Ordering::Relaxed);
    eventually("all is well again", async || tenant.broker.check().await.is_ok()).await;
    assert!(matches!(live.recv().await, Some(Update::Missed { count: None, .. })));
    tenant.publish(3).await;
    let Some(Update::Message(message)) = live.recv().await else { panic!("not a message") };
    assert_eq!(message.data().as_str(), "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_an_error_in_time_and_comes_back_by_itself() {
    let server = RedisServer::durable().await;
    let options = RedisOptions { request_timeout: Duration::from_millis(800), ..server.options() };
    let tenant = Tenant::with(RedisBroker::connect(options).await.unwrap());
    let mut live = tenant.broker.subscribe(&tenant.channel).await.unwrap();
    tenant.add(1).await;
    server.kill();
    let begun = Instant::now();
    let refused = tenant.broker.append(&tenant.stream, vec![event(2)]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let refused = tenant.broker.append(&tenant.stream, vec![event(2)]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    server.run().await;
    eventually("it appends again", async || {
        tenant.broker.append(&tenant.stream, vec![event(3)]).await.is_ok()
    })
    .await;
    eventually("messages arrive again", async || tenant.broker.check().await.is_ok()).await;
    assert!(matches!(live.recv().await, Some(Update::Missed { count: None, .. })));
    assert_eq!(tenant.read("c", 10, 1_000).await.len(), 2);
}

#[tokio::test]
async fn a_read_that_is_dropped_leaves_its_deliveries_to_the_lease() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.set_lease(300).await;
    for n in 0..20 {
        let reading = tenant.read("c", 1, 5_000);
        // Dropped while it waits, about when the event comes.
        let _ = tokio::time::timeout(Duration::from_millis(20), async {
            tokio::join!(reading, async {
                tokio::time::sleep(Duration::from_millis(15 + n % 10)).await;
                tenant.add(n).await;
                std::future::pending::<()>().await;
            })
        })
        .await;
    }
    let length = tenant.broker.stream_stats(&tenant.stream).await.unwrap().length;
    let mut came = BTreeSet::new();
    eventually("all come", async || {
        let some = tenant.read("d", 10, 100).await;
        came.extend(some.iter().map(|one| one.event.message_id));
        tenant.acknowledge(&some).await;
        came.len() as u64 == length
    })
    .await;
}

#[tokio::test]
async fn servers_that_cannot_keep_the_promise_are_refused() {
    async fn refused(server: &RedisServer, durability: Durability) -> String {
        let options = RedisOptions { durability, ..server.options() };
        let refused = RedisBroker::connect(options).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        refused.message().to_owned()
    }
    let plain = RedisServer::start().await;
    assert!(refused(&plain, Durability::Disk).await.contains("appendfsync always"));
    let interval = Durability::DiskInterval { every_ms: 1_000 };
    assert!(refused(&plain, interval).await.contains("everysec"));
    assert!(refused(&plain, Durability::Replicas(1)).await.contains("not supported"));
    let broker = plain.broker().await;
    assert!(broker.info().name.starts_with("redis 7"));
    assert!(broker.info().warnings.iter().any(|warning| warning.contains("appendonly no")));

    let mut client = plain.client();
    client.call(&["SET", "{apix}:format", "2"]);
    assert!(refused(&plain, Durability::Memory).await.contains("newer version"));
    client.call(&["SET", "{apix}:format", "1"]);
    client.call(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert!(refused(&plain, Durability::Memory).await.contains("noeviction"));
    client.call(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    client.call(&["REPLICAOF", "127.0.0.1", "1"]);
    assert!(refused(&plain, Durability::Memory).await.contains("replica"));
}

#[tokio::test]
async fn full_memory_is_told_and_reads_go_on() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.add_many(10).await;
    let came = tenant.read("c", 5, 1_000).await;
    let mut client = server.client();
    client.call(&["CONFIG", "SET", "maxmemory", "1"]);
    for events in [vec![event(1)], vec![event(1), event(2)]] {
        let refused = tenant.broker.append(&tenant.stream, events).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
    }
    let mut keyed = apix::Event::new("t", Json::parse("1").unwrap());
    keyed.idempotency_key = Some("k".into());
    let keyed = keyed.checked(None, &apix::Limits::default()).unwrap();
    let refused = tenant.broker.append(&tenant.stream, vec![keyed]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    assert_eq!(tenant.acknowledge(&came).await, 5);
    client.call(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(tenant.broker.stream_stats(&tenant.stream).await.unwrap().length, 10);
}

#[tokio::test]
async fn full_memory_stops_neither_leases_nor_retention_nor_a_restart() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.set_lease(300).await;
    tenant.add_many(1_000).await;
    assert_eq!(tenant.read("dead", 1_000, 1_000).await.len(), 1_000);
    let mut client = server.client();
    client.call(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let refused = tenant.broker.append(&tenant.stream, vec![event(1)]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    // Another process, made now, takes over and makes room.
    let restarted = Tenant::on(&server).await;
    let mut came = BTreeSet::new();
    eventually("the leases end", async || {
        let some = restarted.read("alive", 1_000, 100).await;
        came.extend(some.iter().map(|one| one.event.message_id));
        restarted.acknowledge(&some).await;
        came.len() == 1_000
    })
    .await;
    let mut settings = apix::StreamSettings::default();
    settings.retention.max_len = Some(10);
    restarted.broker.configure_stream(&restarted.stream, settings).await.unwrap();
    restarted.broker.trim(&restarted.stream).await.unwrap();
    assert_eq!(restarted.broker.stream_stats(&restarted.stream).await.unwrap().length, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_subscriptions_come_back_after_a_break() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let ctx = apix::TenantContext::trusted("acme").unwrap();
    let mut subscriptions = Vec::new();
    for n in 0..2_000 {
        let name = apix::ChannelName::new(format!("room:{n}")).unwrap();
        let channel = apix::ChannelKey::new(&ctx, name);
        subscriptions.push((tenant.broker.subscribe(&channel).await.unwrap(), channel));
    }
    let mut client = server.client();
    client.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    for (n, (subscription, channel)) in subscriptions.iter_mut().enumerate() {
        let notice = tokio::time::timeout(Duration::from_secs(10), subscription.recv()).await;
        assert!(matches!(notice, Ok(Some(Update::Missed { count: None, .. }))), "{n}");
        let message = apix::NewMessage::new("n", Json::encode(&n).unwrap());
        let message = message.checked(channel, None, &apix::Limits::default()).unwrap();
        assert_eq!(tenant.broker.publish(channel, message).await.unwrap(), 1);
        let Some(Update::Message(message)) = subscription.recv().await else { panic!("missed") };
        assert_eq!(message.data().as_str(), n.to_string());
    }
    drop(subscriptions);
    eventually("all channels are let go", async || {
        client.call(&["PUBSUB", "CHANNELS", "tenant:*"]).array().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_is_finished_before_closing() {
    let server = RedisServer::start().await;
    let tenant = Arc::new(Tenant::on(&server).await);
    tenant.add(0).await;
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..500 {
        let tenant = Arc::clone(&tenant);
        writers.spawn(async move {
            tenant.broker.append(&tenant.stream, vec![event(n)]).await.map_err(|e| e.to_string())
        });
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    tenant.broker.close().await;
    let outcomes = writers.join_all().await;
    let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    for refused in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(refused, "the broker has been closed");
    }
    let stored = server.client().call(&["XLEN", "tenant:acme:stream:orders"]).int();
    assert_eq!(stored, i64::try_from(done).unwrap() + 1);
    assert!(tenant.broker.check().await.is_err());
    eventually("no connection is left", async || {
        server.client().call(&["CLIENT", "LIST"]).text().matches("name=apix").count() == 0
    })
    .await;
}
