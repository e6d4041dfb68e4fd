//! Streams: listing, statistics, settings, deletion.

use apix::messaging::MAX_PAGE;
use apix::{
    Action, ErrorKind, IdempotencyWindow, Retention, StreamName, StreamSettings, StreamStats,
};
use axum::extract::State;
use axum::response::Response;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::answer;
use super::body::Upload;
use super::params::{InStream, Params};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorCode};
use crate::forms::parse;
use crate::gateway::Gateway;

/// Statistics of so many streams are asked for at once.
const AT_ONCE: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    after: Option<String>,
    limit: Option<usize>,
}

/// The caller's streams in the order of their names, with statistics.
pub(super) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Response, ApiError> {
    let limit = params.limit.unwrap_or(MAX_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::invalid(format!("limit must be from 1 to {MAX_PAGE}")));
    }
    let after = params.after.map(StreamName::new).transpose()?;
    let mut names = gateway.within(gateway.service().list_streams(&caller.ctx)).await?;
    if let Some(after) = after {
        names.retain(|name| *name > after);
    }
    let more = names.len() > limit;
    names.truncate(limit);
    let next = names.last().filter(|_| more).cloned();
    let streams: Vec<StreamStats> = stream::iter(names)
        .map(|name| stats_if_there(&gateway, &caller, name))
        .buffered(AT_ONCE)
        .try_filter_map(|stats| async { Ok(stats) })
        .try_collect()
        .await?;
    answer::encoded(&json!({ "streams": streams, "next": next }))
}

/// `None` for a stream that was deleted since it was listed.
async fn stats_if_there(
    gateway: &Gateway,
    caller: &Caller,
    name: StreamName,
) -> Result<Option<StreamStats>, ApiError> {
    let stats = async {
        match gateway.service().stream_stats(&caller.ctx, name.as_str()).await {
            Err(fault) if fault.kind() == ErrorKind::NotFound => Ok(None),
            stats => stats.map(Some),
        }
    };
    gateway.within(stats).await
}

pub(super) async fn stats(
    State(gateway): State<Gateway>,
    caller: Caller,
    InStream(stream): InStream,
) -> Result<Response, ApiError> {
    let stats = gateway.service().stream_stats(&caller.ctx, stream.as_str());
    answer::encoded(&gateway.within(stats).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsForm<'a> {
    #[serde(default)]
    retention: Retention,
    #[serde(default)]
    idempotency: IdempotencyWindow,
    #[serde(borrow)]
    partitions: Option<&'a RawValue>,
}

/// Replaces all settings: what the body leaves out gets its default.
pub(super) async fn configure(
    State(gateway): State<Gateway>,
    caller: Caller,
    InStream(stream): InStream,
    upload: Upload,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::GroupsManage, stream.as_str())?;
    let document = upload.json(&gateway).await?;
    let form: SettingsForm<'_> = parse("the body", &document)?;
    if form.partitions.is_some() {
        return Err(ApiError::new(
            ErrorCode::Unsupported,
            "partitioned streams are not supported by this version; leave partitions out",
        ));
    }
    let settings = StreamSettings { retention: form.retention, idempotency: form.idempotency };
    let done = gateway.service().configure_stream(&caller.ctx, stream.as_str(), settings.clone());
    gateway.within(done).await?;
    answer::encoded(&settings)
}

pub(super) async fn delete(
    State(gateway): State<Gateway>,
    caller: Caller,
    InStream(stream): InStream,
) -> Result<Response, ApiError> {
    gateway.within(gateway.service().delete_stream(&caller.ctx, stream.as_str())).await?;
    Ok(answer::done())
}
