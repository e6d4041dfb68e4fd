//! What all calls share.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use apix::{Result, TenantMessagingService};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Authenticator;
use crate::config::{GatewayConfig, HttpConfig, LiveConfig};
use crate::cors::check_origins;
use crate::edge::RequestIds;
use crate::error::{ApiError, ErrorCode};
use crate::hub::Hub;
use crate::openapi;
use crate::tickets::Tickets;

/// The state of one running gateway; clones share it.
#[derive(Clone)]
pub(crate) struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    service: TenantMessagingService,
    hub: Hub,
    authenticator: Authenticator,
    tickets: Tickets,
    config: GatewayConfig,
    request_ids: RequestIds,
    openapi: Bytes,
    draining: CancellationToken,
    closing: CancellationToken,
    stopped: CancellationToken,
    tasks: TaskTracker,
}

impl Gateway {
    pub(crate) fn new(service: TenantMessagingService, config: GatewayConfig) -> Result<Self> {
        check_origins(&config.http.allowed_origins)?;
        let authenticator = Authenticator::new(&config.auth)?;
        let stopped = CancellationToken::new();
        let hub = Hub::new(Arc::clone(service.broker()), stopped.clone());
        let inner = Inner {
            service,
            hub,
            authenticator,
            tickets: Tickets::new()?,
            config,
            request_ids: RequestIds::new(),
            openapi: openapi::document().into(),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            stopped,
            tasks: TaskTracker::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn service(&self) -> &TenantMessagingService {
        &self.inner.service
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.inner.hub
    }

    pub(crate) fn authenticator(&self) -> &Authenticator {
        &self.inner.authenticator
    }

    pub(crate) fn tickets(&self) -> &Tickets {
        &self.inner.tickets
    }

    pub(crate) fn request_ids(&self) -> &RequestIds {
        &self.inner.request_ids
    }

    pub(crate) fn openapi(&self) -> &Bytes {
        &self.inner.openapi
    }

    pub(crate) fn config(&self) -> &GatewayConfig {
        &self.inner.config
    }

    pub(crate) fn http(&self) -> &HttpConfig {
        &self.inner.config.http
    }

    pub(crate) fn live(&self) -> &LiveConfig {
        &self.inner.config.live
    }

    /// Cancelled when the shutdown begins: what waits should end, what works should finish.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.inner.draining
    }

    /// Cancelled a moment later: connections end when their calls are answered.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.inner.closing
    }

    /// Cancelled when the time to finish is over.
    pub(crate) fn stopped(&self) -> &CancellationToken {
        &self.inner.stopped
    }

    /// Everything that the end of the gateway waits for.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// The broker's answer, if it comes in time.
    pub(crate) async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T, ApiError> {
        self.within_after(Duration::ZERO, answer).await
    }

    /// As [`within`](Self::within), for an answer that waits `wait` by wish.
    pub(crate) async fn within_after<T>(
        &self,
        wait: Duration,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T, ApiError> {
        let limit = self.http().request_timeout + wait;
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(ApiError::new(
                ErrorCode::Unavailable,
                format!(
                    "the broker did not answer within {} ms; whether the call took effect is \
                     unknown",
                    limit.as_millis()
                ),
            )),
        }
    }
}
