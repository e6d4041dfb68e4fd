//! One live connection to the server: a WebSocket with APIX's frames.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Url;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header::AUTHORIZATION};
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};

use crate::client::{Client, refusal};
use crate::failure::{Class, Failure};

/// After so long without a frame the server is asked for a sign of life; after twice as long the
/// connection counts as dead.
const SILENCE: Duration = Duration::from_secs(20);

/// What the transport has to be able to do.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// A frame of the server: `{"event", "data", "id"?}`.
#[derive(Debug, Deserialize)]
pub(crate) struct Frame {
    pub(crate) event: String,
    /// As the server wrote it.
    pub(crate) data: Option<Box<RawValue>>,
    pub(crate) id: Option<serde_json::Value>,
}

impl Frame {
    /// The data as text; `null` where there is none.
    pub(crate) fn data(&self) -> &str {
        self.data.as_ref().map_or("null", |data| data.get())
    }
}

/// An open connection.
pub(crate) struct LiveConnection {
    socket: WebSocketStream<Box<dyn Transport>>,
}

impl LiveConnection {
    /// Connects and authenticates.
    pub(crate) async fn open(client: &Client) -> Result<Self> {
        let url = client.address(&["v1", "ws"])?;
        let opening = timeout(client.answer_within(), Self::handshake(client, &url));
        opening.await.unwrap_or_else(|_| {
            Err(Failure::unreachable(format!(
                "no answer from {url} within {} s",
                client.answer_within().as_secs()
            )))
        })
    }

    async fn handshake(client: &Client, url: &Url) -> Result<Self> {
        let transport = connect(client, url).await?;
        let mut address = url.clone();
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        // Both schemes are special, so that one may replace the other.
        let _ = address.set_scheme(scheme);
        let mut request = address.as_str().into_client_request().map_err(|fault| {
            Failure::usage(format!("{url} is no address of a live connection: {fault}"))
        })?;
        if let Some(token) = client.token() {
            let value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Failure::usage("the token contains characters that none may have"))?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        match tokio_tungstenite::client_async(request, transport).await {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(WsError::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err(refusal(response.status(), body, "", client))
            }
            Err(fault) => Err(broken(&fault)),
        }
    }

    /// Sends `{"event", "id", "data"}`.
    pub(crate) async fn send(
        &mut self,
        event: &str,
        id: u64,
        data: &serde_json::Value,
    ) -> Result<()> {
        let frame = serde_json::json!({"event": event, "id": id, "data": data});
        let sent = self.socket.send(Message::text(frame.to_string())).await;
        sent.map_err(|fault| broken(&fault))
    }

    /// The next frame. An end of the connection is an error that says why.
    pub(crate) async fn next(&mut self) -> Result<Frame> {
        let mut asked = false;
        loop {
            let arrived = match timeout(SILENCE, self.socket.next()).await {
                Ok(arrived) => arrived,
                Err(_) if asked => {
                    return Err(Failure::unreachable("the server has fallen silent"));
                }
                Err(_) => {
                    asked = true;
                    let ping = self.socket.send(Message::Ping(Bytes::new())).await;
                    ping.map_err(|fault| broken(&fault))?;
                    continue;
                }
            };
            asked = false;
            match arrived {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map_err(|_| {
                        Failure::error(Class::Other, "the server sent a frame that is not APIX's")
                    });
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err(closed(frame.code.into(), &frame.reason));
                }
                Some(Ok(_)) => {}
                Some(Err(fault)) => return Err(broken(&fault)),
                None => return Err(Failure::unreachable("the server ended the connection")),
            }
        }
    }

    /// Says goodbye, so that the server need not find out by itself.
    pub(crate) async fn close(mut self) {
        let _ = timeout(Duration::from_secs(1), self.socket.close(None)).await;
    }
}

async fn connect(client: &Client, url: &Url) -> Result<Box<dyn Transport>> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    // Url keeps the brackets of IPv6 addresses.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let unreachable = |fault: std::io::Error| {
        Failure::unreachable(format!(
            "cannot reach {}: {fault}; is the server running there?",
            client.base()
        ))
    };
    let stream = TcpStream::connect((bare, port)).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    if url.scheme() != "https" {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(bare.to_owned())
        .map_err(|_| Failure::usage(format!("{host:?} is no name that a certificate can have")))?;
    let mut config = client.tls().clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    Ok(Box::new(connector.connect(name, stream).await.map_err(unreachable)?))
}

/// Close codes that say whether coming back makes sense; the rest are of the transport.
fn closed(code: u16, reason: &str) -> anyhow::Error {
    let (class, meaning) = match code {
        4001 => (Class::Refused, "the credential was refused"),
        4002 => (Class::Refused, "the token has ended; make a new one"),
        4003 => (Class::Refused, "the tenant is suspended"),
        4009 => (Class::Refused, "a limit was reached"),
        4013 => (Class::Refused, "the operator ended the connection"),
        4008 => (Class::Unreachable, "this connection was too slow"),
        4010 | 1001 => (Class::Unreachable, "the server is being stopped"),
        _ => (Class::Unreachable, "the server ended the connection"),
    };
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    Failure::error(class, format!("{meaning} ({code}){reason}"))
}

fn broken(fault: &WsError) -> anyhow::Error {
    Failure::unreachable(format!("the live connection broke: {fault}"))
}
