//! Forged names are refused on every call.

use reqwest::Method;
use serde_json::{Value, json};

use crate::bed::{Answer, Server, admin, tenant, token};

/// As they stand in a path: percent-encoded.
fn forged() -> Vec<String> {
    let mut names: Vec<String> =
        ["*", "%7Bx%7D", "a%40b", "a%2Fb", "a%0Ab", "%0A", "%00", "%FF", "a%20b", "%C3%BC", ""]
            .map(str::to_owned)
            .to_vec();
    names.push("x".repeat(129));
    names
}

/// Every call with names in its path: `S`, `G` and `C` stand for them.
const CALLS: [(&str, &str); 21] = [
    ("POST", "/v1/streams/S/events"),
    ("GET", "/v1/streams/S/events"),
    ("GET", "/v1/streams/S"),
    ("PUT", "/v1/streams/S"),
    ("DELETE", "/v1/streams/S"),
    ("GET", "/v1/streams/S/groups"),
    ("GET", "/v1/streams/S/groups/G"),
    ("PUT", "/v1/streams/S/groups/G"),
    ("DELETE", "/v1/streams/S/groups/G"),
    ("POST", "/v1/streams/S/groups/G/read"),
    ("POST", "/v1/streams/S/groups/G/ack"),
    ("POST", "/v1/streams/S/groups/G/reject"),
    ("POST", "/v1/streams/S/groups/G/extend"),
    ("POST", "/v1/streams/S/groups/G/seek"),
    ("GET", "/v1/streams/S/groups/G/dead-letters"),
    ("POST", "/v1/streams/S/groups/G/dead-letters/retry"),
    ("POST", "/v1/streams/S/groups/G/dead-letters/discard"),
    ("POST", "/v1/channels/C/messages"),
    ("GET", "/v1/channels/C/sse"),
    ("GET", "/v1/channels/C/presence"),
    ("GET", "/v1/streams/S/events?limit=5"),
];

fn in_path(path: &str, place: &str, name: &str) -> String {
    let ok = |letter: &str| if letter == place { name.to_owned() } else { "ok".to_owned() };
    path.replace("/S", &format!("/{}", ok("S")))
        .replace("/G", &format!("/{}", ok("G")))
        .replace("/C", &format!("/{}", ok("C")))
}

#[tokio::test]
async fn forged_names_in_paths_are_invalid_names_everywhere() {
    let server = Server::start().await;
    let token = admin(&tenant());
    for (method, path) in CALLS {
        for place in ["S", "G", "C"].into_iter().filter(|place| path.contains(&format!("/{place}")))
        {
            let mut names = forged();
            if place == "G" {
                names.push("a:b".to_owned());
            }
            for name in names {
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                let path = in_path(path, place, &name);
                let answer = server.call(method.clone(), &path, &token).body("").send().await;
                let answer = Answer::of(answer.unwrap()).await;
                assert_eq!(
                    (answer.status, answer.code().as_str()),
                    (400, "invalid_name"),
                    "{method} {path}: {}",
                    answer.text
                );
                assert!(answer.message().contains("1 to 128 characters"), "{}", answer.text);
            }
        }
    }
}

#[tokio::test]
async fn a_name_is_checked_after_the_credential_and_before_the_permission() {
    let server = Server::start().await;
    let nothing = token(&tenant(), &[]);
    for (method, path) in CALLS {
        let call = |path: &str, token: &str| {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            server.call(method, path, token).body("").send()
        };
        let place = if path.contains("/C") { "C" } else { "S" };
        let forged = in_path(path, place, "a%2Fb");
        let answer = Answer::of(call(&forged, "wrong").await.unwrap()).await;
        assert_eq!(answer.code(), "unauthorized", "{method} {path}");
        let answer = Answer::of(call(&forged, &nothing).await.unwrap()).await;
        assert_eq!(answer.code(), "invalid_name", "{method} {path}");
        // The permission before the body, and before whether it exists.
        let right = in_path(path, "", "");
        let answer = Answer::of(call(&right, &nothing).await.unwrap()).await;
        assert_eq!(answer.code(), "permission_denied", "{method} {path}: {}", answer.text);
    }
}

#[tokio::test]
async fn forged_names_in_bodies_are_invalid_names_too() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let group = "/v1/streams/s/groups/g";
    let names = ["*", "{x}", "a@b", "a/b", "a\nb", "", " a", "ü"];
    for name in names.into_iter().map(str::to_owned).chain(["x".repeat(129)]) {
        let hybrid = |options: Value| json!({ "eventType": "t", "payload": 1, "options": options });
        for (path, body) in [
            (format!("{group}/read"), json!({ "consumer": name })),
            (format!("{group}/ack"), json!({ "messageIds": ["1-0"], "consumer": name })),
            (
                format!("{group}/reject"),
                json!({ "messageId": "1-0", "deliveryCount": 1, "consumer": name }),
            ),
            (
                format!("{group}/extend"),
                json!({ "messageIds": ["1-0"], "leaseMs": 1_000, "consumer": name }),
            ),
            ("/v1/hybrid-events".to_owned(), hybrid(json!({ "streamName": name }))),
            ("/v1/hybrid-events".to_owned(), hybrid(json!({ "realtimeChannel": name }))),
        ] {
            let answer = server.post(&path, &token, body).await;
            assert_eq!(answer.code(), "invalid_name", "{path} {name:?}: {}", answer.text);
        }
    }
    for path in ["read", "ack", "extend"] {
        let body = json!({ "consumer": "a:b", "messageIds": ["1-0"], "leaseMs": 5_000 });
        let body = if path == "read" { json!({ "consumer": "a:b" }) } else { body };
        let body =
            if path == "ack" { json!({ "consumer": "a:b", "messageIds": [] }) } else { body };
        let answer = server.post(&format!("{group}/{path}"), &token, body).await;
        assert_eq!(answer.code(), "invalid_name", "{path}");
    }
}

#[tokio::test]
async fn a_name_that_looks_like_a_key_stays_within_its_tenant() {
    let server = Server::start().await;
    let (a, b) = (tenant(), tenant());
    let event = json!({ "eventType": "t", "payload": 1 });
    server.add(&format!("x:stream:{b}"), &admin(&a), event.clone()).await;
    server.add(&format!("tenant:{b}:stream:orders"), &admin(&a), event).await;
    assert_eq!(server.get("/v1/streams", &admin(&b)).await.json()["streams"], json!([]));
}
