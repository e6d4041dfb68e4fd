//! The processes on one broker tell each other of their live connections, over an internal
//! channel that no client can name. Nothing is stored.
//!
//! Each passes on its changes, numbered, and a sign of life every second that names the last number.
//! Who finds a number missing, or is new, asks for a snapshot. A process that is silent for 8 s
//! is taken for dead and its connections end. While a process does not hear its own signs of
//! life, the link is broken and nobody is taken for dead.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apix::{
    Broker, ChannelKey, ChannelName, Error, Json, Limits, Message, NewMessage, Result,
    Subscription, Update,
};
use bytestring::ByteString;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::change::{Change, Envelope, NodeId, Note, VERSION};
use crate::connections::Connections;

const CHANNEL: &str = "gateways";
const MESSAGE_TYPE: &str = "apix.gateway";
const BEAT_EVERY: Duration = Duration::from_secs(1);
const DEAD_AFTER: Duration = Duration::from_secs(8);
/// Changes are collected for so long.
const COLLECT: Duration = Duration::from_millis(50);
/// A process is asked for a snapshot so often at most.
const ASK_EVERY: Duration = Duration::from_secs(1);
const CHANGES_A_NOTE: usize = 500;
const PUBLISH_WITHIN: Duration = Duration::from_secs(2);
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);

/// What this process knows of another one.
struct Peer {
    heard: Instant,
    /// The last note of changes; nothing while a snapshot is awaited.
    seq: Option<u64>,
    asked: Option<Instant>,
    /// The parts of a snapshot that have come so far.
    parts: Option<Vec<Change>>,
}

/// Speaks and listens for this process.
pub(crate) struct Peers {
    broker: Arc<dyn Broker>,
    channel: ChannelKey,
    connections: Connections,
    others: HashMap<NodeId, Peer>,
    seq: u64,
    heard_self: Instant,
    snapshot_due: bool,
}

/// To end a connection of another process.
pub(crate) type EndRequest = (NodeId, ByteString);

impl Peers {
    pub(crate) fn new(broker: Arc<dyn Broker>, connections: Connections) -> Result<Self> {
        Ok(Self {
            broker,
            channel: ChannelKey::internal(ChannelName::new(CHANNEL)?),
            connections,
            others: HashMap::new(),
            seq: 0,
            heard_self: Instant::now(),
            snapshot_due: false,
        })
    }

    /// Until `ending`.
    pub(crate) async fn run(
        mut self,
        mut ends: mpsc::Receiver<EndRequest>,
        ending: CancellationToken,
    ) {
        tokio::select! {
            () = ending.cancelled() => {}
            () = self.follow(&mut ends) => {}
        }
        // The connections have ended by now; who hears this need not wait to notice.
        let _ = timeout(Duration::from_millis(300), self.say(Note::Bye)).await;
    }

    async fn follow(&mut self, ends: &mut mpsc::Receiver<EndRequest>) {
        let mut told = false;
        loop {
            match self.broker.subscribe(&self.channel).await {
                Ok(live) => {
                    told = false;
                    self.converse(live, ends).await;
                }
                Err(fault) if !told => {
                    told = true;
                    tracing::info!(%fault, "no word of other processes: presence is of this one alone");
                }
                Err(_) => {}
            }
            sleep(SUBSCRIBE_AGAIN).await;
        }
    }

    /// Until the subscription ends.
    async fn converse(&mut self, mut live: Subscription, ends: &mut mpsc::Receiver<EndRequest>) {
        let mut beats = interval(BEAT_EVERY);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.heard_self = Instant::now();
        self.say(Note::Ask { of: None }).await;
        let connections = self.connections.clone();
        loop {
            tokio::select! {
                update = live.recv() => match update {
                    Some(Update::Message(message)) => self.hear(&message).await,
                    Some(Update::Missed { .. }) => self.doubt_all().await,
                    None => return,
                },
                _ = beats.tick() => self.beat().await,
                () = connections.changed() => {
                    sleep(COLLECT).await;
                    self.pass_on_changes().await;
                }
                Some((of, id)) = ends.recv() => self.say(Note::End { of, id }).await,
            }
            if self.snapshot_due {
                self.send_snapshot().await;
            }
        }
    }

    /// Publishes a note; one that is lost is noticed by its number.
    async fn say(&self, note: Note) {
        let envelope = Envelope { version: VERSION, from: self.connections.node().clone(), note };
        let said = timeout(PUBLISH_WITHIN, self.publish(&envelope)).await;
        let said = said.unwrap_or_else(|_| Err(Error::unavailable("no answer in time")));
        if let Err(fault) = said {
            tracing::debug!(%fault, "a note to the other processes was not sent");
        }
    }

    async fn publish(&self, envelope: &Envelope) -> Result<()> {
        let message = NewMessage::new(MESSAGE_TYPE, Json::encode(envelope)?);
        let message = message.checked(&self.channel, None, &Limits::default())?;
        self.broker.publish(&self.channel, message).await.map(drop)
    }

    async fn beat(&mut self) {
        let now = Instant::now();
        self.say(Note::Beat { seq: self.seq }).await;
        if now.duration_since(self.heard_self) > 3 * BEAT_EVERY {
            for peer in self.others.values_mut() {
                peer.heard = now;
            }
            return;
        }
        let dead = |peer: &Peer| now.duration_since(peer.heard) > DEAD_AFTER;
        let silent: Vec<NodeId> =
            self.others.iter().filter(|(_, peer)| dead(peer)).map(|(id, _)| id.clone()).collect();
        for node in silent {
            tracing::info!(%node, "a process is silent, its connections are taken for ended");
            self.others.remove(&node);
            self.connections.forget(&node);
        }
    }

    async fn pass_on_changes(&mut self) {
        let mut changes = self.connections.take_changes();
        while !changes.is_empty() {
            let rest = changes.split_off(changes.len().min(CHANGES_A_NOTE));
            self.seq += 1;
            // Alone, there is nobody to tell: who comes asks for everything.
            if !self.others.is_empty() {
                self.say(Note::Changes { seq: self.seq, changes }).await;
            }
            changes = rest;
        }
    }

    async fn send_snapshot(&mut self) {
        self.snapshot_due = false;
        let mut changes = self.connections.snapshot();
        let mut first = true;
        loop {
            let rest = changes.split_off(changes.len().min(CHANGES_A_NOTE));
            let last = rest.is_empty();
            self.say(Note::Snapshot { seq: self.seq, first, last, changes }).await;
            if last {
                return;
            }
            (changes, first) = (rest, false);
        }
    }

    async fn hear(&mut self, message: &Message) {
        let now = Instant::now();
        let Ok(Envelope { version: VERSION, from, note }) = message.data().decode() else { return };
        if from == *self.connections.node() {
            self.heard_self = now;
            return;
        }
        if note == Note::Bye {
            self.others.remove(&from);
            self.connections.forget(&from);
            return;
        }
        let peer = self.others.entry(from.clone()).or_insert(Peer {
            heard: now,
            seq: None,
            asked: None,
            parts: None,
        });
        peer.heard = now;
        match note {
            Note::Ask { of } => {
                self.snapshot_due |= of.is_none_or(|of| of == *self.connections.node());
            }
            Note::End { of, id } => {
                if of == *self.connections.node() {
                    self.connections.end_here(&id);
                }
            }
            Note::Snapshot { seq, first, last, changes } => {
                if let Some(all) = peer.part(seq, first, last, changes) {
                    self.connections.replace(&from, all);
                }
            }
            Note::Changes { seq, changes } => {
                match peer.seq {
                    Some(known) if known + 1 == seq => {
                        peer.seq = Some(seq);
                        self.connections.apply(&from, changes);
                        return;
                    }
                    // It was in a snapshot already.
                    Some(known) if known >= seq => return,
                    _ => peer.seq = None,
                }
            }
            Note::Beat { seq } => {
                if peer.seq != Some(seq) {
                    peer.seq = None;
                }
            }
            Note::Bye => {}
        }
        self.ask(&from).await;
    }

    /// Asks for a snapshot, if one is needed and was not asked for just now.
    async fn ask(&mut self, node: &NodeId) {
        let Some(peer) = self.others.get_mut(node) else { return };
        let asked_just_now = peer.asked.is_some_and(|at| at.elapsed() < ASK_EVERY);
        if peer.seq.is_some() || asked_just_now {
            return;
        }
        peer.asked = Some(Instant::now());
        self.say(Note::Ask { of: Some(node.clone()) }).await;
    }

    /// Notes may have been lost, of anyone.
    async fn doubt_all(&mut self) {
        for peer in self.others.values_mut() {
            peer.seq = None;
            peer.parts = None;
            peer.asked = Some(Instant::now());
        }
        self.say(Note::Ask { of: None }).await;
    }
}

impl Peer {
    /// Takes a part of a snapshot; all of it with the last one.
    fn part(
        &mut self,
        seq: u64,
        first: bool,
        last: bool,
        mut changes: Vec<Change>,
    ) -> Option<Vec<Change>> {
        if first {
            self.parts = Some(Vec::new());
        }
        // Without its beginning it is of no use.
        self.parts.as_mut()?.append(&mut changes);
        if !last {
            return None;
        }
        self.seq = Some(seq);
        self.parts.take()
    }
}
