//! The suite of all brokers, on a Redis that flushes every write.

use std::sync::Arc;

use apix::Broker;
use apix::conformance::Subject;
use async_trait::async_trait;
use tokio::sync::Mutex;

use apix_redis::{RedisBroker, RedisOptions};

use super::server::RedisServer;

/// A broker on a server that is killed and started again.
struct Restarting {
    server: RedisServer,
    broker: Mutex<Arc<RedisBroker>>,
}

impl Restarting {
    async fn start() -> Self {
        let server = RedisServer::durable().await;
        let broker = Mutex::new(Arc::new(connect(&server).await));
        Self { server, broker }
    }
}

async fn connect(server: &RedisServer) -> RedisBroker {
    let options = RedisOptions { durability: apix::Durability::Disk, ..server.options() };
    RedisBroker::connect(options).await.unwrap()
}

#[async_trait]
impl Subject for Restarting {
    async fn broker(&self) -> Arc<dyn Broker> {
        let broker = self.broker.lock().await;
        Arc::clone(&*broker) as Arc<dyn Broker>
    }

    async fn restart(&self) -> Option<Arc<dyn Broker>> {
        let mut broker = self.broker.lock().await;
        self.server.kill();
        self.server.run().await;
        *broker = Arc::new(connect(&self.server).await);
        Some(Arc::clone(&*broker) as Arc<dyn Broker>)
    }
}

apix::conformance_suite!(on_redis, || async { Restarting::start().await });
