//! Every call and every event of a live client, with every credential that is wrong in one way.

use std::collections::BTreeSet;

use apix_gateway::{Algorithm, GatewayConfig};
use jsonwebtoken::{EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::bed::{Answer, SECRET, Server, admin, config, memory, sign, tenant, token, unix_now};
use crate::live::Client;
use crate::tokens::{OTHER_RSA, RSA, RSA_PUBLIC, by_rsa, header, key};

const OTHER_SECRET: &str = "the secret of other tenants, 32 bytes or more";
/// One of each kind, with everything that it can be for.
const ALL: [&str; 9] = [
    "streams:read:*",
    "streams:write:*",
    "groups:manage:*",
    "channels:subscribe:*",
    "channels:publish:*",
    "presence:read:*",
    "connections:manage",
    "webhooks:manage",
    "audit:read",
];

/// A call, as the description has it, and the permissions that it needs.
struct Row {
    method: &'static str,
    path: &'static str,
    body: Value,
    needs: &'static [&'static str],
}

const fn row(
    method: &'static str,
    path: &'static str,
    body: Value,
    needs: &'static [&'static str],
) -> Row {
    Row { method, path, body, needs }
}

fn rows() -> Vec<Row> {
    const READ: &[&str] = &["streams:read:s"];
    const MANAGE: &[&str] = &["groups:manage:s"];
    let event = || json!({ "eventType": "t", "payload": 1 });
    let none = || Value::Null;
    let ids = || json!(["1-0"]);
    vec![
        row("get", "/v1/streams", none(), &[]),
        row("post", "/v1/tickets", json!({}), &[]),
        row("post", "/v1/streams/{stream}/events", event(), &["streams:write:s"]),
        row("get", "/v1/streams/{stream}/events", none(), READ),
        row("get", "/v1/streams/{stream}", none(), READ),
        row("put", "/v1/streams/{stream}", json!({}), MANAGE),
        row("get", "/v1/streams/{stream}/groups", none(), READ),
        row("get", "/v1/streams/{stream}/groups/{group}", none(), READ),
        row("put", "/v1/streams/{stream}/groups/{group}", json!({}), MANAGE),
        row(
            "post",
            "/v1/streams/{stream}/groups/{group}/read",
            json!({ "consumer": "w", "waitMs": 0 }),
            READ,
        ),
        row(
            "post",
            "/v1/streams/{stream}/groups/{group}/ack",
            json!({ "messageIds": ids() }),
            READ,
        ),
        row(
            "post",
            "/v1/streams/{stream}/groups/{group}/reject",
            json!({ "messageId": "1-0", "consumer": "w", "deliveryCount": 1 }),
            READ,
        ),
        row(
            "post",
            "/v1/streams/{stream}/groups/{group}/extend",
            json!({ "messageIds": ids(), "consumer": "w", "leaseMs": 1_000 }),
            READ,
        ),
        row("post", "/v1/streams/{stream}/groups/{group}/seek", json!({ "to": "end" }), MANAGE),
        row("get", "/v1/streams/{stream}/groups/{group}/dead-letters", none(), READ),
        row(
            "post",
            "/v1/streams/{stream}/groups/{group}/dead-letters/retry",
            json!({ "all": true }),
            MANAGE,
        ),
        row(
            "post",
            "/v1/streams/{stream}/groups/{group}/dead-letters/discard",
            json!({ "all": true }),
            MANAGE,
        ),
        row(
            "post",
            "/v1/channels/{channel}/messages",
            json!({ "type": "t", "data": 1 }),
            &["channels:publish:c"],
        ),
        row("get", "/v1/channels/{channel}/sse", none(), &["channels:subscribe:c"]),
        row("get", "/v1/channels/{channel}/presence", none(), &["presence:read:c"]),
        row(
            "post",
            "/v1/presence/query",
            json!({ "userIds": ["bert"] }),
            &["presence:read:user:bert"],
        ),
        row("get", "/v1/connections", none(), &["connections:manage"]),
        row("delete", "/v1/connections/{id}", none(), &["connections:manage"]),
        row(
            "post",
            "/v1/hybrid-events",
            json!({ "eventType": "t", "payload": 1,
                "options": { "streamName": "s", "realtimeChannel": "c" } }),
            &["streams:write:s", "channels:publish:c"],
        ),
        row("delete", "/v1/streams/{stream}/groups/{group}", none(), MANAGE),
        row("delete", "/v1/streams/{stream}", none(), MANAGE),
    ]
}

/// Keys of some tenants, others of others.
fn keys() -> GatewayConfig {
    let mut config = config();
    config.auth.jwt_keys[0].tenants = vec!["t-*".to_owned()];
    let mut other = key(Some("other"), Algorithm::HS256, OTHER_SECRET);
    other.tenants = vec!["o-*".to_owned()];
    let mut rsa = key(Some("rsa"), Algorithm::RS256, RSA_PUBLIC);
    rsa.tenants = vec!["t-*".to_owned()];
    config.auth.jwt_keys.extend([other, rsa]);
    config
}

/// Tokens that are no credential of `tenant`, though each would be one but for one thing.
fn bad_tokens(tenant: &str) -> Vec<(&'static str, String)> {
    let claims = |name: &str, value: Value| {
        let mut claims = json!({ "organizationId": tenant, "sub": "anna",
            "exp": unix_now() + 600, "permissions": ["admin"] });
        claims[name] = value;
        claims
    };
    let right = claims("sub", json!("anna"));
    let secret = |secret: &str, header: &Header| {
        encode(header, &right, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    let hs256 = |kid| header(jsonwebtoken::Algorithm::HS256, kid);
    let unsigned = sign(&right);
    let (unsigned, _) = unsigned.rsplit_once('.').unwrap();
    vec![
        ("expired", sign(&claims("exp", json!(unix_now() - 1)))),
        ("not yet valid", sign(&claims("nbf", json!(unix_now() + 600)))),
        ("another algorithm", secret(SECRET, &Header::new(jsonwebtoken::Algorithm::HS512))),
        ("a public key as secret", secret(RSA_PUBLIC, &hs256(Some("rsa")))),
        ("a secret under a public key's name", secret(SECRET, &hs256(Some("rsa")))),
        ("a public key under no name", by_rsa(OTHER_RSA, &right, None)),
        ("a key of another tenant", secret(OTHER_SECRET, &hs256(Some("other")))),
        ("a key of another tenant under no name", secret(OTHER_SECRET, &hs256(None))),
        ("a tenant of another key", by_rsa(RSA, &claims("organizationId", json!("o-1")), None)),
        ("no signature", format!("{unsigned}.")),
        ("no key", "no-such-key".to_owned()),
        ("nothing", String::new()),
    ]
}

/// All permissions but those of the kind of `needed`.
fn without(tenant: &str, needed: &str) -> String {
    let kind = needed.splitn(3, ':').take(2).collect::<Vec<_>>().join(":");
    let rest: Vec<&str> = ALL.into_iter().filter(|one| !one.starts_with(&kind)).collect();
    assert_eq!(rest.len(), ALL.len() - 1);
    token(tenant, &rest)
}

/// Ages grow by themselves.
fn without_ages(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| name != "idleMs" && name != "oldestUnacknowledgedMs");
            fields.values_mut().for_each(without_ages);
        }
        Value::Array(items) => items.iter_mut().for_each(without_ages),
        _ => {}
    }
}

async fn make(server: &Server, row: &Row, token: Option<&str>, named: Option<&str>) -> Answer {
    let address = row
        .path
        .replace("{stream}", "s")
        .replace("{group}", "g")
        .replace("{channel}", "c")
        .replace("{id}", "i");
    let method = Method::from_bytes(row.method.to_uppercase().as_bytes()).unwrap();
    let mut call = server.client.request(method, server.url(&address));
    if let Some(token) = token {
        call = call.bearer_auth(token);
    }
    if let Some(named) = named {
        call = call.header("apix-tenant", named);
    }
    if !row.body.is_null() {
        call = call.json(&row.body);
    }
    let answer = call.send().await.unwrap();
    let stream = answer.headers().get("content-type").is_some_and(|it| it == "text/event-stream");
    if answer.status() == 204 || stream {
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        return Answer { status, headers, text: String::new() };
    }
    Answer::of(answer).await
}

#[tokio::test]
async fn every_call_wants_a_right_credential_and_its_permission() {
    let server = Server::with(memory().await, keys()).await;
    let (tenant, foreign) = (tenant(), tenant());
    let owner = admin(&tenant);
    server.add("s", &owner, json!({ "eventType": "t", "payload": 1 })).await;
    server.put("/v1/streams/s/groups/g", &owner, json!({})).await;
    let state = || async {
        let mut stream = server.get("/v1/streams/s", &owner).await.json();
        without_ages(&mut stream);
        (stream, server.get("/v1/streams/s/events", &owner).await.json())
    };
    for row in rows() {
        let at = format!("{} {}", row.method, row.path);
        let before = state().await;
        let answer = make(&server, &row, None, None).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{at}");
        for (what, token) in bad_tokens(&tenant) {
            let answer = make(&server, &row, Some(&token), None).await;
            let found = (answer.status, answer.code());
            assert_eq!(found, (401, "unauthorized".to_owned()), "{at}: {what}");
            assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"apix\"");
        }
        let answer = make(&server, &row, Some(&owner), Some(&foreign)).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "tenant_mismatch"), "{at}");
        for needed in row.needs {
            let answer = make(&server, &row, Some(&without(&tenant, needed)), None).await;
            let found = (answer.status, answer.code());
            assert_eq!(found, (403, "permission_denied".to_owned()), "{at}: {needed}");
            assert!(answer.message().contains(&format!("'{needed}'")), "{at}: {}", answer.text);
        }
        assert_eq!(state().await, before, "{at}");
        // What it needs is enough.
        let answer = make(&server, &row, Some(&token(&tenant, row.needs)), None).await;
        assert!(![401, 403].contains(&answer.status), "{at}: {}", answer.text);
    }
}

#[tokio::test]
async fn the_table_has_every_call() {
    let server = Server::start().await;
    let document = server.get("/openapi.json", "x").await.json();
    let mut described = BTreeSet::new();
    for (path, calls) in document["paths"].as_object().unwrap() {
        for (method, call) in calls.as_object().unwrap() {
            if !call["security"].is_array() && path != "/v1/ws" {
                described.insert(format!("{method} {path}"));
            }
        }
    }
    let rows: BTreeSet<_> =
        rows().iter().map(|row| format!("{} {}", row.method, row.path)).collect();
    assert_eq!(rows, described);
}

/// The status and code that a handshake is refused with.
async fn refused(request: impl IntoClientRequest + Unpin) -> (u16, String) {
    match connect_async(request).await {
        Err(Error::Http(refused)) => {
            let body: Value = serde_json::from_slice(refused.body().as_deref().unwrap()).unwrap();
            (refused.status().as_u16(), body["error"]["code"].as_str().unwrap().to_owned())
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn live_clients_want_a_right_credential_in_every_way_to_give_it() {
    let server = Server::with(memory().await, keys()).await;
    let (tenant, foreign) = (tenant(), tenant());
    let url = format!("ws://{}/v1/ws", server.addr);
    let with = |name: &'static str, value: &str| {
        let mut request = url.as_str().into_client_request().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let unauthorized = (401, "unauthorized".to_owned());
    assert_eq!(refused(url.as_str()).await, unauthorized);
    for (what, token) in bad_tokens(&tenant) {
        let bearer = with("authorization", &format!("Bearer {token}"));
        assert_eq!(refused(bearer).await, unauthorized, "{what}");
        let offered = with("sec-websocket-protocol", &format!("apix.v1, bearer.{token}"));
        assert_eq!(refused(offered).await, unauthorized, "{what}");
        for query in ["token", "ticket"] {
            let url = format!("{url}?{query}={token}");
            assert_eq!(refused(url.as_str()).await, unauthorized, "{query}: {what}");
            let sse = server.url(&format!("/v1/channels/c/sse?{query}={token}"));
            let answer = Answer::of(server.client.get(sse).send().await.unwrap()).await;
            assert_eq!((answer.status, answer.code()), unauthorized, "{query}: {what}");
        }
    }
    let mut named = with("authorization", &format!("Bearer {}", admin(&tenant)));
    named.headers_mut().insert("apix-tenant", foreign.parse().unwrap());
    assert_eq!(refused(named).await, (403, "tenant_mismatch".to_owned()));
    for (granted, right) in [("channels:publish:c", 403), ("channels:subscribe:c", 200)] {
        let sse = format!("/v1/channels/c/sse?token={}", token(&tenant, &[granted]));
        let status = server.client.get(server.url(&sse)).send().await.unwrap().status();
        assert_eq!(status, right, "{granted}");
    }
}

#[tokio::test]
async fn every_event_of_a_live_client_wants_its_permission() {
    let server = Server::with(memory().await, keys()).await;
    let (tenant, foreign) = (tenant(), tenant());
    let subscribe = |organization: Option<&str>| match organization {
        None => json!({ "channels": ["c"] }),
        Some(id) => json!({ "channels": [{ "channel": "c", "organizationId": id }] }),
    };
    let publish = |organization: Option<&str>| {
        let mut message = json!({ "channel": "c", "type": "t", "data": 1 });
        if let Some(id) = organization {
            message["organizationId"] = json!(id);
        }
        message
    };
    // A subscription is refused within its acknowledgement, everything else by an exception.
    let code = |answer: &Value| match &answer["data"]["refused"][0]["code"] {
        Value::Null => answer["data"]["code"].clone(),
        code => code.clone(),
    };
    let permissions =
        [("subscribe_updates", "channels:subscribe:c"), ("publish", "channels:publish:c")];
    for (event, needed) in permissions {
        let data = |organization: Option<&str>| {
            if event == "publish" { publish(organization) } else { subscribe(organization) }
        };
        let mut lacking = Client::connect(&server, &without(&tenant, needed)).await;
        assert_eq!(code(&lacking.ask(event, data(None)).await), "permission_denied", "{event}");
        let mut right = Client::connect(&server, &token(&tenant, &[needed])).await;
        let answer = right.ask(event, data(Some(&foreign))).await;
        assert_eq!(code(&answer), "tenant_mismatch", "{event}");
        for organization in [None, Some(tenant.as_str())] {
            let answer = right.ask(event, data(organization)).await;
            assert_eq!((&answer["event"], code(&answer)), (&json!("ack"), Value::Null), "{event}");
        }
    }
    // To leave is always allowed, also what was never joined.
    let mut client = Client::connect(&server, &token(&tenant, &[])).await;
    for organization in [None, Some(foreign.as_str())] {
        let answer = client.ask("unsubscribe_updates", subscribe(organization)).await;
        assert_eq!(answer["event"], "ack", "{answer}");
    }
    for (what, token) in bad_tokens(&tenant) {
        let answer = client.ask("renew", json!({ "token": token })).await;
        assert_eq!(code(&answer), "unauthorized", "{what}");
    }
    let answer = client.ask("renew", json!({ "token": admin(&foreign) })).await;
    assert_eq!(code(&answer), "tenant_mismatch");
    let answer = client.ask("renew", json!({ "token": token(&tenant, &[]) })).await;
    assert_eq!(answer["event"], "ack", "{answer}");
}
