//! Publishing messages on channels.

use apix::Action;
use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use super::answer;
use super::body::Upload;
use super::params::InChannel;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::forms::{MessageForm, parse};
use crate::gateway::Gateway;

pub(super) async fn publish(
    State(gateway): State<Gateway>,
    caller: Caller,
    InChannel(channel): InChannel,
    upload: Upload,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::ChannelsPublish, channel.as_str())?;
    let document = upload.json(&gateway).await?;
    let form: MessageForm<'_> = parse("the body", &document)?;
    if form.channel.as_deref().is_some_and(|named| named != channel.as_str()) {
        return Err(ApiError::invalid(
            "the body names another channel than the path; leave the field out",
        ));
    }
    let message = form.into_message(&document, &caller.ctx)?;
    let service = gateway.service();
    let reached = service.publish_realtime_message(&caller.ctx, channel.as_str(), message);
    answer::encoded(&json!({ "subscriberCount": gateway.within(reached).await? }))
}
