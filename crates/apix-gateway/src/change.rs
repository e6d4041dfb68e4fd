//! What processes tell each other of their live connections.

use std::sync::Arc;

use apix::{ChannelKey, ChannelName, Permissions, TenantContext, TenantId};
use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::quality::Quality;

/// Names a process for as long as it runs.
pub(crate) type NodeId = ByteString;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Face {
    WebSocket,
    Sse,
}

impl Face {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
        }
    }
}

/// A channel of a tenant, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireChannel {
    organization: TenantId,
    channel: ChannelName,
}

impl WireChannel {
    pub(crate) fn of(key: &ChannelKey) -> Self {
        Self { organization: key.tenant().clone(), channel: key.channel().clone() }
    }

    /// Nothing for a tenant that no client can have.
    pub(crate) fn key(self) -> Option<ChannelKey> {
        let permissions = Arc::new(Permissions::default());
        let ctx = TenantContext::authenticated(self.organization, None, permissions).ok()?;
        Some(ChannelKey::new(&ctx, self.channel))
    }
}

/// One change of one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub(crate) enum Change {
    /// It began.
    Opened {
        id: ByteString,
        organization: TenantId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<ByteString>,
        face: Face,
        /// Unix milliseconds.
        since_ms: u64,
    },
    /// It ended.
    Closed { id: ByteString },
    /// Its link was measured.
    Measured { id: ByteString, quality: Quality, rtt_ms: u64 },
    /// It was subscribed to a channel.
    Joined {
        id: ByteString,
        channel: WireChannel,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<ByteString>,
        since_ms: u64,
    },
    /// It left a channel.
    Left { id: ByteString, channel: WireChannel },
}

/// What one process says to the others.
///
/// `seq` counts a process's notes of changes, so that one which did not arrive is noticed, and a
/// snapshot asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "lowercase")]
pub(crate) enum Note {
    /// It lives, and has sent so many notes of changes.
    Beat { seq: u64 },
    /// What changed.
    Changes { seq: u64, changes: Vec<Change> },
    /// All that it has, in parts: what makes it from nothing.
    Snapshot { seq: u64, first: bool, last: bool, changes: Vec<Change> },
    /// Please send a snapshot: everyone, or one process.
    Ask { of: Option<NodeId> },
    /// End a connection of this process.
    End { of: NodeId, id: ByteString },
    /// It stops.
    Bye,
}

/// A note with its sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// Processes of another version are not understood, and left alone.
    pub(crate) version: u32,
    pub(crate) from: NodeId,
    #[serde(flatten)]
    pub(crate) note: Note,
}

/// The form of notes.
pub(crate) const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_read_as_they_were_written() {
        let ctx = TenantContext::trusted("acme").unwrap();
        let channel = WireChannel::of(&ChannelKey::new(&ctx, ChannelName::new("room:1").unwrap()));
        let id = ByteString::from_static("c1");
        let changes = vec![
            Change::Opened {
                id: id.clone(),
                organization: "acme".parse().unwrap(),
                user: Some("anna".into()),
                face: Face::WebSocket,
                since_ms: 5,
            },
            Change::Measured { id: id.clone(), quality: Quality::Good, rtt_ms: 77 },
            Change::Joined { id: id.clone(), channel: channel.clone(), user: None, since_ms: 6 },
            Change::Left { id: id.clone(), channel },
            Change::Closed { id: id.clone() },
        ];
        for note in [
            Note::Beat { seq: 1 },
            Note::Changes { seq: 2, changes: changes.clone() },
            Note::Snapshot { seq: 3, first: true, last: false, changes },
            Note::Ask { of: None },
            Note::End { of: "n1".into(), id },
            Note::Bye,
        ] {
            let sent = Envelope { version: VERSION, from: "n2".into(), note };
            let text = serde_json::to_string(&sent).unwrap();
            assert_eq!(serde_json::from_str::<Envelope>(&text).unwrap(), sent, "{text}");
        }
        let forged =
            WireChannel { organization: "_apix".parse().unwrap(), channel: "x".parse().unwrap() };
        assert_eq!(forged.key(), None);
    }
}
