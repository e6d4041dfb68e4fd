//! Tokens of every algorithm, and keys that must not be taken for others.

use apix_gateway::{Algorithm, GatewayConfig, JwtKey, Secret};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::bed::{Server, config, eventually, memory, tenant, unix_now};

pub(crate) const RSA: &[u8] = include_bytes!("keys/rsa.pem");
pub(crate) const RSA_PUBLIC: &str = include_str!("keys/rsa.pub");
pub(crate) const OTHER_RSA: &[u8] = include_bytes!("keys/rsa2.pem");
pub(crate) const OTHER_RSA_PUBLIC: &str = include_str!("keys/rsa2.pub");
pub(crate) const P256: &[u8] = include_bytes!("keys/ec.pem");
pub(crate) const P256_PUBLIC: &str = include_str!("keys/ec.pub");
pub(crate) const ED25519: &[u8] = include_bytes!("keys/ed.pem");
pub(crate) const ED25519_PUBLIC: &str = include_str!("keys/ed.pub");

pub(crate) fn key(kid: Option<&str>, algorithm: Algorithm, secret: &str) -> JwtKey {
    JwtKey {
        kid: kid.map(str::to_owned),
        algorithm,
        secret: Secret::text(secret),
        tenants: vec!["*".to_owned()],
        issuer: None,
        audience: None,
    }
}

pub(crate) fn claims(tenant: &str) -> Value {
    json!({ "organizationId": tenant, "sub": "anna", "exp": unix_now() + 600,
        "permissions": ["admin"] })
}

pub(crate) fn header(algorithm: jsonwebtoken::Algorithm, kid: Option<&str>) -> Header {
    Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) }
}

pub(crate) fn by_rsa(pem: &[u8], claims: &Value, kid: Option<&str>) -> String {
    let key = EncodingKey::from_rsa_pem(pem).unwrap();
    encode(&header(jsonwebtoken::Algorithm::RS256, kid), claims, &key).unwrap()
}

pub(crate) fn by_p256(claims: &Value, kid: Option<&str>) -> String {
    let key = EncodingKey::from_ec_pem(P256).unwrap();
    encode(&header(jsonwebtoken::Algorithm::ES256, kid), claims, &key).unwrap()
}

pub(crate) fn by_ed25519(claims: &Value, kid: Option<&str>) -> String {
    let key = EncodingKey::from_ed_pem(ED25519).unwrap();
    encode(&header(jsonwebtoken::Algorithm::EdDSA, kid), claims, &key).unwrap()
}

/// Signed by whom `secret` tells, with a header as it is given.
fn by_secret(secret: &[u8], header: &Header, claims: &Value) -> String {
    encode(header, claims, &EncodingKey::from_secret(secret)).unwrap()
}

fn all_keys() -> GatewayConfig {
    let mut config = config();
    config.auth.jwt_keys.extend([
        key(Some("rsa"), Algorithm::RS256, RSA_PUBLIC),
        key(Some("p256"), Algorithm::ES256, P256_PUBLIC),
        key(Some("ed25519"), Algorithm::EdDSA, ED25519_PUBLIC),
    ]);
    config
}

#[tokio::test]
async fn each_algorithm_is_checked_with_its_key() {
    let server = Server::with(memory().await, all_keys()).await;
    let claims = claims(&tenant());
    for token in [
        by_rsa(RSA, &claims, Some("rsa")),
        by_rsa(RSA, &claims, None),
        by_p256(&claims, Some("p256")),
        by_p256(&claims, None),
        by_ed25519(&claims, Some("ed25519")),
        by_ed25519(&claims, None),
    ] {
        let answer = server.get("/v1/streams", &token).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    // The name of another key, a key that nobody knows, a signature of another token.
    let right = by_rsa(RSA, &claims, Some("rsa"));
    let other = by_rsa(RSA, &crate::tokens::claims("other"), Some("rsa"));
    let mixed =
        format!("{}.{}", right.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
    for token in [
        by_rsa(RSA, &claims, Some("p256")),
        by_ed25519(&claims, Some("rsa")),
        by_rsa(OTHER_RSA, &claims, Some("rsa")),
        by_rsa(OTHER_RSA, &claims, None),
        mixed,
    ] {
        assert_eq!(server.get("/v1/streams", &token).await.code(), "unauthorized");
    }
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let server = Server::with(memory().await, all_keys()).await;
    let claims = claims(&tenant());
    for (kid, public) in [("rsa", RSA_PUBLIC), ("p256", P256_PUBLIC), ("ed25519", ED25519_PUBLIC)] {
        for secret in [public, public.trim_end()] {
            for kid in [Some(kid), None] {
                let header = header(jsonwebtoken::Algorithm::HS256, kid);
                let forged = by_secret(secret.as_bytes(), &header, &claims);
                assert_eq!(server.get("/v1/streams", &forged).await.code(), "unauthorized");
            }
        }
    }
    // Nor can one be configured as if it were.
    let mut wrong = config();
    wrong.auth.jwt_keys.push(key(None, Algorithm::HS256, RSA_PUBLIC));
    assert!(wrong.check().unwrap_err().to_string().contains("name the key's algorithm"));
    wrong.auth.jwt_keys = vec![key(Some("x"), Algorithm::RS256, P256_PUBLIC)];
    let fault = wrong.check().unwrap_err().to_string();
    assert!(fault.contains("\"x\"") && fault.contains("no RSA key"), "{fault}");
}

#[tokio::test]
async fn a_token_without_a_signature_or_with_critical_fields_is_refused() {
    let server = Server::with(memory().await, all_keys()).await;
    let claims = claims(&tenant());
    let right = by_ed25519(&claims, None);
    let body = right.split('.').nth(1).unwrap();
    for head in [
        json!({ "alg": "none" }),
        json!({ "alg": "NONE", "kid": "ed25519" }),
        json!({ "alg": "" }),
        json!({ "kid": "ed25519" }),
        json!({ "alg": "EdDSA" }),
        json!({ "alg": "HS256" }),
    ] {
        let head = URL_SAFE_NO_PAD.encode(head.to_string());
        let token = format!("{head}.{body}.");
        assert_eq!(server.get("/v1/streams", &token).await.code(), "unauthorized");
    }
    let critical = json!({ "alg": "HS256", "crit": ["b64"], "b64": false }).to_string();
    let signed = format!("{}.{body}", URL_SAFE_NO_PAD.encode(critical));
    let signature = jsonwebtoken::crypto::sign(
        signed.as_bytes(),
        &EncodingKey::from_secret(crate::bed::SECRET.as_bytes()),
        jsonwebtoken::Algorithm::HS256,
    );
    let answer = server.get("/v1/streams", &format!("{signed}.{}", signature.unwrap())).await;
    assert!(answer.message().contains("crit"), "{}", answer.text);
}

#[tokio::test]
async fn times_that_are_no_numbers_and_tokens_without_end_are_refused() {
    let server = Server::start().await;
    for (name, value) in [
        ("nbf", json!("0")),
        ("nbf", json!(null)),
        ("exp", json!("99999999999")),
        ("exp", json!(-1)),
        ("exp", json!({})),
    ] {
        let mut claims = claims(&tenant());
        claims[name] = value;
        let answer = server.get("/v1/streams", &crate::bed::sign(&claims)).await;
        assert_eq!(answer.code(), "unauthorized", "{claims}");
    }
    let mut long = claims(&tenant());
    long["fill"] = json!("x".repeat(13 << 10));
    let answer = server.get("/v1/streams", &crate::bed::sign(&long)).await;
    assert!(answer.message().contains("the limit is 16384"), "{}", answer.text);
}

#[tokio::test]
async fn a_key_file_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pub");
    std::fs::write(&file, RSA_PUBLIC).unwrap();
    let mut config = config();
    let mut rsa = key(Some("rsa"), Algorithm::RS256, "");
    rsa.secret = Secret::File(file.clone());
    config.auth.jwt_keys.push(rsa);
    let server = Server::with(memory().await, config).await;
    let claims = claims(&tenant());
    let (old, new) = (by_rsa(RSA, &claims, Some("rsa")), by_rsa(OTHER_RSA, &claims, Some("rsa")));
    assert_eq!(server.get("/v1/streams", &old).await.status, 200);
    // What cannot be read changes nothing.
    std::fs::write(&file, "nonsense").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(server.get("/v1/streams", &old).await.status, 200);
    assert_eq!(server.get("/v1/streams", &new).await.status, 401);
    std::fs::write(&file, OTHER_RSA_PUBLIC).unwrap();
    eventually(|| async { (server.get("/v1/streams", &new).await.status == 200).then_some(()) })
        .await;
    assert_eq!(server.get("/v1/streams", &old).await.status, 401);
}

#[test]
fn the_configuration_says_what_a_key_is() {
    let read =
        |key: Value| serde_json::from_value::<JwtKey>(key).map_err(|fault| fault.to_string());
    let right = json!({ "algorithm": "EdDSA", "public_key": ED25519_PUBLIC, "tenants": ["*"] });
    assert_eq!(read(right).unwrap().algorithm, Algorithm::EdDSA);
    let file = json!({ "algorithm": "RS256", "public_key": { "file": "x" }, "tenants": ["*"] });
    assert!(matches!(read(file).unwrap().secret, Secret::File(_)));
    for (wrong, message) in [
        (json!({ "algorithm": "HS256", "public_key": "x", "tenants": ["*"] }), "has a secret"),
        (json!({ "algorithm": "ES256", "secret": "x", "tenants": ["*"] }), "has a public_key"),
        (json!({ "algorithm": "ES256", "tenants": ["*"] }), "has a public_key"),
        (json!({ "algorithm": "none", "secret": "x", "tenants": ["*"] }), "unknown variant"),
        (json!({ "algorithm": "HS256", "secret": "x", "tenant": ["*"] }), "unknown field"),
    ] {
        let fault = read(wrong).unwrap_err();
        assert!(fault.contains(message), "{message}: {fault}");
    }
}
