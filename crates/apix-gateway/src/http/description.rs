//! `/openapi.json`, and `/docs` for people.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::answer;
use crate::gateway::Gateway;

pub(super) async fn openapi(State(gateway): State<Gateway>) -> Response {
    answer::with_type(StatusCode::OK, "application/json", Body::from(gateway.openapi().clone()))
}

/// A page that needs nothing from elsewhere.
pub(super) async fn docs() -> Response {
    let page = Body::from(include_str!("docs.html"));
    let mut response = answer::with_type(StatusCode::OK, "text/html; charset=utf-8", page);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
