//! The live subscriber: a WebSocket client of the channel `github`.

use std::time::Duration;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::server::Server;

/// A message that was seen live.
pub(crate) struct Seen {
    pub(crate) message_id: String,
    pub(crate) event_type: String,
    pub(crate) json: String,
}

pub(crate) struct Subscriber {
    socket: WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    event: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Update<'a> {
    #[serde(rename = "type")]
    event_type: String,
    message_id: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Subscriber {
    /// Connects, subscribes, and waits until the subscription is acknowledged.
    pub(crate) async fn open(server: &Server) -> anyhow::Result<Self> {
        let mut request = server.live_url().into_client_request()?;
        request.headers_mut().insert("authorization", server.token().parse()?);
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        let mut subscriber = Self { socket };
        let subscribe = r#"{"event":"subscribe_updates","id":1,"data":{"channels":["github"]}}"#;
        subscriber.socket.send(Message::text(subscribe)).await?;
        loop {
            let text = subscriber.next_text().await?;
            let frame: Frame<'_> = serde_json::from_str(&text)?;
            match frame.event {
                "connected" => {}
                "ack" => {
                    let subscribed = frame.data.get().contains(r#""refused":[]"#);
                    anyhow::ensure!(subscribed, "refused: {}", frame.data);
                    return Ok(subscriber);
                }
                other => anyhow::bail!("unexpected {other}: {}", frame.data),
            }
        }
    }

    /// The next `count` hybrid events.
    pub(crate) async fn see(mut self, count: usize) -> anyhow::Result<Vec<Seen>> {
        let mut seen = Vec::with_capacity(count);
        while seen.len() < count {
            let text = self.next_text().await?;
            let frame: Frame<'_> = serde_json::from_str(&text)?;
            anyhow::ensure!(frame.event == "realtime_update", "unexpected {text}");
            let update: Update<'_> = serde_json::from_str(frame.data.get())?;
            seen.push(Seen {
                message_id: update.message_id,
                event_type: update.event_type,
                json: update.data.get().to_owned(),
            });
        }
        self.socket.close(None).await?;
        Ok(seen)
    }

    async fn next_text(&mut self) -> anyhow::Result<String> {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(30), self.socket.next());
            match next.await.context("nothing was shown for 30 s")?.context("closed")?? {
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                Message::Close(reason) => anyhow::bail!("closed: {reason:?}"),
                _ => {}
            }
        }
    }
}
