//! Servers that change under a running broker.

use apix::{Broker, Durability, ErrorKind};
use apix_redis::{RedisBroker, RedisOptions};

use super::server::{Client, RedisServer};
use super::tenant::{Tenant, event, eventually};

/// Ends the connections of the broker, so that it makes new ones.
fn disconnect(client: &mut Client) {
    client.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
}

async fn on_disk(server: &RedisServer) -> Tenant {
    let options = RedisOptions { durability: Durability::Disk, ..server.options() };
    Tenant::with(RedisBroker::connect(options).await.unwrap())
}

#[tokio::test]
async fn flushes_that_are_left_out_are_no_durability() {
    let server = RedisServer::durable().await;
    let mut client = server.client();
    client.call(&["CONFIG", "SET", "no-appendfsync-on-rewrite", "yes"]);
    let options = RedisOptions { durability: Durability::Disk, ..server.options() };
    let refused = RedisBroker::connect(options).await.unwrap_err();
    assert!(refused.message().contains("no-appendfsync-on-rewrite"), "{refused}");
    client.call(&["CONFIG", "SET", "appendfsync", "everysec"]);
    let durability = Durability::DiskInterval { every_ms: 100 };
    let options = RedisOptions { durability, ..server.options() };
    let info = RedisBroker::connect(options).await.unwrap().info();
    assert_eq!(info.durability, Durability::DiskInterval { every_ms: 1_000 });
    assert!(info.warnings.iter().any(|warning| warning.contains("no-appendfsync-on-rewrite")));
}

#[tokio::test]
async fn a_server_that_no_longer_flushes_is_refused_until_it_does_again() {
    let server = RedisServer::durable().await;
    let tenant = on_disk(&server).await;
    tenant.add(1).await;
    let mut client = server.client();
    client.call(&["CONFIG", "SET", "appendfsync", "everysec"]);
    disconnect(&mut client);
    eventually("appends are refused", async || {
        let outcome = tenant.broker.append(&tenant.stream, vec![event(2)]).await;
        outcome.is_err_and(|fault| fault.kind() == ErrorKind::DurabilityUnmet)
    })
    .await;
    let unready = tenant.broker.check().await.unwrap_err();
    assert_eq!(unready.kind(), ErrorKind::DurabilityUnmet);
    assert!(unready.message().contains("appendfsync"), "{unready}");
    client.call(&["CONFIG", "SET", "appendfsync", "always"]);
    eventually("it is ready again", async || tenant.broker.check().await.is_ok()).await;
    tenant.add(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_is_not_stormed() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let mut client = server.client();
    client.call(&["CONFIG", "SET", "maxclients", "1"]);
    disconnect(&mut client);
    client.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    client.call(&["CONFIG", "RESETSTAT"]);
    // Long enough for a storm to show.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let stats = client.call(&["INFO", "stats"]);
    let rejected = stats.text().lines().find_map(|line| line.strip_prefix("rejected_connections:"));
    let rejected: u32 = rejected.unwrap().parse().unwrap();
    assert!((1..60).contains(&rejected), "{rejected}");
    assert_eq!(tenant.broker.check().await.unwrap_err().kind(), ErrorKind::Unavailable);
    client.call(&["CONFIG", "SET", "maxclients", "100"]);
    eventually("it is ready again", async || tenant.broker.check().await.is_ok()).await;
    tenant.add(1).await;
}

#[tokio::test]
async fn a_demoted_primary_is_left_and_taken_again_when_it_is_promoted() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    tenant.add(1).await;
    let mut client = server.client();
    client.call(&["REPLICAOF", "127.0.0.1", "1"]);
    let unready = tenant.broker.check().await.unwrap_err();
    assert!(unready.message().contains("replica"), "{unready}");
    // The first write finds out, and ends the connection.
    assert!(tenant.broker.append(&tenant.stream, vec![event(2)]).await.is_err());
    eventually("calls are refused", async || {
        let unready = tenant.broker.check().await.unwrap_err();
        unready.kind() == ErrorKind::DurabilityUnmet
    })
    .await;
    client.call(&["REPLICAOF", "NO", "ONE"]);
    eventually("it is ready again", async || tenant.broker.check().await.is_ok()).await;
    tenant.add(3).await;
    assert_eq!(tenant.read("c", 10, 1_000).await.len(), 2);
}

#[tokio::test]
async fn a_check_that_gives_up_cuts_no_other_call() {
    let server = RedisServer::start().await;
    let tenant = Tenant::on(&server).await;
    let mut live = tenant.broker.subscribe(&tenant.channel).await.unwrap();
    tenant.add(1).await;
    let id = server.client().call(&["CLIENT", "LIST", "TYPE", "normal"]).text().to_owned();
    // A check waits for 2 s, an append for 5.
    server.client().call(&["CLIENT", "PAUSE", "2600", "ALL"]);
    let (checked, appended) =
        tokio::join!(tenant.broker.check(), tenant.broker.append(&tenant.stream, vec![event(2)]));
    assert_eq!(checked.unwrap_err().kind(), ErrorKind::Unavailable);
    appended.unwrap();
    tenant.broker.check().await.unwrap();
    // On the same connection.
    let link = id.lines().find(|line| line.contains("name=apix-link")).unwrap();
    let link = link.split(' ').next().unwrap();
    let now = server.client().call(&["CLIENT", "LIST", "TYPE", "normal"]);
    assert!(now.text().lines().any(|line| line.split(' ').next() == Some(link)));
    tenant.publish(1).await;
    assert!(matches!(live.recv().await, Some(apix::Update::Message(_))));
}
