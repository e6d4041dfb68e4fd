//! What is another tenant's answers exactly as what does not exist.

use reqwest::Method;
use serde_json::{Value, json};

use crate::bed::{Answer, Server, admin, tenant};

/// An answer without what names the single request.
async fn answer(server: &Server, (method, path, body): &Call, token: &str) -> (u16, Value) {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut call = server.call(method, path, token);
    if !body.is_null() {
        call = call.json(body);
    }
    let answer = Answer::of(call.send().await.unwrap()).await;
    let mut json = if answer.text.is_empty() { Value::Null } else { answer.json() };
    if let Some(error) = json.get_mut("error").and_then(Value::as_object_mut) {
        error.remove("requestId");
    }
    (answer.status, json)
}

type Call = (&'static str, String, Value);

/// Every call about a stream and group that exist only for their own tenant.
fn calls(id: &str) -> Vec<Call> {
    let stream = "/v1/streams/orders";
    let group = format!("{stream}/groups/processors");
    let reject = json!({ "messageId": id, "consumer": "w", "deliveryCount": 1, "reason": "x" });
    let extend = json!({ "messageIds": [id], "consumer": "w", "leaseMs": 5_000 });
    vec![
        ("GET", stream.to_owned(), Value::Null),
        ("GET", format!("{stream}/events"), Value::Null),
        ("GET", format!("{stream}/events?from={id}&to={id}"), Value::Null),
        ("GET", format!("{stream}/groups"), Value::Null),
        ("GET", group.clone(), Value::Null),
        ("POST", format!("{group}/ack"), json!({ "messageIds": [id] })),
        ("POST", format!("{group}/ack"), json!({ "messageIds": [id], "consumer": "w" })),
        ("POST", format!("{group}/reject"), reject),
        ("POST", format!("{group}/extend"), extend),
        ("POST", format!("{group}/seek"), json!({ "to": "start" })),
        ("GET", format!("{group}/dead-letters"), Value::Null),
        ("POST", format!("{group}/dead-letters/retry"), json!({ "all": true })),
        ("POST", format!("{group}/dead-letters/discard"), json!({ "messageIds": [id] })),
        ("DELETE", group, Value::Null),
        ("DELETE", stream.to_owned(), Value::Null),
        ("GET", "/v1/streams".to_owned(), Value::Null),
        ("POST", "/v1/channels/news/messages".to_owned(), json!({ "type": "t", "data": 1 })),
    ]
}

#[tokio::test]
async fn a_foreign_thing_answers_as_one_that_does_not_exist() {
    let server = Server::start().await;
    let (owner, stranger, nobody) = (admin(&tenant()), admin(&tenant()), admin(&tenant()));
    let id = server.add("orders", &owner, json!({ "eventType": "t", "payload": 1 })).await;
    let dead = server.add("orders", &owner, json!({ "eventType": "t", "payload": 2 })).await;
    assert_eq!(server.read("orders", &owner, "w").await.len(), 2);
    let give_up =
        json!({ "messageId": dead, "consumer": "w", "deliveryCount": 1, "deadLetter": true });
    let reject = "/v1/streams/orders/groups/processors/reject";
    assert_eq!(server.post(reject, &owner, give_up).await.status, 200);
    // Somebody listens on the channel of that name, in the owner's tenant.
    let listening = server.call(Method::GET, "/v1/channels/news/sse", &owner).send().await.unwrap();
    assert_eq!(listening.status(), 200);

    let before = server.get("/v1/streams/orders", &owner).await.json();
    // The same calls, on a server where the thing exists nowhere.
    let empty = Server::start().await;
    for call in calls(&id) {
        let foreign = answer(&server, &call, &stranger).await;
        let missing = answer(&empty, &call, &nobody).await;
        assert_eq!(foreign, missing, "{} {}", call.0, call.1);
    }
    let after = server.get("/v1/streams/orders", &owner).await.json();
    for field in ["length", "epoch", "lastId"] {
        assert_eq!(before[field], after[field]);
    }
    assert_eq!(before["groups"][0]["pending"], after["groups"][0]["pending"]);
    assert_eq!(before["groups"][0]["deadLetters"], after["groups"][0]["deadLetters"]);
    // The owner can do what the stranger could not.
    let ack = json!({ "messageIds": [id] });
    let acked = server.post("/v1/streams/orders/groups/processors/ack", &owner, ack).await;
    assert_eq!(acked.json(), json!({ "acknowledged": 1 }));
    let published =
        server.post("/v1/channels/news/messages", &owner, json!({ "type": "t", "data": 1 })).await;
    assert_eq!(published.json(), json!({ "subscriberCount": 1 }));
}

#[tokio::test]
async fn idempotency_keys_of_two_tenants_are_two() {
    let server = Server::start().await;
    let event = |n: u32| json!({ "eventType": "t", "payload": n, "idempotencyKey": "k" });
    server.add("orders", &admin(&tenant()), event(1)).await;
    server.add("orders", &admin(&tenant()), event(2)).await;
}
