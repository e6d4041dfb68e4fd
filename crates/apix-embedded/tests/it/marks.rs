//! What the log says of itself is not taken from remains of old pages, nor from users' text.

use std::path::Path;

use apix::{Broker, Event, Json, Limits};
use tempfile::TempDir;

use crate::scene::{add, open, stream};

/// The files as a kill leaves them: without a close.
fn left_by_a_kill(folder: &Path) -> TempDir {
    let left = tempfile::tempdir().unwrap();
    for name in ["apix.db", "apix.db-wal", "apix.seal"] {
        std::fs::copy(folder.join(name), left.path().join(name)).unwrap();
    }
    left
}

/// So many commits that the index outgrows its first pages, whose places are used again.
#[tokio::test]
async fn a_long_log_of_small_commits_is_opened_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    for n in 0..1_500 {
        add(&broker, &stream("orders"), n).await;
        if n % 100 == 99 {
            let left = left_by_a_kill(folder.path());
            let again = open(left.path()).await;
            assert_eq!(again.stream_stats(&stream("orders")).await.unwrap().length, n + 1);
            again.close().await;
        }
    }
    broker.close().await;
}

#[tokio::test]
async fn text_that_looks_like_a_mark_is_text() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    let text = r#""APIXidx1~~~~~~~~~~~~~~~~APIXidx1""#;
    let event = Event::new("APIXidx1~~~~~~~~~~~~~~~~", Json::parse(text).unwrap());
    let event = event.checked(None, &Limits::default()).unwrap();
    broker.append(&stream("orders"), vec![event]).await.unwrap();
    let left = left_by_a_kill(folder.path());
    let again = open(left.path()).await;
    assert_eq!(again.stream_stats(&stream("orders")).await.unwrap().length, 1);
    again.close().await;
    broker.close().await;
}
