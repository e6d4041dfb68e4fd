//! `POST /v1/hybrid-events`: persisted, then shown.

use apix::HybridReceipt;
use apix::json::ObjectWriter;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::answer;
use super::body::Upload;
use super::events::{header_key, with_header_key};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::forms::{HybridForm, parse};
use crate::gateway::Gateway;

/// `201` whether it was persisted, shown or both; a repeated idempotency key gives the first id
/// and no `subscriberCount`, because nothing was shown again.
pub(super) async fn publish(
    State(gateway): State<Gateway>,
    caller: Caller,
    upload: Upload,
) -> Result<Response, ApiError> {
    let header_key = header_key(&upload.headers)?;
    let document = upload.json(&gateway).await?;
    let form: HybridForm<'_> = parse("the body", &document)?;
    let (form, options) = form.split();
    let event = with_header_key(form.into_event(&document, &caller.ctx)?, header_key)?;
    let published = gateway.service().publish_hybrid_event(&caller.ctx, event, &options);
    let HybridReceipt { stream_message_id, subscriber_count, .. } =
        gateway.within(published).await?;
    let mut out = Vec::with_capacity(80);
    let mut object = ObjectWriter::begin(&mut out);
    if let Some(id) = stream_message_id {
        object.plain("streamMessageId", id);
    }
    if let Some(count) = subscriber_count {
        object.number("subscriberCount", count);
    }
    object.end();
    Ok(answer::json(StatusCode::CREATED, out))
}
