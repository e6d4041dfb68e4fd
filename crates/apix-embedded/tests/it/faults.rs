//! Folders that are taken, newer or damaged; clocks that step; readers that go.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apix::{
    Broker, Durability, ErrorKind, GroupSettings, MessageId, RangeQuery, Receipt, Retention,
    SeekTo, Settlement, StreamSettings,
};
use apix_embedded::{Clock, EmbeddedBroker, EmbeddedOptions, ManualClock};
use tempfile::TempDir;

use crate::scene::{
    add, at_once, channel, consumer, event, group, ids, open, stream, tenant, waiting,
};

async fn refusal(folder: &Path) -> apix::Error {
    EmbeddedBroker::open(EmbeddedOptions::directory(folder)).await.unwrap_err()
}

/// A closed folder with some events in it.
async fn with_events(count: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    for n in 0..count {
        add(&broker, &stream("orders"), 770_000 + n).await;
    }
    broker.close().await;
    folder
}

/// Changes one byte at the `nth` place where `what` stands, `after` bytes behind its beginning.
fn damage(file: &Path, what: &[u8], nth: usize, after: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - what.len()).filter(|at| bytes[*at..].starts_with(what)).collect();
    bytes[places[nth] + after] ^= 0x04;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn one_process_at_a_time_holds_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    let refused = refusal(folder.path()).await;
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.message().contains(folder.path().to_str().unwrap()), "{refused}");
    broker.close().await;
    open(folder.path()).await.close().await;
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let folder = with_events(1).await;
    let file = rusqlite::Connection::open(folder.path().join("apix.db")).unwrap();
    file.execute("UPDATE meta SET value = 2 WHERE name = 'format'", []).unwrap();
    drop(file);
    let refused = refusal(folder.path()).await;
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.message().contains("format 2"), "{refused}");
}

#[tokio::test]
async fn durabilities_that_there_are_not_are_refused() {
    for durability in [Durability::Replicas(2), Durability::Memory] {
        let folder = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions { durability, ..EmbeddedOptions::directory(folder.path()) };
        let refused = EmbeddedBroker::open(options).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
    }
    let broker = EmbeddedBroker::open(EmbeddedOptions::memory()).await.unwrap();
    assert_eq!(broker.info().durability, Durability::Memory);
    broker.close().await;
}

#[tokio::test]
async fn a_damaged_event_is_told_with_its_place_and_stops_nobody() {
    let folder = with_events(9).await;
    damage(&folder.path().join("apix.db"), b"770003", 0, 3);
    let broker = open(folder.path()).await;
    let orders = stream("orders");
    let fault = broker.read_range(&orders, &RangeQuery::default()).await.unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::Corrupt);
    assert!(fault.message().contains("apix.db: table entry, pos 4, event "), "{fault}");
    // The group gets all the others, and in the end a dead letter that says where it was.
    let workers = group(&orders, "workers");
    let settings = GroupSettings { lease_ms: 100, max_deliveries: 1, ..GroupSettings::default() };
    broker.configure_group(&workers, settings).await.unwrap();
    let read = broker.read_group(&workers, &consumer("anna"), at_once(9)).await.unwrap();
    assert_eq!(read.len(), 8);
    let receipts: Vec<Receipt> = read.iter().map(|one| one.receipt()).collect();
    broker.acknowledge(&workers, &receipts).await.unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    let letter = loop {
        if let Some(letter) = broker.dead_letters(&workers, None, 1).await.unwrap().pop() {
            break letter;
        }
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(letter.reason.contains("table entry, pos 4"), "{}", letter.reason);
    broker.close().await;
}

#[tokio::test]
async fn damage_to_what_is_read_at_the_opening_is_told_with_its_place() {
    let folder = with_events(9).await;
    damage(&folder.path().join("apix.db"), b"APIXidx1", 4, 18);
    let refused = refusal(folder.path()).await;
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(refused.message().contains("table commit_index, first_pos 5"), "{refused}");

    let folder = with_events(1).await;
    damage(&folder.path().join("apix.db"), b"SQLite format 3", 0, 2);
    let refused = refusal(folder.path()).await;
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(refused.message().contains("apix.db"), "{refused}");
}

#[tokio::test]
async fn damage_in_the_middle_of_the_log_is_not_cut_off_silently() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    for n in 0..20 {
        add(&broker, &stream("orders"), 880_000 + n).await;
    }
    let killed = tempfile::tempdir().unwrap();
    for name in ["apix.db", "apix.db-wal", "apix.seal"] {
        std::fs::copy(folder.path().join(name), killed.path().join(name)).unwrap();
    }
    broker.close().await;
    damage(&killed.path().join("apix.db-wal"), b"880009", 0, 0);
    for _ in 0..2 {
        let refused = refusal(killed.path()).await;
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        assert!(refused.message().contains("apix.db-wal is damaged"), "{refused}");
    }
}

/// Whatever of the log's own header is damaged, what was answered is not taken for never written.
#[tokio::test]
async fn damage_to_the_header_of_the_log_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    for n in 0..20 {
        add(&broker, &stream("orders"), 890_000 + n).await;
    }
    for offset in (0..32).step_by(3) {
        let killed = tempfile::tempdir().unwrap();
        for name in ["apix.db", "apix.db-wal", "apix.seal"] {
            std::fs::copy(folder.path().join(name), killed.path().join(name)).unwrap();
        }
        let log = killed.path().join("apix.db-wal");
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[offset] ^= 0x04;
        std::fs::write(&log, bytes).unwrap();
        match EmbeddedBroker::open(EmbeddedOptions::directory(killed.path())).await {
            Err(refused) => assert_eq!(refused.kind(), ErrorKind::Corrupt, "byte {offset}"),
            // Not every bit of the header matters to SQLite; then nothing may be missing.
            Ok(again) => {
                let stats = again.stream_stats(&stream("orders")).await;
                assert_eq!(stats.unwrap().length, 20, "byte {offset}");
                again.close().await;
            }
        }
    }
    broker.close().await;
}

#[tokio::test]
async fn a_clock_that_steps_back_makes_no_smaller_id() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(2_000_000);
    let options = || EmbeddedOptions {
        clock: Clock::Manual(Arc::clone(&clock)),
        ..EmbeddedOptions::directory(folder.path())
    };
    let orders = stream("orders");
    let broker = EmbeddedBroker::open(options()).await.unwrap();
    let first = add(&broker, &orders, 1).await;
    clock.set_unix_ms(1_000_000);
    let second = add(&broker, &orders, 2).await;
    broker.close().await;
    let broker = EmbeddedBroker::open(options()).await.unwrap();
    let third = add(&broker, &orders, 3).await;
    // Also when nothing is left that the last id could be read from.
    let mut settings = StreamSettings::default();
    settings.retention.hard_max_bytes = 1;
    broker.configure_stream(&orders, settings).await.unwrap();
    assert_eq!(broker.trim(&orders).await.unwrap(), 3);
    broker.close().await;
    let broker = EmbeddedBroker::open(options()).await.unwrap();
    assert_eq!(broker.stream_stats(&orders).await.unwrap().last_id, Some(third));
    let fourth = add(&broker, &orders, 4).await;
    let all = [first, second, third, fourth];
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    assert_eq!(first, MessageId::new(2_000_000, 0));
    broker.close().await;
}

#[tokio::test]
async fn a_reader_that_has_gone_takes_nothing_with_it() {
    let broker = EmbeddedBroker::open(EmbeddedOptions::memory()).await.unwrap();
    let (orders, anna) = (stream("orders"), consumer("anna"));
    let workers = group(&orders, "workers");
    let gone = broker.read_group(&workers, &anna, waiting(10, 60_000));
    assert!(tokio::time::timeout(Duration::from_millis(50), gone).await.is_err());
    let id = add(&broker, &orders, 1).await;
    let read = broker.read_group(&workers, &anna, at_once(10)).await.unwrap();
    assert_eq!((ids(&read), read[0].delivery_count), (vec![id], 1));
    broker.close().await;
}

#[tokio::test]
async fn waiting_readers_are_woken_and_a_deleted_stream_sends_them_away() {
    let broker = Arc::new(EmbeddedBroker::open(EmbeddedOptions::memory()).await.unwrap());
    let orders = stream("orders");
    let workers = group(&orders, "workers");
    let read = |wait_ms| {
        let (broker, workers) = (Arc::clone(&broker), workers.clone());
        tokio::spawn(async move {
            broker.read_group(&workers, &consumer("anna"), waiting(10, wait_ms)).await.unwrap()
        })
    };
    let reader = read(30_000);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let id = add(&broker, &orders, 1).await;
    assert_eq!(ids(&reader.await.unwrap()), [id]);
    let reader = read(30_000);
    tokio::time::sleep(Duration::from_millis(20)).await;
    broker.seek_group(&workers, SeekTo::Start).await.unwrap();
    assert_eq!(ids(&reader.await.unwrap()), [id]);
    let reader = read(30_000);
    tokio::time::sleep(Duration::from_millis(20)).await;
    broker.delete_stream(&orders).await.unwrap();
    assert!(reader.await.unwrap().is_empty());
    let begun = Instant::now();
    assert!(read(100).await.unwrap().is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(100));
    broker.close().await;
}

#[tokio::test]
async fn one_retry_due_in_ten_hours_does_not_pin_the_stream() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    let (orders, anna) = (stream("orders"), consumer("anna"));
    let workers = group(&orders, "workers");
    let retention = Retention { max_len: Some(1), ..Retention::default() };
    broker
        .configure_stream(&orders, StreamSettings { retention, ..StreamSettings::default() })
        .await
        .unwrap();
    broker.seek_group(&workers, SeekTo::Start).await.unwrap();
    for n in 0..5 {
        add(&broker, &orders, n).await;
    }
    let read = broker.read_group(&workers, &anna, at_once(10)).await.unwrap();
    let after = Some(Duration::from_secs(36_000));
    let late = Settlement::Retry { after, reason: "later".into() };
    broker.settle(&workers, vec![(read[0].receipt(), late)]).await.unwrap()[0].as_ref().unwrap();
    let receipts: Vec<Receipt> = read[1..].iter().map(|one| one.receipt()).collect();
    broker.acknowledge(&workers, &receipts).await.unwrap();
    while broker.trim(&orders).await.unwrap() > 0 {}
    assert_eq!(broker.stream_stats(&orders).await.unwrap().length, 1);
    broker.close().await;
    // It is still there, and can be finished.
    let broker = open(folder.path()).await;
    let stats = broker.group_stats(&workers).await.unwrap();
    assert_eq!((stats.parked, stats.oldest_unacknowledged_id), (1, Some(read[0].event.message_id)));
    let anyone = [Receipt::of_anyone(read[0].event.message_id)];
    assert_eq!(broker.acknowledge(&workers, &anyone).await.unwrap().count, 1);
    broker.close().await;
}

#[tokio::test]
async fn a_retry_is_on_time_among_many_that_wait() {
    let broker = EmbeddedBroker::open(EmbeddedOptions::memory()).await.unwrap();
    let (orders, anna) = (stream("orders"), consumer("anna"));
    let workers = group(&orders, "workers");
    let later =
        |ms| Settlement::Retry { after: Some(Duration::from_millis(ms)), reason: "x".into() };
    for n in 0..20 {
        let events = (0..1_000).map(|m| event(n * 1_000 + m)).collect();
        broker.append(&orders, events).await.unwrap();
        let read = broker.read_group(&workers, &anna, at_once(1_000)).await.unwrap();
        let parked = read.iter().map(|one| (one.receipt(), later(600_000))).collect();
        broker.settle(&workers, parked).await.unwrap();
    }
    // The best of some tries: a busy machine may be late by itself.
    let mut best = Duration::MAX;
    for n in 0..5 {
        add(&broker, &orders, n).await;
        let read = broker.read_group(&workers, &anna, at_once(1)).await.unwrap();
        let begun = Instant::now();
        broker.settle(&workers, vec![(read[0].receipt(), later(40))]).await.unwrap();
        let again = broker.read_group(&workers, &anna, waiting(1, 5_000)).await.unwrap();
        let waited = begun.elapsed();
        assert_eq!(ids(&again), ids(&read));
        assert!(waited >= Duration::from_millis(40), "early: {waited:?}");
        best = best.min(waited);
        broker.acknowledge(&workers, &[again[0].receipt()]).await.unwrap();
    }
    assert!(best < Duration::from_millis(60), "{best:?}");
    assert_eq!(broker.group_stats(&workers).await.unwrap().parked, 20_000);
    broker.close().await;
}

#[tokio::test]
async fn a_group_that_holds_much_is_the_same_after_a_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    let (orders, anna) = (stream("orders"), consumer("anna"));
    let workers = group(&orders, "workers");
    for n in 0..16 {
        let events = (0..1_000).map(|m| event(n * 1_000 + m)).collect();
        broker.append(&orders, events).await.unwrap();
        let read = broker.read_group(&workers, &anna, at_once(1_000)).await.unwrap();
        let late = read.iter().step_by(2).map(|one| {
            let after = Some(Duration::from_secs(50));
            (one.receipt(), Settlement::Retry { after, reason: "not yet, perhaps later".into() })
        });
        broker.settle(&workers, late.collect()).await.unwrap();
    }
    let before = broker.group_stats(&workers).await.unwrap();
    assert_eq!((before.pending, before.parked, before.lag), (8_000, 8_000, Some(0)));
    broker.close().await;
    let broker = open(folder.path()).await;
    let after = broker.group_stats(&workers).await.unwrap();
    assert_eq!((after.pending, after.parked, after.lag), (8_000, 8_000, Some(0)));
    assert_eq!(after.oldest_unacknowledged_id, before.oldest_unacknowledged_id);
    assert_eq!(after.last_delivered_id, before.last_delivered_id);
    broker.close().await;
}

#[tokio::test]
async fn a_deleted_stream_leaves_the_store_little_by_little_also_over_a_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    let orders = stream("orders");
    for n in 0..3 {
        let events = (0..1_000).map(|m| event(n * 1_000 + m)).collect();
        broker.append(&orders, events).await.unwrap();
    }
    let epoch = broker.stream_stats(&orders).await.unwrap().epoch;
    broker.delete_stream(&orders).await.unwrap();
    let kept = add(&broker, &orders, 7).await;
    broker.close().await;
    let broker = open(folder.path()).await;
    assert_ne!(broker.stream_stats(&orders).await.unwrap().epoch, epoch);
    assert_eq!(broker.list_streams(tenant().organization_id()).await.unwrap().len(), 1);
    let until = Instant::now() + Duration::from_secs(10);
    let file = rusqlite::Connection::open(folder.path().join("apix.db")).unwrap();
    loop {
        let left: i64 = file.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)).unwrap();
        let rows: i64 =
            file.query_row("SELECT count(*) FROM commit_index", [], |row| row.get(0)).unwrap();
        if (left, rows) == (1, 1) {
            break;
        }
        assert!(Instant::now() < until, "{left} events and {rows} index rows are left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let page = broker.read_range(&orders, &RangeQuery::default()).await.unwrap();
    assert_eq!(page.events[0].message_id, kept);
    broker.close().await;
}

#[tokio::test]
async fn what_retention_took_leaves_the_store_also_over_a_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let streams = [stream("a"), stream("b"), stream("c")];
    let kept = StreamSettings {
        retention: Retention { max_len: Some(1), ..Retention::default() },
        ..StreamSettings::default()
    };
    // A third of every block dies in each life of the broker.
    let broker = open(folder.path()).await;
    for n in 0..1_000 {
        for to in &streams {
            broker.append(to, vec![event(n)]).await.unwrap();
        }
    }
    broker.close().await;
    let mut left = 0;
    for to in &streams {
        let broker = open(folder.path()).await;
        broker.configure_stream(to, kept.clone()).await.unwrap();
        while broker.trim(to).await.unwrap() > 0 {}
        let until = Instant::now() + Duration::from_secs(10);
        let file = rusqlite::Connection::open(folder.path().join("apix.db")).unwrap();
        loop {
            let sql = "SELECT count(*) FROM entry";
            left = file.query_row(sql, [], |row| row.get(0)).unwrap();
            // Two thirds are not most of a block.
            if *to != streams[2] || left <= 64 {
                break;
            }
            assert!(Instant::now() < until, "{left} events are left");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        broker.close().await;
    }
    assert!(left >= 3, "the newest of each stream is kept");
    let broker = open(folder.path()).await;
    for to in &streams {
        let page = broker.read_range(to, &RangeQuery::default()).await.unwrap();
        assert_eq!(page.events.len(), 1);
    }
    broker.close().await;
}

#[tokio::test]
async fn old_events_are_read_from_the_store_with_filters_and_pages() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        EmbeddedOptions { tail_cache_bytes: 500, ..EmbeddedOptions::directory(folder.path()) };
    let broker = EmbeddedBroker::open(options).await.unwrap();
    let (orders, other, news) = (stream("orders"), stream("other"), channel("news"));
    for n in 0..200 {
        add(&broker, if n % 3 == 0 { &other } else { &orders }, n).await;
    }
    let shown = broker.publish_hybrid(&orders, &news, event(999)).await.unwrap();
    let (mut query, mut seen) = (RangeQuery { limit: 10, ..RangeQuery::default() }, Vec::new());
    loop {
        let page = broker.read_range(&orders, &query).await.unwrap();
        seen.extend(page.events.iter().map(|event| event.payload.decode::<u64>().unwrap()));
        let Some(last) = page.more_after else { break };
        query = query.after(last);
    }
    let expected: Vec<u64> = (0..200).filter(|n| n % 3 != 0).chain([999]).collect();
    assert_eq!(seen, expected);
    let channel = Some(news.channel().clone());
    let query = RangeQuery { channel, limit: 10, ..RangeQuery::default() };
    let page = broker.read_range(&orders, &query).await.unwrap();
    assert_eq!(page.events.len(), 1);
    assert_eq!((page.events[0].message_id, page.more_after), (shown.message_id, None));
    broker.close().await;
}
