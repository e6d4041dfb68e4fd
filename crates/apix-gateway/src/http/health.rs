//! `/healthz` and `/readyz`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::error::{ApiError, ErrorCode};
use crate::gateway::Gateway;

/// A broker that takes longer to say that it is well is not ready.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The process answers.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// The broker can serve, also the connection that live messages arrive on.
pub(super) async fn ready(State(gateway): State<Gateway>) -> Result<Json<Value>, ApiError> {
    if gateway.draining().is_cancelled() {
        return Err(ApiError::new(ErrorCode::ShuttingDown, "the server is stopping"));
    }
    let broker = gateway.service().broker();
    match tokio::time::timeout(CHECK_TIMEOUT, broker.check()).await {
        Ok(checked) => checked?,
        Err(_) => {
            return Err(ApiError::new(
                ErrorCode::Unavailable,
                "the broker did not answer a check within 5 s",
            ));
        }
    }
    Ok(Json(json!({ "status": "ready" })))
}
