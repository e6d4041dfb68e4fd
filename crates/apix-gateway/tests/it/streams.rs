//! Streams: listing, settings, deletion.

use serde_json::{Value, json};

use crate::bed::{Server, admin, tenant, token};

#[tokio::test]
async fn a_stream_is_set_seen_listed_and_deleted() {
    let server = Server::start().await;
    let tenant = tenant();
    let admin = admin(&tenant);
    let answer = server.put("/v1/streams/b", &admin, json!({ "retention": { "maxLen": 5 } })).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["retention"]["maxLen"], 5);
    assert_eq!(answer.json()["idempotency"]["maxAgeMs"], 86_400_000);
    let answer = server.put("/v1/streams/b", &admin, json!({ "partitions": 4 })).await;
    assert_eq!((answer.status, answer.code().as_str()), (501, "unsupported"));
    let answer = server.put("/v1/streams/b", &admin, json!({ "retention": { "maxLen": 0 } })).await;
    assert_eq!(answer.code(), "invalid_request");
    let answer = server.put("/v1/streams/b", &admin, json!({ "retain": {} })).await;
    assert!(answer.message().contains("unknown field `retain`"), "{}", answer.text);

    let id = server.add("a", &admin, json!({ "eventType": "t", "payload": 1 })).await;
    server.add("c:1", &admin, json!({ "eventType": "t", "payload": 1 })).await;
    let stats = server.get("/v1/streams/a", &admin).await.json();
    assert_eq!((&stats["length"], &stats["lastId"]), (&json!(1), &json!(id)));
    let names = |list: &Value| {
        let streams = list["streams"].as_array().unwrap();
        streams.iter().map(|s| s["stream"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let list = server.get("/v1/streams", &admin).await.json();
    assert_eq!(names(&list), ["a", "b", "c:1"]);
    assert_eq!(list["streams"][0]["length"], 1);
    assert_eq!(list["next"], Value::Null);
    let page = server.get("/v1/streams?limit=2", &admin).await.json();
    assert_eq!((names(&page), &page["next"]), (vec!["a".into(), "b".into()], &json!("b")));
    let page = server.get("/v1/streams?limit=2&after=b", &admin).await.json();
    assert_eq!((names(&page), &page["next"]), (vec!["c:1".into()], &Value::Null));
    let some = token(&tenant, &["streams:read:c*"]);
    assert_eq!(names(&server.get("/v1/streams", &some).await.json()), ["c:1"]);

    assert_eq!(server.delete("/v1/streams/a", &admin).await.status, 204);
    assert_eq!(server.delete("/v1/streams/a", &admin).await.code(), "not_found");
    assert_eq!(server.get("/v1/streams/a", &admin).await.code(), "not_found");
}

#[tokio::test]
async fn messages_reach_nobody_where_nobody_is() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let path = "/v1/channels/news/messages";
    let answer = server.post(path, &token, json!({ "type": "t", "data": { "a": 1 } })).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "subscriberCount": 0 })));
    let same = json!({ "type": "t", "data": 1, "channel": "news" });
    assert_eq!(server.post(path, &token, same).await.status, 200);
    for (body, code, message) in [
        (json!({ "type": "t", "data": 1, "channel": "x" }), "invalid_request", "another channel"),
        (json!({ "type": "", "data": 1 }), "invalid_request", "type is empty"),
        (json!({ "typ": "t", "data": 1 }), "invalid_request", "unknown field `typ`"),
        (
            json!({ "type": "t", "data": 1, "organizationId": "x" }),
            "tenant_mismatch",
            "leave it out",
        ),
    ] {
        let answer = server.post(path, &token, body).await;
        assert_eq!(answer.code(), code);
        assert!(answer.message().contains(message), "{}", answer.text);
    }
    let reserved = "/v1/channels/connection-status/messages";
    let answer = server.post(reserved, &token, json!({ "type": "t", "data": 1 })).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "reserved_name"));
}
