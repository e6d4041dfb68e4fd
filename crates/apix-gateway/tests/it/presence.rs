//! Who is there, over several gateways on one broker.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::bed::{
    Server, admin, config, eventually, memory, sign, tenant, token, unix_now, within,
};
use crate::live::Client;

pub(crate) fn user(tenant: &str, name: &str) -> String {
    let exp = unix_now() + 600;
    let claims = json!({
        "organizationId": tenant, "sub": name, "exp": exp, "permissions": ["admin"],
    });
    sign(&claims)
}

async fn two_gateways() -> (Server, Server) {
    let broker = memory().await;
    (Server::with(broker.clone(), config()).await, Server::with(broker, config()).await)
}

/// Waits until the users on the channel are these, with so many connections each.
pub(crate) async fn wait_for_users(
    server: &Server,
    token: &str,
    channel: &str,
    users: &[(&str, u64)],
) -> Value {
    let wanted: Vec<(String, u64)> = users.iter().map(|(user, n)| (user.to_string(), *n)).collect();
    eventually(|| async {
        let roster = server.get(&format!("/v1/channels/{channel}/presence"), token).await;
        assert_eq!(roster.status, 200, "{}", roster.text);
        let roster = roster.json();
        let there: Vec<(String, u64)> = roster["users"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                (one["userId"].as_str().unwrap().to_owned(), one["connections"].as_u64().unwrap())
            })
            .collect();
        (there == wanted).then_some(roster)
    })
    .await
}

#[tokio::test]
async fn everyone_on_a_channel_is_seen_from_every_gateway() {
    let (here, there) = two_gateways().await;
    let tenant = tenant();
    let admin = admin(&tenant);
    let mut one = Client::connect(&here, &user(&tenant, "anna")).await;
    let mut two = Client::connect(&there, &user(&tenant, "anna")).await;
    let mut three = Client::connect(&there, &user(&tenant, "bert")).await;
    for client in [&mut one, &mut two, &mut three] {
        client.subscribe(json!(["room:1"])).await;
    }
    for server in [&here, &there] {
        let roster = wait_for_users(server, &admin, "room:1", &[("anna", 2), ("bert", 1)]).await;
        assert_eq!((&roster["connections"], &roster["anonymous"]), (&json!(3), &json!(0)));
    }
    let page = here.get("/v1/channels/room:1/presence?after=anna&limit=1", &admin).await.json();
    assert_eq!((&page["users"][0]["userId"], &page["next"]), (&json!("bert"), &json!("bert")));
    let query = json!({ "userIds": ["bert", "nobody", "anna"] });
    let answer = here.post("/v1/presence/query", &admin, query).await.json();
    let online: Vec<_> = answer["users"].as_array().unwrap().iter().map(|u| &u["online"]).collect();
    assert_eq!(online, [&json!(true), &json!(false), &json!(true)]);
    // Another tenant sees nobody, and a stranger to presence nothing.
    let other = crate::bed::admin("t-stranger");
    wait_for_users(&here, &other, "room:1", &[]).await;
    let none = token(&tenant, &["channels:subscribe:*"]);
    let refused = here.get("/v1/channels/room:1/presence", &none).await;
    assert_eq!(refused.code(), "permission_denied");
    let own = token(&tenant, &["presence:read:user:anna"]);
    let asked = |user: &str| json!({ "userIds": [user] });
    assert_eq!(here.post("/v1/presence/query", &own, asked("anna")).await.status, 200);
    assert_eq!(here.post("/v1/presence/query", &own, asked("bert")).await.status, 403);

    two.ask("unsubscribe_updates", json!({ "channels": ["room:1"] })).await;
    drop(three);
    wait_for_users(&here, &admin, "room:1", &[("anna", 1)]).await;
}

#[tokio::test]
async fn joins_and_leaves_are_told_to_those_who_ask_for_them() {
    let (here, there) = two_gateways().await;
    let tenant = tenant();
    let mut asking = Client::connect(&here, &user(&tenant, "anna")).await;
    let mut plain = Client::connect(&here, &user(&tenant, "anna")).await;
    asking.subscribe(json!([{ "channel": "room", "presence": true }])).await;
    plain.subscribe(json!(["room"])).await;
    let join = asking.next().await;
    assert_eq!(
        (&join["event"], &join["data"]["type"]),
        (&json!("realtime_update"), &json!("presence.join"))
    );
    assert_eq!(join["data"]["channel"], "room");
    assert_eq!(join["data"]["data"]["userConnections"], 2);

    let mut other = Client::connect(&there, &user(&tenant, "bert")).await;
    other.subscribe(json!(["room"])).await;
    let join = asking.next().await["data"].clone();
    assert_eq!((&join["type"], &join["data"]["userId"]), (&json!("presence.join"), &json!("bert")));
    drop(other);
    let leave = asking.next().await["data"].clone();
    assert_eq!(
        (&leave["type"], &leave["data"]["userId"]),
        (&json!("presence.leave"), &json!("bert"))
    );
    assert_eq!(leave["data"]["data"], Value::Null);
    assert_eq!(leave["data"]["connectionId"], join["data"]["connectionId"]);
    assert_eq!(leave["data"]["userConnections"], 0);
    // Who did not ask gets messages alone.
    crate::live::publish(&there, &admin(&tenant), "room", json!("hello")).await;
    assert_eq!(plain.next().await["data"]["data"], "hello");
    // The right to be told ends with the credential that had it.
    let narrow = json!({ "organizationId": tenant, "sub": "anna", "exp": unix_now() + 600,
        "permissions": ["channels:subscribe:*"] });
    assert_eq!(asking.next().await["data"]["data"], "hello");
    asking.ask("renew", json!({ "token": sign(&narrow) })).await;
    drop(plain);
    wait_for_users(&here, &admin(&tenant), "room", &[("anna", 1)]).await;
    crate::live::publish(&there, &admin(&tenant), "room", json!("again")).await;
    assert_eq!(asking.next().await["data"]["data"], "again");
}

#[tokio::test]
async fn a_gateway_that_comes_later_knows_everyone_and_one_that_dies_is_forgotten() {
    let broker = memory().await;
    let here = Server::with(broker.clone(), config()).await;
    let tenant = tenant();
    let admin = admin(&tenant);
    let mut clients = Vec::new();
    for n in 0..20 {
        let mut client = Client::connect(&here, &user(&tenant, &format!("u{n:02}"))).await;
        client.subscribe(json!(["room"])).await;
        clients.push(client);
    }
    let there = Server::with(broker, config()).await;
    let names: Vec<String> = (0..20).map(|n| format!("u{n:02}")).collect();
    let all: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    wait_for_users(&there, &admin, "room", &all).await;
    let mut watching = Client::connect(&there, &user(&tenant, "watcher")).await;
    watching.subscribe(json!([{ "channel": "room", "presence": true }])).await;
    // Its tasks are cut without a word, as a kill would do.
    let killed = Instant::now();
    here.kill().await;
    let mut leaves = Vec::new();
    while leaves.len() < 20 {
        let told = watching.next().await["data"].clone();
        assert_eq!(told["type"], "presence.leave", "{told}");
        leaves.push(told["data"]["userId"].as_str().unwrap().to_owned());
    }
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    leaves.sort();
    assert_eq!(leaves, names);
    wait_for_users(&there, &admin, "room", &[("watcher", 1)]).await;
    drop(clients);
}

#[tokio::test]
async fn a_gateway_that_stops_says_goodbye() {
    let (mut here, there) = two_gateways().await;
    let tenant = tenant();
    let mut client = Client::connect(&here, &user(&tenant, "anna")).await;
    client.subscribe(json!(["room"])).await;
    wait_for_users(&there, &admin(&tenant), "room", &[("anna", 1)]).await;
    here.stop();
    assert_eq!(client.closed().await, 4010);
    within(here.stopped()).await;
    let stopped = Instant::now();
    wait_for_users(&there, &admin(&tenant), "room", &[]).await;
    assert!(stopped.elapsed() < Duration::from_secs(3));
}
