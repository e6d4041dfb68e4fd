//! A program under load, to be killed: this test binary once more, told by its environment.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use apix::{Broker, Durability, ErrorKind, Receipt, Settlement};
use apix_embedded::{EmbeddedBroker, EmbeddedOptions};

use crate::ledger::settings;
use crate::scene::{consumer, event, group, keyed_event, stream, waiting};

const FOLDER: &str = "APIX_TEST_LOAD_FOLDER";
const FIRST: &str = "APIX_TEST_LOAD_FIRST";
/// Set: the program flushes once in so many milliseconds instead of at each commit.
pub(crate) const INTERVAL: &str = "APIX_TEST_LOAD_INTERVAL";
const STREAMS: [&str; 3] = ["s0", "s1", "s2"];
const PRODUCERS: u64 = 12;
/// The program ends by itself after this, should nobody kill it.
const LONGEST: Duration = Duration::from_secs(60);

/// Starts the program; what it prints goes into `printed`. `first` is the first number that it
/// uses, so that no two events of any life are equal.
pub(crate) fn start(folder: &Path, printed: &Path, first: u64, set: &[(&str, &Path)]) -> Child {
    let printed = std::fs::OpenOptions::new().append(true).create(true).open(printed).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "load::program_under_load", "--nocapture"])
        .env(FOLDER, folder)
        .env(FIRST, first.to_string())
        .stdin(Stdio::null())
        .stdout(printed)
        .stderr(Stdio::null());
    set.iter().for_each(|(name, path)| {
        command.env(name, path);
    });
    command.spawn().unwrap()
}

/// Kills the program as `kill -9` does.
pub(crate) fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn say(line: &str) {
    // One write a line: what another line says is never in the middle of it.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("{line}\n").as_bytes());
}

#[test]
fn program_under_load() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = EmbeddedOptions {
            durability: match std::env::var(INTERVAL) {
                Ok(ms) => Durability::DiskInterval { every_ms: ms.parse().unwrap() },
                Err(_) => Durability::Disk,
            },
            // Small, so that old events are read from the store too.
            tail_cache_bytes: 64 << 10,
            // Small, so that the log begins anew every few commits.
            log_bytes: 200 << 10,
            trim_every: Duration::from_millis(50),
            ..EmbeddedOptions::directory(folder)
        };
        let broker = Arc::new(EmbeddedBroker::open(options).await.unwrap());
        for name in STREAMS {
            broker.configure_group(&group(&stream(name), "workers"), settings()).await.unwrap();
        }
        say("\nready");
        let numbers = Arc::new(AtomicU64::new(first));
        for producer in 0..PRODUCERS {
            tokio::spawn(produce(Arc::clone(&broker), producer, Arc::clone(&numbers)));
        }
        for name in STREAMS {
            tokio::spawn(consume(Arc::clone(&broker), name));
        }
        tokio::time::sleep(LONGEST).await;
    });
}

async fn produce(broker: Arc<EmbeddedBroker>, producer: u64, numbers: Arc<AtomicU64>) {
    let name = STREAMS[usize::try_from(producer).unwrap() % STREAMS.len()];
    let to = stream(name);
    loop {
        let size = if producer == 0 { 20 } else { 1 };
        let n = numbers.fetch_add(size, Ordering::SeqCst);
        let events: Vec<_> = (n..n + size)
            .map(|n| if n % 5 == 0 { keyed_event(n, &format!("k{n}")) } else { event(n) })
            .collect();
        match broker.append(&to, events).await {
            Ok(appended) => {
                for (one, n) in appended.iter().zip(n..) {
                    say(&format!("A {name} {} {n}", one.message_id));
                }
            }
            Err(error) => {
                if error.kind() == ErrorKind::StorageFull {
                    (n..n + size).for_each(|n| say(&format!("F {n}")));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

async fn consume(broker: Arc<EmbeddedBroker>, name: &'static str) {
    let workers = group(&stream(name), "workers");
    let anna = consumer("anna");
    loop {
        let Ok(read) = broker.read_group(&workers, &anna, waiting(50, 200)).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        for one in &read {
            say(&format!("D {name} {} {}", one.event.message_id, one.delivery_count));
        }
        // Some are acknowledged, some come back soon or late, some are left to their leases.
        let mut done: Vec<Receipt> = Vec::new();
        let mut again = Vec::new();
        for one in read {
            match one.event.payload.decode::<u64>().unwrap() % 10 {
                0 => again.push((one.receipt(), retry(1))),
                1 => {
                    say(&format!("L {name} {}", one.event.message_id));
                    again.push((one.receipt(), retry(70_000)));
                }
                2 => {}
                _ => done.push(one.receipt()),
            }
        }
        let _ = broker.settle(&workers, again).await;
        for receipt in &done {
            say(&format!("S {name} {}", receipt.message_id));
        }
        let lost = match broker.acknowledge(&workers, &done).await {
            Ok(done) => done.lease_lost,
            Err(_) => continue,
        };
        for id in done.iter().map(|one| one.message_id).filter(|id| !lost.contains(id)) {
            say(&format!("K {name} {id}"));
        }
    }
}

fn retry(ms: u64) -> Settlement {
    Settlement::Retry { after: Some(Duration::from_millis(ms)), reason: "again".into() }
}
