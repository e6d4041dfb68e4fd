//! What clients were told while servers were being killed, and whether it still holds.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::server::http;

const STREAM: &str = "ledger";
const GROUP: &str = "checkers";
const LEASE_MS: u64 = 1_000;
const BATCH: u64 = 20;

/// What one event says of itself: who sent it, the how manieth it is, how it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
struct Mark {
    by: u64,
    n: u64,
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    message_id: String,
    payload: Mark,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Handed {
    message_id: String,
    delivery_count: u64,
    payload: Mark,
}

/// Clients at work, and all that they were told.
pub(crate) struct Ledger {
    url: watch::Sender<String>,
    told: Arc<Told>,
    producers: JoinSet<()>,
    workers: JoinSet<()>,
}

#[derive(Default)]
struct Told {
    stop_adding: AtomicBool,
    stop_reading: AtomicBool,
    /// Returned ids, with what was sent.
    ids: Mutex<HashMap<String, Mark>>,
    /// How often each id was received by a worker.
    handed: Mutex<HashMap<String, u64>>,
    /// Events whose acknowledgement was answered.
    acknowledged: Mutex<HashSet<String>>,
    /// Received more than once, though never acknowledged before.
    redelivered: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Ledger {
    /// Sets up the group and starts the clients.
    pub(crate) async fn open(url: &str) -> Self {
        let settings = json!({
            "leaseMs": LEASE_MS,
            "maxDeliveries": 1_000_000,
            "backoff": {"baseMs": 10, "maxMs": 50},
        });
        let address = format!("{url}/v1/streams/{STREAM}/groups/{GROUP}");
        let made = http().put(address).json(&settings).send().await.unwrap();
        assert!(made.status().is_success(), "{}", made.text().await.unwrap());
        let mut ledger = Self {
            url: watch::Sender::new(url.to_owned()),
            told: Arc::default(),
            producers: JoinSet::new(),
            workers: JoinSet::new(),
        };
        for by in 0..12 {
            let kind = ["plain", "keyed", "batch"][usize::try_from(by % 3).unwrap()];
            let client = ledger.client();
            ledger.producers.spawn(async move { client.produce(by, kind).await });
        }
        for by in 0..3 {
            let client = ledger.client();
            ledger.workers.spawn(async move { client.work(by).await });
        }
        ledger
    }

    fn client(&self) -> Client {
        Client { http: http(), url: self.url.subscribe(), told: Arc::clone(&self.told) }
    }

    /// Where the server is now.
    pub(crate) fn moved_to(&self, url: &str) {
        self.url.send_replace(url.to_owned());
    }

    /// Waits until so many more ids were returned, so that there is a load to be killed under.
    pub(crate) async fn add_more(&self, count: usize) {
        let wanted = self.returned() + count;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.returned() < wanted {
            assert!(Instant::now() < deadline, "no events are being added");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn returned(&self) -> usize {
        self.told.ids.lock().unwrap().len()
    }

    /// Stops the clients once everything was handled, and checks everything that they were told.
    pub(crate) async fn close(mut self) {
        self.told.stop_adding.store(true, Ordering::Release);
        while self.producers.join_next().await.transpose().unwrap().is_some() {}
        let stored = self.stored().await;
        self.await_all_handled(&stored).await;
        self.told.stop_reading.store(true, Ordering::Release);
        while self.workers.join_next().await.transpose().unwrap().is_some() {}
        assert_eq!(*self.told.faults.lock().unwrap(), Vec::<String>::new());
        self.check(&stored);
        let redelivered = self.told.redelivered.load(Ordering::Acquire);
        assert!(redelivered > 0, "nothing was redelivered: the kills hit nobody");
    }

    async fn stored(&self) -> Vec<Stored> {
        let address = format!("{}/v1/streams/{STREAM}/events", *self.url.borrow());
        let answer =
            http().get(address).header("accept", "application/x-ndjson").send().await.unwrap();
        assert!(answer.status().is_success());
        let text = answer.text().await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Every stored event must come to a worker: those that were not acknowledged come again.
    async fn await_all_handled(&self, stored: &[Stored]) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let address = format!("{}/v1/streams/{STREAM}/groups/{GROUP}", *self.url.borrow());
        loop {
            let stats: Value = http().get(&address).send().await.unwrap().json().await.unwrap();
            let missing = self.never_delivered(stored);
            if missing.is_none() && stats["pending"] == 0 && stats["parked"] == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "never delivered: {missing:?}; {stats}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn never_delivered(&self, stored: &[Stored]) -> Option<String> {
        let handed = self.told.handed.lock().unwrap();
        let missing = stored.iter().find(|one| !handed.contains_key(&one.message_id));
        missing.map(|one| one.message_id.clone())
    }

    fn check(&self, stored: &[Stored]) {
        let kept: HashMap<&str, &Mark> =
            stored.iter().map(|one| (one.message_id.as_str(), &one.payload)).collect();
        assert_eq!(kept.len(), stored.len(), "an id is in the stream twice");
        let ids = self.told.ids.lock().unwrap();
        for (id, mark) in &*ids {
            assert_eq!(kept.get(id.as_str()), Some(&mark), "{id} was returned, and is lost");
        }
        let marks: HashSet<&Mark> = stored.iter().map(|one| &one.payload).collect();
        assert_eq!(marks.len(), stored.len(), "an event is in the stream twice");
        let number = |id: &str| -> (u64, u64) {
            let (ms, seq) = id.split_once('-').unwrap();
            (ms.parse().unwrap(), seq.parse().unwrap())
        };
        assert!(stored.is_sorted_by_key(|one| number(&one.message_id)), "ids do not grow");
        let mut batches: HashMap<(u64, u64), u64> = HashMap::new();
        for mark in marks.iter().filter(|mark| mark.kind == "batch") {
            *batches.entry((mark.by, mark.n / BATCH)).or_default() += 1;
        }
        let torn = batches.iter().find(|(_, count)| **count != BATCH);
        assert_eq!(torn, None, "a batch was added in part");
        let acknowledged = self.told.acknowledged.lock().unwrap();
        assert!(acknowledged.iter().all(|id| kept.contains_key(id.as_str())));
    }
}

/// One client: it survives everything and writes down what it was told.
struct Client {
    http: reqwest::Client,
    url: watch::Receiver<String>,
    told: Arc<Told>,
}

impl Client {
    async fn call(&self, path: &str, body: &Value) -> Option<Value> {
        let url = self.url.borrow().clone();
        let address = format!("{url}/v1/streams/{STREAM}/{path}");
        let answer = self.http.post(address).json(body).send().await.ok()?;
        let status = answer.status();
        let text = answer.text().await.ok()?;
        if status.is_success() {
            return Some(serde_json::from_str(&text).unwrap());
        }
        // Only what a dying or absent broker explains.
        if !matches!(status.as_u16(), 500 | 503 | 504) && !text.contains("lease_lost") {
            self.told.faults.lock().unwrap().push(format!("{path}: {status} {text}"));
        }
        None
    }

    async fn produce(self, by: u64, kind: &str) {
        let mut n = 0;
        while !self.told.stop_adding.load(Ordering::Acquire) {
            match kind {
                "batch" => {
                    self.add_batch(by, n).await;
                    n += BATCH;
                }
                "keyed" => {
                    let key = format!("{by}-{n}");
                    // The same key until there is an answer: it must not be added twice.
                    while !self.add_one(by, n, kind, Some(&key)).await {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    n += 1;
                }
                _ => {
                    // Sent once and never again: in the stream at most once.
                    self.add_one(by, n, kind, None).await;
                    n += 1;
                }
            }
        }
    }

    async fn add_one(&self, by: u64, n: u64, kind: &str, key: Option<&str>) -> bool {
        let mut event = event(by, n, kind);
        if let Some(key) = key {
            event["idempotencyKey"] = key.into();
        }
        let Some(answer) = self.call("events", &event).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            return false;
        };
        self.returned(&answer["messageId"], by, n, kind);
        true
    }

    async fn add_batch(&self, by: u64, first: u64) {
        let batch: Vec<Value> = (first..first + BATCH).map(|n| event(by, n, "batch")).collect();
        let Some(answer) = self.call("events", &batch.into()).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            return;
        };
        for (n, id) in (first..).zip(answer["messageIds"].as_array().unwrap()) {
            self.returned(id, by, n, "batch");
        }
    }

    fn returned(&self, id: &Value, by: u64, n: u64, kind: &str) {
        let id = id.as_str().unwrap().to_owned();
        let mark = Mark { by, n, kind: kind.to_owned() };
        let before = self.told.ids.lock().unwrap().insert(id.clone(), mark.clone());
        if let Some(other) = before {
            let fault = format!("{id} was returned for {other:?} and {mark:?}");
            self.told.faults.lock().unwrap().push(fault);
        }
    }

    async fn work(self, by: u64) {
        let read = json!({"consumer": format!("worker-{by}"), "count": 50, "waitMs": 100});
        while !self.told.stop_reading.load(Ordering::Acquire) {
            let Some(answer) = self.call(&format!("groups/{GROUP}/read"), &read).await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let events: Vec<Handed> = serde_json::from_value(answer["events"].clone()).unwrap();
            let finished: Vec<&str> = events.iter().filter_map(|one| self.received(one)).collect();
            if finished.is_empty() {
                continue;
            }
            let ack = json!({"messageIds": finished});
            if self.call(&format!("groups/{GROUP}/ack"), &ack).await.is_some() {
                let finished = finished.into_iter().map(str::to_owned);
                self.told.acknowledged.lock().unwrap().extend(finished);
            }
        }
    }

    /// Writes a delivery down. `Some` if it is to be acknowledged: every third event is left to
    /// its lease the first time.
    fn received<'a>(&self, delivery: &'a Handed) -> Option<&'a str> {
        let mut handed = self.told.handed.lock().unwrap();
        let times = handed.entry(delivery.message_id.clone()).or_default();
        *times += 1;
        if delivery.delivery_count < *times {
            let fault = format!(
                "{} was handed out {times} times and says {}",
                delivery.message_id, delivery.delivery_count
            );
            self.told.faults.lock().unwrap().push(fault);
        }
        let acknowledged = self.told.acknowledged.lock().unwrap();
        if *times > 1 && !acknowledged.contains(&delivery.message_id) {
            self.told.redelivered.fetch_add(1, Ordering::AcqRel);
        }
        (!delivery.payload.n.is_multiple_of(3) || *times > 1).then_some(&*delivery.message_id)
    }
}

fn event(by: u64, n: u64, kind: &str) -> Value {
    json!({"eventType": "mark", "payload": {"by": by, "n": n, "kind": kind}})
}
