//! NDJSON in and out, as true streams.

use futures_util::StreamExt;
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::bed::{Answer, Server, admin, sign, tenant, token, unix_now, within};

const EVENTS: &str = "/v1/streams/orders/events";

fn line(n: usize) -> String {
    format!("{{\"eventType\":\"t\",\"payload\":{n}}}\n")
}

fn values(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn every_line_is_answered_in_its_place() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let long = format!("{{\"eventType\":\"t\",\"payload\":\"{}\"}}\n", "x".repeat(3 << 20));
    let large = format!("{{\"eventType\":\"t\",\"payload\":\"{}\"}}\n", "x".repeat(1 << 20));
    let body = [
        &line(0),
        "\n",
        "{\"eventType\":\"t\"}\r\n",
        "{\"eventType\":\"t\",\"payload\":1,\"idempotencyKey\":\"k\"}\r\n",
        &long,
        "{\"eventType\":\"t\",\"payload\":2,\"idempotencyKey\":\"k\"}\n",
        &large,
        "nope\n",
        "{\"eventType\":\"\",\"payload\":1}\n",
        "{\"eventType\":\"t\",\"payload\":1,\"delayMs\":1}\n",
        "{\"eventType\":\"t\",\"payload\":1,\"organizationId\":\"other\"}\n",
        &line(99),
        "{\"eventType\":\"t\",\"payload\":\"the last needs no break\"}",
    ]
    .concat();
    let answer = server.post_text(EVENTS, &token, "application/x-ndjson", body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let answers = values(&answer.text);
    let right = [
        (1, None),
        (3, Some("invalid_request")),
        (4, None),
        (5, Some("too_large")),
        (6, Some("idempotency_conflict")),
        (7, Some("too_large")),
        (8, Some("invalid_request")),
        (9, Some("invalid_request")),
        (10, Some("unsupported")),
        (11, Some("tenant_mismatch")),
        (12, None),
        (13, None),
    ];
    assert_eq!(answers.len(), right.len(), "{}", answer.text);
    for (answer, (number, code)) in answers.iter().zip(right) {
        match code {
            None => {
                assert!(answer["messageId"].is_string() && answer.as_object().unwrap().len() == 1)
            }
            Some(code) => {
                assert_eq!(answer["line"], number, "{answer}");
                assert_eq!(answer["error"]["code"], code, "{answer}");
                assert!(answer["error"]["message"].is_string());
            }
        }
    }
    let page = server.get(EVENTS, &token).await.json();
    let payloads: Vec<_> =
        page["events"].as_array().unwrap().iter().map(|e| e["payload"].clone()).collect();
    assert_eq!(payloads, [json!(0), json!(1), json!(99), json!("the last needs no break")]);
}

#[tokio::test]
async fn answers_arrive_while_the_upload_goes_on() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let (sender, receiver) = mpsc::channel::<String>(1);
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (Ok::<_, std::io::Error>(piece), receiver))
    });
    let call = server
        .call(Method::POST, EVENTS, &token)
        .header("content-type", "application/x-ndjson")
        .body(Body::wrap_stream(pieces));
    sender.send(line(0)).await.unwrap();
    let response = within(call.send()).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut answers = response.bytes_stream();
    for n in 1..=5 {
        // The line before is answered although the upload has not ended.
        let answer = within(answers.next()).await.unwrap().unwrap();
        assert!(answer.starts_with(b"{\"messageId\":"), "{answer:?}");
        assert!(answer.ends_with(b"\n"));
        // Half a line is no line yet.
        let next = line(n);
        let (half, rest) = next.split_at(9);
        sender.send(half.to_owned()).await.unwrap();
        sender.send(rest.to_owned()).await.unwrap();
    }
    within(answers.next()).await.unwrap().unwrap();
    drop(sender);
    assert!(within(answers.next()).await.is_none());
}

#[tokio::test]
async fn many_lines_in_and_out_keep_their_order() {
    let server = Server::start().await;
    let token = admin(&tenant());
    const LINES: usize = 30_000;
    let pieces = futures_util::stream::iter((0..LINES).step_by(37).map(|from| {
        let piece: String = (from..(from + 37).min(LINES)).map(line).collect();
        Ok::<_, std::io::Error>(piece)
    }));
    let answer =
        server.post_text(EVENTS, &token, "application/x-ndjson", Body::wrap_stream(pieces)).await;
    let ids: Vec<Value> =
        values(&answer.text).into_iter().map(|a| a["messageId"].clone()).collect();
    assert_eq!(ids.len(), LINES);
    let call = server.call(Method::GET, EVENTS, &token).header("accept", "application/x-ndjson");
    let out = Answer::of(call.send().await.unwrap()).await;
    assert_eq!(out.header("content-type"), "application/x-ndjson");
    let events = values(&out.text);
    assert_eq!(events.len(), LINES);
    for (n, (event, id)) in events.iter().zip(&ids).enumerate() {
        assert_eq!((&event["messageId"], &event["payload"]), (id, &json!(n)));
    }
    let some = format!("{EVENTS}?limit=1234&order=desc");
    let call = server.call(Method::GET, &some, &token).header("accept", "application/x-ndjson");
    let out = values(&Answer::of(call.send().await.unwrap()).await.text);
    assert_eq!(out.len(), 1_234);
    assert_eq!(out[1_233]["payload"], LINES - 1_234);
}

#[tokio::test]
async fn a_payload_with_line_breaks_is_one_line() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let body = "{\"eventType\":\"t\",\"payload\":{\r\n \"a\\n\":\n1}}";
    assert_eq!(server.post_text(EVENTS, &token, "application/json", body).await.status, 201);
    let call = server.call(Method::GET, EVENTS, &token).header("accept", "application/x-ndjson");
    let out = Answer::of(call.send().await.unwrap()).await;
    assert!(out.text.contains("\"payload\":{   \"a\\n\": 1},"), "{}", out.text);
    assert_eq!(values(&out.text)[0]["payload"], json!({ "a\n": 1 }));
}

#[tokio::test]
async fn what_is_refused_as_a_whole_has_its_status() {
    let server = Server::start().await;
    let reader = token(&tenant(), &["streams:read:*"]);
    let answer = server.post_text(EVENTS, &reader, "application/x-ndjson", line(0)).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "permission_denied"));
    let call = server.call(Method::GET, EVENTS, &reader).header("accept", "application/x-ndjson");
    let answer = Answer::of(call.send().await.unwrap()).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
    let admin = admin(&tenant());
    let answer = server.post_text(EVENTS, &admin, "application/x-ndjson", "").await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
}

#[tokio::test]
async fn a_broken_upload_leaves_no_half_event() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let half = format!("{}{{\"eventType\":\"t\",\"payload\":[1", line(0));
    let head = format!(
        "POST {EVENTS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: application/x-ndjson\r\ncontent-length: 1000\r\n\r\n{half}"
    );
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    drop(socket);
    let events = crate::bed::eventually(|| async {
        let answer = server.get(EVENTS, &token).await;
        (answer.status == 200).then(|| answer.json()["events"].clone())
    })
    .await;
    assert_eq!(events.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_upload_ends_with_its_token() {
    let server = Server::start().await;
    let claims =
        json!({ "organizationId": tenant(), "exp": unix_now() + 2, "permissions": ["admin"] });
    let begin = futures_util::stream::iter([Ok::<_, std::io::Error>(line(0))]);
    let pieces = begin.chain(futures_util::stream::pending());
    let answer = within(server.post_text(
        EVENTS,
        &sign(&claims),
        "application/x-ndjson",
        Body::wrap_stream(pieces),
    ))
    .await;
    let answers = values(&answer.text);
    assert!(answers[0]["messageId"].is_string());
    assert_eq!(
        (&answers[1]["line"], &answers[1]["error"]["code"]),
        (&json!(2), &json!("unauthorized"))
    );
}
