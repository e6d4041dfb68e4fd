//! Parked events, leases and delivery counts.

use std::time::{Duration, Instant, SystemTime};

use apix::{Broker, Settled, Settlement};

use super::server::RedisServer;
use super::tenant::Tenant;

const STREAM: &str = "tenant:acme:stream:orders";

/// How late each of 20 retries came, sorted.
async fn lateness(parker: &Tenant, reader: &Tenant) -> Vec<Duration> {
    let mut late = Vec::new();
    for n in 0..20 {
        parker.add(n).await;
        let delivery = parker.read_one("parker").await;
        // The reader waits already when the event is parked.
        let (again, ()) = tokio::join!(
            async {
                loop {
                    let came = reader.read("idle", 1, 3_000).await;
                    if !came.is_empty() {
                        break (came, SystemTime::now());
                    }
                }
            },
            async {
                tokio::time::sleep(Duration::from_millis(40)).await;
                let Ok(Settled::RetryAt(at)) = parker.retry(&delivery, 120 + n).await else {
                    panic!("not parked");
                };
                late.push(at);
            }
        );
        let (came, at) = again;
        assert_eq!(came[0].event.message_id, delivery.event.message_id);
        assert_eq!(came[0].delivery_count, 2);
        reader.acknowledge(&came).await;
        let due = late.pop().unwrap();
        late.push(SystemTime::UNIX_EPOCH + at.duration_since(due).unwrap_or_default());
    }
    let mut late: Vec<Duration> =
        late.iter().map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap()).collect();
    late.sort();
    late
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_gets_a_due_event_at_once() {
    let server = RedisServer::start().await;
    let (one, other) = (Tenant::on(&server).await, Tenant::on(&server).await);
    for (case, late) in
        [("same process", lateness(&one, &one).await), ("another", lateness(&one, &other).await)]
    {
        // A busy machine may delay a few.
        assert!(late[15] <= Duration::from_millis(20), "{case}: {late:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_parked_events_slow_nobody() {
    let server = RedisServer::start().await;
    let (crowded, free) = (Tenant::on(&server).await, Tenant::on(&server).await);
    let mut free = free;
    free.stream = free.stream.sibling(apix::StreamName::new("free").unwrap());
    free.group = apix::GroupKey::new(free.stream.clone(), apix::GroupName::default());
    for _ in 0..100 {
        crowded.add_many(1_000).await;
        let settlements = crowded
            .read("c", 1_000, 1_000)
            .await
            .iter()
            .map(|delivery| {
                let after = Some(Duration::from_secs(50));
                (delivery.receipt(), Settlement::Retry { after, reason: "later".into() })
            })
            .collect();
        for settled in crowded.broker.settle(&crowded.group, settlements).await.unwrap() {
            settled.unwrap();
        }
    }
    let stats = crowded.broker.group_stats(&crowded.group).await.unwrap();
    assert_eq!((stats.parked, stats.pending), (100_000, 0));

    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        for (tenant, times) in [(&crowded, &mut with), (&free, &mut without)] {
            let begun = Instant::now();
            for _ in 0..20 {
                tenant.add_many(50).await;
                let came = tenant.read("c", 50, 1_000).await;
                assert_eq!(tenant.acknowledge(&came).await, 50);
            }
            times.push(begun.elapsed());
        }
    }
    with.sort();
    without.sort();
    // The best of each, as whatever else the machine does only adds.
    let ratio = with[0].as_secs_f64() / without[0].as_secs_f64();
    assert!(ratio < 1.25, "{ratio}: {with:?} {without:?}");
}

#[tokio::test]
async fn long_leases_do_not_keep_others_from_ending() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.set_lease(400).await;
    for _ in 0..3 {
        tenant.add_many(1_000).await;
        let extended = tenant
            .read("a-long", 1_000, 1_000)
            .await
            .iter()
            .map(|delivery| {
                (delivery.receipt(), Settlement::Extend { lease: Duration::from_secs(600) })
            })
            .collect();
        for settled in tenant.broker.settle(&tenant.group, extended).await.unwrap() {
            settled.unwrap();
        }
    }
    tenant.add_many(5).await;
    assert_eq!(tenant.read("b-dies", 5, 1_000).await.len(), 5);
    let mut came = std::collections::BTreeSet::new();
    super::tenant::eventually("the abandoned ones come", async || {
        came.extend(tenant.read("c", 5, 100).await.iter().map(|one| one.event.message_id));
        came.len() == 5
    })
    .await;
    // The others are still held.
    let stats = tenant.broker.group_stats(&tenant.group).await.unwrap();
    assert_eq!(stats.pending, 3_005);
}

#[tokio::test]
async fn a_late_acknowledgement_takes_nothing_from_the_next_holder() {
    let server = RedisServer::start().await;
    let (tenant, other) = (Tenant::on(&server).await, Tenant::on(&server).await);
    tenant.set_lease(60_000).await;
    // By its receipt, the first consumer is sure to hold each of these for a minute.
    let late = async |first: &apix::Delivery, next: &apix::Delivery| {
        assert_eq!(first.event.message_id, next.event.message_id);
        let receipts = [first.receipt()];
        let done = tenant.broker.acknowledge(&tenant.group, &receipts).await.unwrap();
        assert_eq!((done.count, done.lease_lost), (0, vec![first.event.message_id]));
        assert_eq!(other.acknowledge(std::slice::from_ref(next)).await, 1);
    };
    tenant.add(1).await;
    let first = tenant.read_one("a").await;
    other.broker.seek_group(&other.group, apix::SeekTo::Start).await.unwrap();
    late(&first, &other.read_one("b").await).await;

    tenant.add(2).await;
    let first = tenant.read_one("a").await;
    tenant.retry(&first, 0).await.unwrap();
    late(&first, &other.read_one("b").await).await;

    tenant.add(3).await;
    let first = tenant.read_one("a").await;
    let shorter = Settlement::Extend { lease: Duration::from_millis(50) };
    let settled = vec![(first.receipt(), shorter)];
    tenant.broker.settle(&tenant.group, settled).await.unwrap().remove(0).unwrap();
    late(&first, &other.read_one("b").await).await;
}

#[tokio::test]
async fn acknowledgements_of_what_lies_apart_and_of_what_comes_twice_are_counted_once() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.add_many(10).await;
    let mut came = tenant.read("a", 3, 1_000).await;
    came.extend(tenant.read("b", 4, 1_000).await);
    came.extend(tenant.read("a", 3, 1_000).await);
    assert_eq!(came.len(), 10);
    let some = [came[9].clone(), came[0].clone(), came[0].clone(), came[4].clone()];
    assert_eq!(tenant.acknowledge(&some).await, 3);
    assert_eq!(tenant.acknowledge(&came).await, 7);
    assert_eq!(tenant.acknowledge(&came).await, 0);
}

#[tokio::test]
async fn a_dead_workers_events_go_to_another_within_the_lease_and_a_second() {
    let server = RedisServer::start().await;
    let (dead, alive) = (Tenant::on(&server).await, Tenant::on(&server).await);
    alive.set_lease(1_000).await;
    alive.add_many(300).await;
    let read_at = Instant::now();
    assert_eq!(dead.read("dead", 300, 1_000).await.len(), 300);
    dead.broker.close().await;
    let mut came = 0;
    while came < 300 {
        let some = alive.read("alive", 100, 1_000).await;
        assert!(some.iter().all(|one| one.delivery_count == 2));
        came += some.len();
        alive.acknowledge(&some).await;
        assert!(read_at.elapsed() < Duration::from_secs(10), "only {came} came");
    }
    let after = read_at.elapsed();
    assert!((1_000..2_200).contains(&after.as_millis()), "{after:?}");
}

#[tokio::test]
async fn counts_are_never_too_low_after_the_loss_of_the_group() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.set_lease(60_000).await;
    let mut client = server.client();
    let ids = tenant.add_many(3).await;
    let mut handed_out = [0; 3];
    for round in 0..6 {
        let came = tenant.read("c", 10, 300).await;
        for delivery in &came {
            let n = ids.iter().position(|id| *id == delivery.event.message_id).unwrap();
            handed_out[n] += 1;
            assert!(delivery.delivery_count >= handed_out[n], "{round} {n} {handed_out:?}");
        }
        // The first is out, the second waits for its time, the third failed and comes at once.
        for (index, delay) in [(1, 30), (2, 0)] {
            if let Some(delivery) = came.iter().find(|one| one.event.message_id == ids[index]) {
                tenant.retry(delivery, delay).await.unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
        if round % 2 == 0 {
            client.call(&["XGROUP", "DESTROY", STREAM, "processors"]);
        }
    }
    assert!(handed_out.iter().all(|count| *count >= 3), "{handed_out:?}");
    // What came back once too often is not counted far too high either.
    let last = tenant.add(9).await;
    client.call(&["XGROUP", "DESTROY", STREAM, "processors"]);
    let came = tenant.read("c", 10, 300).await;
    let fresh = came.iter().find(|one| one.event.message_id == last).unwrap();
    assert_eq!(fresh.delivery_count, 2);
}

#[tokio::test]
async fn a_late_retry_lies_beside_the_stream() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let id = tenant.add(1).await;
    let delivery = tenant.read_one("c").await;
    tenant.retry(&delivery, 3_600_000).await.unwrap();
    let mut client = server.client();
    assert_eq!(client.call(&["XPENDING", STREAM, "processors"]).array()[0].int(), 0);
    client.call(&["XDEL", STREAM, &id.to_string()]);
    let due = "{tenant:acme:stream:orders}:due:processors";
    client.call(&["ZADD", due, "1", &id.to_string()]);
    let again = tenant.read_one("d").await;
    assert_eq!((again.event.message_id, again.delivery_count), (id, 2));
    assert_eq!(again.event, delivery.event);
    assert!(tenant.retry(&delivery, 0).await.is_err());
    assert_eq!(tenant.acknowledge(&[again]).await, 1);
    assert_eq!(client.call(&["ZCARD", due]).int(), 0);
    let left = client.call(&["KEYS", "{tenant:acme:stream:orders}:*"]);
    let mut left: Vec<_> = left.array().iter().map(|key| key.text().to_owned()).collect();
    left.sort();
    assert_eq!(
        left,
        ["group:processors", "groups", "state"].map(|key| format!("{{{STREAM}}}:{key}"))
    );
}

#[tokio::test]
async fn counts_are_kept_when_a_neighbour_is_first_after_the_loss() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.set_lease(300).await;
    tenant.add(1).await;
    let first = tenant.read_one("c").await;
    tenant.retry(&first, 0).await.unwrap();
    let second = tenant.read_one("c").await;
    assert_eq!(second.delivery_count, 2);
    let mut client = server.client();
    client.call(&["XGROUP", "DESTROY", STREAM, "processors"]);
    // The sweep makes the group again; a service that knows nothing of that reads.
    let plain = ["XREADGROUP", "GROUP", "processors", "plain", "STREAMS", STREAM, ">"];
    super::tenant::eventually("the group is made again", async || {
        matches!(client.call(&plain), super::server::Value::Array(_))
    })
    .await;
    let third = tenant.read_one("c").await;
    assert!(third.delivery_count >= 3, "{}", third.delivery_count);
    assert_eq!(third.delivery_count, 4, "1 recorded, 1 hidden by the loss, 1 by the neighbour");
}

#[tokio::test]
async fn a_long_lease_ends_with_the_group() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.set_lease(300).await;
    tenant.add(1).await;
    let delivery = tenant.read_one("c").await;
    let settled =
        vec![(delivery.receipt(), Settlement::Extend { lease: Duration::from_secs(600) })];
    tenant.broker.settle(&tenant.group, settled).await.unwrap().remove(0).unwrap();
    let mut client = server.client();
    client.call(&["XGROUP", "DESTROY", STREAM, "processors"]);
    tenant.read_one("dies").await;
    assert_eq!(tenant.read_one("d").await.event.message_id, delivery.event.message_id);
}

#[tokio::test]
async fn a_backoff_of_nothing_stays_nothing() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let mut settings = apix::GroupSettings { max_deliveries: 1_000, ..Default::default() };
    settings.backoff.base_ms = 0;
    settings.backoff.factor = 1e200;
    // Whether such a back-off may be set is decided elsewhere; another version may have stored it.
    let text = serde_json::to_string(&settings).unwrap();
    tenant.read("c", 1, 0).await;
    let mut client = server.client();
    client.call(&["HSET", &format!("{{{STREAM}}}:group:processors"), "settings", &text]);
    tenant.add(1).await;
    for count in 1..=5 {
        let delivery = tenant.read_one("c").await;
        assert_eq!(delivery.delivery_count, count);
        let retry = Settlement::Retry { after: None, reason: "not yet".into() };
        let settled = vec![(delivery.receipt(), retry)];
        tenant.broker.settle(&tenant.group, settled).await.unwrap().remove(0).unwrap();
    }
}

#[tokio::test]
async fn a_dead_letter_stays_one_when_a_read_after_a_loss_ends_early() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.set_lease(300).await;
    tenant.add(1).await;
    let delivery = tenant.read_one("c").await;
    let give_up = Settlement::DeadLetter { reason: "no".into() };
    let settled = vec![(delivery.receipt(), give_up)];
    tenant.broker.settle(&tenant.group, settled).await.unwrap().remove(0).unwrap();
    let mut client = server.client();
    // Lost before the next sweep has saved where it had got.
    client.call(&["HSET", &format!("{{{STREAM}}}:group:processors"), "floor", "0-0"]);
    client.call(&["XGROUP", "DESTROY", STREAM, "processors"]);
    // What a read leaves that ends before it has counted.
    let early = ["XREADGROUP", "GROUP", "processors", "c", "STREAMS", STREAM, ">"];
    super::tenant::eventually("the group is made again", async || {
        matches!(client.call(&early), super::server::Value::Array(_))
    })
    .await;
    super::tenant::eventually("it is let go", async || {
        assert!(tenant.read("d", 1, 50).await.is_empty(), "it came again");
        let pending = client.call(&["XPENDING", STREAM, "processors"]);
        pending.array()[0].int() == 0
    })
    .await;
    let dead = tenant.broker.dead_letters(&tenant.group, None, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert!(tenant.read("d", 1, 100).await.is_empty());
}

#[tokio::test]
async fn a_group_that_a_neighbour_makes_anew_goes_on_where_it_was() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let mut client = server.client();
    tenant.add(1).await;
    for count in 1..=3 {
        let delivery = tenant.read_one("c").await;
        assert_eq!(delivery.delivery_count, count);
        tenant.retry(&delivery, 0).await.unwrap();
    }
    let fourth = tenant.read_one("c").await;
    client.call(&["XGROUP", "DESTROY", STREAM, "processors"]);
    client.call(&["XGROUP", "CREATE", STREAM, "processors", "0"]);
    let fifth = tenant.read_one("c").await;
    assert_eq!(fifth.event.message_id, fourth.event.message_id);
    assert!(fifth.delivery_count >= 5, "{}", fifth.delivery_count);
    tenant.acknowledge(&[fifth]).await;
    // Made at the end: what nobody has read is not skipped.
    let unread = tenant.add_many(5).await;
    client.call(&["XGROUP", "DESTROY", STREAM, "processors"]);
    client.call(&["XGROUP", "CREATE", STREAM, "processors", "$"]);
    let mut came = std::collections::BTreeSet::new();
    super::tenant::eventually("all come", async || {
        let some = tenant.read("c", 10, 100).await;
        came.extend(some.iter().map(|one| one.event.message_id));
        unread.iter().all(|id| came.contains(id))
    })
    .await;
}
