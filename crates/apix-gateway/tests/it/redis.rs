//! Two gateways on one Redis, each with a broker of its own, as two processes have.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use apix::Broker;
use apix_redis::{RedisBroker, RedisOptions};
use serde_json::json;
use tokio::time::Instant;

use crate::bed::{Server, admin, config, eventually, tenant};
use crate::hub::returns_without_gap;
use crate::live::{Client, hybrid, publish};
use crate::presence::{user, wait_for_users};

/// A server that flushes every write; it ends when this is dropped.
struct Redis {
    port: u16,
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Redis {
    async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { port, folder: tempfile::tempdir().unwrap(), process: None };
        server.run().await;
        server
    }

    /// Starts it, on what an earlier run has left.
    async fn run(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server can be started");
        self.process = Some(child);
        eventually(|| async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let mut answer = [0; 5];
            stream.write_all(b"PING\r\n").ok()?;
            stream.read_exact(&mut answer).ok()?;
            (&answer == b"+PONG").then_some(())
        })
        .await;
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    async fn broker(&self) -> Arc<dyn Broker> {
        let url = format!("redis://127.0.0.1:{}", self.port);
        let options = RedisOptions { url, ..RedisOptions::default() };
        Arc::new(RedisBroker::connect(options).await.unwrap())
    }

    async fn gateway(&self) -> Server {
        Server::with(self.broker().await, config()).await
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tokio::test]
async fn presence_and_connections_hold_over_processes_and_one_that_dies_is_forgotten() {
    let redis = Redis::start().await;
    let (here, there) = (redis.gateway().await, redis.gateway().await);
    let tenant = tenant();
    let token = admin(&tenant);
    let mut watching = Client::connect(&there, &user(&tenant, "watcher")).await;
    watching.subscribe(json!([{ "channel": "room", "presence": true }])).await;
    let mut near = Client::connect(&here, &user(&tenant, "anna")).await;
    near.subscribe(json!(["room"])).await;
    let join = watching.next().await["data"].clone();
    assert_eq!((&join["type"], &join["data"]["userId"]), (&json!("presence.join"), &json!("anna")));
    for server in [&here, &there] {
        wait_for_users(server, &token, "room", &[("anna", 1), ("watcher", 1)]).await;
    }
    // From the other process it is ended.
    let mut second = Client::connect(&here, &user(&tenant, "bert")).await;
    second.subscribe(json!(["room"])).await;
    let join = watching.next().await["data"]["data"].clone();
    let path = format!("/v1/connections/{}", join["connectionId"].as_str().unwrap());
    eventually(|| async { (there.delete(&path, &token).await.status == 204).then_some(()) }).await;
    assert_eq!(second.closed().await, 4013);
    assert_eq!(watching.next().await["data"]["type"], "presence.leave");

    let killed = Instant::now();
    here.kill().await;
    let leave = watching.next().await["data"].clone();
    assert_eq!(
        (&leave["type"], &leave["data"]["userId"]),
        (&json!("presence.leave"), &json!("anna"))
    );
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    wait_for_users(&there, &token, "room", &[("watcher", 1)]).await;
}

#[tokio::test]
async fn sessions_return_without_gap_or_repeat_on_redis() {
    let redis = Redis::start().await;
    returns_without_gap(&redis.gateway().await, &redis.gateway().await).await;
}

#[tokio::test]
async fn a_restart_of_redis_ends_nobody_and_loses_no_hybrid_event() {
    let mut redis = Redis::start().await;
    let (here, there) = (redis.gateway().await, redis.gateway().await);
    let tenant = tenant();
    let token = admin(&tenant);
    let mut clients = Vec::new();
    for server in [&here, &there] {
        for _ in 0..20 {
            let mut client = Client::connect(server, &token).await;
            client.subscribe(json!(["notifications"])).await;
            clients.push(client);
        }
    }
    hybrid(&here, &token, json!("before")).await;
    wait_for_users(&there, &token, "notifications", &[("anna", 40)]).await;
    redis.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    redis.run().await;
    let sent = eventually(|| async {
        let body = json!({ "eventType": "h", "payload": "after" });
        let answer = there.post("/v1/hybrid-events", &token, body).await;
        (answer.status == 201).then_some(answer)
    });
    sent.await;
    for client in &mut clients {
        assert_eq!(client.next().await["data"]["data"], "before");
        let mut missed = 0;
        loop {
            let update = client.next().await;
            if update["event"] == "missed" {
                assert_eq!(update["data"]["count"], json!(null));
                missed += 1;
                continue;
            }
            assert_eq!(update["data"]["data"], "after");
            break;
        }
        assert!(missed >= 1, "the link broke and nobody was told");
    }
    // Nobody was taken for gone meanwhile, on either side.
    for server in [&here, &there] {
        wait_for_users(server, &token, "notifications", &[("anna", 40)]).await;
    }
    publish(&here, &token, "notifications", json!("unstored")).await;
    for client in &mut clients {
        while client.next().await["data"]["data"] != "unstored" {}
    }
}
