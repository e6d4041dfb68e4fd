//! Which call goes where.

use axum::Router;
use axum::http::Uri;
use axum::middleware::from_fn_with_state;
use axum::routing::get;

use super::health;
use crate::edge::edge;
use crate::error::{ApiError, ErrorCode};
use crate::gateway::Gateway;

pub(crate) fn router(gateway: Gateway) -> Router {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(no_route)
        .method_not_allowed_fallback(other_method)
        .layer(from_fn_with_state(gateway.clone(), edge))
        .with_state(gateway)
}

async fn no_route(_: Uri) -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        "there is no such call; /openapi.json lists all that there are",
    )
}

async fn other_method() -> ApiError {
    ApiError::new(
        ErrorCode::MethodNotAllowed,
        "this path does not take that method; the header Allow lists those it takes",
    )
}
