//! What every request passes: its id, the host, the log line, and the form of errors.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::HOST;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use crate::cors::{admit, allowed_origin, preflight};
use crate::error::{ApiError, ErrorCode};
use crate::gateway::Gateway;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Names one request in its response, in its error and in the log.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// The client's own id if it is sane, or a new one.
    fn of(headers: &HeaderMap, ids: &RequestIds) -> Self {
        let sane = |value: &&HeaderValue| {
            (1..=MAX_REQUEST_ID_BYTES).contains(&value.len())
                && value.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        match headers.get(X_REQUEST_ID).filter(sane) {
            Some(id) => Self(id.clone()),
            None => ids.next(),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Makes ids: random at the start of the process, counted from there.
#[derive(Debug)]
pub(crate) struct RequestIds {
    process: u32,
    count: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> Self {
        // Without randomness ids are unique within the process, which is what they must be.
        Self { process: getrandom::u32().unwrap_or(0), count: AtomicU64::new(0) }
    }

    fn next(&self) -> RequestId {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let id = HeaderValue::try_from(format!("{:08x}-{count}", self.process));
        RequestId(id.unwrap_or_else(|_| HeaderValue::from_static("-")))
    }
}

/// Wraps every call, also those that no route takes.
pub(crate) async fn edge(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(request.headers(), gateway.request_ids());
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let origin = allowed_origin(&gateway.http().allowed_origins, request.headers());
    let response = match check_host(&gateway, request.headers()) {
        Ok(()) => {
            let asked = origin.as_ref().and_then(|_| preflight(&method, request.headers()));
            match asked {
                Some(answer) => answer,
                None => call(next, request).await,
            }
        }
        Err(refused) => refused.into_response(),
    };
    let mut response = match response.extensions().get::<ApiError>().cloned() {
        None => response,
        Some(error) => {
            let path = path.as_ref().map_or("no route", MatchedPath::as_str);
            log(&error, &id, &method, path, started.elapsed());
            error.respond(id.as_str(), response)
        }
    };
    response.headers_mut().insert(X_REQUEST_ID, id.0);
    if let Some(origin) = origin {
        admit(origin, response.headers_mut());
    }
    response
}

/// A call that panics is answered like any other fault.
async fn call(next: Next, request: Request) -> Response {
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answer.unwrap_or_else(|_| fault().into_response())
}

fn fault() -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        "a fault of the server; its log has more under the requestId",
    )
}

fn check_host(gateway: &Gateway, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(allowed) = &gateway.http().allowed_hosts else { return Ok(()) };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).map(without_port);
    match host {
        Some(host) if allowed.iter().any(|name| name.eq_ignore_ascii_case(host)) => Ok(()),
        _ => Err(ApiError::new(
            ErrorCode::HostNotAllowed,
            format!(
                "this server answers only for the hosts {}; the Host header names another",
                allowed.join(", ")
            ),
        )),
    }
}

/// `localhost:2749` and `[::1]:2749` without their ports.
fn without_port(host: &str) -> &str {
    let port = host.rfind(':').filter(|&at| {
        let after = &host[at + 1..];
        after.bytes().all(|b| b.is_ascii_digit()) && !host[..at].ends_with(':')
    });
    match port {
        Some(at) if !host.starts_with('[') || host[..at].ends_with(']') => &host[..at],
        _ => host,
    }
}

fn log(error: &ApiError, id: &RequestId, method: &Method, path: &str, elapsed: Duration) {
    let (status, code) = (error.code.status(), error.code.as_str());
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let (message, cause) = (&*error.message, error.cause.as_deref());
    match status {
        500 => {
            tracing::error!(%id, %method, path, status, code, elapsed_ms, message, cause, "call failed");
        }
        501.. => {
            tracing::warn!(%id, %method, path, status, code, elapsed_ms, message, cause, "call failed");
        }
        401 | 403 => tracing::info!(%id, %method, path, status, code, elapsed_ms, "call refused"),
        _ => tracing::debug!(%id, %method, path, status, code, elapsed_ms, "call refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_no_part_of_a_host() {
        for (host, name) in [
            ("localhost:2749", "localhost"),
            ("localhost", "localhost"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:2749", "[::1]"),
            ("[::1]", "[::1]"),
            ("evil.example:2749", "evil.example"),
            ("localhost:2749.evil.example", "localhost:2749.evil.example"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn insane_request_ids_are_replaced() {
        let ids = RequestIds::new();
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_static(text));
            RequestId::of(&headers, &ids).to_string()
        };
        assert_eq!(of("req-1"), "req-1");
        assert_ne!(of("req 1"), "req 1");
        assert_ne!(of(""), "");
        assert_ne!(RequestId::of(&HeaderMap::new(), &ids).to_string(), ids.next().to_string());
    }
}
