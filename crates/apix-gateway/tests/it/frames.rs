//! The edges of RFC 6455, over raw TCP.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bed::{Server, admin, config, eventually, memory, tenant, within};

const TEXT: u8 = 1;
const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = header(first, payload.len() as u64, true);
    let mask = [1, 2, 3, 4];
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

fn header(first: u8, length: u64, masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut out = vec![first];
    match length {
        0..126 => out.push(mask | length as u8),
        126..0x1_0000 => {
            out.push(mask | 126);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(mask | 127);
            out.extend(length.to_be_bytes());
        }
    }
    out
}

struct Raw {
    stream: TcpStream,
}

impl Raw {
    async fn open(server: &Server, token: &str) -> Self {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let request = format!(
            "GET /v1/ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(stream.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // The key of the RFC's own example, and its answer.
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        let mut raw = Self { stream };
        assert_eq!(raw.next_json().await["event"], "connected");
        raw
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame: its first byte, and its payload.
    async fn next(&mut self) -> (u8, Vec<u8>) {
        within(async {
            let first = self.stream.read_u8().await.unwrap();
            let length = match self.stream.read_u8().await.unwrap() {
                126 => u64::from(self.stream.read_u16().await.unwrap()),
                127 => self.stream.read_u64().await.unwrap(),
                length => u64::from(length),
            };
            let mut payload = vec![0; length as usize];
            self.stream.read_exact(&mut payload).await.unwrap();
            (first, payload)
        })
        .await
    }

    /// The next frame that is no ping.
    async fn next_answer(&mut self) -> (u8, Vec<u8>) {
        loop {
            let (first, payload) = self.next().await;
            if first != FIN | PING {
                return (first, payload);
            }
        }
    }

    async fn next_json(&mut self) -> Value {
        let (first, payload) = self.next_answer().await;
        assert_eq!(first, FIN | TEXT);
        serde_json::from_slice(&payload).unwrap()
    }

    /// The code that the server closes with.
    async fn closed(&mut self) -> u16 {
        loop {
            let (first, payload) = self.next_answer().await;
            if first == FIN | CLOSE {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }
}

fn subscribe() -> Vec<u8> {
    json!({ "event": "subscribe_updates", "id": 1, "data": { "channels": ["news"] } })
        .to_string()
        .into_bytes()
}

#[tokio::test]
async fn fragments_are_put_together_with_control_frames_between_them() {
    let server = Server::start().await;
    let mut raw = Raw::open(&server, &admin(&tenant())).await;
    let text = subscribe();
    raw.send(&frame(TEXT, &text[..10])).await;
    raw.send(&frame(FIN | PING, b"between")).await;
    raw.send(&frame(CONTINUATION, b"")).await;
    raw.send(&frame(FIN | PONG, b"not asked for")).await;
    raw.send(&frame(CONTINUATION, &text[10..20])).await;
    assert_eq!(raw.next_answer().await, (FIN | PONG, b"between".to_vec()));
    raw.send(&frame(FIN | CONTINUATION, &text[20..])).await;
    assert_eq!(raw.next_json().await["event"], "ack");
    // A byte at a time.
    for byte in frame(FIN | TEXT, &text) {
        raw.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.next_json().await["event"], "ack");
    // A character over two fragments.
    let text = r#"{"event":"ü"}"#.as_bytes();
    raw.send(&frame(TEXT, &text[..11])).await;
    raw.send(&frame(FIN | CONTINUATION, &text[11..])).await;
    let answer = raw.next_json().await;
    assert!(answer["data"]["message"].as_str().unwrap().contains('ü'), "{answer}");
    // A goodbye is answered with its code.
    raw.send(&frame(FIN | CLOSE, &1000_u16.to_be_bytes())).await;
    assert_eq!(raw.closed().await, 1000);
}

#[tokio::test]
async fn what_breaks_the_protocol_is_closed_with_the_code_of_its_fault() {
    let mut config = config();
    config.live.max_frame_bytes = 1_000;
    let server = Server::with(memory().await, config).await;
    let token = admin(&tenant());
    let unmasked = [header(FIN | TEXT, 2, false), b"{}".to_vec()].concat();
    let split_character = [frame(TEXT, b"\xc3"), frame(FIN | CONTINUATION, b"{")].concat();
    let twice = [frame(TEXT, b"{"), frame(FIN | TEXT, b"}")].concat();
    let parts = [frame(TEXT, &[b' '; 600]), frame(FIN | CONTINUATION, &[b' '; 600])].concat();
    let endless = [header(FIN | TEXT, 1 << 60, true), vec![0; 100]].concat();
    for (what, bytes, code) in [
        ("unmasked", unmasked, 1002),
        ("a bit that is reserved", frame(FIN | 0x40 | TEXT, b"{}"), 1002),
        ("an opcode that is reserved", frame(FIN | 3, b"{}"), 1002),
        ("a control opcode that is reserved", frame(FIN | 11, b""), 1002),
        ("a ping in fragments", frame(PING, b"half"), 1002),
        ("a ping that is too long", frame(FIN | PING, &[0; 126]), 1002),
        ("a continuation of nothing", frame(FIN | CONTINUATION, b"{}"), 1002),
        ("a message within another", twice, 1002),
        ("no UTF-8", frame(FIN | TEXT, b"\"\xff\""), 1007),
        ("half a character", split_character, 1007),
        ("too large", frame(FIN | TEXT, &[b' '; 1_001]), 1009),
        ("too large by what it says", endless, 1009),
        ("too large in parts", parts, 1009),
    ] {
        let mut raw = Raw::open(&server, &token).await;
        raw.send(&bytes).await;
        assert_eq!(raw.closed().await, code, "{what}");
    }
    let mut raw = Raw::open(&server, &token).await;
    raw.send(&frame(FIN | TEXT, &[b' '; 1_000])).await;
    assert_eq!(raw.next_json().await["event"], "exception");
}

#[tokio::test]
async fn half_a_handshake_and_half_a_frame_hold_nothing() {
    let mut config = config();
    config.http.header_timeout = Duration::from_millis(300);
    let server = Server::with(memory().await, config).await;
    let token = admin(&tenant());
    let mut slow = TcpStream::connect(server.addr).await.unwrap();
    slow.write_all(b"GET /v1/ws HTTP/1.1\r\nhost: x\r\nupgr").await.unwrap();
    let mut rest = Vec::new();
    within(slow.read_to_end(&mut rest)).await.unwrap();
    assert!(!rest.starts_with(b"HTTP/1.1 101"));
    let mut raw = Raw::open(&server, &token).await;
    raw.send(&frame(FIN | TEXT, &subscribe())[..20]).await;
    drop(raw);
    eventually(|| async {
        let all = server.get("/v1/connections", &token).await.json();
        (all["connections"] == json!([])).then_some(())
    })
    .await;
}

/// Frames of every kind: right ones, broken ones, and bytes that are none.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let event = prop_oneof![
        Just("subscribe_updates"),
        Just("unsubscribe_updates"),
        Just("publish"),
        Just("renew"),
        Just("x"),
    ];
    let data = prop_oneof![
        Just(json!({ "channels": ["a", "b:1", "a/b", 5, null] })),
        Just(json!({ "channels": ["a", { "channel": "b", "since": "5-0", "presence": true }] })),
        Just(json!({ "channels": [{ "channel": "c", "organizationId": "other" }] })),
        Just(json!({ "channel": "a", "type": "t", "data": { "n": 1 } })),
        Just(json!({ "token": "no token" })),
        Just(json!([[[[]]]])),
        ".{0,40}".prop_map(Value::from),
    ];
    let right = (event, data, any::<u32>()).prop_map(|(event, data, id)| {
        let text = json!({ "event": event, "data": data, "id": id }).to_string();
        frame(FIN | TEXT, text.as_bytes())
    });
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        6 => right,
        2 => (any::<u8>(), bytes.clone()).prop_map(|(first, payload)| frame(first, &payload)),
        1 => ".{0,100}".prop_map(|text| frame(FIN | TEXT, text.as_bytes())),
        1 => bytes,
    ]
}

/// However a client behaves, the server stays well and keeps nothing of it.
#[test]
fn no_frames_whatever_harm_the_server() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (server, token) = runtime.block_on(async { (Server::start().await, admin(&tenant())) });
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let frames = prop::collection::vec(anything(), 1..20);
    let ran = runner.run(&frames, |frames| {
        runtime.block_on(async {
            let mut raw = Raw::open(&server, &token).await;
            for frame in &frames {
                // It may have closed before the last one.
                if raw.stream.write_all(frame).await.is_err() {
                    break;
                }
            }
        });
        Ok(())
    });
    ran.unwrap();
    runtime.block_on(async {
        eventually(|| async {
            let all = server.get("/v1/connections", &token).await.json();
            (all["connections"] == json!([])).then_some(())
        })
        .await;
        let mut raw = Raw::open(&server, &token).await;
        raw.send(&frame(FIN | TEXT, &subscribe())).await;
        assert_eq!(raw.next_json().await["event"], "ack");
        drop(raw);
        drop(server);
    });
}
