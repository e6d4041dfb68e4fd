//! Accepting connections, their time limits, and the drain at the end.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use apix::{Result, TenantMessagingService};
use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::GatewayConfig;
use crate::gateway::Gateway;
use crate::http;
use crate::stall::WriteLimit;

/// How long connections are still accepted after the shutdown began: what has arrived at the
/// machine by then, but was not seen yet, is served too.
const ARRIVAL_GRACE: Duration = Duration::from_millis(50);
/// How long what was told to stop at once may take to do so.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves the API on `listener` until `shutdown` is done, and then finishes what was accepted.
///
/// The shutdown: no connection is accepted any more, calls in flight finish, waiting reads return
/// an empty list, NDJSON uploads finish the lines that were read and end with the error
/// `shutting_down`, WebSockets are closed with 4010 and Server-Sent Events end. What takes longer
/// than [`GatewayConfig::drain_timeout`] is cut. The broker stays open: it is the caller's to
/// close.
///
/// `listener` is a TCP listener or one that speaks TLS. It should set TCP_NODELAY on what it
/// accepts (`axum::serve::ListenerExt::tap_io`), or small answers wait for the client's
/// acknowledgements.
///
/// # Errors
/// [`InvalidRequest`](apix::ErrorKind::InvalidRequest) if the configuration cannot work; nothing
/// is accepted then.
pub async fn run<L>(
    mut listener: L,
    service: TenantMessagingService,
    config: GatewayConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()>
where
    L: Listener,
{
    let gateway = Gateway::new(service, config)?;
    // Nothing outlives this future, not even if it is dropped.
    let _stop = gateway.stopped().clone().drop_guard();
    tokio::spawn(keep_credentials_fresh(gateway.clone()));
    let router = http::router(gateway.clone());
    accept_until(shutdown, &mut listener, &gateway, &router).await;
    gateway.draining().cancel();
    let grace = tokio::time::sleep(ARRIVAL_GRACE);
    accept_until(grace, &mut listener, &gateway, &router).await;
    drop(listener);
    drain(&gateway).await;
    Ok(())
}

async fn keep_credentials_fresh(gateway: Gateway) {
    tokio::select! {
        () = gateway.stopped().cancelled() => {}
        () = gateway.authenticator().keep_fresh() => {}
    }
}

async fn accept_until<L: Listener>(
    end: impl Future<Output = ()>,
    listener: &mut L,
    gateway: &Gateway,
    router: &Router,
) {
    let mut end = pin!(end);
    loop {
        tokio::select! {
            biased;
            () = &mut end => return,
            (io, _) = listener.accept() => {
                gateway.tasks().spawn(connection(io, gateway.clone(), router.clone()));
            }
        }
    }
}

async fn drain(gateway: &Gateway) {
    let tasks = gateway.tasks();
    tracing::info!(tasks = tasks.len(), "draining");
    gateway.closing().cancel();
    tasks.close();
    let limit = gateway.config().drain_timeout;
    if tokio::time::timeout(limit, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "not finished in time, cutting connections");
        gateway.stopped().cancel();
        let _ = tokio::time::timeout(STOP_TIMEOUT, tasks.wait()).await;
    }
}

async fn connection<Io>(io: Io, gateway: Gateway, router: Router)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = gateway.http();
    let io = TokioIo::new(WriteLimit::new(io, limits.write_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .serve_connection(io, TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            biased;
            () = gateway.stopped().cancelled() => return,
            () = gateway.closing().cancelled(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
            done = connection.as_mut() => {
                if let Err(fault) = done {
                    tracing::debug!(%fault, "connection ended");
                }
                return;
            }
        }
    }
}
