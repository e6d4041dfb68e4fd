//! What all calls share.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use apix::{Epoch, Result, TenantMessagingService};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Authenticator;
use crate::change::NodeId;
use crate::config::{GatewayConfig, HttpConfig, LiveConfig};
use crate::connections::Connections;
use crate::cors::check_origins;
use crate::counters::Counters;
use crate::edge::RequestIds;
use crate::error::{ApiError, ErrorCode};
use crate::hub::Hub;
use crate::limits::HandshakeLimit;
use crate::openapi;
use crate::peers::EndRequest;
use crate::status::StatusBoard;
use crate::tickets::Tickets;

/// Connections of other processes that wait to be ended.
const END_REQUESTS: usize = 64;

fn node_id() -> Result<NodeId> {
    // The same kind of name: 16 random hex digits.
    Ok(Epoch::random()?.as_str().into())
}

/// The state of one running gateway; clones share it.
#[derive(Clone)]
pub(crate) struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    service: TenantMessagingService,
    hub: Hub,
    connections: Connections,
    counters: Arc<Counters>,
    status: StatusBoard,
    handshakes: HandshakeLimit,
    ends: mpsc::Sender<EndRequest>,
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
    /// The gateway, and what it wants to have ended on other processes.
    pub(crate) fn new(
        service: TenantMessagingService,
        config: GatewayConfig,
    ) -> Result<(Self, mpsc::Receiver<EndRequest>)> {
        check_origins(&config.http.allowed_origins)?;
        let authenticator = Authenticator::new(&config.auth)?;
        let stopped = CancellationToken::new();
        let hub = Hub::new(Arc::clone(service.broker()), stopped.clone());
        let counters = Arc::new(Counters::default());
        let live = &config.live;
        let status =
            StatusBoard::new(live.connection_status, live.connection_events, Arc::clone(&counters));
        let handshakes =
            HandshakeLimit::new(live.max_handshakes_per_second, &config.http.trusted_proxies)?;
        let (ends, end_requests) = mpsc::channel(END_REQUESTS);
        let inner = Inner {
            service,
            hub,
            connections: Connections::new(node_id()?, status.clone()),
            counters,
            status,
            handshakes,
            ends,
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
        Ok((Self { inner: Arc::new(inner) }, end_requests))
    }

    pub(crate) fn service(&self) -> &TenantMessagingService {
        &self.inner.service
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.inner.hub
    }

    pub(crate) fn connections(&self) -> &Connections {
        &self.inner.connections
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    pub(crate) fn status(&self) -> &StatusBoard {
        &self.inner.status
    }

    pub(crate) fn handshakes(&self) -> &HandshakeLimit {
        &self.inner.handshakes
    }

    /// Takes connections of other processes that are to end.
    pub(crate) fn ends(&self) -> &mpsc::Sender<EndRequest> {
        &self.inner.ends
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
