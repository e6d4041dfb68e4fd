//! The description agrees with what is served.

use reqwest::Method;
use serde_json::{Value, json};

use crate::bed::{Answer, Server, admin, eventually, tenant};
use crate::schema::misfit;

#[tokio::test]
async fn every_described_call_is_there_and_no_other_method() {
    let server = Server::start().await;
    let answer = server.get("/openapi.json", "x").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let document = answer.json();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 26);
    for (path, calls) in paths {
        let address = path
            .replace("{stream}", "s")
            .replace("{group}", "g")
            .replace("{channel}", "c")
            .replace("{id}", "i");
        let calls = calls.as_object().unwrap();
        for method in ["get", "put", "post", "delete", "patch"] {
            let request = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            // Without a credential, every call but the open ones is refused for that alone.
            let call = server.client.request(request, server.url(&address)).body("");
            let answer = Answer::of(call.send().await.unwrap()).await;
            let wanted = match calls.get(method) {
                None => 405,
                Some(call) if call["security"].is_array() => 200,
                Some(_) => 401,
            };
            assert_eq!(answer.status, wanted, "{method} {path}: {}", answer.text);
            if wanted == 405 {
                assert_eq!(answer.code(), "method_not_allowed");
                assert!(!answer.header("allow").is_empty());
            }
        }
    }
}

#[tokio::test]
async fn the_page_for_people_needs_nothing_from_elsewhere() {
    let server = Server::start().await;
    let page = server.get("/docs", "x").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    assert!(page.text.contains("/openapi.json") && !page.text.contains("src="));
}

/// A call that is made, and which one of the description it is.
type Example = (&'static str, &'static str, String, Value);

/// Makes a call and compares what was sent and answered with the description.
async fn compare(
    server: &Server,
    document: &Value,
    token: &str,
    (method, path, address, body): Example,
) -> Value {
    let described = &document["paths"][path][method];
    assert!(described.is_object(), "{method} {path}");
    let request = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
    let mut call = server.call(request, &address, token);
    if !body.is_null() {
        let schema = &described["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(misfit(document, schema, &body), None, "{method} {path} takes {body}");
        call = call.json(&body);
    }
    let answer = Answer::of(call.send().await.unwrap()).await;
    let response = &described["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{method} {path} gives {}: {}", answer.status, answer.text);
    if answer.status == 204 {
        return Value::Null;
    }
    let schema = &response["content"]["application/json"]["schema"];
    let json = answer.json();
    assert_eq!(misfit(document, schema, &json), None, "{method} {path} gives {}", answer.text);
    if answer.status >= 400 {
        let codes = response["description"].as_str().unwrap();
        assert!(codes.split(", ").any(|code| code == answer.code()), "{path}: {}", answer.text);
    }
    json
}

const STREAM: &str = "/v1/streams/{stream}";
const EVENTS: &str = "/v1/streams/{stream}/events";
const GROUP: &str = "/v1/streams/{stream}/groups/{group}";
const READ: &str = "/v1/streams/{stream}/groups/{group}/read";
const ACK: &str = "/v1/streams/{stream}/groups/{group}/ack";
const REJECT: &str = "/v1/streams/{stream}/groups/{group}/reject";
const EXTEND: &str = "/v1/streams/{stream}/groups/{group}/extend";
const SEEK: &str = "/v1/streams/{stream}/groups/{group}/seek";
const DEAD: &str = "/v1/streams/{stream}/groups/{group}/dead-letters";
const RETRY: &str = "/v1/streams/{stream}/groups/{group}/dead-letters/retry";
const DISCARD: &str = "/v1/streams/{stream}/groups/{group}/dead-letters/discard";

#[tokio::test]
async fn what_is_sent_and_answered_has_the_described_shape() {
    let server = Server::start().await;
    let (token, document) = (admin(&tenant()), server.get("/openapi.json", "x").await.json());
    let call = |method, path: &'static str, body| {
        let address =
            path.replace("{stream}", "s").replace("{group}", "g").replace("{channel}", "c");
        compare(&server, &document, &token, (method, path, address, body))
    };
    let event = json!({ "eventType": "t", "payload": { "a": 1 }, "metadata": {}, "key": "k", "userId": "u" });
    call("get", STREAM, Value::Null).await;
    call("put", STREAM, json!({ "retention": { "maxLen": null }, "idempotency": {} })).await;
    call("put", GROUP, json!({ "maxInFlight": null, "backoff": { "baseMs": 1, "jitter": 1 } }))
        .await;
    let ids = call("post", EVENTS, json!([event, event, event])).await["messageIds"].clone();
    let hybrid = json!({ "eventType": "t", "payload": 1, "options": { "streamName": "s" } });
    call("post", "/v1/hybrid-events", hybrid.clone()).await;
    call("post", "/v1/hybrid-events", hybrid).await;
    call("post", EVENTS, event).await;
    call("get", EVENTS, Value::Null).await;
    call("get", "/v1/streams", Value::Null).await;
    call("get", GROUP, Value::Null).await;
    call("post", READ, json!({ "consumer": "w", "count": 2, "waitMs": 0 })).await;
    call("post", READ, json!({ "consumer": "w" })).await;
    call("get", STREAM, Value::Null).await;
    call("get", GROUP, Value::Null).await;
    call("get", "/v1/streams/{stream}/groups", Value::Null).await;
    call("post", ACK, json!({ "messageIds": [ids[0], "5-0"], "consumer": "w" })).await;
    call("post", ACK, json!({ "messageIds": ["5-0"], "consumer": "w" })).await;
    call("post", EXTEND, json!({ "messageIds": [ids[1]], "consumer": "w", "leaseMs": 5_000 }))
        .await;
    let reject = |n: usize, count: u32| json!({ "messageId": ids[n], "consumer": "w", "deliveryCount": count });
    let mut retry = reject(1, 1);
    retry["retryAfterMs"] = json!(1);
    call("post", REJECT, retry).await;
    eventually(|| async {
        let read = call("post", READ, json!({ "consumer": "w", "waitMs": 1_000 })).await;
        (read["events"] != json!([])).then_some(())
    })
    .await;
    let mut dead = reject(1, 2);
    dead["deadLetter"] = json!(true);
    call("post", REJECT, dead).await;
    let letters = call("get", DEAD, Value::Null).await;
    assert_eq!(letters["deadLetters"].as_array().unwrap().len(), 1);
    call("post", RETRY, json!({ "messageIds": [ids[1]] })).await;
    call("post", DISCARD, json!({ "all": true })).await;
    call("post", SEEK, json!({ "to": "start" })).await;
    call("post", "/v1/channels/{channel}/messages", json!({ "type": "t", "data": null })).await;
    call("post", "/v1/tickets", json!({ "channels": ["c"] })).await;
    call("post", "/v1/tickets", Value::Null).await;
    call("get", "/v1/channels/{channel}/presence", Value::Null).await;
    call("post", "/v1/presence/query", json!({ "userIds": ["anna"] })).await;
    call("get", "/v1/connections", Value::Null).await;
    call("delete", "/v1/connections/{id}", Value::Null).await;
    for open in ["/healthz", "/readyz", "/openapi.json"] {
        call("get", open, Value::Null).await;
    }
    call("delete", GROUP, Value::Null).await;
    call("delete", GROUP, Value::Null).await;
    call("delete", STREAM, Value::Null).await;
    call("delete", STREAM, Value::Null).await;
}
