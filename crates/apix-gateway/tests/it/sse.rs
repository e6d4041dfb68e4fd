//! Live clients by Server-Sent Events.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::bed::{Answer, Server, admin, config, memory, tenant, within};
use crate::live::{hybrid, publish};

/// One event of a stream of Server-Sent Events.
#[derive(Debug, Default, PartialEq)]
struct Sse {
    event: String,
    id: Option<String>,
    data: String,
}

struct SseReader {
    bytes:
        std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
}

impl SseReader {
    async fn open(server: &Server, path: &str, token: &str, last_id: Option<&str>) -> Self {
        let mut call = server.call(Method::GET, path, token);
        if let Some(id) = last_id {
            call = call.header("last-event-id", id);
        }
        let response = within(call.send()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { bytes: Box::pin(response.bytes_stream()), text: String::new() }
    }

    /// The next block; nothing when the stream has ended.
    async fn next(&mut self) -> Option<Sse> {
        let end = loop {
            if let Some(end) = self.text.find("\n\n") {
                break end;
            }
            let piece = within(self.bytes.next()).await?.ok()?;
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        };
        let block: String = self.text.drain(..end + 2).collect();
        let mut event = Sse::default();
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("event", value)) => value.clone_into(&mut event.event),
                Some(("id", value)) => event.id = Some(value.to_owned()),
                Some(("data", value)) => event.data.push_str(value),
                _ => {}
            }
        }
        Some(event)
    }
}

#[tokio::test]
async fn server_sent_events_resume_from_their_last_id() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let path = "/v1/channels/notifications/sse";
    hybrid(&server, &token, json!("before")).await;
    let mut events = SseReader::open(&server, path, &token, None).await;
    let first_id = events.next().await.unwrap().id.unwrap();
    publish(&server, &token, "notifications", json!("unstored")).await;
    let event = events.next().await.unwrap();
    assert_eq!((event.event.as_str(), event.id), ("realtime_update", None));
    let id = hybrid(&server, &token, json!(0)).await;
    let event = events.next().await.unwrap();
    let data: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!((&data["messageId"], &data["data"]), (&json!(id), &json!(0)));
    let last_id = event.id.unwrap();
    drop(events);
    for n in 1..=250 {
        hybrid(&server, &token, json!(n)).await;
    }
    // Each id is where the client stood then, also in the middle of what is caught up.
    let mut events = SseReader::open(&server, path, &token, Some(&last_id)).await;
    assert_eq!(events.next().await.unwrap().id.as_deref(), Some(last_id.as_str()));
    let mut middle = String::new();
    for n in 1..=250 {
        let event = events.next().await.unwrap();
        let data: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(data["data"], n);
        if n == 100 {
            middle = event.id.unwrap();
        }
    }
    let mut events = SseReader::open(&server, path, &token, Some(&middle)).await;
    events.next().await.unwrap();
    let data: Value = serde_json::from_str(&events.next().await.unwrap().data).unwrap();
    assert_eq!(data["data"], 101);
    // The very first id brings everything since the first connection.
    let mut events = SseReader::open(&server, path, &token, Some(&first_id)).await;
    events.next().await.unwrap();
    let data: Value = serde_json::from_str(&events.next().await.unwrap().data).unwrap();
    assert_eq!(data["data"], 0);
}

#[tokio::test]
async fn server_sent_events_take_a_token_in_the_query_and_tell_what_is_wrong() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let with_query = format!("/v1/channels/news/sse?token={token}");
    let open = server.client.get(server.url(&with_query)).send().await.unwrap();
    assert_eq!(open.status(), 200);
    let call = server
        .call(Method::GET, "/v1/channels/news/sse", &token)
        .header("last-event-id", "5-0")
        .send();
    let answer = Answer::of(call.await.unwrap()).await;
    assert_eq!(answer.code(), "invalid_request");
    assert!(answer.message().contains("Last-Event-ID"), "{}", answer.text);
    let none = crate::bed::token(&tenant(), &["channels:publish:*"]);
    let answer = server.get("/v1/channels/news/sse", &none).await;
    assert_eq!(answer.code(), "permission_denied");
}

#[tokio::test]
async fn quiet_server_sent_events_carry_comments() {
    let mut config = config();
    config.live.ping_interval = Duration::from_millis(50);
    let server = Server::with(memory().await, config).await;
    let mut events =
        SseReader::open(&server, "/v1/channels/news/sse", &admin(&tenant()), None).await;
    events.next().await.unwrap();
    assert_eq!(events.next().await.unwrap(), Sse::default());
}
