//! Who is there.

use std::ops::Bound;

use apix::json::ObjectWriter;
use apix::messaging::MAX_PAGE;
use apix::{Action, ChannelKey, Timestamp, user_in_name};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bytestring::ByteString;
use serde::Deserialize;

use super::answer;
use super::body::Upload;
use super::params::{InChannel, Params, check_limit};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorCode};
use crate::forms::parse;
use crate::gateway::Gateway;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RosterParams {
    after: Option<String>,
    limit: Option<usize>,
}

/// Who is on a channel, in the order of user ids.
pub(super) async fn of_channel(
    State(gateway): State<Gateway>,
    caller: Caller,
    InChannel(channel): InChannel,
    Params(params): Params<RosterParams>,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::PresenceRead, channel.as_str())?;
    let limit = check_limit(params.limit.unwrap_or(MAX_PAGE))?;
    let roster = gateway.connections().roster(&ChannelKey::new(&caller.ctx, channel.clone()));
    let after = params.after.map(ByteString::from);
    let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let page: Vec<_> =
        roster.users.range::<ByteString, _>((from, Bound::Unbounded)).take(limit).collect();
    let mut out = answer::list("users", &page, |(user, present), out| {
        let mut object = ObjectWriter::begin(out);
        object.text("userId", user);
        object.number("connections", present.connections as u64);
        object.text("since", Timestamp::from_unix_ms(present.since_ms).as_str());
        object.end();
    });
    let mut rest = Vec::new();
    let mut object = ObjectWriter::begin(&mut rest);
    object.text("channel", channel.as_str());
    object.number("connections", roster.connections as u64);
    object.number("anonymous", roster.anonymous as u64);
    match page.last() {
        Some((user, _)) if page.len() == limit => object.text("next", user),
        _ => object.json("next", "null"),
    }
    object.end();
    out.push(b',');
    out.extend_from_slice(rest.get(1..).unwrap_or_default());
    Ok(answer::json(StatusCode::OK, out))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct QueryForm {
    user_ids: Vec<ByteString>,
}

/// Whether users are there at all. Needs `presence:read` of the channel `user:{userId}` of each.
pub(super) async fn of_users(
    State(gateway): State<Gateway>,
    caller: Caller,
    upload: Upload,
) -> Result<Response, ApiError> {
    let document = upload.json(&gateway).await?;
    let QueryForm { user_ids } = parse("the body", &document)?;
    if user_ids.len() > MAX_PAGE {
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            format!("the call has {} user ids; the limit is {MAX_PAGE}", user_ids.len()),
        ));
    }
    for user in &user_ids {
        let name = format!("user:{}", user_in_name(user));
        caller.ctx.require(Action::PresenceRead, &name)?;
    }
    let counts = gateway.connections().users(caller.ctx.organization_id(), &user_ids);
    let users: Vec<_> = user_ids.iter().zip(counts).collect();
    let mut out = answer::list("users", &users, |(user, count), out| {
        let mut object = ObjectWriter::begin(out);
        object.text("userId", user);
        object.json("online", if *count > 0 { "true" } else { "false" });
        object.number("connections", *count as u64);
        object.end();
    });
    out.push(b'}');
    Ok(answer::json(StatusCode::OK, out))
}
