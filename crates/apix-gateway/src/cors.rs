//! Pages of other origins: those that the configuration lists, and no others.

use apix::{Error, Result};
use axum::extract::FromRequestParts;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST,
    ORIGIN, VARY,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::error::{ApiError, ErrorCode};
use crate::gateway::Gateway;

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

/// A WebSocket handshake that no page begins which may not: browsers apply none of the rules of
/// CORS to it, but say where the page is from.
///
/// Where origins are listed, a page is from one of them or from this server itself. Where none
/// is, pages of any origin may connect: a browser adds no credential by itself, so a page has
/// no more than it was given.
pub(crate) struct AdmittedOrigin;

impl FromRequestParts<Gateway> for AdmittedOrigin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        if may_connect(&gateway.http().allowed_origins, &parts.headers) {
            return Ok(Self);
        }
        Err(ApiError::new(
            ErrorCode::PermissionDenied,
            "pages of this origin may not connect; allowed_origins lists those that may",
        ))
    }
}

fn may_connect(origins: &[String], headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let own = || {
        let place = origin.to_str().ok()?.split_once("://")?.1;
        Some(place.eq_ignore_ascii_case(headers.get(HOST)?.to_str().ok()?))
    };
    origins.is_empty()
        || origins.iter().any(|allowed| origin == allowed.as_str())
        || own() == Some(true)
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
    fn pages_of_listed_origins_and_of_this_server_connect() {
        let connects = |listed: &[&str], origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("api.example.com:2749"));
            if let Some(origin) = origin {
                headers.insert(ORIGIN, HeaderValue::from_static(origin));
            }
            let listed: Vec<String> = listed.iter().map(|&origin| origin.to_owned()).collect();
            may_connect(&listed, &headers)
        };
        let listed = ["https://app.example.com"];
        for right in [None, Some("https://app.example.com"), Some("http://api.example.com:2749")] {
            assert!(connects(&listed, right), "{right:?}");
        }
        for wrong in [
            "null",
            "https://app.example.com.evil.example",
            "https://app.example.com:444",
            "http://app.example.com",
            "http://api.example.com",
            "",
        ] {
            assert!(!connects(&listed, Some(wrong)), "{wrong}");
            assert!(connects(&[], Some(wrong)), "{wrong}");
        }
    }

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
