//! kill -9 of the server on the embedded broker.

use crate::ledger::Ledger;
use crate::server::{Server, folder};

/// Enough events that workers, single adds, batches and repeats are all in flight.
const ADDED_BEFORE_A_KILL: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_under_load_lose_nothing() {
    let folder = folder();
    let mut server = Server::start(folder.path(), &[]);
    let ledger = Ledger::open(&server.url).await;
    for _ in 0..20 {
        ledger.add_more(ADDED_BEFORE_A_KILL).await;
        server.kill();
        server = Server::start(folder.path(), &[]);
        ledger.moved_to(&server.url);
    }
    ledger.add_more(ADDED_BEFORE_A_KILL).await;
    ledger.close().await;
}
