//! What stands in the address of a call: names, and the parameters of a query.

use apix::messaging::MAX_PAGE;
use apix::{ChannelName, GroupName, StreamName};
use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ErrorCode};
use crate::gateway::Gateway;

/// The stream that the path names.
pub(super) struct InStream(pub(super) StreamName);

/// The group and its stream that the path names.
pub(super) struct InGroup {
    pub(super) stream: StreamName,
    pub(super) group: GroupName,
}

/// The channel that the path names.
pub(crate) struct InChannel(pub(crate) ChannelName);

async fn path_params(parts: &mut Parts, gateway: &Gateway) -> Result<RawPathParams, ApiError> {
    RawPathParams::from_request_parts(parts, gateway).await.map_err(|_| {
        ApiError::new(
            ErrorCode::InvalidName,
            "a name in the path is not UTF-8; names are 1 to 128 characters of A-Z a-z 0-9 . _ -",
        )
    })
}

fn param<'a>(params: &'a RawPathParams, name: &str) -> &'a str {
    params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
}

impl FromRequestParts<Gateway> for InStream {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        let params = path_params(parts, gateway).await?;
        Ok(Self(StreamName::new(param(&params, "stream"))?))
    }
}

impl FromRequestParts<Gateway> for InGroup {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        let params = path_params(parts, gateway).await?;
        Ok(Self {
            stream: StreamName::new(param(&params, "stream"))?,
            group: GroupName::new(param(&params, "group"))?,
        })
    }
}

impl FromRequestParts<Gateway> for InChannel {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        let params = path_params(parts, gateway).await?;
        Ok(Self(ChannelName::new(param(&params, "channel"))?))
    }
}

/// The size of a page, if it is one.
pub(super) fn check_limit(limit: usize) -> Result<usize, ApiError> {
    match limit {
        1..=MAX_PAGE => Ok(limit),
        _ => Err(ApiError::invalid(format!("limit is {limit}; it must be 1 to {MAX_PAGE}"))),
    }
}

/// The parameters after the question mark.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Gateway> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Gateway) -> Result<Self, ApiError> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(refused) => Err(ApiError::invalid(format!("the query: {}", refused.body_text()))),
        }
    }
}
