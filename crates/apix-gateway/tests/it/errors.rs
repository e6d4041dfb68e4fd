//! Every error code is provoked over HTTP, and its message tells what would be right.

use std::sync::Arc;
use std::time::Duration;

use apix::ErrorKind;
use apix_gateway::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bed::{Answer, Server, admin, config, memory, tenant, token};
use crate::failing::Failing;

const EVENTS: &str = "/v1/streams/orders/events";

fn event() -> Value {
    json!({ "eventType": "order.paid", "payload": { "id": 1 } })
}

/// An answer that was read, with what its message must say.
type Provoked = (Answer, &'static str);

#[tokio::test]
async fn every_code_can_be_provoked_and_its_message_helps() {
    let server = Server::start().await;
    for code in ErrorCode::ALL {
        let (answer, helps) = provoke(&server, code).await;
        assert_eq!(answer.code(), code.as_str(), "{}", answer.text);
        assert_eq!(answer.status, code.status(), "{}", answer.text);
        assert!(answer.message().contains(helps), "{}: {}", code.as_str(), answer.text);
        assert!(!answer.text.contains("secret"), "{}", answer.text);
        match code.status() {
            401 => assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"apix\""),
            405 => assert_eq!(answer.header("allow"), "GET,HEAD,POST"),
            429 | 503 => assert_eq!(answer.header("retry-after"), "1"),
            _ => {}
        }
    }
}

async fn provoke(server: &Server, code: ErrorCode) -> Provoked {
    match code {
        ErrorCode::InvalidName => {
            let answer = server.post("/v1/streams/a%2Fb/events", &admin(&tenant()), event()).await;
            (answer, "1 to 128 characters of A-Z a-z 0-9 . _ - :")
        }
        ErrorCode::InvalidRequest => {
            let wrong = json!({ "eventTyp": "order.paid" });
            (server.post(EVENTS, &admin(&tenant()), wrong).await, "expected one of `eventType`")
        }
        ErrorCode::Unauthorized => {
            let call = server.client.get(server.url("/v1/streams"));
            (Answer::of(call.send().await.unwrap()).await, "Authorization: Bearer TOKEN")
        }
        ErrorCode::PermissionDenied => {
            let token = token(&tenant(), &["streams:read:*"]);
            (server.post(EVENTS, &token, event()).await, "'streams:write:orders'")
        }
        ErrorCode::TenantMismatch => {
            let foreign =
                json!({ "eventType": "t", "payload": 1, "organizationId": "somebody-else" });
            (server.post(EVENTS, &admin(&tenant()), foreign).await, "leave it out")
        }
        ErrorCode::ReservedName => {
            let answer = server.post("/v1/streams/audit/events", &admin(&tenant()), event()).await;
            (answer, "choose another name")
        }
        ErrorCode::NotFound => (server.get("/v2/streams", "x").await, "/openapi.json"),
        ErrorCode::MethodNotAllowed => (server.put(EVENTS, "x", json!({})).await, "Allow"),
        ErrorCode::IdempotencyConflict => conflicting_key(server).await,
        ErrorCode::LeaseLost => lost_lease(server).await,
        ErrorCode::SinceAmbiguous => ambiguous(server).await,
        ErrorCode::TooLarge => {
            let large = json!({ "eventType": "t", "payload": "x".repeat(1 << 20) });
            (server.post(EVENTS, &admin(&tenant()), large).await, "the limit is 1048576")
        }
        ErrorCode::Limit => no_more_connections().await,
        ErrorCode::UnsupportedMediaType => {
            let answer = server.post_text(EVENTS, &admin(&tenant()), "text/csv", "a,b").await;
            (answer, "application/x-ndjson")
        }
        ErrorCode::Unsupported => {
            let later = json!({ "eventType": "t", "payload": 1, "delayMs": 5 });
            (server.post(EVENTS, &admin(&tenant()), later).await, "leave the field out")
        }
        ErrorCode::HostNotAllowed => other_host().await,
        ErrorCode::RequestTimeout => slow_body().await,
        ErrorCode::Unavailable => silent_broker().await,
        ErrorCode::ShuttingDown => (stopping().await, "the server is stopping"),
        ErrorCode::Internal => failing(Failing::Panicking, "requestId").await,
        ErrorCode::Conflict => of_broker(ErrorKind::Conflict).await,
        ErrorCode::Corrupt => of_broker(ErrorKind::Corrupt).await,
        ErrorCode::DurabilityUnmet => of_broker(ErrorKind::DurabilityUnmet).await,
        ErrorCode::StorageFull => of_broker(ErrorKind::StorageFull).await,
        other => panic!("no test provokes {}", other.as_str()),
    }
}

async fn conflicting_key(server: &Server) -> Provoked {
    let token = admin(&tenant());
    let with =
        |payload: u32| json!({ "eventType": "t", "payload": payload, "idempotencyKey": "k" });
    server.add("orders", &token, with(1)).await;
    (server.post(EVENTS, &token, with(2)).await, "idempotency key")
}

async fn lost_lease(server: &Server) -> Provoked {
    let token = admin(&tenant());
    let id = server.add("orders", &token, event()).await;
    assert_eq!(server.read("orders", &token, "w1").await.len(), 1);
    let ack = json!({ "messageIds": [id], "consumer": "w2" });
    (server.post("/v1/streams/orders/groups/processors/ack", &token, ack).await, "is not held by")
}

async fn ambiguous(server: &Server) -> Provoked {
    let token = admin(&tenant());
    for stream in ["payments", "refunds"] {
        let options = json!({ "streamName": stream, "realtimeChannel": "money" });
        let hybrid = json!({ "eventType": "t", "payload": 1, "options": options });
        assert_eq!(server.post("/v1/hybrid-events", &token, hybrid).await.status, 201);
    }
    (server.get("/v1/channels/money/sse?since=5-0", &token).await, "give a position for each")
}

async fn no_more_connections() -> Provoked {
    let mut config = config();
    config.live.max_tenant_connections = Some(0);
    let server = Server::with(memory().await, config).await;
    let answer = server.get("/v1/channels/news/sse", &admin(&tenant())).await;
    (answer, "as many live connections as it may have")
}

async fn other_host() -> Provoked {
    let mut config = config();
    config.http.allowed_hosts = Some(vec!["localhost".to_owned(), "[::1]".to_owned()]);
    let server = Server::with(crate::bed::memory().await, config).await;
    let with_host =
        |host: &'static str| server.client.get(server.url("/healthz")).header("host", host);
    for right in ["localhost", "LOCALHOST:2749", "[::1]:80"] {
        assert_eq!(with_host(right).send().await.unwrap().status(), 200);
    }
    (Answer::of(with_host("evil.example:2749").send().await.unwrap()).await, "localhost, [::1]")
}

async fn slow_body() -> Provoked {
    let mut config = config();
    config.http.body_timeout = Duration::from_millis(50);
    let server = Server::with(crate::bed::memory().await, config).await;
    let mut socket = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "POST {EVENTS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
        admin(&tenant())
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    crate::bed::within(socket.read_to_end(&mut response)).await.unwrap();
    (raw_answer(&response), "send it faster")
}

/// A response as its bytes, of which the connection was closed behind it.
fn raw_answer(response: &[u8]) -> Answer {
    let text = std::str::from_utf8(response).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
    Answer { status, headers, text: body.to_owned() }
}

async fn silent_broker() -> Provoked {
    let mut config = config();
    config.http.request_timeout = Duration::from_millis(50);
    let server = Server::with(Arc::new(Failing::NeverAnswering), config).await;
    (
        server.post(EVENTS, &admin(&tenant()), event()).await,
        "whether the call took effect is unknown",
    )
}

/// A call on a connection that was accepted before the shutdown, which another call keeps open.
async fn stopping() -> Answer {
    let mut server = Server::start().await;
    let token = admin(&tenant());
    let mut socket = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let begin = format!("GET /readyz HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
    socket.write_all(begin.as_bytes()).await.unwrap();
    // The connection is known to be accepted once the second one on it is answered.
    let first = server.client.get(server.url("/healthz")).send().await.unwrap();
    assert_eq!(first.status(), 200);
    server.stop();
    crate::bed::eventually(|| async {
        tokio::net::TcpStream::connect(server.addr).await.is_err().then_some(())
    })
    .await;
    socket.write_all(b"\r\n").await.unwrap();
    let mut response = Vec::new();
    crate::bed::within(socket.read_to_end(&mut response)).await.unwrap();
    raw_answer(&response)
}

async fn of_broker(kind: ErrorKind) -> Provoked {
    failing(Failing::With(kind), kind.code()).await
}

async fn failing(broker: Failing, helps: &'static str) -> Provoked {
    let server = Server::with(Arc::new(broker), config()).await;
    (server.post(EVENTS, &admin(&tenant()), event()).await, helps)
}

#[tokio::test]
async fn a_broker_that_fails_is_told_by_readyz_and_not_by_healthz() {
    let server = Server::with(Arc::new(Failing::With(ErrorKind::Unavailable)), config()).await;
    assert_eq!(server.get("/healthz", "x").await.status, 200);
    let ready = server.get("/readyz", "x").await;
    assert_eq!((ready.status, ready.code().as_str()), (503, "unavailable"));
    let server = Server::start().await;
    assert_eq!(server.get("/readyz", "x").await.json(), json!({ "status": "ready" }));
}

#[tokio::test]
async fn request_ids_come_back_also_where_nothing_is_found() {
    let server = Server::start().await;
    for (path, status) in [("/healthz", 200), ("/nowhere", 404), ("/v1/streams/x", 401)] {
        let call = || server.client.get(server.url(path));
        let own = call().header("x-request-id", "mine-1").send().await.unwrap();
        assert_eq!(own.status(), status);
        assert_eq!(own.headers()["x-request-id"], "mine-1");
        let long = call().header("x-request-id", "x".repeat(129)).send().await.unwrap();
        assert_ne!(long.headers()["x-request-id"], "x".repeat(129));
    }
    let answer = server.get("/nowhere", "x").await;
    assert_eq!(answer.code(), "not_found");
    let head = server.call(Method::HEAD, "/healthz", "x").send().await.unwrap();
    assert_eq!(head.status(), 200);
}
