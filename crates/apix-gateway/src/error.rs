//! Every error that a client can get, and the only place with HTTP status codes.

use std::borrow::Cow;

use apix::json::ObjectWriter;
use apix::{Error, ErrorKind};
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

/// What went wrong: the `code` of an error that a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// A tenant, stream, channel, group or consumer name breaks the rules of names.
    InvalidName,
    /// Some other part of the call is malformed.
    InvalidRequest,
    /// No credential, or one that is not valid.
    Unauthorized,
    /// The credential lacks the permission.
    PermissionDenied,
    /// The call names another tenant than its credential does.
    TenantMismatch,
    /// The name is written by APIX only, or is reserved for it.
    ReservedName,
    /// There is no such thing, or it is another tenant's: the answer is the same.
    NotFound,
    /// The path takes other methods; the header `Allow` lists them.
    MethodNotAllowed,
    /// The client took too long to send its body.
    RequestTimeout,
    /// The stream is not at the position, or has not the settings, that the call expects.
    Conflict,
    /// The same idempotency key came with another body.
    IdempotencyConflict,
    /// The delivery is no longer held by this consumer with this delivery count.
    LeaseLost,
    /// Several streams feed the channel, and a bare id does not say which is meant.
    SinceAmbiguous,
    /// Too many at once, or a second: come back later, as `Retry-After` says.
    Limit,
    /// A body, an event, a batch or a message is larger than its limit.
    TooLarge,
    /// The body has a content type that the call does not take.
    UnsupportedMediaType,
    /// The `Host` header names none of the hosts that this server answers for.
    HostNotAllowed,
    /// A fault of APIX itself.
    Internal,
    /// Stored data does not read back as it was written.
    Corrupt,
    /// The broker, its version, or this version of APIX cannot do this.
    Unsupported,
    /// The broker cannot be reached or did not answer in time; whether the call took effect is
    /// unknown.
    Unavailable,
    /// The event may exist, but is not as safe as was asked for.
    DurabilityUnmet,
    /// The server is stopping: connect again.
    ShuttingDown,
    /// The disk or the memory of the broker is full. Nothing was stored.
    StorageFull,
}

impl ErrorCode {
    /// All codes.
    pub const ALL: [Self; 24] = [
        Self::InvalidName,
        Self::InvalidRequest,
        Self::Unauthorized,
        Self::PermissionDenied,
        Self::TenantMismatch,
        Self::ReservedName,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::IdempotencyConflict,
        Self::LeaseLost,
        Self::SinceAmbiguous,
        Self::Limit,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::HostNotAllowed,
        Self::Internal,
        Self::Corrupt,
        Self::Unsupported,
        Self::Unavailable,
        Self::DurabilityUnmet,
        Self::ShuttingDown,
        Self::StorageFull,
    ];

    /// The code as clients see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidName => ErrorKind::InvalidName.code(),
            Self::InvalidRequest => ErrorKind::InvalidRequest.code(),
            Self::Unauthorized => "unauthorized",
            Self::PermissionDenied => ErrorKind::PermissionDenied.code(),
            Self::TenantMismatch => ErrorKind::TenantMismatch.code(),
            Self::ReservedName => ErrorKind::ReservedName.code(),
            Self::NotFound => ErrorKind::NotFound.code(),
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::Conflict => ErrorKind::Conflict.code(),
            Self::IdempotencyConflict => ErrorKind::IdempotencyConflict.code(),
            Self::LeaseLost => ErrorKind::LeaseLost.code(),
            Self::SinceAmbiguous => ErrorKind::SinceAmbiguous.code(),
            Self::Limit => "limit",
            Self::TooLarge => ErrorKind::TooLarge.code(),
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::HostNotAllowed => "host_not_allowed",
            Self::Internal => ErrorKind::Internal.code(),
            Self::Corrupt => ErrorKind::Corrupt.code(),
            Self::Unsupported => ErrorKind::Unsupported.code(),
            Self::Unavailable => ErrorKind::Unavailable.code(),
            Self::DurabilityUnmet => ErrorKind::DurabilityUnmet.code(),
            Self::ShuttingDown => "shutting_down",
            Self::StorageFull => ErrorKind::StorageFull.code(),
        }
    }

    /// The HTTP status that goes with it.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidName | Self::InvalidRequest | Self::SinceAmbiguous => 400,
            Self::Unauthorized => 401,
            Self::PermissionDenied | Self::TenantMismatch | Self::ReservedName => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict | Self::IdempotencyConflict | Self::LeaseLost => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::HostNotAllowed => 421,
            Self::Limit => 429,
            Self::Internal | Self::Corrupt => 500,
            Self::Unsupported => 501,
            Self::Unavailable | Self::DurabilityUnmet | Self::ShuttingDown => 503,
            Self::StorageFull => 507,
        }
    }
}

impl From<ErrorKind> for ErrorCode {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidName => Self::InvalidName,
            ErrorKind::InvalidRequest => Self::InvalidRequest,
            ErrorKind::TooLarge => Self::TooLarge,
            ErrorKind::ReservedName => Self::ReservedName,
            ErrorKind::TenantMismatch => Self::TenantMismatch,
            ErrorKind::PermissionDenied => Self::PermissionDenied,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::IdempotencyConflict => Self::IdempotencyConflict,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::LeaseLost => Self::LeaseLost,
            ErrorKind::SinceAmbiguous => Self::SinceAmbiguous,
            ErrorKind::DurabilityUnmet => Self::DurabilityUnmet,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::StorageFull => Self::StorageFull,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Corrupt => Self::Corrupt,
            // A kind that this version does not know is ours to mend.
            _ => Self::Internal,
        }
    }
}

/// An error on its way to a client.
///
/// As a response it has no body yet: the edge, which knows the request's id, writes it.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) code: ErrorCode,
    pub(crate) message: Cow<'static, str>,
    /// The inner cause, for the log alone.
    pub(crate) cause: Option<String>,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), cause: None }
    }

    pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    pub(crate) fn unauthorized(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Unauthorized, message)
    }

    /// Appends `{"code","message"}` to `out`, with the request's id where there is one.
    pub(crate) fn write_json(&self, out: &mut Vec<u8>, request_id: Option<&str>) {
        let mut object = ObjectWriter::begin(out);
        object.text("code", self.code.as_str());
        object.text("message", &self.message);
        object.optional_text("requestId", request_id);
        object.end();
    }

    /// The whole response to the request `request_id`.
    pub(crate) fn respond(&self, request_id: &str, mut response: Response) -> Response {
        let mut body = br#"{"error":"#.to_vec();
        self.write_json(&mut body, Some(request_id));
        body.push(b'}');
        *response.body_mut() = Body::from(body);
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Self { code: error.kind().into(), message: error.message().to_owned().into(), cause }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        match self.code.status() {
            401 => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"apix\""))
            }
            429 | 503 => headers.insert(RETRY_AFTER, HeaderValue::from_static("1")),
            _ => None,
        };
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_all_there_and_differ() {
        let texts: HashSet<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
        // The last variant: one that is added must be listed too.
        assert_eq!(ErrorCode::StorageFull as usize + 1, ErrorCode::ALL.len());
    }

    #[test]
    fn only_the_client_sees_the_message_and_only_the_log_the_cause() {
        let error = Error::unavailable("the broker is away").with_source("10.0.0.7 refused");
        let error = ApiError::from(error);
        let mut out = Vec::new();
        error.write_json(&mut out, Some("r1"));
        let text = String::from_utf8(out).unwrap();
        let right = r#"{"code":"unavailable","message":"the broker is away","requestId":"r1"}"#;
        assert_eq!(text, right);
        assert_eq!(error.cause.as_deref(), Some("10.0.0.7 refused"));
    }
}
