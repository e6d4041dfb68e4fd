//! Who may call, and for whom.

use apix_gateway::{Algorithm, ApiKey, JwtKey, KeySource, Secret};
use jsonwebtoken::{EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::bed::{
    Answer, SECRET, SERVICE_KEY, Server, admin, config, eventually, memory, sign, tenant, token,
    unix_now,
};

fn claims(tenant: &str) -> Value {
    json!({ "organizationId": tenant, "exp": unix_now() + 60, "permissions": ["admin"] })
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_said() {
    let server = Server::start().await;
    let right = claims(&tenant());
    let signed_with = |secret: &str, header: &Header| {
        encode(header, &right, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    let hs512 = Header::new(jsonwebtoken::Algorithm::HS512);
    let [head, body, _] =
        <[String; 3]>::try_from(sign(&right).split('.').map(str::to_owned).collect::<Vec<_>>())
            .unwrap();
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.");
    for (token, message) in [
        (sign(&with(right.clone(), "exp", json!(unix_now() - 1))), "expired"),
        (sign(&without(right.clone(), "exp")), "lacks the claim exp"),
        (sign(&with(right.clone(), "nbf", json!(unix_now() + 60))), "not valid yet"),
        (sign(&without(right.clone(), "organizationId")), "organizationId or org_id"),
        (signed_with("another secret of at least 32 bytes", &Header::default()), "signature"),
        (signed_with(SECRET, &hs512), "another algorithm"),
        (unsigned, "not a JWT that this server can read"),
        (format!("{head}.{body}."), "signature"),
        ("a.b.c".to_owned(), "not a JWT"),
        ("no-such-key".to_owned(), "no API key of this server"),
    ] {
        let answer = server.get("/v1/streams", &token).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{message}");
        assert!(answer.message().contains(message), "{message}: {}", answer.text);
        assert!(!answer.text.contains(&token));
    }
    for wrong in ["Basic eDp5", "Bearer", "Bearer ", ""] {
        let call = server.client.get(server.url("/v1/streams")).header("authorization", wrong);
        assert_eq!(Answer::of(call.send().await.unwrap()).await.code(), "unauthorized");
    }
    assert_eq!(server.get("/v1/streams", &sign(&right)).await.status, 200);
}

#[tokio::test]
async fn forged_and_reserved_tenants_are_refused_in_credentials_too() {
    let server = Server::start().await;
    for (tenant, code) in
        [("a:b", "invalid_name"), ("*", "invalid_name"), ("_apix", "reserved_name")]
    {
        let answer = server.get("/v1/streams", &sign(&claims(tenant))).await;
        assert_eq!(answer.code(), code, "{tenant}");
    }
}

#[tokio::test]
async fn a_claim_without_permissions_grants_nothing_and_scope_grants() {
    let server = Server::start().await;
    let tenant = tenant();
    let none = sign(&without(claims(&tenant), "permissions"));
    assert_eq!(server.get("/v1/streams/x", &none).await.code(), "permission_denied");
    let scoped = with(
        without(claims(&tenant), "permissions"),
        "scope",
        json!("openid streams:write:orders* streams:read:orders"),
    );
    let scoped = sign(&scoped);
    server.add("orders", &scoped, json!({ "eventType": "t", "payload": 1 })).await;
    let answer = server.get("/v1/streams/invoices", &scoped).await;
    assert_eq!(answer.code(), "permission_denied");
    assert!(answer.message().contains("'streams:read:invoices'"));
    let org_id = with(without(claims(&tenant), "organizationId"), "org_id", json!(tenant));
    assert_eq!(server.get("/v1/streams/orders", &sign(&org_id)).await.status, 200);
    let odd = with(claims(&tenant), "permissions", json!("admin"));
    assert_eq!(server.get("/v1/streams/x", &sign(&odd)).await.code(), "permission_denied");
}

#[tokio::test]
async fn a_key_speaks_for_its_tenants_issuer_and_audience_alone() {
    let mut config = config();
    let other_secret = "the secret of the shops, 32 bytes and more";
    config.auth.jwt_keys.push(JwtKey {
        kid: Some("shops".to_owned()),
        algorithm: Algorithm::HS256,
        secret: Secret::text(other_secret),
        tenants: vec!["shop-*".to_owned()],
        issuer: Some("https://shops".to_owned()),
        audience: Some("apix".to_owned()),
    });
    let server = Server::with(memory().await, config).await;
    let sign = |claims: &Value, kid: Option<&str>| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::default() };
        encode(&header, claims, &EncodingKey::from_secret(other_secret.as_bytes())).unwrap()
    };
    let right = with(
        with(claims("shop-1"), "iss", json!("https://shops")),
        "aud",
        json!(["apix", "other"]),
    );
    for kid in [Some("shops"), None] {
        assert_eq!(server.get("/v1/streams", &sign(&right, kid)).await.status, 200);
    }
    for (claims, kid, message) in [
        (with(right.clone(), "organizationId", json!("acme")), Some("shops"), "may not speak for"),
        (with(right.clone(), "iss", json!("https://evil")), Some("shops"), "another issuer"),
        (without(right.clone(), "aud"), Some("shops"), "lacks the claim aud"),
        (with(right.clone(), "aud", json!("other")), Some("shops"), "another audience"),
        // A name that no key has leads to the keys without one.
        (right.clone(), Some("shopz"), "signature"),
    ] {
        let answer = server.get("/v1/streams", &sign(&claims, kid)).await;
        assert_eq!(answer.code(), "unauthorized", "{message}");
        assert!(answer.message().contains(message), "{message}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_service_credential_names_the_tenant_of_each_call() {
    let server = Server::start().await;
    let tenant = tenant();
    let call = |path: &str, tenant: &str| {
        server.call(Method::POST, path, SERVICE_KEY).header("apix-tenant", tenant)
    };
    let event = json!({ "eventType": "t", "payload": 1 });
    let added = call("/v1/streams/orders/events", &tenant).header("apix-user", "bert").json(&event);
    assert_eq!(added.send().await.unwrap().status(), 201);
    let page = server.get("/v1/streams/orders/events", &admin(&tenant)).await.json();
    assert_eq!(page["events"][0]["userId"], "bert");
    assert_eq!(page["events"][0]["organizationId"], tenant);
    // Without the header it is itself.
    server.add("orders", SERVICE_KEY, event.clone()).await;
    let page = server.get("/v1/streams/orders/events", SERVICE_KEY).await.json();
    assert_eq!(page["events"][0]["organizationId"], "backend");
    assert_eq!(page["events"][0]["userId"], "robot");
    for (named, code) in
        [("other", "permission_denied"), ("a/b", "invalid_name"), ("_x", "permission_denied")]
    {
        let answer = call("/v1/streams/orders/events", named).json(&event);
        assert_eq!(Answer::of(answer.send().await.unwrap()).await.code(), code, "{named}");
    }
    // Its other permissions apply within that tenant.
    let groups = call("/v1/streams/orders/groups/g/seek", &tenant).json(&json!({ "to": "end" }));
    assert_eq!(Answer::of(groups.send().await.unwrap()).await.code(), "permission_denied");
}

#[tokio::test]
async fn others_cannot_name_a_tenant_or_a_user() {
    let server = Server::start().await;
    let (own, other) = (tenant(), tenant());
    let acting = token(&own, &["admin", "tenants:act-as:*"]);
    let call = |name: &str, value: &str| {
        server.call(Method::GET, "/v1/streams", &acting).header(name, value).send()
    };
    let answer = Answer::of(call("apix-tenant", &other).await.unwrap()).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "tenant_mismatch"));
    let answer = Answer::of(call("apix-user", "bert").await.unwrap()).await;
    assert_eq!(answer.code(), "permission_denied");
    assert_eq!(call("apix-tenant", &own).await.unwrap().status(), 200);
    assert_eq!(call("apix-user", "anna").await.unwrap().status(), 200);
}

#[tokio::test]
async fn api_keys_may_be_digests_or_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "key-of-the-file\n").unwrap();
    let key = |name: &str, key: KeySource| ApiKey {
        name: name.to_owned(),
        key,
        organization_id: name.parse().unwrap(),
        user_id: None,
        permissions: vec!["admin".to_owned()],
        operator: false,
    };
    let mut config = config();
    // The SHA-256 of "abc".
    let digest = r#"{"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}"#;
    config.auth.api_keys = vec![
        key("t1", serde_json::from_str(digest).unwrap()),
        key("t2", KeySource::Key(Secret::File(file))),
    ];
    let server = Server::with(memory().await, config).await;
    assert_eq!(server.get("/v1/streams", "abc").await.status, 200);
    assert_eq!(server.get("/v1/streams", "key-of-the-file").await.status, 200);
    assert_eq!(server.get("/v1/streams", "abd").await.status, 401);
}

#[tokio::test]
async fn a_file_of_an_api_key_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "the-old-key").unwrap();
    let mut config = config();
    config.auth.api_keys[0].key = KeySource::Key(Secret::File(file.clone()));
    let server = Server::with(memory().await, config).await;
    assert_eq!(server.get("/v1/streams", "the-old-key").await.status, 200);
    std::fs::write(&file, "the-newer-key").unwrap();
    eventually(|| async {
        (server.get("/v1/streams", "the-newer-key").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(server.get("/v1/streams", "the-old-key").await.status, 401);
}

#[test]
fn settings_that_cannot_work_are_refused_before_the_start() {
    let refused = |change: fn(&mut apix_gateway::GatewayConfig)| {
        let mut config = config();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    let short = refused(|config| config.auth.jwt_keys[0].secret = Secret::text("short"));
    assert!(short.contains("HS256 needs at least 32"), "{short}");
    let none = refused(|config| config.auth.jwt_keys[0].tenants.clear());
    assert!(none.contains("tenants is empty"), "{none}");
    let typo = refused(|config| config.auth.api_keys[0].permissions = vec!["stream:read:*".into()]);
    assert!(typo.contains("\"service\"") && typo.contains("streams:read:PATTERN"), "{typo}");
    let reserved = refused(|config| {
        config.auth.api_keys[0].organization_id = "_x".parse().unwrap();
    });
    assert!(reserved.contains("reserved"), "{reserved}");
    let missing = refused(|config| {
        config.auth.api_keys[0].key = KeySource::Key(Secret::File("/no/such/file".into()));
    });
    assert!(missing.contains("/no/such/file"), "{missing}");
    let twice = refused(|config| {
        let again = config.auth.api_keys[0].clone();
        config.auth.api_keys.push(again);
    });
    assert!(twice.contains("the same as another"), "{twice}");
    let jwt = refused(|config| {
        config.auth.api_keys[0].key = KeySource::Key(Secret::text("a.b.c"));
    });
    assert!(jwt.contains("two dots"), "{jwt}");
    let wild = refused(|config| config.http.allowed_origins = vec!["*".to_owned()]);
    assert!(wild.contains("there is no wildcard"), "{wild}");
    assert!(!format!("{:?}", config()).contains(SECRET));
}
