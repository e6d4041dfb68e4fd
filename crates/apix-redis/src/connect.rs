//! Connections: TCP or TLS, authentication, database, name; and which server a key lives on.
//!
//! This is the one place that knows the shape of the deployment. There is one server today; with
//! several, [`Topology`] decides by the slot of a key.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use apix::{Error, Result};

use crate::error::{broken, not_sent};
use crate::link::Link;
use crate::options::{Address, RedisOptions};
use crate::resp::{Raw, Scanner};
use crate::tls;
use crate::wire::Pipeline;

/// Where keys live.
#[derive(Debug)]
pub(crate) enum Topology {
    /// One server has them all.
    Standalone(Link),
}

impl Topology {
    /// The link to the server that has `key`. On one server all keys are on it.
    pub(crate) fn link_for(&self, _key: &str) -> &Link {
        match self {
            Self::Standalone(link) => link,
        }
    }

    /// The links to every server.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Link> {
        match self {
            Self::Standalone(link) => std::iter::once(link),
        }
    }
}

/// A byte stream to a server, encrypted or not.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

/// Makes connections to one server. Credentials are read anew for each.
#[derive(Clone)]
pub(crate) struct Connector {
    address: Arc<Address>,
    tls: Option<TlsConnector>,
    connect_timeout: Duration,
    request_timeout: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({}:{})", self.address.host, self.address.port)
    }
}

impl Connector {
    pub(crate) fn new(options: &RedisOptions) -> Result<Self> {
        let address = Address::of(options)?;
        let tls = if address.tls { Some(tls::connector(&options.tls)?) } else { None };
        Ok(Self {
            address: Arc::new(address),
            tls,
            connect_timeout: options.connect_timeout,
            request_timeout: options.request_timeout,
        })
    }

    /// A connection that is authenticated, on its database, and named after its purpose.
    pub(crate) async fn connect(&self, purpose: &str) -> Result<Connection> {
        match tokio::time::timeout(self.connect_timeout, self.connect_untimed(purpose)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(not_sent("no connection within the connect timeout")),
        }
    }

    async fn connect_untimed(&self, purpose: &str) -> Result<Connection> {
        let socket = self.socket().await?;
        let mut connection =
            Connection { socket, buffer: BytesMut::new(), scanner: Scanner::default() };
        let mut hello = Pipeline::default();
        if let Some(password) = &self.address.password {
            let password = password.read().await?;
            match &self.address.username {
                Some(user) => hello.push(&["AUTH", user, &password]),
                None => hello.push(&["AUTH", &password]),
            }
        }
        if self.address.database != 0 {
            hello.push(&["SELECT", &self.address.database.to_string()]);
        }
        let must_succeed = hello.commands();
        // A user who may not name the connection is served all the same.
        hello.push(&["CLIENT", "SETNAME", &format!("apix-{purpose}")]);
        // A server that has no room for the connection says so in reply to whatever comes first.
        hello.push(&["PING"]);
        let replies = connection.call(hello, self.request_timeout).await?;
        for (index, reply) in replies.iter().enumerate() {
            if index != must_succeed {
                reply.ok()?;
            }
        }
        Ok(connection)
    }

    async fn socket(&self) -> Result<Box<dyn Socket>> {
        let place = (&*self.address.host, self.address.port);
        let tcp = TcpStream::connect(place).await.map_err(|fault| self.unreachable(fault))?;
        tcp.set_nodelay(true).map_err(|fault| self.unreachable(fault))?;
        let Some(connector) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from(self.address.host.clone())
            .map_err(|fault| self.unreachable(std::io::Error::other(fault)))?;
        let socket = connector.connect(name, tcp).await.map_err(|fault| self.unreachable(fault))?;
        Ok(Box::new(socket))
    }

    fn unreachable(&self, fault: std::io::Error) -> Error {
        let Address { host, port, .. } = &*self.address;
        Error::unavailable(format!("Redis at {host}:{port} cannot be reached")).with_source(fault)
    }
}

/// One connection that one caller has for itself.
pub(crate) struct Connection {
    pub(crate) socket: Box<dyn Socket>,
    pub(crate) buffer: BytesMut,
    pub(crate) scanner: Scanner,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Sends the commands and waits for their replies. After an error, or when the future was
    /// dropped, the connection must not be used again: replies may still be on their way.
    pub(crate) async fn call(&mut self, pipeline: Pipeline, timeout: Duration) -> Result<Vec<Raw>> {
        let expected = pipeline.commands();
        let exchange = async {
            self.send(pipeline).await?;
            let mut replies = Vec::with_capacity(expected);
            while replies.len() < expected {
                replies.push(self.receive().await?);
            }
            Ok(replies)
        };
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(broken("no answer in time")))
    }

    pub(crate) async fn send(&mut self, pipeline: Pipeline) -> Result<()> {
        let sent = async {
            self.socket.write_all(&pipeline.into_bytes()).await?;
            self.socket.flush().await
        };
        sent.await.map_err(|fault| broken(fault.to_string()))
    }

    /// The next reply.
    pub(crate) async fn receive(&mut self) -> Result<Raw> {
        loop {
            match self.scanner.scan(&self.buffer) {
                Ok(Some(length)) => return Ok(Raw(self.buffer.split_to(length).freeze())),
                Ok(None) => {}
                Err(fault) => return Err(broken(fault.0)),
            }
            read_more(&mut self.socket, &mut self.buffer).await?;
        }
    }
}

/// The room for one read. Replies are split off the buffer, so that this much is allocated anew
/// each time that it is used up.
const READ_BYTES: usize = 64 << 10;

/// Reads what has arrived; the end of the stream is an error. Loses nothing when it is dropped.
pub(crate) async fn read_more(
    socket: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<()> {
    if buffer.capacity() - buffer.len() < READ_BYTES / 8 {
        buffer.reserve(READ_BYTES);
    }
    match socket.read_buf(buffer).await {
        Ok(0) => Err(broken("Redis closed the connection")),
        Ok(_) => Ok(()),
        Err(fault) => Err(broken(fault.to_string())),
    }
}
