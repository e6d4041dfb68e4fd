//! Bodies of requests: what they hold, how large and how slow they may be.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use bytes::BytesMut;
use bytestring::ByteString;
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::error::{ApiError, ErrorCode};
use crate::gateway::Gateway;

/// A body that is too large is read on for so long, so that a client that sends before it listens
/// gets the answer instead of a broken connection.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
const DISCARD_BYTES: usize = 64 << 20;

/// A body that was not read yet, with the headers that say what it is.
pub(super) struct Upload {
    pub(super) headers: HeaderMap,
    body: Body,
}

impl<S: Send + Sync> FromRequest<S> for Upload {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        match parts.headers.get(CONTENT_ENCODING) {
            Some(encoding) if encoding != "identity" => {
                return Err(ApiError::new(
                    ErrorCode::UnsupportedMediaType,
                    "the body is compressed (Content-Encoding); send it as it is",
                ));
            }
            _ => {}
        }
        Ok(Self { headers: parts.headers, body })
    }
}

impl Upload {
    /// The media type without its parameters, in lower case; empty if none is given.
    pub(super) fn media_type(&self) -> String {
        let value = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = value.unwrap_or_default().split(';').next().unwrap_or_default();
        essence.trim().to_ascii_lowercase()
    }

    /// The body of a call that takes JSON alone.
    pub(super) async fn json(self, gateway: &Gateway) -> Result<ByteString, ApiError> {
        match self.media_type().as_str() {
            "application/json" => self.text(gateway).await,
            other => Err(unsupported(other, "application/json")),
        }
    }

    /// The body as text, whatever it is.
    pub(super) async fn text(self, gateway: &Gateway) -> Result<ByteString, ApiError> {
        ByteString::try_from(self.bytes(gateway).await?)
            .map_err(|_| ApiError::invalid("the body is not UTF-8; encode it as UTF-8"))
    }

    /// The whole body.
    pub(super) async fn bytes(self, gateway: &Gateway) -> Result<Bytes, ApiError> {
        let limits = gateway.http();
        let announced = self.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let announced = announced.and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
        let mut pieces = self.body.into_data_stream();
        if announced > limits.max_body_bytes {
            discard(pieces).await;
            return Err(too_large(limits.max_body_bytes));
        }
        match timeout(limits.body_timeout, collect(&mut pieces, limits.max_body_bytes)).await {
            Ok(Ok(Some(bytes))) => Ok(bytes),
            Ok(Ok(None)) => {
                discard(pieces).await;
                Err(too_large(limits.max_body_bytes))
            }
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(too_slow(limits.body_timeout)),
        }
    }

    /// The body in pieces, as they come.
    pub(super) fn into_pieces(self) -> BodyDataStream {
        self.body.into_data_stream()
    }
}

/// `None` if there is more than `limit`.
async fn collect(pieces: &mut BodyDataStream, limit: usize) -> Result<Option<Bytes>, ApiError> {
    let broken = |_| ApiError::invalid("the body ended before it was complete");
    let Some(first) = pieces.next().await.transpose().map_err(broken)? else {
        return Ok(Some(Bytes::new()));
    };
    if first.len() > limit {
        return Ok(None);
    }
    let Some(second) = pieces.next().await.transpose().map_err(broken)? else {
        return Ok(Some(first));
    };
    let mut whole = BytesMut::with_capacity((first.len() + second.len()) * 2);
    whole.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(piece) = next {
        if whole.len() + piece.len() > limit {
            return Ok(None);
        }
        whole.extend_from_slice(&piece);
        next = pieces.next().await.transpose().map_err(broken)?;
    }
    Ok(Some(whole.freeze()))
}

async fn discard(mut pieces: BodyDataStream) {
    let _ = timeout(DISCARD_TIMEOUT, async {
        let mut left = DISCARD_BYTES;
        while let Some(Ok(piece)) = pieces.next().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                return;
            }
        }
    })
    .await;
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        ErrorCode::TooLarge,
        format!(
            "the body has more than {limit} bytes; send fewer events at once, or stream them as \
             application/x-ndjson"
        ),
    )
}

/// The error of a client that does not go on sending.
pub(super) fn too_slow(limit: Duration) -> ApiError {
    ApiError::new(
        ErrorCode::RequestTimeout,
        format!("the body did not arrive within {} ms; send it faster", limit.as_millis()),
    )
}

/// The error of a body of another kind than `wanted`.
pub(super) fn unsupported(given: &str, wanted: &str) -> ApiError {
    let given = if given.is_empty() { "missing" } else { given };
    ApiError::new(
        ErrorCode::UnsupportedMediaType,
        format!("the content type is {given:?}; this call takes {wanted}"),
    )
}
