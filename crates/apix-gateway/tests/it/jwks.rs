//! Key sets that their issuers publish and change.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use apix_gateway::{Algorithm, GatewayConfig, Jwks, JwksSource};
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::bed::{Server, config, eventually, memory, tenant};
use crate::tokens::{
    ED25519_PUBLIC, OTHER_RSA, OTHER_RSA_PUBLIC, P256_PUBLIC, RSA, RSA_PUBLIC, by_ed25519, by_p256,
    by_rsa, claims,
};

/// An issuer that publishes a key set; it ends when this is dropped.
struct Issuer {
    addr: SocketAddr,
    fetches: Arc<AtomicUsize>,
    answer: Arc<Mutex<(StatusCode, String)>>,
    task: JoinHandle<()>,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Issuer {
    async fn publishing(keys: &[Value]) -> Self {
        let fetches = Arc::new(AtomicUsize::new(0));
        let answer = Arc::new(Mutex::new((StatusCode::OK, set(keys))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (count, say) = (Arc::clone(&fetches), Arc::clone(&answer));
        let router = Self::router(count, say);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { addr, fetches, answer, task }
    }

    fn router(count: Arc<AtomicUsize>, say: Arc<Mutex<(StatusCode, String)>>) -> Router {
        let serve = move || {
            count.fetch_add(1, Ordering::SeqCst);
            let (status, body) = say.lock().unwrap().clone();
            let location = [("location", "/elsewhere"), ("cache-control", "public, max-age=900")];
            async move { (status, location, body).into_response() as Response }
        };
        let elsewhere = set(&[rsa("elsewhere", RSA_PUBLIC)]);
        Router::new()
            .route("/jwks", get(serve))
            .route("/elsewhere", get(|| async move { elsewhere }))
    }

    /// As `publishing`, over TLS with a certificate of the tests' own authority.
    async fn publishing_over_tls(keys: &[Value]) -> Self {
        let fetches = Arc::new(AtomicUsize::new(0));
        let answer = Arc::new(Mutex::new((StatusCode::OK, set(keys))));
        let router = Self::router(Arc::clone(&fetches), Arc::clone(&answer));
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = tcp.local_addr().unwrap();
        let chain = CertificateDer::from_pem_slice(include_bytes!("keys/tls_cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("keys/tls_key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .unwrap();
        let listener = Tls { tcp, acceptor: TlsAcceptor::from(Arc::new(config)) };
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { addr, fetches, answer, task }
    }

    fn publish(&self, status: StatusCode, body: String) {
        *self.answer.lock().unwrap() = (status, body);
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    fn jwks(&self) -> Jwks {
        let source = JwksSource::Url(format!("http://{}/jwks", self.addr));
        let algorithms = vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
        let tenants = vec!["t-*".to_owned()];
        Jwks { source, algorithms, tenants, issuer: None, audience: None, ca: None }
    }
}

/// Speaks TLS with what connects; what cannot is let go.
struct Tls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, addr) = self.tcp.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, addr);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).unwrap()
}

/// A JWK of an RSA key of 2,048 bits, which stands at a fixed place of its DER.
fn rsa(kid: &str, pem: &str) -> Value {
    let der = der(pem);
    assert_eq!(der.len(), 294);
    json!({ "kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "e": "AQAB",
        "n": URL_SAFE_NO_PAD.encode(&der[33..289]) })
}

fn p256(kid: &str) -> Value {
    let der = der(P256_PUBLIC);
    let point = &der[der.len() - 64..];
    json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": URL_SAFE_NO_PAD.encode(&point[..32]),
        "y": URL_SAFE_NO_PAD.encode(&point[32..]) })
}

fn ed25519(kid: &str) -> Value {
    let der = der(ED25519_PUBLIC);
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid,
        "x": URL_SAFE_NO_PAD.encode(&der[der.len() - 32..]) })
}

fn trusting(jwks: impl IntoIterator<Item = Jwks>) -> GatewayConfig {
    let mut config = config();
    config.auth.jwt_keys.clear();
    config.auth.jwks.extend(jwks);
    config
}

async fn status(server: &Server, token: &str) -> u16 {
    server.get("/v1/streams", token).await.status
}

#[tokio::test]
async fn keys_of_a_set_are_used_from_the_first_call_on() {
    let issuer = Issuer::publishing(&[rsa("r1", RSA_PUBLIC), p256("e1"), ed25519("d1")]).await;
    let server = Server::with(memory().await, trusting([issuer.jwks()])).await;
    let claims = claims(&tenant());
    for token in [
        by_rsa(RSA, &claims, Some("r1")),
        by_p256(&claims, Some("e1")),
        by_ed25519(&claims, Some("d1")),
        by_rsa(RSA, &claims, None),
    ] {
        let answer = server.get("/v1/streams", &token).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    // The set speaks for its tenants alone, and its keys for their own algorithm.
    let foreign = by_rsa(RSA, &crate::tokens::claims("acme"), Some("r1"));
    assert!(server.get("/v1/streams", &foreign).await.message().contains("may not speak for"));
    assert_eq!(status(&server, &by_p256(&claims, Some("r1"))).await, 401);
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn keys_are_rotated_without_a_restart_and_the_issuer_is_asked_once_a_minute() {
    let issuer = Issuer::publishing(&[rsa("old", RSA_PUBLIC)]).await;
    let server = Server::with(memory().await, trusting([issuer.jwks()])).await;
    let claims = claims(&tenant());
    let old = by_rsa(RSA, &claims, Some("old"));
    let new = by_rsa(OTHER_RSA, &claims, Some("new"));
    assert_eq!(status(&server, &old).await, 200);
    // Tokens whose key is known, or that no set can have signed, have nothing fetched.
    assert_eq!(status(&server, &by_rsa(OTHER_RSA, &claims, Some("old"))).await, 401);
    assert_eq!(status(&server, &crate::bed::sign(&claims)).await, 401);
    assert_eq!(issuer.fetches(), 1);
    issuer.publish(StatusCode::OK, set(&[rsa("old", RSA_PUBLIC), rsa("new", OTHER_RSA_PUBLIC)]));
    assert_eq!(status(&server, &new).await, 200);
    assert_eq!(status(&server, &old).await, 200);
    assert_eq!(issuer.fetches(), 2);
    for n in 0..20 {
        let unknown = by_rsa(OTHER_RSA, &claims, Some(&format!("unknown-{n}")));
        assert_eq!(status(&server, &unknown).await, 401);
    }
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn a_set_that_cannot_be_had_is_an_outage_at_first_and_changes_nothing_later() {
    let issuer = Issuer::publishing(&[]).await;
    issuer.publish(StatusCode::INTERNAL_SERVER_ERROR, String::new());
    let server = Server::with(memory().await, trusting([issuer.jwks()])).await;
    let claims = claims(&tenant());
    let right = by_rsa(RSA, &claims, Some("r1"));
    let answer = server.get("/v1/streams", &right).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
    issuer.publish(StatusCode::OK, set(&[rsa("r1", RSA_PUBLIC)]));
    eventually(|| async { (status(&server, &right).await == 200).then_some(()) }).await;
    let unknown = by_rsa(OTHER_RSA, &claims, Some("r2"));
    for (answer, body) in
        [(StatusCode::OK, r#"{"keys":[]}"#.to_owned()), (StatusCode::FOUND, String::new())]
    {
        issuer.publish(answer, body);
        assert_eq!(status(&server, &unknown).await, 401);
        assert_eq!(status(&server, &right).await, 200);
    }
}

#[tokio::test]
async fn a_set_is_not_looked_for_where_the_issuer_sends_to_and_not_read_without_end() {
    let issuer = Issuer::publishing(&[]).await;
    let server = Server::with(memory().await, trusting([issuer.jwks()])).await;
    let elsewhere = by_rsa(RSA, &claims(&tenant()), Some("elsewhere"));
    for (answer, body) in [
        (StatusCode::FOUND, String::new()),
        (
            StatusCode::OK,
            format!("{}{}", " ".repeat(600 << 10), set(&[rsa("elsewhere", RSA_PUBLIC)])),
        ),
    ] {
        issuer.publish(answer, body);
        let before = issuer.fetches();
        // The set is tried again after a second, and then after two.
        eventually(|| async { (issuer.fetches() > before).then_some(()) }).await;
        assert_eq!(status(&server, &elsewhere).await, 503);
    }
}

#[tokio::test]
async fn an_issuer_over_tls_is_believed_by_its_certificate_alone() {
    let issuer = Issuer::publishing_over_tls(&[rsa("r1", RSA_PUBLIC)]).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, include_bytes!("keys/tls_ca.pem")).unwrap();
    let jwks = |ca: Option<std::path::PathBuf>| {
        let source = JwksSource::Url(format!("https://localhost:{}/jwks", issuer.addr.port()));
        Jwks { source, ca, ..issuer.jwks() }
    };
    let right = by_rsa(RSA, &claims(&tenant()), Some("r1"));
    let server = Server::with(memory().await, trusting([jwks(Some(ca))])).await;
    assert_eq!(status(&server, &right).await, 200);
    let server = Server::with(memory().await, trusting([jwks(None)])).await;
    assert_eq!(status(&server, &right).await, 503);
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn the_same_name_in_two_sets_means_either_key_and_each_its_own_tenants() {
    let one = Issuer::publishing(&[rsa("1", RSA_PUBLIC)]).await;
    let two = Issuer::publishing(&[rsa("1", OTHER_RSA_PUBLIC)]).await;
    let (mut of_one, mut of_two) = (one.jwks(), two.jwks());
    (of_one.tenants, of_two.tenants) = (vec!["one".to_owned()], vec!["two".to_owned()]);
    of_two.issuer = Some("https://two".to_owned());
    let server = Server::with(memory().await, trusting([of_one, of_two])).await;
    let claims = |tenant: &str| {
        let mut claims = claims(tenant);
        claims["iss"] = json!("https://two");
        claims
    };
    assert_eq!(status(&server, &by_rsa(RSA, &claims("one"), Some("1"))).await, 200);
    assert_eq!(status(&server, &by_rsa(OTHER_RSA, &claims("two"), Some("1"))).await, 200);
    assert_eq!(status(&server, &by_rsa(RSA, &claims("two"), Some("1"))).await, 401);
    assert_eq!(status(&server, &by_rsa(OTHER_RSA, &claims("one"), Some("1"))).await, 401);
    let other_issuer = by_rsa(OTHER_RSA, &crate::tokens::claims("two"), Some("1"));
    let answer = server.get("/v1/streams", &other_issuer).await;
    assert!(answer.message().contains("claim iss"), "{}", answer.text);
}

#[tokio::test]
async fn a_set_may_be_a_file_that_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, set(&[rsa("r1", RSA_PUBLIC)])).unwrap();
    let jwks: Jwks = serde_json::from_value(json!({
        "source": { "file": file }, "algorithms": ["RS256"], "tenants": ["*"] }))
    .unwrap();
    let server = Server::with(memory().await, trusting([jwks])).await;
    let claims = claims(&tenant());
    let (old, new) = (by_rsa(RSA, &claims, Some("r1")), by_rsa(OTHER_RSA, &claims, Some("r22")));
    assert_eq!((status(&server, &old).await, status(&server, &new).await), (200, 401));
    std::fs::write(&file, set(&[rsa("r22", OTHER_RSA_PUBLIC)])).unwrap();
    eventually(|| async { (status(&server, &new).await == 200).then_some(()) }).await;
    assert_eq!(status(&server, &old).await, 401);
}

#[test]
fn sets_that_cannot_work_are_refused_before_the_start() {
    let right = json!({ "source": "https://id.example.com/jwks.json", "algorithms": ["RS256"],
        "tenants": ["*"] });
    let check = |name: &str, value: Value| {
        let mut jwks = right.clone();
        jwks[name] = value;
        let read = serde_json::from_value::<Jwks>(jwks).map_err(|fault| fault.to_string())?;
        trusting([read]).check().map_err(|fault| fault.to_string())
    };
    assert_eq!(check("issuer", json!("https://id.example.com")), Ok(()));
    for (name, value, message) in [
        ("source", json!("http://id.example.com/jwks.json"), "by https"),
        ("source", json!({ "file": "/no/such/file" }), "/no/such/file"),
        ("algorithms", json!(["HS256"]), "no HS256"),
        ("algorithms", json!([]), "algorithms must list"),
        ("algorithms", json!(["PS256"]), "unknown variant"),
        ("tenants", json!([]), "tenants is empty"),
        ("ca", json!("/no/such/ca"), "/no/such/ca"),
        ("url", json!("x"), "unknown field"),
    ] {
        let fault = check(name, value).unwrap_err();
        assert!(fault.contains(message), "{message}: {fault}");
    }
}
