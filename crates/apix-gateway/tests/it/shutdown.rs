//! The shutdown finishes what was accepted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::bed::{Server, admin, config, memory, tenant, within};
use crate::live::Client;

#[tokio::test]
async fn waiting_reads_and_live_connections_end_at_once() {
    let mut server = Server::start().await;
    let token = admin(&tenant());
    let mut client = Client::connect(&server, &token).await;
    let sse = server.call(Method::GET, "/v1/channels/news/sse", &token).send().await.unwrap();
    let read = server
        .call(Method::POST, "/v1/streams/s/groups/g/read", &token)
        .json(&json!({ "consumer": "w", "waitMs": 30_000 }));
    let read = tokio::spawn(async move { read.send().await.unwrap().text().await.unwrap() });
    // The read has arrived when its group is there.
    crate::bed::eventually(|| async {
        (server.get("/v1/streams/s/groups/g", &token).await.status == 200).then_some(())
    })
    .await;
    let begun = Instant::now();
    server.stop();
    let told = client.next().await;
    assert_eq!(told["event"], "reconnect");
    assert!(told["data"]["delayMs"].as_u64().unwrap() <= 5_000);
    assert_eq!(client.closed().await, 4010);
    assert_eq!(within(read).await.unwrap(), r#"{"events":[]}"#);
    within(sse.bytes()).await.unwrap();
    server.stopped().await;
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn an_upload_finishes_what_was_read_and_says_where_to_go_on() {
    let mut server = Server::start().await;
    let token = admin(&tenant());
    let (sender, receiver) = mpsc::channel::<String>(1);
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (Ok::<_, std::io::Error>(piece), receiver))
    });
    let call = server
        .call(Method::POST, "/v1/streams/s/events", &token)
        .header("content-type", "application/x-ndjson")
        .body(Body::wrap_stream(pieces));
    let line = "{\"eventType\":\"t\",\"payload\":1}\n";
    sender.send(line.repeat(2)).await.unwrap();
    let response = within(call.send()).await.unwrap();
    let mut answers = response.bytes_stream();
    let mut text = String::new();
    while text.lines().count() < 2 {
        text.push_str(
            std::str::from_utf8(&within(answers.next()).await.unwrap().unwrap()).unwrap(),
        );
    }
    server.stop();
    let last = within(answers.next()).await.unwrap().unwrap();
    let last: Value = serde_json::from_slice(&last).unwrap();
    assert_eq!((&last["line"], &last["error"]["code"]), (&json!(3), &json!("shutting_down")));
    assert!(last["error"]["message"].as_str().unwrap().contains("send them again"));
    assert!(within(answers.next()).await.is_none());
    drop(sender);
    server.stopped().await;
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_cut() {
    let mut config = config();
    config.drain_timeout = Duration::from_millis(200);
    let mut server = Server::with(memory().await, config).await;
    let token = admin(&tenant());
    // A body that never ends.
    let stuck = futures_util::stream::pending::<Result<String, std::io::Error>>();
    let call = server
        .call(Method::POST, "/v1/streams/s/events", &token)
        .header("content-type", "application/json")
        .body(Body::wrap_stream(stuck));
    let call = tokio::spawn(call.send());
    // It is accepted for sure once a later one is answered.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.get("/healthz", "x").await.status, 200);
    server.stop();
    server.stopped().await;
    assert!(within(call).await.unwrap().is_err());
}

#[tokio::test]
async fn calls_in_flight_are_answered() {
    let mut server = Server::start().await;
    let token = admin(&tenant());
    let calls: Vec<_> = (0..50)
        .map(|n| {
            let call = server
                .call(Method::POST, "/v1/streams/s/events", &token)
                .json(&json!({ "eventType": "t", "payload": n }));
            tokio::spawn(call.send())
        })
        .collect();
    tokio::task::yield_now().await;
    server.stop();
    for call in calls {
        // Accepted and answered, or never accepted.
        if let Ok(response) = within(call).await.unwrap() {
            assert_eq!(response.status(), 201);
        }
    }
    server.stopped().await;
}

#[tokio::test]
async fn what_had_arrived_and_was_not_seen_yet_is_answered() {
    let mut server = Server::start().await;
    assert_eq!(server.get("/healthz", "x").await.status, 200);
    // Blocking, so that the server, which shares this thread, has not seen any of them.
    let sockets: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut socket = TcpStream::connect(server.addr).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            socket
        })
        .collect();
    server.stop();
    server.stopped().await;
    for mut socket in sockets {
        let mut response = String::new();
        socket.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200 OK"), "{response:?}");
    }
}
