//! Reading, settling, dead letters, and the groups themselves.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::bed::{Server, admin, eventually, tenant};

const GROUP: &str = "/v1/streams/orders/groups/processors";

fn path(call: &str) -> String {
    format!("{GROUP}/{call}")
}

async fn add(server: &Server, token: &str, n: u32) -> String {
    server.add("orders", token, json!({ "eventType": "t", "payload": n })).await
}

#[tokio::test]
async fn an_event_is_read_and_acknowledged() {
    let server = Server::start().await;
    let tenant = tenant();
    let token = admin(&tenant);
    let id = add(&server, &token, 1).await;
    let events = server.read("orders", &token, "w1").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["messageId"], id);
    assert_eq!(events[0]["deliveryCount"], 1);
    assert!((1..=30_000).contains(&events[0]["leaseMs"].as_u64().unwrap()), "{}", events[0]);
    assert_eq!(events[0]["organizationId"], tenant);
    assert!(server.read("orders", &token, "w2").await.is_empty());
    let ack = json!({ "messageIds": [id, "5-0"] });
    let answer = server.post(&path("ack"), &token, ack.clone()).await;
    assert_eq!(answer.json(), json!({ "acknowledged": 1 }));
    assert_eq!(server.post(&path("ack"), &token, ack).await.json(), json!({ "acknowledged": 0 }));
}

#[tokio::test]
async fn a_consumer_acknowledges_only_what_it_holds() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let first = add(&server, &token, 1).await;
    server.read("orders", &token, "w1").await;
    let second = add(&server, &token, 2).await;
    server.read("orders", &token, "w2").await;
    let ack = json!({ "messageIds": [first, second], "consumer": "w1" });
    let answer = server.post(&path("ack"), &token, ack).await;
    assert_eq!(answer.json(), json!({ "acknowledged": 1, "leaseLost": [second] }));
    let ack = json!({ "messageIds": [second], "consumer": "w1" });
    let answer = server.post(&path("ack"), &token, ack).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "lease_lost"));
}

#[tokio::test]
async fn a_rejected_event_comes_back_and_at_last_is_a_dead_letter() {
    let server = Server::start().await;
    let token = admin(&tenant());
    server.put(GROUP, &token, json!({ "maxDeliveries": 2, "backoff": { "baseMs": 1 } })).await;
    let id = add(&server, &token, 1).await;
    let reject = |count: u32, more: Value| {
        let mut body =
            json!({ "messageId": id, "consumer": "w", "deliveryCount": count, "reason": "no" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (server, token) = (&server, &token);
        async move { server.post(&path("reject"), token, body).await }
    };
    assert_eq!(server.read("orders", &token, "w").await.len(), 1);
    let both = reject(1, json!({ "retryAfterMs": 0, "deadLetter": true })).await;
    assert_eq!(both.code(), "invalid_request");
    let answer = reject(1, json!({ "retryAfterMs": 0 })).await;
    assert!(answer.json()["retryAt"].as_str().unwrap().ends_with('Z'), "{}", answer.text);
    assert_eq!(reject(1, json!({})).await.code(), "lease_lost");
    let again =
        eventually(|| async { server.read("orders", &token, "w").await.into_iter().next() }).await;
    assert_eq!(again["deliveryCount"], 2);
    assert_eq!(reject(2, json!({})).await.json(), json!({ "deadLettered": true }));

    let dead = server.get(&path("dead-letters"), &token).await.json();
    let letter = &dead["deadLetters"][0];
    assert_eq!((&letter["messageId"], &dead["next"]), (&json!(id), &Value::Null));
    assert_eq!(letter["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(letter["attempts"][0]["reason"], "no");
    assert_eq!(letter["event"]["payload"], 1);
    let choose = |body: Value| {
        server.post("/v1/streams/orders/groups/processors/dead-letters/retry", &token, body)
    };
    assert_eq!(choose(json!({})).await.code(), "invalid_request");
    let many = json!({ "messageIds": vec!["5-0"; 1_001] });
    assert_eq!(choose(many).await.code(), "too_large");
    assert_eq!(choose(json!({ "messageIds": [id] })).await.json(), json!({ "retried": 1 }));
    let again = server.read("orders", &token, "w").await;
    assert_eq!((&again[0]["messageId"], &again[0]["deliveryCount"]), (&json!(id), &json!(1)));
    reject(1, json!({ "deadLetter": true })).await;
    let answer = server.post(&path("dead-letters/discard"), &token, json!({ "all": true })).await;
    assert_eq!(answer.json(), json!({ "discarded": 1 }));
    let dead = server.get(&path("dead-letters"), &token).await.json();
    assert_eq!(dead, json!({ "deadLetters": [], "next": null }));
}

#[tokio::test]
async fn dead_letters_come_in_pages() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(add(&server, &token, n).await);
    }
    server.read("orders", &token, "w").await;
    for id in &ids {
        let body =
            json!({ "messageId": id, "consumer": "w", "deliveryCount": 1, "deadLetter": true });
        assert_eq!(server.post(&path("reject"), &token, body).await.status, 200);
    }
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.get(&path(&format!("dead-letters?limit=2{after}")), &token).await.json();
        let letters = page["deadLetters"].as_array().unwrap().clone();
        found.extend(letters.iter().map(|l| l["messageId"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, ids);
}

#[tokio::test]
async fn leases_are_extended_while_they_are_held() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let id = add(&server, &token, 1).await;
    server.read("orders", &token, "w").await;
    let extend = |consumer: &str, lease_ms: u64| {
        let body = json!({ "messageIds": [id], "consumer": consumer, "leaseMs": lease_ms });
        let (server, token) = (&server, &token);
        async move { server.post(&path("extend"), token, body).await }
    };
    assert_eq!(extend("w", 60_000).await.json(), json!({ "extended": 1 }));
    assert_eq!(extend("other", 60_000).await.code(), "lease_lost");
    assert_eq!(extend("w", 0).await.code(), "invalid_request");
}

#[tokio::test]
async fn a_read_waits_for_the_first_event() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let begun = Instant::now();
    let wait = json!({ "consumer": "w", "waitMs": 30_000 });
    let read = path("read");
    let (read, _) = tokio::join!(server.post(&read, &token, wait), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        add(&server, &token, 1).await
    });
    assert_eq!(read.json()["events"].as_array().unwrap().len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(5));
    let answer =
        server.post(&path("read"), &token, json!({ "consumer": "w", "waitMs": 30_001 })).await;
    assert_eq!(answer.code(), "invalid_request");
    assert!(answer.message().contains("at most 30000"), "{}", answer.text);
    for count in [0, 1_001] {
        let answer =
            server.post(&path("read"), &token, json!({ "consumer": "w", "count": count })).await;
        assert_eq!(answer.code(), "invalid_request");
    }
}

#[tokio::test]
async fn a_read_whose_client_went_away_takes_nothing() {
    let server = Server::start().await;
    let token = admin(&tenant());
    // The group is there, and its consumer known, before anybody leaves.
    assert!(server.read("orders", &token, "gone").await.is_empty());
    let waiting = server
        .call(Method::POST, &path("read"), &token)
        .json(&json!({ "consumer": "gone", "waitMs": 30_000 }));
    // A client of its own, whose connection ends with it.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let waiting = client.execute(waiting.build().unwrap());
    assert!(timeout(Duration::from_millis(200), waiting).await.is_err());
    drop(client);
    // The gateway sees the end of the connection before it sees the event.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let id = add(&server, &token, 1).await;
    let read = server.read("orders", &token, "w").await;
    assert_eq!(read.len(), 1, "the event went to a reader that is gone");
    assert_eq!((&read[0]["messageId"], &read[0]["deliveryCount"]), (&json!(id), &json!(1)));
}

#[tokio::test]
async fn a_group_is_set_seen_sought_and_deleted() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let settings = json!({ "leaseMs": 1_000, "maxInFlight": 5 });
    let answer = server.put(GROUP, &token, settings).await;
    let right = json!({
        "leaseMs": 1_000, "maxDeliveries": 5, "maxInFlight": 5, "paused": false,
        "backoff": { "baseMs": 500, "maxMs": 60_000, "factor": 2.0, "jitter": 0.2 },
    });
    assert_eq!((answer.status, answer.json()), (200, right));
    // What is left out gets its default again.
    assert_eq!(server.put(GROUP, &token, json!({})).await.json()["leaseMs"], 30_000);
    let wrong = server.put(GROUP, &token, json!({ "leaseMs": 1 })).await;
    assert!(wrong.message().contains("from 100 to"), "{}", wrong.text);
    let wrong = server.put(GROUP, &token, json!({ "lease": 1 })).await;
    assert!(wrong.message().contains("unknown field `lease`"), "{}", wrong.text);

    let ids = [add(&server, &token, 1).await, add(&server, &token, 2).await];
    assert_eq!(server.read("orders", &token, "w").await.len(), 2);
    let stats = server.get(GROUP, &token).await.json();
    assert_eq!((&stats["group"], &stats["pending"]), (&json!("processors"), &json!(2)));
    let listed = server.get("/v1/streams/orders/groups", &token).await.json();
    assert_eq!(listed["groups"][0]["group"], "processors");

    for (to, count) in [("start", 2), (ids[1].as_str(), 1), ("end", 0), ("2020-01-01T00:00:00Z", 2)]
    {
        let answer = server.post(&path("seek"), &token, json!({ "to": to })).await;
        assert_eq!((answer.status, answer.text.as_str()), (204, ""));
        assert_eq!(server.read("orders", &token, "w").await.len(), count, "{to}");
    }
    let wrong = server.post(&path("seek"), &token, json!({ "to": "begin" })).await;
    assert!(wrong.message().contains("\"start\", \"end\""), "{}", wrong.text);
    assert_eq!(server.delete(GROUP, &token).await.status, 204);
    assert_eq!(server.delete(GROUP, &token).await.code(), "not_found");
    assert_eq!(server.get(GROUP, &token).await.code(), "not_found");
    let nowhere = "/v1/streams/none/groups/g/seek";
    assert_eq!(server.post(nowhere, &token, json!({ "to": "end" })).await.code(), "not_found");
}
