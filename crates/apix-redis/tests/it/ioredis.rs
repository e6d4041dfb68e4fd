//! A real neighbour beside APIX on one Redis: a Node service with ioredis.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use apix::{
    Delivery, Event, Json, LiveUpdate, NewMessage, Rejection, TenantContext,
    TenantMessagingService, Worker, WorkerOptions,
};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::server::RedisServer;

/// The Node service. It ends when its standard input does, or when this is dropped.
struct Neighbour {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ioredis")
}

/// Installs what the service needs, once.
async fn installed() {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    INSTALLED
        .get_or_init(|| async {
            if folder().join("node_modules/ioredis").exists() {
                return;
            }
            let npm = Command::new("npm")
                .args(["ci", "--silent", "--no-audit", "--no-fund"])
                .current_dir(folder())
                .status();
            assert!(npm.await.expect("npm can be started").success(), "npm ci failed");
        })
        .await;
}

impl Neighbour {
    async fn start(server: &RedisServer, args: &[&str]) -> Self {
        installed().await;
        let mut child = Command::new("node")
            .arg(folder().join("neighbour.mjs"))
            .arg(server.port.to_string())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node can be started");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line that the service prints; `None` when it has ended.
    async fn next(&mut self) -> Option<serde_json::Value> {
        let line = tokio::time::timeout(Duration::from_secs(20), self.lines.next_line());
        let line = line.await.expect("the service says something").unwrap()?;
        Some(serde_json::from_str(&line).unwrap())
    }

    /// Tells the service to stop, and returns what it still prints.
    async fn stop(mut self) -> Vec<serde_json::Value> {
        drop(self.child.stdin.take());
        let mut rest = Vec::new();
        while let Some(line) = self.next().await {
            rest.push(line);
        }
        rest
    }
}

async fn service(server: &RedisServer) -> (TenantMessagingService, TenantContext) {
    let service = TenantMessagingService::new(Arc::new(server.broker().await));
    (service, TenantContext::trusted("acme").unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ioredis_worker_and_an_apix_worker_share_a_group() {
    const EVENTS: usize = 400;
    let server = RedisServer::start().await;
    let (service, ctx) = service(&server).await;
    let key = "tenant:acme:stream:jobs";
    let mut neighbour = Neighbour::start(&server, &["work", key, "processors", "node-1"]).await;
    assert_eq!(neighbour.next().await.unwrap()["ready"], true);

    let handled: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let stop = CancellationToken::new();
    let options = WorkerOptions { concurrency: 4, ..WorkerOptions::default() };
    let worker = Worker::new(service.clone(), ctx.clone(), "jobs", options).unwrap();
    let counted = Arc::clone(&handled);
    let handler = move |delivery: Delivery| {
        let counted = Arc::clone(&counted);
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(counted.lock().unwrap().insert(delivery.event.message_id.to_string()));
            Ok::<(), Rejection>(())
        }
    };
    let worker = tokio::spawn(worker.run(handler, stop.clone().cancelled_owned()));

    let mut added = BTreeSet::new();
    for n in 0..EVENTS {
        let event = Event::new("job", Json::encode(&n).unwrap());
        let id = service.add_event_to_stream(&ctx, "jobs", event).await.unwrap();
        added.insert(id.to_string());
    }
    let mut by_node = BTreeSet::new();
    loop {
        let settled = by_node.len() + handled.lock().unwrap().len();
        if settled == EVENTS {
            break;
        }
        if let Ok(line) = tokio::time::timeout(Duration::from_millis(50), neighbour.next()).await {
            let line = line.expect("the service goes on");
            assert_eq!(line["event"]["organizationId"], "acme");
            assert_eq!(line["event"]["eventType"], "job");
            assert!(by_node.insert(line["id"].as_str().unwrap().to_owned()));
        }
    }
    stop.cancel();
    worker.await.unwrap().unwrap();
    assert_eq!(neighbour.stop().await, Vec::<serde_json::Value>::new());

    let handled = handled.lock().unwrap().clone();
    assert!(!by_node.is_empty() && !handled.is_empty(), "both took part");
    assert!(by_node.is_disjoint(&handled), "each event went to one of them");
    assert_eq!(by_node.union(&handled).cloned().collect::<BTreeSet<_>>(), added);
    let stats = service.group_stats(&ctx, "jobs", "processors".parse().unwrap()).await.unwrap();
    assert_eq!((stats.pending, stats.lag, stats.dead_letters), (0, Some(0), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_ioredis_service_adds_is_handled_at_once() {
    let server = RedisServer::start().await;
    let (service, ctx) = service(&server).await;
    let mut neighbour =
        Neighbour::start(&server, &["add", "tenant:acme:stream:jobs", "acme", "25"]).await;
    let mut seen = Vec::new();
    while seen.len() < 25 {
        for delivery in
            service.process_events_from_stream(&ctx, "jobs", "worker", 10).await.unwrap()
        {
            assert_eq!(delivery.event.event_type, "neighbour.added");
            assert_eq!(delivery.event.payload.as_str(), format!(r#"{{"n":{}}}"#, seen.len()));
            seen.push(delivery.event.message_id.to_string());
            assert!(service.acknowledge_event(&ctx, "jobs", &delivery).await.unwrap());
        }
    }
    for id in seen {
        assert_eq!(neighbour.next().await.unwrap()["id"], id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_pass_between_ioredis_and_apix_both_ways() {
    let server = RedisServer::start().await;
    let (service, ctx) = service(&server).await;
    let channel = "tenant:acme:channel:news";
    let mut listener = Neighbour::start(&server, &["listen", channel]).await;
    assert_eq!(listener.next().await.unwrap()["ready"], true);
    let mut live = service.subscribe_to_realtime_messages(&ctx, "news").await.unwrap();

    let message = NewMessage::new("note", Json::parse(r#"{"big":9007199254740993}"#).unwrap());
    let reached = service.publish_realtime_message(&ctx, "news", message).await.unwrap();
    assert_eq!(reached, 2);
    let heard = listener.next().await.unwrap()["message"].as_str().unwrap().to_owned();
    assert!(heard.contains(r#""data":{"big":9007199254740993}"#), "{heard}");
    assert!(heard.contains(r#""organizationId":"acme""#), "{heard}");

    let mut publisher = Neighbour::start(&server, &["publish", channel, "just text"]).await;
    assert_eq!(publisher.next().await.unwrap()["receivers"], 2);
    let mut types = Vec::new();
    while types.len() < 2 {
        match live.recv().await.unwrap().unwrap() {
            LiveUpdate::Message(message) => {
                types
                    .push((message.message_type().to_string(), message.data().as_str().to_owned()));
            }
            missed @ LiveUpdate::Missed { .. } => panic!("{missed:?}"),
        }
    }
    assert_eq!(types[0].0, "note");
    assert_eq!(types[1], ("raw".to_owned(), "\"just text\"".to_owned()));
    assert_eq!(listener.stop().await.len(), 1);
}
