//! Limits at the edge: sizes, slow clients, odd requests.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bed::{Server, admin, config, memory, tenant, with_small_buffer, within};

const EVENTS: &str = "/v1/streams/orders/events";

#[tokio::test]
async fn a_body_that_is_too_large_is_answered_and_the_connection_goes_on() {
    let mut config = config();
    config.http.max_body_bytes = 100_000;
    let server = Server::with(memory().await, config).await;
    let token = admin(&tenant());
    for announced in [true, false] {
        let text = "x".repeat(8 << 20);
        let body = if announced {
            reqwest::Body::from(text)
        } else {
            let pieces =
                text.as_bytes().chunks(60_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec()));
            reqwest::Body::wrap_stream(futures_util::stream::iter(pieces.collect::<Vec<_>>()))
        };
        let answer = server.post_text(EVENTS, &token, "application/json", body).await;
        assert_eq!((answer.status, answer.code().as_str()), (413, "too_large"));
        assert!(answer.message().contains("100000 bytes"), "{}", answer.text);
    }
    server.add("orders", &token, json!({ "eventType": "t", "payload": "x".repeat(99_900) })).await;
}

#[tokio::test]
async fn the_default_limit_takes_a_full_batch() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let payload = "x".repeat((1 << 20) - 2);
    let batch = vec![json!({ "eventType": "t", "payload": payload }); 8];
    let answer = server.post(EVENTS, &token, json!(batch)).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
}

#[tokio::test]
async fn slow_headers_and_idle_connections_are_cut() {
    let mut config = config();
    config.http.header_timeout = Duration::from_millis(100);
    let server = Server::with(memory().await, config).await;
    for head in ["", "GET /healthz HTTP/1.1\r\nhost: x\r\nx-half"] {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        within(socket.read_to_end(&mut rest)).await.unwrap();
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_cut() {
    let mut config = config();
    config.http.write_timeout = Duration::from_millis(200);
    let server = Server::with(memory().await, config).await;
    let token = admin(&tenant());
    let batch = vec![json!({ "eventType": "t", "payload": "x".repeat(500_000) }); 16];
    assert_eq!(server.post(EVENTS, &token, json!(batch)).await.status, 201);
    let mut socket = with_small_buffer(server.addr).await;
    let head = format!(
        "GET {EVENTS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         accept: application/x-ndjson\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    // Reading nothing, it finds out by writing.
    within(async {
        while socket.write_all(b"\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn bodies_of_other_types_are_refused_with_what_is_taken() {
    let server = Server::start().await;
    let token = admin(&tenant());
    for path in [
        "/v1/streams/s/groups/g/read",
        "/v1/channels/c/messages",
        "/v1/hybrid-events",
        "/v1/streams/s/groups/g/seek",
    ] {
        let form = "application/x-www-form-urlencoded";
        let answer = server.post_text(path, &token, form, "{}").await;
        assert_eq!((answer.status, answer.code().as_str()), (415, "unsupported_media_type"));
        assert!(answer.message().contains("takes application/json"), "{}", answer.text);
    }
    let call = server.call(Method::POST, EVENTS, &token).body("{}").send().await.unwrap();
    assert_eq!(call.status(), 415);
    let json = "Application/JSON; charset=utf-8";
    let body = r#"{"eventType":"t","payload":1}"#;
    assert_eq!(server.post_text(EVENTS, &token, json, body).await.status, 201);
}

#[tokio::test]
async fn what_is_not_there_yet_is_not_found_in_the_form_of_errors() {
    let server = Server::start().await;
    let token = admin(&tenant());
    for path in ["/v1/webhooks/endpoints", "/v1/audit", "/metrics", "/v1/", "/"] {
        let answer = server.get(path, &token).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{path}");
    }
}

#[tokio::test]
async fn pages_of_listed_origins_may_call_and_no_others() {
    let mut config = config();
    config.http.allowed_origins = vec!["https://app.example.com".to_owned()];
    let server = Server::with(memory().await, config).await;
    let token = admin(&tenant());
    let call = |method: Method, origin: &str| {
        let call = server.call(method, "/v1/streams", &token).header("origin", origin);
        call.header("access-control-request-method", "GET").send()
    };
    let asked = call(Method::OPTIONS, "https://app.example.com").await.unwrap();
    assert_eq!(asked.status(), 204);
    assert_eq!(asked.headers()["access-control-allow-methods"], "GET, POST, PUT, DELETE");
    let headers = asked.headers()["access-control-allow-headers"].to_str().unwrap();
    assert!(headers.contains("authorization") && headers.contains("last-event-id"));
    let answer = call(Method::GET, "https://app.example.com").await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://app.example.com");
    assert_eq!(answer.headers()["vary"], "origin");
    for other in ["https://evil.example", "null", "https://app.example.com.evil.example"] {
        let asked = call(Method::OPTIONS, other).await.unwrap();
        assert_eq!(asked.status(), 405);
        let answer = call(Method::GET, other).await.unwrap();
        assert!(!answer.headers().contains_key("access-control-allow-origin"), "{other}");
    }
}
