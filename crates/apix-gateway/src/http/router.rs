//! Which call goes where.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};

use super::{
    channels, connections, dead_letters, description, events, groups, health, hybrid, presence,
    range, streams, tickets,
};
use crate::auth::Caller;
use crate::edge::edge;
use crate::error::{ApiError, ErrorCode};
use crate::gateway::Gateway;
use crate::{sse, ws};

pub(crate) fn router(gateway: Gateway) -> Router {
    Router::new()
        .route("/v1/streams", get(streams::list))
        .route(
            "/v1/streams/{stream}",
            get(streams::stats).put(streams::configure).delete(streams::delete),
        )
        .route("/v1/streams/{stream}/events", get(range::get).post(events::add))
        .nest("/v1/streams/{stream}/groups", group_calls())
        .route("/v1/channels/{channel}/messages", post(channels::publish))
        .route("/v1/channels/{channel}/sse", get(sse::connect))
        .route("/v1/channels/{channel}/presence", get(presence::of_channel))
        .route("/v1/presence/query", post(presence::of_users))
        .route("/v1/connections", get(connections::list))
        .route("/v1/connections/{id}", delete(connections::end))
        .route("/v1/ws", get(ws::connect))
        .route("/v1/hybrid-events", post(hybrid::publish))
        .route("/v1/tickets", post(tickets::issue))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(description::openapi))
        .route("/docs", get(description::docs))
        .fallback(no_route)
        .method_not_allowed_fallback(other_method)
        .layer(from_fn_with_state(gateway.clone(), edge))
        .with_state(gateway)
}

fn group_calls() -> Router<Gateway> {
    Router::new()
        .route("/", get(groups::list))
        .route("/{group}", get(groups::stats).put(groups::configure).delete(groups::delete))
        .route("/{group}/read", post(groups::read))
        .route("/{group}/ack", post(groups::acknowledge))
        .route("/{group}/reject", post(groups::reject))
        .route("/{group}/extend", post(groups::extend))
        .route("/{group}/seek", post(groups::seek))
        .route("/{group}/dead-letters", get(dead_letters::list))
        .route("/{group}/dead-letters/retry", post(dead_letters::retry))
        .route("/{group}/dead-letters/discard", post(dead_letters::discard))
}

/// No route takes an empty name, but it is a forged name like others.
async fn no_route(State(gateway): State<Gateway>, headers: HeaderMap, uri: Uri) -> ApiError {
    if !has_empty_name(uri.path()) {
        return ApiError::new(
            ErrorCode::NotFound,
            "there is no such call; /openapi.json lists all that there are",
        );
    }
    match Caller::of(&gateway, &headers).await {
        Err(refused) => refused,
        Ok(_) => ApiError::new(
            ErrorCode::InvalidName,
            "a name in the path is empty; names are 1 to 128 characters of A-Z a-z 0-9 . _ -, \
             those of streams and channels of : too",
        ),
    }
}

fn has_empty_name(path: &str) -> bool {
    let names = path.strip_prefix("/v1/streams/").or_else(|| path.strip_prefix("/v1/channels/"));
    names.is_some_and(|names| names.split('/').any(str::is_empty))
}

async fn other_method() -> ApiError {
    ApiError::new(
        ErrorCode::MethodNotAllowed,
        "this path does not take that method; the header Allow lists those it takes",
    )
}
