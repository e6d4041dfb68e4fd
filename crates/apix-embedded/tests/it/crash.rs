//! `kill -9` under load, again and again on the same folder; and what a kill cannot show: power cuts,
//! a flush that fails, a full disk.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use apix::Broker;
use tempfile::TempDir;

use crate::cut::{Unflushed, Watched, shim};
use crate::ledger::{After, Ledger};
use crate::load::{INTERVAL, kill, start};
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

/// The files and switches of the shim.
struct Shim {
    aside: TempDir,
    library: PathBuf,
}

impl Shim {
    fn new() -> Self {
        let aside = tempfile::tempdir().unwrap();
        let library = shim(aside.path());
        Self { aside, library }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.aside.path().join(name)
    }

    /// Starts the program on `folder`; what it prints and writes is recorded under `round`.
    fn start(&self, folder: &Path, round: u64, more: &[(&str, &Path)]) -> std::process::Child {
        let printed = self.path(&format!("printed-{round}"));
        let (log, fail, full) =
            (self.path(&format!("log-{round}")), self.path("fail"), self.path("full"));
        let set = [
            ("LD_PRELOAD", &*self.library),
            ("CUT_FOLDER", folder),
            ("CUT_LOG", &*log),
            ("CUT_FAIL", &*fail),
            ("CUT_FULL", &*full),
        ];
        start(folder, &printed, (round + 1) * 1_000_000, &[&set, more].concat())
    }
}

#[tokio::test]
async fn nothing_returned_is_lost_by_power_cuts() {
    let shim = Shim::new();
    let mut folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    for round in 0..16 {
        let watched = Watched::before(folder.path());
        let child = shim.start(folder.path(), round, &[]);
        let printed = shim.path(&format!("printed-{round}"));
        wait_for(&printed, "A ", usize::try_from(1 + (round % 4) * 400).unwrap());
        kill(child);
        ledger.read(&std::fs::read_to_string(&printed).unwrap());
        let left = tempfile::tempdir().unwrap();
        let unflushed =
            if round % 2 == 0 { Unflushed::Lost } else { Unflushed::ByChance(round * 7_919) };
        watched.cut(&shim.path(&format!("log-{round}")), unflushed, left.path());
        folder = left;
        let broker = open(folder.path()).await;
        ledger.check(&broker, After::PowerCut).await;
        broker.close().await;
    }
    assert!(ledger.lines > 5_000, "only {} lines", ledger.lines);
}

/// Without flushes the same cut takes events, and the same checker sees it: so the test before
/// this one would have seen it too.
#[tokio::test]
async fn the_cut_takes_what_was_not_flushed() {
    // A flush may come just before the cut, but not every time.
    for _ in 0..5 {
        if missing_without_flushes().await > 0 {
            return;
        }
    }
    panic!("the cut never takes anything");
}

async fn missing_without_flushes() -> usize {
    let shim = Shim::new();
    let (folder, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut ledger = Ledger::default();
    let watched = Watched::before(folder.path());
    let child = shim.start(folder.path(), 0, &[(INTERVAL, Path::new("60000"))]);
    let printed = shim.path("printed-0");
    wait_for(&printed, "A ", 500);
    kill(child);
    ledger.read(&std::fs::read_to_string(&printed).unwrap());
    let killed = open(folder.path()).await;
    ledger.check(&killed, After::Kill).await;
    killed.close().await;
    watched.cut(&shim.path("log-0"), Unflushed::Lost, left.path());
    let broker = open(left.path()).await;
    let missing = ledger.missing(&broker).await;
    broker.close().await;
    missing
}

#[tokio::test]
async fn under_an_interval_the_cut_takes_no_more_than_that() {
    let shim = Shim::new();
    let (folder, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let watched = Watched::before(folder.path());
    let child = shim.start(folder.path(), 0, &[(INTERVAL, Path::new("50"))]);
    let printed = shim.path("printed-0");
    wait_for(&printed, "A ", 1_000);
    let mut before = Ledger::default();
    before.read(&std::fs::read_to_string(&printed).unwrap());
    // Far more than the interval, for a machine that is busy.
    std::thread::sleep(Duration::from_secs(1));
    kill(child);
    let mut all = Ledger::default();
    all.read(&std::fs::read_to_string(&printed).unwrap());
    watched.cut(&shim.path("log-0"), Unflushed::Lost, left.path());
    let broker = open(left.path()).await;
    assert_eq!(before.missing(&broker).await, 0);
    assert!(all.lines > before.lines);
    broker.close().await;
}

#[tokio::test]
async fn a_flush_that_fails_is_no_success_and_nothing_returned_is_lost() {
    let shim = Shim::new();
    let mut folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    for round in 0..4 {
        let watched = Watched::before(folder.path());
        let child = shim.start(folder.path(), round, &[]);
        let printed = shim.path(&format!("printed-{round}"));
        for failure in 1..=3 {
            wait_for(&printed, "A ", failure * 300);
            std::fs::write(shim.path("fail"), "").unwrap();
            gone(&shim.path("fail"));
        }
        // It goes on after the last failure.
        let so_far = std::fs::read_to_string(&printed).unwrap().matches("\nA ").count();
        wait_for(&printed, "A ", so_far + 200);
        kill(child);
        ledger.read(&std::fs::read_to_string(&printed).unwrap());
        let left = tempfile::tempdir().unwrap();
        watched.cut(&shim.path(&format!("log-{round}")), Unflushed::Lost, left.path());
        folder = left;
        let broker = open(folder.path()).await;
        ledger.check(&broker, After::PowerCut).await;
        broker.close().await;
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing() {
    let shim = Shim::new();
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    for round in 0..2 {
        let child = shim.start(folder.path(), round, &[]);
        let printed = shim.path(&format!("printed-{round}"));
        wait_for(&printed, "A ", 500);
        std::fs::write(shim.path("full"), "").unwrap();
        wait_for(&printed, "F ", 50);
        std::fs::remove_file(shim.path("full")).unwrap();
        let so_far = std::fs::read_to_string(&printed).unwrap().matches("\nA ").count();
        wait_for(&printed, "A ", so_far + 500);
        kill(child);
        ledger.read(&std::fs::read_to_string(&printed).unwrap());
        assert!(ledger.refused.len() >= 50);
        let broker = open(folder.path()).await;
        ledger.check(&broker, After::Kill).await;
        broker.close().await;
    }
}

fn gone(path: &Path) {
    let until = Instant::now() + Duration::from_secs(20);
    while path.exists() {
        assert!(Instant::now() < until, "{} is still there", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}
