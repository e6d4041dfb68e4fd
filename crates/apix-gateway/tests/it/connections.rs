//! The tenant's live connections: seen, measured, limited, ended.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::bed::{Server, admin, config, eventually, memory, tenant, token, within};
use crate::live::{Client, publish};

async fn list(server: &Server, token: &str) -> Vec<Value> {
    let answer = server.get("/v1/connections", token).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["connections"].as_array().unwrap().clone()
}

async fn wait_for_count(server: &Server, token: &str, count: usize) -> Vec<Value> {
    eventually(|| async {
        let all = list(server, token).await;
        (all.len() == count).then_some(all)
    })
    .await
}

#[tokio::test]
async fn connections_are_listed_and_ended_on_every_gateway() {
    let broker = memory().await;
    let here = Server::with(broker.clone(), config()).await;
    let there = Server::with(broker, config()).await;
    let token = admin(&tenant());
    let mut near = Client::connect(&here, &token).await;
    let mut far = Client::connect(&there, &token).await;
    far.subscribe(json!(["a", "b"])).await;
    let sse = here.call(Method::GET, "/v1/channels/a/sse", &token).send().await.unwrap();
    let all = wait_for_count(&here, &token, 3).await;
    let of = |protocol: &str, channels: u64| {
        all.iter()
            .find(|one| one["protocol"] == protocol && one["channels"] == channels)
            .unwrap_or_else(|| panic!("{all:?}"))
            .clone()
    };
    assert_eq!(of("websocket", 2)["userId"], "anna");
    let id = |one: Value| one["connectionId"].as_str().unwrap().to_owned();
    let paged = here.get("/v1/connections?limit=2", &token).await.json();
    let rest = format!("/v1/connections?after={}", paged["next"].as_str().unwrap());
    assert_eq!(here.get(&rest, &token).await.json()["connections"].as_array().unwrap().len(), 1);

    // Another tenant, and who may not, end nothing.
    let far_id = id(of("websocket", 2));
    let path = format!("/v1/connections/{far_id}");
    assert_eq!(here.delete(&path, &admin(&tenant())).await.status, 404);
    let weak = crate::bed::token("t-weak", &["channels:subscribe:*"]);
    assert_eq!(here.delete(&path, &weak).await.status, 403);
    assert_eq!(here.get("/v1/connections", &weak).await.status, 403);

    assert_eq!(here.delete(&path, &token).await.status, 204);
    assert_eq!(far.closed().await, 4013);
    assert_eq!(
        here.delete(&format!("/v1/connections/{}", id(of("sse", 1))), &token).await.status,
        204
    );
    within(sse.bytes()).await.unwrap();
    assert_eq!(
        here.delete(&format!("/v1/connections/{}", id(of("websocket", 0))), &token).await.status,
        204
    );
    assert_eq!(near.closed().await, 4013);
    wait_for_count(&there, &token, 0).await;
    assert_eq!(here.delete(&path, &token).await.status, 404);
}

#[tokio::test]
async fn links_are_measured_and_their_status_is_told() {
    let broker = memory().await;
    let here = Server::with(broker.clone(), config()).await;
    let there = Server::with(broker, config()).await;
    let token = admin(&tenant());
    let mut watching = Client::connect(&there, &token).await;
    watching.subscribe(json!(["connection-status"])).await;
    let own = watching.next().await["data"].clone();
    assert_eq!(own["type"], "connection.status_changed");
    let client = Client::connect(&here, &token).await;
    let (mut sink, mut stream) = client.socket.split();
    let reading = tokio::spawn(async move { while let Some(Ok(_)) = stream.next().await {} });
    let told = watching.next().await["data"]["data"].clone();
    assert_eq!((&told["status"], &told["quality"]), (&json!("connected"), &json!("excellent")));
    assert!(told["rttMs"].as_u64().unwrap() < 50, "{told}");
    assert_eq!(told["userId"], "anna");
    let listed = list(&there, &token).await;
    let one = listed.iter().find(|one| one["connectionId"] == told["connectionId"]).unwrap();
    assert_eq!(one["quality"], "excellent");
    futures_util::SinkExt::close(&mut sink).await.unwrap();
    within(reading).await.unwrap();
    let told = watching.next().await["data"]["data"].clone();
    assert_eq!((&told["status"], &told["quality"]), (&json!("disconnected"), &json!("excellent")));
}

#[tokio::test]
async fn a_status_that_is_turned_off_is_not_told_and_events_are_kept_where_wished() {
    let mut config = config();
    config.live.connection_status = false;
    config.live.connection_events = true;
    let server = Server::with(memory().await, config).await;
    let tenant = tenant();
    let token = admin(&tenant);
    let mut client = Client::connect(&server, &token).await;
    client.subscribe(json!(["connection-status"])).await;
    drop(Client::connect(&server, &token).await);
    let events = eventually(|| async {
        let answer = server.get("/v1/streams/connections/events", &token).await;
        let events = answer.json()["events"].as_array().cloned().unwrap_or_default();
        (events.len() == 3).then_some(events)
    })
    .await;
    let types: Vec<_> = events.iter().map(|event| event["eventType"].as_str().unwrap()).collect();
    assert_eq!(types, ["connection.opened", "connection.opened", "connection.closed"]);
    assert_eq!(events[1]["payload"]["connectionId"], events[2]["payload"]["connectionId"]);
    assert_eq!(
        (&events[0]["userId"], &events[0]["payload"]["protocol"]),
        (&json!("anna"), &json!("websocket"))
    );
    // Nobody else writes there, and no status came meanwhile.
    let forged = json!({ "eventType": "connection.closed", "payload": {} });
    let answer = server.post("/v1/streams/connections/events", &token, forged).await;
    assert_eq!(answer.code(), "reserved_name");
    client.ask("publish", json!({ "channel": "x", "type": "t", "data": 1 })).await;
}

#[tokio::test]
async fn a_tenant_has_a_limited_number_of_connections() {
    let mut config = config();
    config.live.max_tenant_connections = Some(2);
    let broker = memory().await;
    let here = Server::with(broker.clone(), config.clone()).await;
    let there = Server::with(broker, config).await;
    let token = admin(&tenant());
    let first = Client::connect(&here, &token).await;
    let _second = Client::connect(&there, &token).await;
    wait_for_count(&here, &token, 2).await;
    let refused = here.get("/v1/channels/news/sse", &token).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "limit"));
    assert_eq!(refused.header("retry-after"), "1");
    let _other = Client::connect(&here, &admin(&tenant())).await;
    drop(first);
    wait_for_count(&there, &token, 1).await;
    let _third = Client::connect(&there, &token).await;
}

#[tokio::test]
async fn an_address_has_a_limited_number_of_handshakes_a_second() {
    let mut config = config();
    config.live.max_handshakes_per_second = Some(3);
    config.http.trusted_proxies = vec!["127.0.0.0/8".to_owned()];
    let server = Server::with(memory().await, config).await;
    let handshake = async |client: &str| {
        let url = format!("ws://{}/v1/ws", server.addr);
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
        match within(connect_async(request)).await {
            Err(Error::Http(response)) => response.status().as_u16(),
            other => panic!("{other:?}"),
        }
    };
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(handshake("203.0.113.7").await);
    }
    // Refused for the missing credential first, and then before it is looked at.
    assert_eq!(statuses[..3], [401, 401, 401]);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(handshake("203.0.113.8").await, 401);
}

#[tokio::test]
async fn a_client_that_sends_too_many_frames_a_second_is_closed() {
    let mut config = config();
    config.live.max_frames_per_second = Some(20);
    let server = Server::with(memory().await, config).await;
    let mut client = Client::connect(&server, &admin(&tenant())).await;
    for _ in 0..60 {
        client.send(json!({ "event": "unsubscribe_updates", "data": { "channels": [] } })).await;
    }
    assert_eq!(client.closed().await, 4009);
}

#[tokio::test]
async fn a_thousand_returns_leave_nothing_behind() {
    let server = Server::start().await;
    let token = admin(&tenant());
    for n in 0..1_000 {
        let mut client = Client::connect(&server, &token).await;
        client.subscribe(json!(["news", format!("own:{}", n % 7)])).await;
        if n % 2 == 0 {
            within(client.socket.close(None)).await.unwrap();
        }
    }
    wait_for_count(&server, &token, 0).await;
    for channel in ["news", "own:0", "own:6"] {
        eventually(|| async {
            let reached = publish(&server, &token, channel, json!(1)).await;
            (reached["subscriberCount"] == 0).then_some(())
        })
        .await;
    }
    let roster = server.get("/v1/channels/news/presence", &token).await.json();
    assert_eq!(roster["connections"], 0);
}

#[tokio::test]
async fn a_dead_client_is_found_within_two_intervals() {
    let mut config = config();
    config.live.ping_interval = Duration::from_millis(500);
    let server = Server::with(memory().await, config).await;
    let token = token(&tenant(), &["admin"]);
    // It is never read from again, so it answers no ping.
    let _dead = Client::connect(&server, &token).await;
    assert_eq!(list(&server, &token).await.len(), 1);
    let begun = tokio::time::Instant::now();
    wait_for_count(&server, &token, 0).await;
    assert!(begun.elapsed() < Duration::from_millis(1_300), "{:?}", begun.elapsed());
}
