//! Services that use plain commands on the same keys.

use std::time::{Duration, Instant};

use apix::{Broker, DeadBody, ErrorKind, Update};

use super::server::{RedisServer, Value};
use super::tenant::{Tenant, eventually};

const STREAM: &str = "tenant:acme:stream:orders";
const DUE: &str = "{tenant:acme:stream:orders}:due:processors";
const ATTEMPTS: &str = "{tenant:acme:stream:orders}:attempts:processors";

fn xadd(server: &RedisServer, fields: &[&str]) -> String {
    let mut client = server.client();
    client.call(&[&["XADD", STREAM, "*"], fields].concat()).text().to_owned()
}

const EVENT: [&str; 8] = [
    "eventType",
    "order.placed",
    "payload",
    "{\"n\": 1e400}",
    "timestamp",
    "2026-11-24T06:29:30Z",
    "organizationId",
    "acme",
];

#[tokio::test]
async fn a_plain_xadd_is_handled_at_once() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.read("c", 1, 0).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let (delivery, added_at) = tokio::join!(tenant.read("c", 10, 5_000), async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            xadd(&server, &EVENT);
            Instant::now()
        });
        slowest = slowest.max(added_at.elapsed());
        assert_eq!(delivery.len(), 1);
        assert_eq!(delivery[0].event.payload.as_str(), "{\"n\": 1e400}");
        assert_eq!(tenant.acknowledge(&delivery).await, 1);
    }
    assert!(slowest < Duration::from_millis(100), "{slowest:?}");
}

#[tokio::test]
async fn a_plain_worker_reads_and_acknowledges_what_apix_adds() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let id = tenant.add(7).await;
    tenant.read("c", 1, 0).await;
    let second = tenant.add(8).await;
    let mut client = server.client();
    let read = client.call(&[
        "XREADGROUP",
        "GROUP",
        "processors",
        "plain",
        "COUNT",
        "5",
        "STREAMS",
        STREAM,
        ">",
    ]);
    let entry = &read.array()[0].array()[1].array()[0];
    assert_eq!(entry.array()[0].text(), second.to_string());
    let fields: Vec<_> = entry.array()[1].array().iter().map(Value::text).collect();
    assert_eq!(fields[..4], ["eventType", "order.placed", "payload", "8"]);
    assert_eq!(fields[6..], ["organizationId", "acme"]);
    let acknowledged =
        client.call(&["XACK", STREAM, "processors", &id.to_string(), &second.to_string()]);
    assert_eq!(acknowledged.int(), 2);
    let stats = tenant.broker.group_stats(&tenant.group).await.unwrap();
    assert_eq!((stats.pending, stats.lag), (0, Some(0)));
}

#[tokio::test]
async fn a_plain_xack_clears_what_was_parked() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let id = tenant.add(1).await;
    let delivery = tenant.read_one("c").await;
    tenant.retry(&delivery, 200).await.unwrap();
    let mut client = server.client();
    assert_eq!(client.call(&["XACK", STREAM, "processors", &id.to_string()]).int(), 1);
    assert!(tenant.read("c", 1, 600).await.is_empty());
    assert_eq!(client.call(&["ZCARD", DUE]).int(), 0);
    assert_eq!(client.call(&["EXISTS", ATTEMPTS]).int(), 0);
    let stats = tenant.broker.group_stats(&tenant.group).await.unwrap();
    assert_eq!((stats.pending, stats.parked, stats.lost), (0, 0, 0));
}

#[tokio::test]
async fn what_a_plain_worker_leaves_comes_after_the_lease() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.set_lease(500).await;
    tenant.read("c", 1, 0).await;
    tenant.add(1).await;
    let mut client = server.client();
    client.call(&["XREADGROUP", "GROUP", "processors", "plain", "STREAMS", STREAM, ">"]);
    let read_at = Instant::now();
    let delivery = tenant.read_one("c").await;
    assert_eq!(delivery.delivery_count, 2);
    let after = read_at.elapsed();
    assert!((500..1_500).contains(&after.as_millis()), "{after:?}");
}

#[tokio::test]
async fn plain_messages_go_both_ways() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let mut plain = server.client();
    plain.call(&["SUBSCRIBE", "tenant:acme:channel:news"]);
    let mut live = tenant.broker.subscribe(&tenant.channel).await.unwrap();
    assert_eq!(tenant.publish(5).await, 2);
    let Update::Message(own) = live.recv().await.unwrap() else { panic!("missed") };
    let arrived = plain.receive();
    assert_eq!(arrived.array()[2].text().as_bytes(), own.encoded());

    let mut client = server.client();
    client.call(&["PUBLISH", "tenant:acme:channel:news", "[1, 2]"]);
    let Update::Message(foreign) = live.recv().await.unwrap() else { panic!("missed") };
    assert_eq!((&**foreign.message_type(), foreign.data().as_str()), ("raw", "[1, 2]"));

    drop(live);
    eventually("the channel is let go", async || {
        client.call(&["PUBSUB", "NUMSUB", "tenant:acme:channel:news"]).array()[1] == Value::Int(1)
    })
    .await;
}

#[tokio::test]
async fn entries_that_are_no_events_are_given_up_with_their_fields() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.read("c", 1, 0).await;
    let no_payload = xadd(&server, &["eventType", "t", "organizationId", "acme", "timestamp", "x"]);
    let not_json = {
        let mut fields = EVENT;
        fields[3] = "{";
        xadd(&server, &fields)
    };
    let foreign = {
        let mut fields = EVENT;
        fields[7] = "other";
        xadd(&server, &fields)
    };
    let good = tenant.add(1).await;
    let delivery = tenant.read_one("c").await;
    assert_eq!(delivery.event.message_id, good);
    let dead = tenant.broker.dead_letters(&tenant.group, None, 10).await.unwrap();
    let reasons: Vec<_> =
        dead.iter().map(|one| (one.message_id.to_string(), &*one.reason)).collect();
    assert_eq!(
        reasons,
        [
            (no_payload, "it has no payload"),
            (not_json, "its payload is not JSON"),
            (foreign, "its organizationId is another tenant's"),
        ]
    );
    let DeadBody::Raw(fields) = &dead[0].body else { panic!("{:?}", dead[0].body) };
    assert_eq!(&*fields[0].0, b"eventType");
    assert_eq!(fields.len(), 3);
    let stats = tenant.broker.group_stats(&tenant.group).await.unwrap();
    assert_eq!((stats.pending, stats.dead_letters), (1, 3));
    assert_eq!(tenant.acknowledge(&[delivery]).await, 1);
}

#[tokio::test]
async fn what_neighbours_remove_while_it_is_pending_is_counted() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.set_lease(300).await;
    let ids = tenant.add_many(4).await;
    let came = tenant.read("c", 4, 1_000).await;
    tenant.retry(&came[3], 100).await.unwrap();
    let mut client = server.client();
    client.call(&["XDEL", STREAM, &ids[0].to_string(), &ids[3].to_string()]);
    client.call(&["XTRIM", STREAM, "MINID", &ids[2].to_string()]);
    let again = tenant.read_one("d").await;
    assert_eq!(again.event.message_id, ids[2]);
    eventually("three are counted as lost", async || {
        tenant.read("d", 10, 0).await;
        tenant.broker.group_stats(&tenant.group).await.unwrap().lost == 3
    })
    .await;
    let stats = tenant.broker.group_stats(&tenant.group).await.unwrap();
    assert_eq!((stats.pending, stats.parked), (1, 0));
}

#[tokio::test]
async fn a_stream_that_a_neighbour_deletes_begins_another_life() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let mut client = server.client();
    tenant.add_many(3).await;
    // An id of the future: what comes after the deletion is below it.
    client.call(&[&["XADD", STREAM, "99999999999999-0"], &EVENT[..]].concat());
    let came = tenant.read("c", 10, 1_000).await;
    assert_eq!(tenant.acknowledge(&came).await, 4);
    let before = tenant.broker.stream_stats(&tenant.stream).await.unwrap();
    for wipe in [&["DEL", STREAM][..], &["FLUSHALL"]] {
        client.call(wipe);
        let id = tenant.add(9).await;
        assert!(Some(id) < before.last_id);
        let stats = tenant.broker.stream_stats(&tenant.stream).await.unwrap();
        assert_ne!(stats.epoch, before.epoch, "{wipe:?}");
        assert_eq!(tenant.read_one("c").await.event.message_id, id);
        let listed = tenant.broker.list_streams(tenant.stream.tenant()).await.unwrap();
        assert_eq!(listed, [tenant.stream.stream().clone()]);
    }
}

#[tokio::test]
async fn a_key_of_another_kind_is_a_conflict() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    server.client().call(&["SET", STREAM, "x"]);
    let refused = tenant.broker.append(&tenant.stream, vec![super::tenant::event(1)]).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_stream_with_broken_keys_disturbs_no_other() {
    let server = RedisServer::start().await;
    let options = apix_redis::RedisOptions {
        trim_every: std::time::Duration::from_millis(200),
        ..server.options()
    };
    let tenant = Tenant::with(apix_redis::RedisBroker::connect(options).await.unwrap());
    let mut client = server.client();
    let consumer = apix::ConsumerName::new("c").unwrap();
    // A neighbour has broken the settings of some streams, before and after ours by name.
    for name in ["a", "b", "x", "z"] {
        let stream = tenant.stream.sibling(apix::StreamName::new(name).unwrap());
        tenant.broker.append(&stream, vec![super::tenant::event(1)]).await.unwrap();
        let group = apix::GroupKey::new(stream, apix::GroupName::default());
        let options = apix::ReadOptions { max_events: 1, wait: std::time::Duration::ZERO };
        tenant.broker.read_group(&group, &consumer, options).await.unwrap();
        let prefix = format!("{{tenant:acme:stream:{name}}}");
        client.call(&["HSET", &format!("{prefix}:state"), "settings", "nonsense"]);
        client.call(&["DEL", &format!("{prefix}:group:processors")]);
        client.call(&["SET", &format!("{prefix}:group:processors"), "nonsense"]);
    }
    let mut settings = apix::StreamSettings::default();
    settings.retention.max_len = Some(10);
    tenant.broker.configure_stream(&tenant.stream, settings).await.unwrap();
    tenant.set_lease(300).await;
    tenant.add_many(100).await;
    assert_eq!(tenant.read("dead", 100, 1_000).await.len(), 100);
    let mut left = 100;
    super::tenant::eventually("the leases end", async || {
        let came = tenant.read("alive", 100, 100).await;
        left -= tenant.acknowledge(&came).await;
        left == 0
    })
    .await;
    super::tenant::eventually("retention is applied", async || {
        tenant.broker.stream_stats(&tenant.stream).await.unwrap().length == 10
    })
    .await;
}
