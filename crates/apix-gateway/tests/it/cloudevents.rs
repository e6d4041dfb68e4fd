//! CloudEvents 1.0 in their three forms.

use reqwest::Method;
use serde_json::{Value, json};

use crate::bed::{Answer, Server, admin, tenant};

const EVENTS: &str = "/v1/streams/orders/events";

fn cloud_event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": "order.paid",
        "time": "2026-11-24T06:29:30Z", "subject": "o1", "partitionkey": "k", "data": { "id": 1 },
    })
}

async fn events(server: &Server, token: &str) -> Vec<Value> {
    server.get(EVENTS, token).await.json()["events"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_structured_event_becomes_an_event_once() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let send = || {
        let body = cloud_event("7").to_string();
        server.post_text(EVENTS, &token, "application/cloudevents+json; charset=utf-8", body)
    };
    let first = send().await;
    assert_eq!(first.status, 201, "{}", first.text);
    assert_eq!(send().await.json(), first.json());
    let events = events(&server, &token).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["eventType"], "order.paid");
    assert_eq!(events[0]["payload"], json!({ "id": 1 }));
    assert_eq!(events[0]["timestamp"], "2026-11-24T06:29:30Z");
    assert_eq!(events[0]["key"], "k");
    let right = json!({ "specversion": "1.0", "id": "7", "source": "/shop", "subject": "o1" });
    assert_eq!(events[0]["metadata"]["cloudevents"], right);
}

#[tokio::test]
async fn a_batch_is_added_all_or_none() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let send = |events: Value| {
        server.post_text(EVENTS, &token, "application/cloudevents-batch+json", events.to_string())
    };
    let answer = send(json!([cloud_event("1"), cloud_event("2")])).await;
    assert_eq!(answer.json()["messageIds"].as_array().unwrap().len(), 2);
    let answer = send(json!([cloud_event("3"), { "specversion": "1.0", "id": "4" }])).await;
    assert_eq!(answer.code(), "invalid_request");
    assert!(answer.message().contains("event 1 of the batch"), "{}", answer.text);
    assert_eq!(events(&server, &token).await.len(), 2);
}

#[tokio::test]
async fn a_binary_event_has_its_attributes_in_headers() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let call = |id: &str, media_type: &str, body: &'static [u8]| {
        server
            .call(Method::POST, EVENTS, &token)
            .header("ce-specversion", "1.0")
            .header("ce-id", id)
            .header("ce-source", "/shop")
            .header("ce-type", "order.paid")
            .header("ce-trace", "x%20y")
            .header("content-type", media_type)
            .body(body)
    };
    for (id, media_type, body) in [
        ("1", "application/json", &b"{ \"n\":9007199254740993 }"[..]),
        ("2", "text/plain", b"hello"),
        ("3", "image/png", b"\xff\x00"),
    ] {
        assert_eq!(call(id, media_type, body).send().await.unwrap().status(), 201);
    }
    let text = server.get(EVENTS, &token).await.text;
    assert!(text.contains("\"payload\":{ \"n\":9007199254740993 },"), "{text}");
    let events = events(&server, &token).await;
    assert_eq!(events[0]["metadata"]["cloudevents"]["trace"], "x y");
    assert_eq!(events[1]["payload"], "hello");
    assert_eq!(events[2]["payload"], "/wA=");
    assert_eq!(events[2]["metadata"]["cloudevents"]["data_base64"], true);
    let lacking = server
        .call(Method::POST, EVENTS, &token)
        .header("ce-specversion", "1.0")
        .header("ce-id", "1")
        .json(&1);
    let answer = Answer::of(lacking.send().await.unwrap()).await;
    assert!(answer.message().contains("lacks source"), "{}", answer.text);
    let keyed = call("1", "application/json", b"1").header("idempotency-key", "k");
    assert_eq!(Answer::of(keyed.send().await.unwrap()).await.code(), "invalid_request");
}
