//! The suite that every broker passes, on disk and in memory.

use std::path::Path;
use std::sync::Arc;

use apix::conformance::Subject;
use apix::{Broker, conformance_suite};
use apix_embedded::{EmbeddedBroker, EmbeddedOptions};
use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::Mutex;

struct OnDisk {
    now: Mutex<(Arc<EmbeddedBroker>, TempDir)>,
}

impl OnDisk {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { now: Mutex::new((open(folder.path()).await, folder)) }
    }
}

async fn open(folder: &Path) -> Arc<EmbeddedBroker> {
    Arc::new(EmbeddedBroker::open(EmbeddedOptions::directory(folder)).await.unwrap())
}

#[async_trait]
impl Subject for OnDisk {
    async fn broker(&self) -> Arc<dyn Broker> {
        self.now.lock().await.0.clone()
    }

    /// What a kill leaves is what the operating system has: the files as they are now, without a
    /// close.
    async fn restart(&self) -> Option<Arc<dyn Broker>> {
        let mut now = self.now.lock().await;
        let left = tempfile::tempdir().unwrap();
        for name in ["apix.db", "apix.db-wal", "apix.seal"] {
            let from = now.1.path().join(name);
            if from.exists() {
                std::fs::copy(from, left.path().join(name)).unwrap();
            }
        }
        now.0.close().await;
        *now = (open(left.path()).await, left);
        Some(now.0.clone())
    }
}

struct InMemory {
    broker: Arc<EmbeddedBroker>,
}

impl InMemory {
    async fn start() -> Self {
        Self { broker: Arc::new(EmbeddedBroker::open(EmbeddedOptions::memory()).await.unwrap()) }
    }
}

#[async_trait]
impl Subject for InMemory {
    async fn broker(&self) -> Arc<dyn Broker> {
        self.broker.clone()
    }
}

conformance_suite!(on_disk, || async { OnDisk::start().await });
conformance_suite!(in_memory, || async { InMemory::start().await });
