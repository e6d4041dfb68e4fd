//! `POST /v1/tickets`: a credential for a single live connection.

use apix::{ChannelName, Json};
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytestring::ByteString;
use serde::Deserialize;

use super::answer;
use super::body::Upload;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorCode};
use crate::forms::parse;
use crate::gateway::Gateway;

/// The most channels that a ticket can be narrowed to.
const MAX_CHANNELS: usize = 100;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketForm {
    #[serde(default)]
    channels: Option<Vec<ByteString>>,
}

pub(super) async fn issue(
    State(gateway): State<Gateway>,
    caller: Caller,
    upload: Upload,
) -> Result<Response, ApiError> {
    let typed = !upload.media_type().is_empty();
    let document = if typed { upload.json(&gateway).await? } else { upload.text(&gateway).await? };
    let form: TicketForm =
        if document.is_empty() { TicketForm::default() } else { parse("the body", &document)? };
    let channels = match form.channels {
        None => None,
        Some(names) if names.is_empty() || names.len() > MAX_CHANNELS => {
            let code =
                if names.is_empty() { ErrorCode::InvalidRequest } else { ErrorCode::TooLarge };
            return Err(ApiError::new(
                code,
                format!("channels must list 1 to {MAX_CHANNELS} channels; leave it out for all"),
            ));
        }
        Some(names) => {
            Some(names.into_iter().map(ChannelName::new).collect::<Result<Vec<_>, _>>()?)
        }
    };
    let ticket = gateway.tickets().issue(&gateway, &caller, channels.as_deref()).await?;
    let text = Json::encode(&ticket)?.as_str().as_bytes().to_vec();
    let mut response = answer::json(StatusCode::CREATED, text);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
