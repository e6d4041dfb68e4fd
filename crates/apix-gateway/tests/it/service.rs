//! Service credentials: one live connection for all tenants of a backend.

use serde_json::{Value, json};

use crate::bed::{Server, admin, config, memory, tenant, token};
use crate::live::{Client, hybrid, publish};
use crate::logs::Recorder;

async fn server() -> Server {
    let mut config = config();
    let permissions = &mut config.auth.api_keys[0].permissions;
    permissions.extend(["channels:subscribe:*".to_owned(), "channels:publish:open".to_owned()]);
    Server::with(memory().await, config).await
}

fn of(tenant: &str, channel: &str) -> Value {
    json!({ "channel": channel, "organizationId": tenant })
}

#[tokio::test]
async fn one_connection_follows_channels_of_many_tenants_and_tells_them_apart() {
    let server = server().await;
    let (one, two) = (tenant(), tenant());
    let mut client = Client::connect(&server, crate::bed::SERVICE_KEY).await;
    let answer = client
        .subscribe(json!([
            of(&one, "news"),
            of(&two, "news"),
            "news",
            of("backend", "news"),
            of("acme", "news"),
            of("_apix", "news"),
            of("a/b", "news"),
        ]))
        .await;
    let subscribed = answer["subscribed"].as_array().unwrap();
    let tenants: Vec<_> = subscribed.iter().map(|entry| &entry["organizationId"]).collect();
    assert_eq!(tenants, [&json!(one), &json!(two), &Value::Null, &Value::Null]);
    let refused: Vec<_> = answer["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["organizationId"].as_str().unwrap(), entry["code"].as_str().unwrap()))
        .collect();
    let right =
        [("acme", "permission_denied"), ("_apix", "permission_denied"), ("a/b", "invalid_name")];
    assert_eq!(refused, right);
    for (tenant, data) in [(one.as_str(), 1), (two.as_str(), 2)] {
        let sent = publish(&server, &admin(tenant), "news", json!(data)).await;
        assert_eq!(sent["subscriberCount"], 1);
        let update = client.next().await;
        assert_eq!(update["data"]["organizationId"], tenant);
        assert_eq!(update["data"]["data"], data);
    }
    let answer =
        client.ask("unsubscribe_updates", json!({ "channels": [of(&one, "news"), "news"] })).await;
    assert_eq!(answer["data"]["unsubscribed"], json!([of(&one, "news"), "news"]));
    publish(&server, &admin(&one), "news", json!(3)).await;
    publish(&server, &admin(&two), "news", json!(4)).await;
    assert_eq!(client.next().await["data"]["data"], 4);
}

#[tokio::test]
async fn positions_and_gaps_say_whose_they_are() {
    let server = server().await;
    let tenant = tenant();
    let id = hybrid(&server, &admin(&tenant), json!(0)).await;
    let mut client = Client::connect(&server, crate::bed::SERVICE_KEY).await;
    let answer = client.subscribe(json!([of(&tenant, "notifications")])).await;
    let entry = &answer["subscribed"][0];
    assert_eq!(
        (&entry["position"]["events"]["id"], &entry["organizationId"]),
        (&json!(id), &json!(tenant))
    );
    hybrid(&server, &admin(&tenant), json!(1)).await;
    assert_eq!(client.next().await["data"]["data"], 1);
    let mut lost = of(&tenant, "notifications");
    lost["since"] = json!({ "events": { "id": id, "epoch": "other" } });
    client.subscribe(json!([lost])).await;
    let missed = client.next().await;
    assert_eq!(missed["event"], "missed");
    assert_eq!(missed["data"]["organizationId"], tenant);
}

#[tokio::test]
async fn it_publishes_in_the_name_of_a_tenant_and_every_use_is_logged() {
    let recorder = Recorder::default();
    let _recording = tracing::subscriber::set_default(recorder.clone());
    let server = server().await;
    let tenant = tenant();
    let mut follower = Client::connect(&server, &admin(&tenant)).await;
    follower.subscribe(json!(["open"])).await;
    let mut client = Client::connect(&server, crate::bed::SERVICE_KEY).await;
    let message = |channel: &str, tenant: &str| json!({ "channel": channel, "organizationId": tenant, "type": "t", "data": 1 });
    assert_eq!(client.ask("publish", message("open", &tenant)).await["event"], "ack");
    let update = follower.next().await;
    assert_eq!(update["data"]["organizationId"], tenant);
    // Whose user the key has is not one of that tenant.
    assert!(update["data"].get("userId").is_none(), "{update}");
    let uses = |tenant: &str| {
        let lines = recorder.lines();
        let tenant = format!("tenant={tenant}");
        lines
            .iter()
            .filter(|line| line.contains("service credential acts") && line.contains(&tenant))
            .count()
    };
    assert_eq!(uses(&tenant), 1);
    for (channel, tenant, code) in
        [("closed", tenant.as_str(), "permission_denied"), ("open", "acme", "permission_denied")]
    {
        let answer = client.ask("publish", message(channel, tenant)).await;
        assert_eq!(answer["data"]["code"], code);
    }
    assert_eq!((uses(&tenant), uses("acme")), (2, 0));
    assert!(recorder.lines().iter().any(|line| line.contains("key=\"service\"")));
}

#[tokio::test]
async fn others_have_their_own_tenant_alone() {
    let server = server().await;
    let own = tenant();
    let everything = token(&own, &["admin", "tenants:act-as:*", "channels:subscribe:*"]);
    let mut client = Client::connect(&server, &everything).await;
    let answer = client.subscribe(json!([of("t-other", "news"), of(&own, "news")])).await;
    assert_eq!(answer["refused"][0]["code"], "tenant_mismatch");
    assert_eq!(answer["subscribed"].as_array().unwrap().len(), 1);
    let message = json!({ "channel": "news", "organizationId": "t-other", "type": "t", "data": 1 });
    assert_eq!(client.ask("publish", message).await["data"]["code"], "tenant_mismatch");
}
