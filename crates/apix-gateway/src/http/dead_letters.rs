//! The dead letters of a group: seeing them, handing them out again, dropping them.

use apix::messaging::MAX_PAGE;
use apix::{Action, DeadLetter, DeadLetterChoice, MessageId};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::answer;
use super::body::Upload;
use super::params::{InGroup, Params};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorCode};
use crate::forms::parse;
use crate::gateway::Gateway;

const DEFAULT_LIMIT: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    after: Option<MessageId>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    InGroup { stream, group }: InGroup,
    Params(params): Params<ListParams>,
) -> Result<Response, ApiError> {
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    let service = gateway.service();
    let page = service.dead_letters(&caller.ctx, stream.as_str(), group, params.after, limit);
    let page = gateway.within(page).await?;
    let mut out = answer::list("deadLetters", &page, DeadLetter::write_json);
    match page.last() {
        Some(last) if page.len() == limit => {
            out.extend_from_slice(format!(",\"next\":\"{}\"}}", last.message_id).as_bytes());
        }
        _ => out.extend_from_slice(b",\"next\":null}"),
    }
    Ok(answer::json(StatusCode::OK, out))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ChoiceForm {
    message_ids: Option<Vec<MessageId>>,
    #[serde(default)]
    all: bool,
}

async fn choice(gateway: &Gateway, upload: Upload) -> Result<DeadLetterChoice, ApiError> {
    let document = upload.json(gateway).await?;
    match parse("the body", &document)? {
        ChoiceForm { message_ids: Some(ids), all: false } if ids.len() > MAX_PAGE => {
            Err(ApiError::new(
                ErrorCode::TooLarge,
                format!("the call has {} message ids; the limit is {MAX_PAGE}", ids.len()),
            ))
        }
        ChoiceForm { message_ids: Some(ids), all: false } => Ok(DeadLetterChoice::Ids(ids)),
        ChoiceForm { message_ids: None, all: true } => Ok(DeadLetterChoice::All),
        _ => Err(ApiError::invalid(
            "say which dead letters: {\"messageIds\":[…]} or {\"all\":true}, one of the two",
        )),
    }
}

pub(super) async fn retry(
    State(gateway): State<Gateway>,
    caller: Caller,
    InGroup { stream, group }: InGroup,
    upload: Upload,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::GroupsManage, stream.as_str())?;
    let which = choice(&gateway, upload).await?;
    let service = gateway.service();
    let done = service.retry_dead_letters(&caller.ctx, stream.as_str(), group, &which);
    answer::encoded(&json!({ "retried": gateway.within(done).await? }))
}

pub(super) async fn discard(
    State(gateway): State<Gateway>,
    caller: Caller,
    InGroup { stream, group }: InGroup,
    upload: Upload,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::GroupsManage, stream.as_str())?;
    let which = choice(&gateway, upload).await?;
    let service = gateway.service();
    let done = service.discard_dead_letters(&caller.ctx, stream.as_str(), group, &which);
    answer::encoded(&json!({ "discarded": gateway.within(done).await? }))
}
