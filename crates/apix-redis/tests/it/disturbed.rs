//! The same suite while scripts are flushed, connections killed and groups destroyed between the
//! operations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apix::Broker;
use apix::conformance::{Guarantee, Operation, Subject, run};
use async_trait::async_trait;
use tokio::sync::Mutex;

use apix_redis::RedisBroker;

use super::server::{Client, RedisServer, Value};

struct Disturbed {
    server: RedisServer,
    broker: Arc<RedisBroker>,
    turns: Mutex<Turns>,
}

/// One disturbance at a time: they kill connections, of each other too.
struct Turns {
    count: u64,
    /// Groups may be destroyed in bursts, but must also live long enough for a lease to end.
    losses_left: u32,
    last_loss: Instant,
}

impl Disturbed {
    async fn start() -> Arc<Self> {
        let server = RedisServer::start().await;
        let broker = Arc::new(server.broker().await);
        let turns = Turns { count: 0, losses_left: 3, last_loss: Instant::now() };
        Arc::new(Self { server, broker, turns: Mutex::new(turns) })
    }
}

/// Destroys every group of every stream.
fn destroy_groups(client: &mut Client) {
    let Value::Array(keys) = client.call(&["KEYS", "tenant:*:stream:*"]) else { return };
    for key in keys.iter().map(Value::text) {
        let Value::Array(groups) = client.call(&["XINFO", "GROUPS", key]) else { continue };
        for group in &groups {
            client.call(&["XGROUP", "DESTROY", key, group.array()[1].text()]);
        }
    }
}

#[async_trait]
impl Subject for Disturbed {
    async fn broker(&self) -> Arc<dyn Broker> {
        Arc::clone(&self.broker) as Arc<dyn Broker>
    }

    async fn disturb(&self, _before: Operation) {
        let mut turns = self.turns.lock().await;
        turns.count += 1;
        let mut client = self.server.client();
        match turns.count % 5 {
            0 => drop(client.call(&["SCRIPT", "FLUSH"])),
            1 | 3 => {
                if turns.last_loss.elapsed() > Duration::from_millis(1_500) {
                    turns.losses_left = 3;
                }
                if turns.losses_left > 0 {
                    turns.losses_left -= 1;
                    turns.last_loss = Instant::now();
                    destroy_groups(&mut client);
                }
            }
            2 => drop(client.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])),
            _ => drop(client.call(&["CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"])),
        }
    }

    fn disturbs(&self) -> bool {
        true
    }
}

macro_rules! guarantees {
    ($($test:ident $guarantee:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                run(Disturbed::start().await, Guarantee::$guarantee).await;
            }
        )+
    };
}

guarantees!(
    durability Durability, at_least_once AtLeastOnce, retention Retention, order Order,
    hybrid Hybrid, idempotency Idempotency, isolation Isolation, slow_subscribers SlowSubscribers
);
