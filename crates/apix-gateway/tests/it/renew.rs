//! New tokens on living connections.

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::bed::{SERVICE_KEY, Server, sign, tenant, token, unix_now, within};
use crate::live::{Client, publish};

fn lasting(tenant: &str, user: &str, seconds: u64, permissions: &[&str]) -> String {
    let exp = unix_now() + seconds;
    sign(&json!({ "organizationId": tenant, "sub": user, "exp": exp, "permissions": permissions }))
}

async fn renew(client: &mut Client, token: &str) -> Value {
    client.ask("renew", json!({ "token": token })).await
}

#[tokio::test]
async fn a_renewed_connection_lives_on_and_ends_with_its_last_token() {
    let server = Server::start().await;
    let tenant = tenant();
    let mut client = Client::connect(&server, &lasting(&tenant, "anna", 2, &["admin"])).await;
    client.subscribe(json!(["news"])).await;
    let mut end = 0;
    // Later, and earlier again: the last one counts.
    for seconds in [600, 4] {
        end = unix_now() + seconds;
        let answer = renew(&mut client, &lasting(&tenant, "anna", seconds, &["admin"])).await;
        assert_eq!(answer["event"], "ack", "{answer}");
        let expires_at = answer["data"]["expiresAt"].as_str().unwrap();
        assert!(expires_at.ends_with(".000Z"), "{expires_at}");
    }
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    publish(&server, &token(&tenant, &["admin"]), "news", json!(1)).await;
    assert_eq!(client.next().await["data"]["data"], 1);
    assert_eq!(client.closed().await, 4002);
    assert!(unix_now() >= end);
}

#[tokio::test]
async fn what_the_new_token_does_not_allow_ends_and_is_told() {
    let server = Server::start().await;
    let tenant = tenant();
    let both = ["channels:subscribe:a", "channels:subscribe:b", "channels:publish:a"];
    let mut client = Client::connect(&server, &token(&tenant, &both)).await;
    client.subscribe(json!(["a", "b"])).await;
    let answer = renew(&mut client, &token(&tenant, &["channels:subscribe:b"])).await;
    assert_eq!(answer["event"], "ack", "{answer}");
    let told = client.next().await;
    assert_eq!(told["event"], "exception");
    assert_eq!(
        (&told["data"]["code"], &told["data"]["channel"]),
        (&json!("permission_denied"), &json!("a"))
    );
    let admin = crate::bed::admin(&tenant);
    publish(&server, &admin, "a", json!("gone")).await;
    publish(&server, &admin, "b", json!("there")).await;
    assert_eq!(client.next().await["data"]["data"], "there");
    let answer = client.ask("publish", json!({ "channel": "a", "type": "t", "data": 1 })).await;
    assert_eq!(answer["data"]["code"], "permission_denied");
    // And back again.
    renew(&mut client, &token(&tenant, &both)).await;
    assert_eq!(client.subscribe(json!(["a"])).await["refused"], json!([]));
}

#[tokio::test]
async fn a_token_that_does_not_fit_leaves_everything_as_it_is() {
    let server = Server::start().await;
    let own = tenant();
    let mut client = Client::connect(&server, &lasting(&own, "anna", 3, &["admin"])).await;
    client.subscribe(json!(["news"])).await;
    for (token, code) in [
        (lasting(&tenant(), "anna", 600, &["admin"]), "tenant_mismatch"),
        (lasting(&own, "bert", 600, &["admin"]), "permission_denied"),
        (SERVICE_KEY.to_owned(), "tenant_mismatch"),
        ("nonsense".to_owned(), "unauthorized"),
        (format!("{}x", lasting(&own, "anna", 600, &["admin"])), "unauthorized"),
    ] {
        let answer = renew(&mut client, &token).await;
        assert_eq!(answer["data"]["code"], code, "{answer}");
        assert!(!answer.to_string().contains(&token));
    }
    let answer = client.ask("renew", json!({ "tokens": [] })).await;
    assert_eq!(answer["data"]["code"], "invalid_request");
    assert_eq!(client.closed().await, 4002);
    assert!(within(client.socket.next()).await.is_none());
}
