//! Pages of other origins: those that the configuration lists, and no others.

use apix::{Error, Result};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, last-event-id, x-request-id",
);
const EXPOSED: HeaderValue = HeaderValue::from_static("x-request-id, retry-after");
/// How long a browser may remember the answer, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Refuses what no browser would send as its origin, `*` among it: a page that may call with
/// anybody's token is one that the operator knows.
pub(crate) fn check_origins(origins: &[String]) -> Result<()> {
    let fits = |origin: &String| {
        origin.split_once("://").is_some_and(|(scheme, host)| {
            !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '*', ' '])
        })
    };
    match origins.iter().find(|origin| !fits(origin)) {
        None => Ok(()),
        Some(wrong) => Err(Error::invalid(format!(
            "allowed_origins: {wrong:?} is no origin; one looks like https://app.example.com, \
             without a path, and there is no wildcard"
        ))),
    }
}

/// The origin of a request, if it is one of those that are allowed.
pub(crate) fn allowed_origin(origins: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    origins.iter().any(|allowed| origin == allowed.as_str()).then(|| origin.clone())
}

/// The answer to a browser that asks before it calls.
pub(crate) fn preflight(method: &Method, headers: &HeaderMap) -> Option<Response> {
    if method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    Some(response)
}

/// Lets pages of `origin` see the response.
pub(crate) fn admit(origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_checked_at_the_start() {
        let check = |origin: &str| check_origins(&[origin.to_owned()]).is_ok();
        for right in ["https://app.example.com", "http://localhost:5173", "http://[::1]:80"] {
            assert!(check(right), "{right}");
        }
        for wrong in ["*", "https://*.example.com", "https://a.example/", "a.example", "https://"] {
            assert!(!check(wrong), "{wrong}");
        }
    }
}
