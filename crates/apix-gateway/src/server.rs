//! Accepting connections, their time limits, and the drain at the end.

use std::any::Any;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use apix::{Result, TenantMessagingService};
use axum::Router;
use axum::serve::Listener;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::GatewayConfig;
use crate::gateway::Gateway;
use crate::http;
use crate::limits::Peer;
use crate::peers::{EndRequest, Peers};
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
/// `shutting_down`, WebSockets are told when to come back and closed with 4010, and Server-Sent
/// Events end. What takes longer
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
    L::Addr: 'static,
{
    let (gateway, end_requests) = Gateway::new(service, config)?;
    // Nothing outlives this future, not even if it is dropped.
    let _stop = gateway.stopped().clone().drop_guard();
    tokio::spawn(keep_credentials_fresh(gateway.clone()));
    let live_ended = CancellationToken::new();
    let dropped = CancellationToken::new();
    let _drop = dropped.clone().drop_guard();
    let live = spawn_live(&gateway, end_requests, &live_ended, &dropped)?;
    let router = http::router(gateway.clone());
    accept_until(shutdown, &mut listener, &gateway, &router).await;
    gateway.draining().cancel();
    let grace = tokio::time::sleep(ARRIVAL_GRACE);
    accept_until(grace, &mut listener, &gateway, &router).await;
    drop(listener);
    drain(&gateway).await;
    // All connections have ended; what is to be told of that is.
    live_ended.cancel();
    let _ = tokio::time::timeout(STOP_TIMEOUT, live.wait()).await;
    tracing::info!(counted = ?gateway.counters(), "live connections have ended");
    Ok(())
}

/// What is told of live connections, to other processes and to the tenants' backends.
fn spawn_live(
    gateway: &Gateway,
    end_requests: mpsc::Receiver<EndRequest>,
    ended: &CancellationToken,
    dropped: &CancellationToken,
) -> Result<TaskTracker> {
    let (tasks, broker) = (TaskTracker::new(), gateway.service().broker());
    let connections = gateway.connections();
    let peers = Peers::new(Arc::clone(broker), connections.clone())?;
    let peers = peers.run(end_requests, ended.clone());
    let status = gateway.status().clone();
    let status = status.run(connections.clone(), Arc::clone(broker), ended.clone());
    let dropped = dropped.clone();
    tasks.spawn(async move {
        tokio::select! {
            // Without last words: nobody waits for them.
            () = dropped.cancelled() => {}
            ((), ()) = async { tokio::join!(peers, status) } => {}
        }
    });
    tasks.close();
    Ok(tasks)
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
) where
    L::Addr: 'static,
{
    let mut end = pin!(end);
    loop {
        tokio::select! {
            biased;
            () = &mut end => return,
            (io, address) = listener.accept() => {
                let peer = peer(&address);
                gateway.tasks().spawn(connection(io, peer, gateway.clone(), router.clone()));
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

/// Where a connection comes from; nothing if the listener has other addresses than those of IP.
fn peer<Address: 'static>(address: &Address) -> Option<Peer> {
    let address = (address as &dyn Any).downcast_ref::<SocketAddr>()?;
    Some(Peer(address.ip()))
}

async fn connection<Io>(io: Io, peer: Option<Peer>, gateway: Gateway, router: Router)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = gateway.http();
    let io = TokioIo::new(WriteLimit::new(io, limits.write_timeout));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .serve_connection(io, service)
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
