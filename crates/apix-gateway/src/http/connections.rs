//! The tenant's live connections, on whichever process they are.

use apix::json::ObjectWriter;
use apix::messaging::MAX_PAGE;
use apix::{Action, Timestamp};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytestring::ByteString;
use serde::Deserialize;

use super::answer;
use super::params::{Params, check_limit};
use crate::auth::Caller;
use crate::connections::{Found, Info};
use crate::error::{ApiError, ErrorCode};
use crate::gateway::Gateway;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::ConnectionsManage, "")?;
    let limit = check_limit(params.limit.unwrap_or(MAX_PAGE))?;
    let tenant = caller.ctx.organization_id();
    let page = gateway.connections().list(tenant, params.after.as_deref(), limit);
    let mut out = answer::list("connections", &page, write);
    match page.last() {
        Some((id, _)) if page.len() == limit => {
            out.extend_from_slice(format!(",\"next\":\"{id}\"}}").as_bytes());
        }
        _ => out.extend_from_slice(b",\"next\":null}"),
    }
    Ok(answer::json(StatusCode::OK, out))
}

fn write((id, info): &(ByteString, Info), out: &mut Vec<u8>) {
    let mut object = ObjectWriter::begin(out);
    object.text("connectionId", id);
    object.optional_text("userId", info.user.as_deref());
    object.text("protocol", info.face.as_str());
    object.text("since", Timestamp::from_unix_ms(info.since_ms).as_str());
    object.number("channels", info.channels as u64);
    if let Some((quality, rtt_ms)) = info.measured {
        object.text("quality", quality.as_str());
        object.number("rttMs", rtt_ms);
    }
    object.end();
}

pub(super) async fn end(
    State(gateway): State<Gateway>,
    caller: Caller,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::ConnectionsManage, "")?;
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    match gateway.connections().end(caller.ctx.organization_id(), &id) {
        Found::Here => Ok(answer::done()),
        Found::On(node) => match gateway.ends().try_send((node, id.into())) {
            Ok(()) => Ok(answer::done()),
            Err(_) => Err(ApiError::new(
                ErrorCode::Unavailable,
                "the process of the connection cannot be reached now",
            )),
        },
        Found::Nowhere => Err(ApiError::new(
            ErrorCode::NotFound,
            "there is no such connection; it may have ended",
        )),
    }
}
