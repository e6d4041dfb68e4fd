//! Responses.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::ApiError;

/// JSON text.
pub(super) fn json(status: StatusCode, text: Vec<u8>) -> Response {
    with_type(status, "application/json", Body::from(text))
}

/// The JSON form of a value.
pub(super) fn encoded<T: Serialize + ?Sized>(value: &T) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, apix::Json::encode(value)?.as_str().as_bytes().to_vec()))
}

/// Nothing to say.
pub(super) fn done() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// A body of another type.
pub(super) fn with_type(status: StatusCode, media_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// `{"name":[…]}` with the items that `write` writes, and perhaps more fields after it.
pub(super) fn list<T>(name: &str, items: &[T], write: impl Fn(&T, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + 256 * items.len());
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, &mut out);
    }
    out.push(b']');
    out
}
