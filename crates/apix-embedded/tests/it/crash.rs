//! `kill -9` under load, again and again on the same folder.

use std::path::Path;
use std::time::{Duration, Instant};

use apix::Broker;

use crate::ledger::{After, Ledger};
use crate::load::{kill, start};
use crate::scene::open;

const KILLS: u64 = 20;

/// Waits until the program has printed a line that begins with `word`, or is some lines further.
pub(crate) fn wait_for(printed: &Path, word: &str, lines: usize) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let text = std::fs::read_to_string(printed).unwrap_or_default();
        if text.lines().filter(|line| line.starts_with(word)).count() >= lines {
            return;
        }
        assert!(Instant::now() < until, "no {lines} lines of {word:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn nothing_returned_is_lost_by_twenty_kills() {
    let folder = tempfile::tempdir().unwrap();
    let aside = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    for round in 0..KILLS {
        let printed = aside.path().join(format!("printed-{round}"));
        let child = start(folder.path(), &printed, (round + 1) * 1_000_000, &[]);
        // Sometimes at the very beginning, sometimes in the middle of it.
        wait_for(&printed, "A ", usize::try_from(1 + (round % 4) * 500).unwrap());
        kill(child);
        ledger.read(&std::fs::read_to_string(&printed).unwrap());
        let broker = open(folder.path()).await;
        ledger.check(&broker, After::Kill).await;
        broker.close().await;
    }
    assert!(ledger.lines > 10_000, "only {} lines", ledger.lines);
}
