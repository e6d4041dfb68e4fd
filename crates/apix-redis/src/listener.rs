//! The connection that messages arrive on: kept, probed, and made again.
//!
//! A connection can be open and silent: the other end is gone, or the server no longer delivers.
//! So the process publishes to a channel of its own through the link, and pings the connection
//! itself; when neither answers, the connection is given up, within 5 s of the last sign of life.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use apix::{Error, Result};

use crate::backoff::Reconnect;
use crate::connect::{Connection, Connector, Socket, read_more};
use crate::error::{broken, cause, malformed, refused};
use crate::link::Link;
use crate::pubsub::{Arrived, Command, PubSub};
use crate::resp::Raw;
use crate::wire::Pipeline;

/// How often the connection is probed.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Without any sign for so long, the connection is given up. It is looked at with each probe, so
/// this and the time between two make the 5 s.
const SILENCE: Duration = Duration::from_millis(3_900);
/// With so many probes published and none arrived, too.
const LOST_PROBES: u32 = 3;
/// How long the server may take to answer a probe on the link, which also finds out in time that the
/// link is silent.
const PROBE_TIMEOUT: Duration = Duration::from_millis(3_800);
/// Channels in one SUBSCRIBE after a break.
const BATCH: usize = 512;

/// Keeps the connection until the broker is closed.
pub(crate) struct Listener {
    pub(crate) pubsub: Arc<PubSub>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) connector: Connector,
    pub(crate) link: Link,
    pub(crate) probe: String,
    pub(crate) closing: CancellationToken,
}

/// A command whose replies have not all come.
enum Sent {
    Subscribe { channels: VecDeque<(Bytes, u64)> },
    Unsubscribe,
    Ping,
}

impl Listener {
    /// Serves `first`, and connections made anew when that one breaks.
    pub(crate) async fn run(mut self, first: Connection) {
        let closing = self.closing.clone();
        let mut connection = first;
        let mut pause = Reconnect::default();
        loop {
            let begun = Instant::now();
            let fault = tokio::select! {
                fault = self.serve(connection) => fault,
                () = closing.cancelled() => return,
            };
            self.pubsub.interrupted();
            warn!(error = %fault, cause = cause(&fault), "lost the connection that messages arrive on");
            connection = tokio::select! {
                connection = self.reconnect(&mut pause, begun.elapsed()) => connection,
                () = closing.cancelled() => return,
            };
            info!("messages arrive again");
        }
    }

    async fn reconnect(&self, pause: &mut Reconnect, served: Duration) -> Connection {
        tokio::time::sleep(pause.after(served)).await;
        loop {
            match self.connector.connect("messages").await {
                Ok(connection) => return connection,
                Err(_) => tokio::time::sleep(pause.next()).await,
            }
        }
    }

    async fn serve(&mut self, connection: Connection) -> Error {
        let Connection { socket, mut buffer, mut scanner } = connection;
        let (mut read_half, write_half) = tokio::io::split(socket);
        let lost_probes = Arc::new(AtomicU32::new(0));
        let mut session = Session {
            pubsub: Arc::clone(&self.pubsub),
            socket: write_half,
            sent: VecDeque::new(),
            last_sign: Instant::now(),
            lost_probes: Arc::clone(&lost_probes),
        };
        let all = self.pubsub.all(&mut self.commands);
        if let Err(fault) = session.subscribe_to_all(&all).await {
            return fault;
        }
        let probing = publish_probes(self.link.clone(), self.probe.clone(), lost_probes);
        tokio::pin!(probing);
        let mut check = tokio::time::interval(PROBE_EVERY);
        loop {
            loop {
                match scanner.scan(&buffer) {
                    Ok(Some(length)) => {
                        let raw = Raw(buffer.split_to(length).freeze());
                        if let Err(fault) = session.take(&raw) {
                            return fault;
                        }
                    }
                    Ok(None) => break,
                    Err(fault) => return broken(fault.0),
                }
            }
            let done = tokio::select! {
                more = read_more(&mut read_half, &mut buffer) => {
                    session.last_sign = Instant::now();
                    more
                }
                Some(command) = self.commands.recv() => {
                    session.carry_out(command, &mut self.commands).await
                }
                _ = check.tick() => session.check().await,
                never = &mut probing => match never {},
            };
            if let Err(fault) = done {
                return fault;
            }
        }
    }
}

/// Publishes to the process's own channel for ever, and counts what has not arrived.
async fn publish_probes(
    link: Link,
    channel: String,
    lost: Arc<AtomicU32>,
) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        let probe = Pipeline::of(&["PUBLISH", &channel, "probe"]);
        // A reply of 0 says that nobody, so not we either, is subscribed. An error says nothing.
        if let Ok(replies) = link.call_or_break(probe, PROBE_TIMEOUT).await
            && replies.first().is_some_and(|reply| reply.error().is_none())
        {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One connection.
struct Session {
    pubsub: Arc<PubSub>,
    socket: WriteHalf<Box<dyn Socket>>,
    sent: VecDeque<Sent>,
    last_sign: Instant,
    lost_probes: Arc<AtomicU32>,
}

impl Session {
    async fn send(&mut self, pipeline: Pipeline) -> Result<()> {
        let sending = async {
            self.socket.write_all(&pipeline.into_bytes()).await?;
            self.socket.flush().await
        };
        match tokio::time::timeout(SILENCE, sending).await {
            Ok(sent) => sent.map_err(|fault| broken(fault.to_string())),
            Err(_) => Err(broken("nothing can be sent")),
        }
    }

    async fn subscribe_to_all(&mut self, all: &[(Bytes, u64)]) -> Result<()> {
        let mut pipeline = Pipeline::default();
        for batch in all.chunks(BATCH) {
            self.push_subscribe(&mut pipeline, batch);
        }
        self.send(pipeline).await
    }

    fn push_subscribe(&mut self, pipeline: &mut Pipeline, channels: &[(Bytes, u64)]) {
        pipeline.begin(1 + channels.len());
        pipeline.part("SUBSCRIBE");
        for (channel, _) in channels {
            pipeline.part(channel);
        }
        self.sent.push_back(Sent::Subscribe { channels: channels.iter().cloned().collect() });
    }

    /// Sends the command and those that wait behind it.
    async fn carry_out(
        &mut self,
        first: Command,
        others: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Result<()> {
        let mut pipeline = Pipeline::default();
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Subscribe { channel, token } => {
                    self.push_subscribe(&mut pipeline, &[(channel, token)]);
                }
                Command::Unsubscribe(channel) => {
                    pipeline.push(&[&b"UNSUBSCRIBE"[..], &channel]);
                    self.sent.push_back(Sent::Unsubscribe);
                }
            }
            next = if pipeline.commands() < BATCH { others.try_recv().ok() } else { None };
        }
        self.send(pipeline).await
    }

    /// Gives the connection up if it is silent, else asks it for a sign of life.
    async fn check(&mut self) -> Result<()> {
        if self.last_sign.elapsed() > SILENCE {
            return Err(broken("the connection that messages arrive on is silent"));
        }
        if self.lost_probes.load(Ordering::Relaxed) >= LOST_PROBES {
            return Err(broken("what is published does not arrive"));
        }
        self.pubsub.drop_unwanted_bells();
        self.sent.push_back(Sent::Ping);
        self.send(Pipeline::of(&["PING"])).await
    }

    /// A message, or the reply to the oldest command.
    fn take(&mut self, raw: &Raw) -> Result<()> {
        if let Some(text) = raw.error() {
            return self.failed(refused(text));
        }
        if raw.0.starts_with(b"+") {
            // PONG outside of any subscription.
            self.sent.pop_front();
            return Ok(());
        }
        let mut cursor = raw.cursor()?;
        let Some(parts) = cursor.array()? else { return Err(malformed("a push")) };
        match (cursor.peeked_text()?, parts) {
            (b"message", 3) => {
                let channel = cursor.peeked_text()?;
                let payload = cursor.text()?.unwrap_or_default();
                if self.pubsub.arrived(channel, payload) == Arrived::Probe {
                    self.lost_probes.store(0, Ordering::Relaxed);
                }
            }
            (b"subscribe", 3) => self.subscribed()?,
            (b"unsubscribe", 3) | (b"pong", 2) => {
                self.sent.pop_front();
            }
            _ => return Err(malformed("an unknown push")),
        }
        if !self.pubsub.is_up() && self.sent.is_empty() {
            self.pubsub.set_up(true);
        }
        Ok(())
    }

    fn subscribed(&mut self) -> Result<()> {
        let Some(Sent::Subscribe { channels }) = self.sent.front_mut() else {
            return Err(malformed("a subscription that nobody asked for"));
        };
        if let Some((channel, token)) = channels.pop_front() {
            self.pubsub.confirmed(&channel, token);
        }
        if channels.is_empty() {
            self.sent.pop_front();
        }
        Ok(())
    }

    /// The oldest command was refused, all of it.
    fn failed(&mut self, why: Error) -> Result<()> {
        match self.sent.pop_front() {
            Some(Sent::Subscribe { channels }) => {
                if channels.len() > 1 {
                    // One of them is forbidden. Each is asked for by itself, to find out which.
                    self.pubsub.ask_again(channels);
                } else {
                    for (channel, token) in channels {
                        self.pubsub.refused(&channel, token, &why);
                    }
                }
                Ok(())
            }
            Some(Sent::Unsubscribe | Sent::Ping) => Ok(()),
            None => Err(why),
        }
    }
}
