//! Adding events and reading them back.

use reqwest::Method;
use serde_json::{Value, json};

use crate::bed::{Answer, Server, admin, tenant};

const EVENTS: &str = "/v1/streams/orders/events";

async fn add_text(server: &Server, token: &str, body: String) -> Answer {
    server.post_text(EVENTS, token, "application/json", body).await
}

/// The payload of the only event, as text.
fn payload_text(page: &str) -> &str {
    let start = page.find("\"payload\":").unwrap() + "\"payload\":".len();
    let end = page.find(",\"timestamp\":").unwrap();
    &page[start..end]
}

#[tokio::test]
async fn payloads_come_back_byte_for_byte_on_every_way() {
    let server = Server::start().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for payload in [
        r#"{"n":9007199254740993,"f":1e400,"a":1,"a":2}"#,
        "{ \"pretty\" :\n  [ 1,\t2 ] }",
        r#""\u0000 \ud83d\ude00 😀 \/""#,
        "null",
        "-0.0",
        &deep,
    ] {
        let token = admin(&tenant());
        let single = format!(r#" {{"eventType":"t","payload": {payload} ,"key":"k"}} "#);
        let answer = add_text(&server, &token, single).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let page = server.get(EVENTS, &token).await;
        assert_eq!(payload_text(&page.text), payload);
        let read = "/v1/streams/orders/groups/g/read";
        let read = server.post(read, &token, json!({ "consumer": "w" })).await;
        assert_eq!(payload_text(&read.text), payload);
    }
}

#[tokio::test]
async fn an_event_has_what_was_given_and_what_was_left_out() {
    let server = Server::start().await;
    let tenant = tenant();
    let token = admin(&tenant);
    let id = server.add("orders", &token, json!({ "eventType": "t", "payload": 1 })).await;
    let full = json!({
        "eventType": "order.paid", "payload": { "id": 2 }, "timestamp": "2026-11-24T07:29:30+01:00",
        "organizationId": tenant, "userId": "bert", "metadata": { "trace": "x" }, "key": "o2",
        "idempotencyKey": "i2",
    });
    let second = server.add("orders", &token, full).await;
    let page = server.get(EVENTS, &token).await.json();
    let events = page["events"].as_array().unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["messageId"], id);
    assert_eq!(events[0]["userId"], "anna");
    assert!(events[0]["timestamp"].as_str().unwrap().ends_with('Z'));
    let right = json!({
        "messageId": second, "eventType": "order.paid", "payload": { "id": 2 },
        "timestamp": "2026-11-24T07:29:30+01:00", "organizationId": tenant, "userId": "bert",
        "metadata": { "trace": "x" }, "key": "o2",
    });
    assert_eq!(events[1], right);
    assert_eq!(page["next"], Value::Null);
}

#[tokio::test]
async fn an_array_is_added_all_or_none() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let good = |n: u32| json!({ "eventType": "t", "payload": n });
    let answer = server.post(EVENTS, &token, json!([good(1), good(2), good(3)])).await;
    assert_eq!(answer.status, 201);
    let ids = answer.json()["messageIds"].as_array().unwrap().clone();
    assert_eq!(ids.len(), 3);
    let bad = json!({ "eventType": "", "payload": 1 });
    let answer = server.post(EVENTS, &token, json!([good(4), bad])).await;
    assert_eq!(answer.code(), "invalid_request");
    assert!(answer.message().contains("event 1 of the batch"), "{}", answer.text);
    let later = json!({ "eventType": "t", "payload": 1, "deliverAt": "2030-01-01T00:00:00Z" });
    let answer = server.post(EVENTS, &token, json!([good(4), later])).await;
    assert_eq!((answer.status, answer.code().as_str()), (501, "unsupported"));
    let answer = server.post(EVENTS, &token, Value::Array(vec![good(0); 1_001])).await;
    assert_eq!(answer.code(), "too_large");
    assert!(answer.message().contains("the limit is 1000"), "{}", answer.text);
    assert_eq!(server.post(EVENTS, &token, json!([])).await.json(), json!({ "messageIds": [] }));
    let page = server.get(EVENTS, &token).await.json();
    let kept: Vec<_> =
        page["events"].as_array().unwrap().iter().map(|e| e["messageId"].clone()).collect();
    assert_eq!(kept, ids);
}

#[tokio::test]
async fn a_repeated_idempotency_key_gives_the_first_id() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let event = json!({ "eventType": "t", "payload": 1 });
    let with_header = |event: &Value, key: &str| {
        server.call(Method::POST, EVENTS, &token).header("idempotency-key", key).json(event).send()
    };
    let first = Answer::of(with_header(&event, "k").await.unwrap()).await.json();
    assert_eq!(Answer::of(with_header(&event, "k").await.unwrap()).await.json(), first);
    let keyed = json!({ "eventType": "t", "payload": 1, "idempotencyKey": "k" });
    assert_eq!(server.post(EVENTS, &token, keyed.clone()).await.json(), first);
    assert_eq!(Answer::of(with_header(&keyed, "k").await.unwrap()).await.json(), first);
    let answer = Answer::of(with_header(&keyed, "other").await.unwrap()).await;
    assert_eq!(answer.code(), "invalid_request");
    let answer = Answer::of(with_header(&json!([event]), "k").await.unwrap()).await;
    assert_eq!(answer.code(), "invalid_request");
    let page = server.get(EVENTS, &token).await.json();
    assert_eq!(page["events"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn malformed_bodies_are_refused_with_the_place_of_the_fault() {
    let server = Server::start().await;
    let token = admin(&tenant());
    for (body, message) in [
        (r#"{"eventType":"t","payload":{]}"#, "line 1 column 29"),
        ("", "EOF while parsing"),
        ("\n\n  nope", "line 3 column"),
        (r#"{"eventType":"t","payload":1,"payload":2}"#, "duplicate field `payload`"),
        (r#"{"eventType":"t","payload":1,"metadata":[]}"#, "metadata must be a JSON object"),
        (r#"{"eventType":"t","payload":1} x"#, "trailing characters"),
        (r#"{"eventType":5,"payload":1}"#, "expected a string"),
    ] {
        let answer = add_text(&server, &token, body.to_owned()).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{body}");
        assert!(answer.message().contains(message), "{body}: {}", answer.text);
    }
    let answer = server.post_text(EVENTS, &token, "application/json", b"\"\xff\"".to_vec()).await;
    assert!(answer.message().contains("UTF-8"), "{}", answer.text);
}

#[tokio::test]
async fn no_damaged_body_is_a_fault_of_the_server() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let whole = br#"[{"eventType":"t","payload":{"a":[1e5,"\u00e9"]},"key":null}]"#;
    for at in 0..whole.len() {
        for with in [&b""[..], b"\"", b"[", b"}", b"\\", b"0", b"\0", b"\xff"] {
            let body = [&whole[..at], with, &whole[at + 1..]].concat();
            for media_type in ["application/json", "application/cloudevents-batch+json"] {
                let answer = server.post_text(EVENTS, &token, media_type, body.clone()).await;
                let text = String::from_utf8_lossy(&body);
                assert!(matches!(answer.status, 201 | 400), "{text}: {}", answer.text);
                if answer.status == 400 {
                    assert_eq!(answer.code(), "invalid_request", "{text}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused() {
    let server = Server::start().await;
    let call =
        server.call(Method::POST, EVENTS, &admin(&tenant())).header("content-encoding", "gzip");
    let answer = Answer::of(call.json(&json!({})).send().await.unwrap()).await;
    assert_eq!((answer.status, answer.code().as_str()), (415, "unsupported_media_type"));
    assert!(answer.message().contains("send it as it is"), "{}", answer.text);
}

#[tokio::test]
async fn pages_go_on_without_loss_or_repeat() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let mut all = Vec::new();
    for n in 0..50 {
        let kind = if n % 7 == 0 { "seventh" } else { "other" };
        all.push(server.add("orders", &token, json!({ "eventType": kind, "payload": n })).await);
    }
    for (order, step, bound) in [("asc", 1, "from"), ("desc", -1, "to")] {
        for (filter, limit) in [("", 7), ("&eventType=seventh", 3), ("", 1), ("&eventType=none", 5)]
        {
            let mut found = Vec::new();
            let mut next = None;
            loop {
                let at = next.map_or(String::new(), |next: String| format!("&{bound}={next}"));
                let path = format!("{EVENTS}?order={order}&limit={limit}{filter}{at}");
                let page = server.get(&path, &token).await.json();
                let events = page["events"].as_array().unwrap();
                assert!(events.len() <= limit);
                found.extend(
                    events.iter().map(|event| event["messageId"].as_str().unwrap().to_owned()),
                );
                match page["next"].as_str() {
                    Some(id) => next = Some(id.to_owned()),
                    None => break,
                }
            }
            let mut right: Vec<String> = match filter {
                "" => all.clone(),
                "&eventType=none" => Vec::new(),
                _ => all.iter().step_by(7).cloned().collect(),
            };
            if step < 0 {
                right.reverse();
            }
            assert_eq!(found, right, "{order} {filter} {limit}");
        }
    }
    let path = format!("{EVENTS}?from=({}&to={}", all[3], all[5]);
    let page = server.get(&path, &token).await.json();
    assert_eq!(page["events"].as_array().unwrap().len(), 2);
    for turned in [("asc", 5, 3), ("desc", 5, 3), ("asc", 0, 0)] {
        let (order, from, to) = turned;
        let path = format!("{EVENTS}?order={order}&from={}&to={}", all[from], all[to]);
        let page = server.get(&path, &token).await.json();
        assert_eq!(page["events"].as_array().unwrap().len(), usize::from(from == to));
    }
    let far = server.get(&format!("{EVENTS}?from=2100-01-01T00:00:00Z"), &token).await.json();
    assert_eq!(far, json!({ "events": [], "next": null }));
    let past = server.get(&format!("{EVENTS}?to=2100-01-01T00:00:00Z"), &token).await.json();
    assert_eq!(past["events"].as_array().unwrap().len(), 50);
}

#[tokio::test]
async fn a_page_of_large_events_is_cut_and_goes_on() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let large = json!({ "eventType": "t", "payload": "x".repeat(600_000) });
    for _ in 0..2 {
        let batch = Value::Array(vec![large.clone(); 12]);
        assert_eq!(server.post(EVENTS, &token, batch).await.status, 201);
    }
    let (mut found, mut at, mut pages) = (0, String::new(), 0);
    loop {
        let answer = server.get(&format!("{EVENTS}?limit=1000{at}"), &token).await;
        pages += 1;
        let page = answer.json();
        found += page["events"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => at = format!("&from={next}"),
            None => break,
        }
    }
    assert_eq!(found, 24);
    assert!(pages > 1, "14 MB came in one page");
}

#[tokio::test]
async fn wrong_parameters_are_refused() {
    let server = Server::start().await;
    let token = admin(&tenant());
    for (query, message) in [
        ("limit=1001", "1 to 1000"),
        ("limit=0", "at least 1"),
        ("limit=-1", "limit"),
        ("form=5-0", "unknown field `form`"),
        ("order=up", "asc or desc"),
        ("from=yesterday", "it is an id such as"),
    ] {
        let answer = server.get(&format!("{EVENTS}?{query}"), &token).await;
        assert_eq!(answer.code(), "invalid_request", "{query}");
        assert!(answer.message().contains(message), "{query}: {}", answer.text);
    }
    let answer = server.get(EVENTS, &token).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
}

#[tokio::test]
async fn hybrid_events_are_persisted_shown_or_both() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let hybrid = |options: Value| {
        let mut body = json!({ "eventType": "t", "payload": { "a": 1 }, "options": options });
        // What is not stored has no key to be recognised by.
        if options["persistToStream"] != json!(false) {
            body["idempotencyKey"] = json!(options.to_string());
        }
        let (server, token) = (&server, &token);
        async move { server.post("/v1/hybrid-events", token, body).await }
    };
    let both = hybrid(json!({})).await;
    assert_eq!(both.status, 201);
    assert_eq!(both.json()["subscriberCount"], 0);
    let again = hybrid(json!({})).await;
    assert_eq!(again.status, 201);
    assert_eq!(again.json(), json!({ "streamMessageId": both.json()["streamMessageId"] }));
    let stored = hybrid(json!({ "notifyRealtime": false, "streamName": "other" })).await.json();
    assert!(stored["streamMessageId"].is_string() && stored.get("subscriberCount").is_none());
    let shown = hybrid(json!({ "persistToStream": false })).await.json();
    assert_eq!(shown, json!({ "subscriberCount": 0 }));
    let nowhere = hybrid(json!({ "persistToStream": false, "notifyRealtime": false })).await;
    assert_eq!(nowhere.code(), "invalid_request");
    let wrong = hybrid(json!({ "stream": "x" })).await;
    assert!(wrong.message().contains("unknown field `stream`, expected one of `persistToStream`"));
    let page = server.get("/v1/streams/events/events", &token).await.json();
    assert_eq!(page["events"].as_array().unwrap().len(), 1);
    assert_eq!(page["events"][0]["realtimeChannel"], "notifications");
    assert_eq!(server.get("/v1/streams/other/events", &token).await.status, 200);
}
