//! What is written to the log, and what never is.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, OnceLock};

use apix::ErrorKind;
use serde_json::json;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Metadata, Subscriber};

use crate::bed::{Server, admin, config, tenant};
use crate::failing::Failing;
use crate::live::Client;

/// Keeps every event of this thread, of all levels and crates, as a line.
#[derive(Clone)]
pub(crate) struct Recorder(Arc<Mutex<Vec<String>>>);

impl Default for Recorder {
    fn default() -> Self {
        // While a process has a single subscriber, what a thread without one logs first counts as
        // something that nobody wants to know, in other threads too.
        static OTHERS: OnceLock<[Dispatch; 2]> = OnceLock::new();
        let other = || Dispatch::new(Self(Arc::default()));
        OTHERS.get_or_init(|| [other(), other()]);
        Self(Arc::default())
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line(format!("{} {}", metadata.level(), metadata.target()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Recorder {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn tokens_and_payloads_are_never_logged() {
    let recorder = Recorder::default();
    let _recording = tracing::subscriber::set_default(recorder.clone());
    let server = Server::start().await;
    let right = admin(&tenant());
    for token in [right.as_str(), "no-such-key-topsecret", "a.topsecret.c"] {
        server.get("/v1/streams", token).await;
        server.get(&format!("/v1/channels/news/sse?token={token}&x=1"), "wrong-topsecret").await;
        let url = format!("ws://{}/v1/ws", server.addr);
        drop(connect_async(format!("{url}?token={token}")).await);
        let mut offering = url.as_str().into_client_request().unwrap();
        let offered = format!("apix.v1, bearer.{token}").parse().unwrap();
        offering.headers_mut().insert("sec-websocket-protocol", offered);
        drop(connect_async(offering).await);
        let event = json!({ "eventType": "", "payload": "payload-topsecret" });
        server.post("/v1/streams/s/events", token, event).await;
    }
    let tickets = use_tickets_and_renew(&server, &right).await;
    let lines = recorder.lines();
    let ours = lines.iter().filter(|line| line.contains("call refused")).count();
    assert!(ours >= 9, "{lines:#?}");
    let secrets: Vec<&str> = std::iter::once("topsecret")
        .chain([&right].into_iter().chain(&tickets).filter_map(|token| token.rsplit('.').next()))
        .collect();
    assert_eq!(secrets.len(), 5);
    for line in &lines {
        // The client of the tests logs in this thread too: what it says of its own requests is
        // no log of the server.
        let of_client = [" reqwest::", " hyper_util::client::"];
        if !of_client.iter().any(|target| line.contains(target)) {
            assert!(!secrets.iter().any(|secret| line.contains(secret)), "{line}");
        }
    }
}

/// Uses tickets on both faces, some twice, and renews a connection by right and wrong tokens.
async fn use_tickets_and_renew(server: &Server, right: &str) -> Vec<String> {
    let mut tickets = Vec::new();
    for _ in 0..3 {
        let issued = server.post("/v1/tickets", right, json!({})).await.json();
        tickets.push(issued["ticket"].as_str().unwrap().to_owned());
    }
    for _ in 0..2 {
        drop(connect_async(format!("ws://{}/v1/ws?ticket={}", server.addr, tickets[0])).await);
        let path = format!("/v1/channels/news/sse?ticket={}", tickets[1]);
        drop(server.client.get(server.url(&path)).send().await);
    }
    let wrong = format!("/v1/channels/news/sse?ticket={}", tickets[2]);
    assert_eq!(server.get(&wrong, right).await.status, 400);
    let mut client = Client::connect(server, right).await;
    for (token, event) in
        [(right, "ack"), ("a.topsecret.c", "exception"), ("topsecret", "exception")]
    {
        assert_eq!(client.ask("renew", json!({ "token": token })).await["event"], event);
    }
    let payload = json!({ "channel": "news", "type": "t", "data": "payload-topsecret" });
    client.ask("publish", payload).await;
    tickets
}

#[tokio::test]
async fn a_failed_call_is_one_line_with_its_cause() {
    let recorder = Recorder::default();
    let _recording = tracing::subscriber::set_default(recorder.clone());
    let server = Server::with(Arc::new(Failing::With(ErrorKind::Unavailable)), config()).await;
    let event = json!({ "eventType": "t", "payload": 1 });
    let answer = server.post("/v1/streams/orders/events", &admin(&tenant()), event).await;
    let id = answer.header("x-request-id");
    let lines = recorder.lines();
    let of_call: Vec<_> = lines.iter().filter(|line| line.contains(id)).collect();
    assert_eq!(of_call.len(), 1, "{lines:#?}");
    for part in [
        "WARN",
        "method=POST",
        "path=\"/v1/streams/{stream}/events\"",
        "status=503",
        "code=\"unavailable\"",
        "elapsed_ms=",
        "a secret of the inside",
    ] {
        assert!(of_call[0].contains(part), "{part}: {}", of_call[0]);
    }
}
