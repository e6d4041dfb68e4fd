//! kill -9 of the Redis behind a server that goes on.

use std::time::Duration;

use crate::ledger::Ledger;
use crate::redis::Redis;
use crate::server::{Server, folder};

const KILLS: usize = 20;
const ADDED_BEFORE_A_KILL: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_redis_under_load_lose_nothing() {
    let folder = folder();
    let mut redis = Redis::start(folder.path());
    let arguments = ["--broker", &redis.url(), "--durability", "disk"];
    let server = Server::start(folder.path(), &arguments);
    let ledger = Ledger::open(&server.url).await;
    for _ in 0..KILLS {
        ledger.add_more(ADDED_BEFORE_A_KILL).await;
        redis.kill();
        // Long enough to be noticed by everyone.
        tokio::time::sleep(Duration::from_millis(100)).await;
        redis.start_again();
    }
    ledger.add_more(ADDED_BEFORE_A_KILL).await;
    ledger.close().await;
}
