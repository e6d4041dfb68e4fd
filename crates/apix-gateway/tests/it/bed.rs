//! A running gateway, and how tests speak to it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use apix::{Broker, TenantMessagingService};
use apix_embedded::{EmbeddedBroker, EmbeddedOptions};
use apix_gateway::{Algorithm, ApiKey, GatewayConfig, JwtKey, KeySource, Secret, run};
use jsonwebtoken::{EncodingKey, Header, encode};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const SECRET: &str = "a secret of the tests, of 32 bytes or more";
pub(crate) const SERVICE_KEY: &str = "service-key";

/// A gateway on a free port; it ends when this is dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) client: reqwest::Client,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<apix::Result<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn config() -> GatewayConfig {
    let mut config = GatewayConfig::default();
    config.auth.jwt_keys.push(JwtKey {
        kid: None,
        algorithm: Algorithm::HS256,
        secret: Secret::text(SECRET),
        tenants: vec!["*".to_owned()],
        issuer: None,
        audience: None,
    });
    config.auth.api_keys.push(ApiKey {
        name: "service".to_owned(),
        key: KeySource::Key(Secret::text(SERVICE_KEY)),
        organization_id: "backend".parse().unwrap(),
        user_id: Some("robot".to_owned()),
        permissions: vec![
            "tenants:act-as:t-*".to_owned(),
            "streams:read:*".to_owned(),
            "streams:write:*".to_owned(),
        ],
        operator: false,
    });
    config
}

pub(crate) async fn memory() -> Arc<dyn Broker> {
    Arc::new(EmbeddedBroker::open(EmbeddedOptions::memory()).await.unwrap())
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(memory().await, config()).await
    }

    pub(crate) async fn with(broker: Arc<dyn Broker>, config: GatewayConfig) -> Self {
        // Several tests of one process install it; the first one does.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (shutdown, told) = oneshot::channel::<()>();
        let until = async {
            let _ = told.await;
        };
        let service = TenantMessagingService::new(broker);
        let task = tokio::spawn(run(listener, service, config, until));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { addr, client, shutdown: Some(shutdown), task }
    }

    /// Begins the shutdown.
    pub(crate) fn stop(&mut self) {
        drop(self.shutdown.take());
    }

    /// Waits for the end of the shutdown.
    pub(crate) async fn stopped(&mut self) {
        within(&mut self.task).await.unwrap().unwrap();
    }

    /// Cuts everything, without a word to anyone.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        let _ = within(&mut self.task).await;
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) fn call(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).bearer_auth(token)
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        Answer::of(self.call(Method::GET, path, token).send().await.unwrap()).await
    }

    pub(crate) async fn delete(&self, path: &str, token: &str) -> Answer {
        Answer::of(self.call(Method::DELETE, path, token).send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.post_text(path, token, "application/json", body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, token: &str, body: Value) -> Answer {
        let call = self.call(Method::PUT, path, token).json(&body);
        Answer::of(call.send().await.unwrap()).await
    }

    pub(crate) async fn post_text(
        &self,
        path: &str,
        token: &str,
        media_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let call = self.call(Method::POST, path, token).header("content-type", media_type);
        Answer::of(call.body(body).send().await.unwrap()).await
    }

    /// Adds an event and returns its id.
    pub(crate) async fn add(&self, stream: &str, token: &str, event: Value) -> String {
        let answer = self.post(&format!("/v1/streams/{stream}/events"), token, event).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json()["messageId"].as_str().unwrap().to_owned()
    }

    /// Reads up to 10 deliveries without waiting.
    pub(crate) async fn read(&self, stream: &str, token: &str, consumer: &str) -> Vec<Value> {
        let path = format!("/v1/streams/{stream}/groups/processors/read");
        let answer = self.post(&path, token, json!({ "consumer": consumer, "waitMs": 0 })).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["events"].as_array().unwrap().clone()
    }
}

/// A response that was read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {:?}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The code of an error, having checked its form.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        let json = self.json();
        let error = json["error"].as_object().unwrap_or_else(|| panic!("no error: {}", self.text));
        assert_eq!(error.len(), 3, "{}", self.text);
        assert_eq!(error["requestId"], self.header("x-request-id"));
        assert!(!error["requestId"].as_str().unwrap().is_empty());
        assert_eq!(self.header("content-type"), "application/json");
        error["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

/// A tenant that no other test has.
pub(crate) fn tenant() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("t-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// A token that may do everything of its tenant.
pub(crate) fn admin(tenant: &str) -> String {
    token(tenant, &["admin"])
}

pub(crate) fn token(tenant: &str, permissions: &[&str]) -> String {
    sign(&json!({
        "organizationId": tenant,
        "sub": "anna",
        "exp": unix_now() + 600,
        "permissions": permissions,
    }))
}

pub(crate) fn sign(claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// A connection whose client holds little that it has not read.
pub(crate) async fn with_small_buffer(addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 << 10).unwrap();
    socket.connect(addr).await.unwrap()
}

/// What should not take long.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it took too long")
}

/// Waits until `check` gives something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    mut check: impl FnMut() -> F,
) -> T {
    within(async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}
