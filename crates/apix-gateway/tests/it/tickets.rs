//! Tickets for live connections.

use std::sync::Arc;

use apix::{Broker, Event, Json, Limits, StreamKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::{connect_async, tungstenite};

use crate::bed::{
    Answer, SERVICE_KEY, Server, admin, config, memory, sign, tenant, token, unix_now,
};
use crate::live::{Client, publish};

async fn ticket(server: &Server, token: &str, body: Value) -> String {
    let answer = server.post("/v1/tickets", token, body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(answer.header("cache-control"), "no-store");
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

/// Connects by a ticket; the status and code if that is refused.
async fn connect(server: &Server, ticket: &str) -> Result<Client, (u16, String)> {
    let url = format!("ws://{}/v1/ws?ticket={ticket}", server.addr);
    let stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    match tokio_tungstenite::client_async(url, stream).await {
        Ok((socket, _)) => {
            let mut client = Client { socket };
            assert_eq!(client.next().await["event"], "connected");
            Ok(client)
        }
        Err(Error::Http(refused)) => {
            let body: Value = serde_json::from_slice(refused.body().as_deref().unwrap()).unwrap();
            Err((refused.status().as_u16(), body["error"]["code"].as_str().unwrap().to_owned()))
        }
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_ticket_is_good_once_on_any_server_of_the_broker() {
    let broker: Arc<dyn Broker> = memory().await;
    let one = Server::with(Arc::clone(&broker), config()).await;
    let two = Server::with(broker, config()).await;
    let tenant = tenant();
    let made = ticket(&one, &admin(&tenant), json!({})).await;
    // Of many that try at the same time, on both servers, one gets in.
    let tries = (0..10).map(|n| connect(if n % 2 == 0 { &one } else { &two }, &made));
    let results = futures_util::future::join_all(tries).await;
    let refused = (401, "unauthorized".to_owned());
    let mut connected = Vec::new();
    for result in results {
        match result {
            Ok(client) => connected.push(client),
            Err(why) => assert_eq!(why, refused),
        }
    }
    assert_eq!(connected.len(), 1);
    let client = &mut connected[0];
    client.subscribe(json!(["news"])).await;
    publish(&one, &admin(&tenant), "news", json!(1)).await;
    assert_eq!(client.next().await["data"]["organizationId"], tenant);
    assert_eq!(connect(&two, &made).await.err(), Some(refused));
}

#[tokio::test]
async fn a_ticket_opens_server_sent_events_too_and_nothing_else() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let answer = server.call(Method::POST, "/v1/tickets", &token).send().await.unwrap();
    let answer = Answer::of(answer).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let expires_at = answer.json()["expiresAt"].as_str().unwrap().to_owned();
    assert!(expires_at.ends_with('Z'), "{expires_at}");
    let made = answer.json()["ticket"].as_str().unwrap().to_owned();
    assert_eq!(server.get("/v1/streams", &made).await.code(), "unauthorized");
    // Beside a token it is not used up.
    let path = format!("/v1/channels/news/sse?ticket={made}");
    assert_eq!(server.get(&path, &token).await.code(), "invalid_request");
    let open = || server.client.get(server.url(&path)).send();
    assert_eq!(open().await.unwrap().status(), 200);
    assert_eq!(Answer::of(open().await.unwrap()).await.code(), "unauthorized");
}

#[tokio::test]
async fn forged_tickets_are_refused_and_do_not_use_up_the_right_one() {
    let server = Server::start().await;
    // Before there is any ticket, too.
    assert!(connect(&server, "1-0.AAAA").await.is_err());
    let made = ticket(&server, &admin(&tenant()), json!({})).await;
    let (id, secret) = made.split_once('.').unwrap();
    for forged in [
        format!("{id}."),
        format!("{id}.{}", "A".repeat(secret.len())),
        format!("{id}.{secret}A"),
        format!("9{id}.{secret}"),
        format!("{id}@1.{secret}"),
        format!(".{secret}"),
        secret.to_owned(),
        "0-0.x".to_owned(),
        String::new(),
    ] {
        let refused = connect(&server, &forged).await.err();
        assert_eq!(refused, Some((401, "unauthorized".to_owned())), "{forged}");
    }
    assert!(connect(&server, &made).await.is_ok());
    // What says that it was used is no ticket.
    let (ms, seq) = id.split_once('-').unwrap();
    let (ms, seq): (u64, u64) = (ms.parse().unwrap(), seq.parse().unwrap());
    for id in [format!("{ms}-{}", seq + 1), format!("{}-0", ms + 1)] {
        assert!(connect(&server, &format!("{id}.{secret}")).await.is_err());
    }
}

#[tokio::test]
async fn a_ticket_may_do_what_its_maker_may_or_less() {
    let server = Server::start().await;
    let own = tenant();
    let permissions =
        ["channels:subscribe:user:{userId}", "channels:subscribe:news*", "channels:publish:news"];
    let maker = token(&own, &permissions);
    let mut client =
        connect(&server, &ticket(&server, &maker, json!({})).await).await.ok().unwrap();
    let answer = client.subscribe(json!(["user:anna", "user:bert", "news", "news:1"])).await;
    assert_eq!(answer["subscribed"].as_array().unwrap().len(), 3);
    let narrow = json!({ "channels": ["news"] });
    let mut client = connect(&server, &ticket(&server, &maker, narrow).await).await.ok().unwrap();
    let answer = client.subscribe(json!(["user:anna", "news", "news:1"])).await;
    assert_eq!(answer["subscribed"].as_array().unwrap().len(), 1);
    let message = json!({ "channel": "news", "type": "t", "data": 1 });
    assert_eq!(client.ask("publish", message).await["event"], "ack");
    assert_eq!(client.next().await["event"], "realtime_update");
    for (body, code) in [
        (json!({ "channels": ["news", "other"] }), "permission_denied"),
        (json!({ "channels": ["a/b"] }), "invalid_name"),
        (json!({ "channels": [] }), "invalid_request"),
        (json!({ "channels": vec!["news"; 101] }), "too_large"),
        (json!({ "chanels": [] }), "invalid_request"),
    ] {
        assert_eq!(server.post("/v1/tickets", &maker, body).await.code(), code);
    }
    // A new token of its user makes more of it.
    let answer = client.ask("renew", json!({ "token": maker })).await;
    assert_eq!(answer["event"], "ack", "{answer}");
    assert_eq!(client.subscribe(json!(["news:1"])).await["refused"], json!([]));
}

#[tokio::test]
async fn a_ticket_of_a_service_credential_stands_for_one_tenant_and_user() {
    let mut config = config();
    config.auth.api_keys[0].permissions.push("channels:subscribe:*".to_owned());
    let server = Server::with(memory().await, config).await;
    let tenant = tenant();
    let call = server.call(Method::POST, "/v1/tickets", SERVICE_KEY);
    let call = call.header("apix-tenant", &tenant).header("apix-user", "bert").json(&json!({}));
    let made = Answer::of(call.send().await.unwrap()).await.json()["ticket"].clone();
    let url = format!("ws://{}/v1/ws?ticket={}", server.addr, made.as_str().unwrap());
    let (mut socket, _) = connect_async(url).await.unwrap();
    let hello = futures_util::StreamExt::next(&mut socket).await.unwrap().unwrap();
    let tungstenite::Message::Text(hello) = hello else { panic!("{hello:?}") };
    let hello: Value = serde_json::from_str(&hello).unwrap();
    assert_eq!(hello["data"]["organizationId"], tenant);
    assert_eq!(hello["data"]["userId"], "bert");
    let made = ticket(&server, SERVICE_KEY, json!({})).await;
    let mut client = connect(&server, &made).await.ok().unwrap();
    let wish = json!([{ "channel": "news", "organizationId": tenant }]);
    assert_eq!(client.subscribe(wish).await["refused"][0]["code"], "tenant_mismatch");
}

#[tokio::test]
async fn a_connection_by_ticket_ends_with_the_credential_of_its_maker() {
    let server = Server::start().await;
    let exp = unix_now() + 2;
    let claims = json!({ "organizationId": tenant(), "exp": exp, "permissions": ["admin"] });
    let made = ticket(&server, &sign(&claims), json!({})).await;
    let mut client = connect(&server, &made).await.ok().unwrap();
    assert_eq!(client.closed().await, 4002);
    assert!(unix_now() >= exp);
}

#[tokio::test]
async fn a_ticket_that_was_not_used_in_time_is_not_valid() {
    let broker: Arc<dyn Broker> = memory().await;
    let server = Server::with(Arc::clone(&broker), config()).await;
    let tenant = tenant();
    let now = unix_now() * 1_000;
    for (expires_at_ms, good) in [(now + 20_000, true), (now - 1, false)] {
        let record = json!({
            "organizationId": tenant,
            "permissions": [],
            "digest": URL_SAFE_NO_PAD.encode(Sha256::digest("secret")),
            "expiresAtMs": expires_at_ms,
        });
        let event = Event::new("ticket.issued", Json::encode(&record).unwrap());
        let event = event.checked(None, &Limits::default()).unwrap();
        let stream = StreamKey::internal("tickets".parse().unwrap());
        let id = broker.append(&stream, vec![event]).await.unwrap()[0].message_id;
        let connected = connect(&server, &format!("{id}.secret")).await;
        assert_eq!(connected.is_ok(), good, "{:?}", connected.err());
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_before_the_handshake_where_origins_are_listed() {
    let mut config = config();
    config.http.allowed_origins = vec!["https://app.example.com".to_owned()];
    let server = Server::with(memory().await, config).await;
    let open = Server::start().await;
    let token = admin(&tenant());
    let own = format!("http://{}", server.addr);
    for (server, origin, status) in [
        (&server, Some("https://app.example.com"), 101),
        (&server, Some(own.as_str()), 101),
        (&server, None, 101),
        (&server, Some("https://evil.example"), 403),
        (&server, Some("null"), 403),
        (&open, Some("https://evil.example"), 101),
    ] {
        // A page that may not connect does not use up the ticket.
        let made = ticket(server, &token, json!({})).await;
        let mut call = server
            .client
            .get(server.url(&format!("/v1/ws?ticket={made}")))
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        if let Some(origin) = origin {
            call = call.header("origin", origin);
        }
        let answer = call.send().await.unwrap();
        assert_eq!(answer.status(), status, "{origin:?}");
        if status == 403 {
            assert_eq!(Answer::of(answer).await.code(), "permission_denied");
            assert!(connect(server, &made).await.is_ok());
        }
    }
}
