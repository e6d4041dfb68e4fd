//! Where `apix serve` accepts connections: plain TCP, or TLS over it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::failure::{Class, Failure};

/// How long a client may take for its part of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes that run at once; further connections wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 256;

/// Resolves and binds `listen`. With `loopback_only` every address that it stands for must be a
/// loopback address.
pub(crate) async fn bind(listen: &str, loopback_only: bool) -> Result<TcpListener> {
    let resolved = tokio::net::lookup_host(listen).await.map_err(|fault| {
        Failure::usage(format!(
            "{listen:?} is not an address to listen on ({fault}); write HOST:PORT, as in \
             127.0.0.1:2749"
        ))
    })?;
    let addresses: Vec<SocketAddr> = resolved.collect();
    if let Some(open) = addresses.iter().find(|address| !address.ip().is_loopback())
        && loopback_only
    {
        return Err(Failure::usage(format!(
            "--dev listens on loopback only, and {} is not; use --listen 127.0.0.1:2749, or \
             configure credentials and leave out --dev",
            open.ip()
        )));
    }
    TcpListener::bind(&*addresses).await.map_err(|fault| match fault.kind() {
        io::ErrorKind::AddrInUse => Failure::error(
            Class::Other,
            format!(
                "{listen} is already in use; stop what listens there, or choose another port with \
                 --listen"
            ),
        ),
        _ => Failure::error(Class::Other, format!("cannot listen on {listen}: {fault}")),
    })
}

/// Accepts TLS connections. Handshakes run beside each other, so that a client that stalls in its
/// own holds up nobody.
pub(crate) struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

impl TlsListener {
    pub(crate) fn new(listener: TcpListener, config: Arc<ServerConfig>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(1);
        let accepting = tokio::spawn(accept_all(listener, TlsAcceptor::from(config), sender));
        Ok(Self { ready, address, _accepting: AbortOnDropHandle::new(accepting) })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The accepting task ends with this listener alone.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn accept_all(
    mut listener: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let room = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (stream, address) = Listener::accept(&mut listener).await;
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            let _permit = permit;
            // Small answers go out at once; a socket that refuses this is about to fail anyway.
            let _ = stream.set_nodelay(true);
            match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                // Nobody receives any more once the server is being stopped.
                Ok(Ok(stream)) => drop(ready.send((stream, address)).await),
                Ok(Err(fault)) => tracing::debug!(%address, %fault, "tls handshake failed"),
                Err(_) => tracing::debug!(%address, "tls handshake took too long"),
            }
        });
    }
}
