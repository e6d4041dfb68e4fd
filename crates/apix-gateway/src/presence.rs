//! Who is on a channel: the connections that are subscribed to it, on all processes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use apix::json::ObjectWriter;
use apix::{ChannelKey, Json, Limits, NewMessage, SubscriptionSender, Timestamp};
use bytestring::ByteString;

const JOIN: &str = "presence.join";
const LEAVE: &str = "presence.leave";

/// One connection on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) user: Option<ByteString>,
    /// Unix milliseconds.
    pub(crate) since_ms: u64,
}

/// One user on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) connections: usize,
    /// Since when the first of them, in Unix milliseconds.
    pub(crate) since_ms: u64,
}

/// Everyone on one channel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Roster {
    pub(crate) users: BTreeMap<ByteString, Present>,
    /// Connections without a user.
    pub(crate) anonymous: usize,
    /// All connections.
    pub(crate) connections: usize,
}

/// All channels, and the followers of this process that want to be told who comes and goes.
#[derive(Default)]
pub(crate) struct Presence {
    channels: HashMap<ChannelKey, HashMap<ByteString, Member>>,
    watchers: HashMap<ChannelKey, HashMap<ByteString, SubscriptionSender>>,
}

impl Presence {
    /// `connection` joins; it is not told of itself.
    pub(crate) fn join(&mut self, channel: &ChannelKey, connection: &ByteString, member: Member) {
        let members = self.channels.entry(channel.clone()).or_default();
        if members.insert(connection.clone(), member.clone()).is_none() {
            self.tell(channel, JOIN, connection, &member);
        }
    }

    pub(crate) fn leave(&mut self, channel: &ChannelKey, connection: &ByteString) {
        let Some(members) = self.channels.get_mut(channel) else { return };
        let Some(member) = members.remove(connection) else { return };
        if members.is_empty() {
            self.channels.remove(channel);
        }
        self.tell(channel, LEAVE, connection, &member);
    }

    /// From now on `connection` is told through its queue.
    pub(crate) fn watch(
        &mut self,
        channel: &ChannelKey,
        connection: &ByteString,
        queue: SubscriptionSender,
    ) {
        self.watchers.entry(channel.clone()).or_default().insert(connection.clone(), queue);
    }

    pub(crate) fn unwatch(&mut self, channel: &ChannelKey, connection: &ByteString) {
        if let Some(watchers) = self.watchers.get_mut(channel) {
            watchers.remove(connection);
            if watchers.is_empty() {
                self.watchers.remove(channel);
            }
        }
    }

    pub(crate) fn roster(&self, channel: &ChannelKey) -> Roster {
        let mut roster = Roster::default();
        for member in self.channels.get(channel).into_iter().flat_map(HashMap::values) {
            roster.connections += 1;
            let Some(user) = &member.user else {
                roster.anonymous += 1;
                continue;
            };
            let first = Present { connections: 0, since_ms: member.since_ms };
            let present = roster.users.entry(user.clone()).or_insert(first);
            present.connections += 1;
            present.since_ms = present.since_ms.min(member.since_ms);
        }
        roster
    }

    fn tell(&self, channel: &ChannelKey, what: &str, connection: &ByteString, member: &Member) {
        let Some(watchers) = self.watchers.get(channel) else { return };
        let others = member.user.as_ref().map(|user| self.connections_of(channel, user));
        let data = data(connection, member, others);
        let message = NewMessage::new(what, data).checked(channel, None, &Limits::default());
        let Ok(message) = message else { return };
        let message = Arc::new(message);
        for (watcher, queue) in watchers {
            if watcher != connection {
                queue.send(Arc::clone(&message));
            }
        }
    }

    /// How many connections of a user are on a channel.
    fn connections_of(&self, channel: &ChannelKey, user: &ByteString) -> u64 {
        let members = self.channels.get(channel).into_iter().flat_map(HashMap::values);
        members.filter(|member| member.user.as_ref() == Some(user)).count() as u64
    }
}

/// `{"connectionId","userId"?,"since","userConnections"?}`: with the last one a client that
/// shows people, not connections, sees who really came or went (1 at a join, 0 at a leave).
fn data(connection: &ByteString, member: &Member, user_connections: Option<u64>) -> Json {
    let mut out = Vec::new();
    let mut object = ObjectWriter::begin(&mut out);
    object.text("connectionId", connection);
    object.optional_text("userId", member.user.as_deref());
    object.text("since", Timestamp::from_unix_ms(member.since_ms).as_str());
    if let Some(count) = user_connections {
        object.number("userConnections", count);
    }
    object.end();
    Json::from_checked(ByteString::try_from(out).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use apix::{ChannelName, Subscription, TenantContext, Update, subscription};

    fn channel() -> ChannelKey {
        let ctx = TenantContext::trusted("acme").unwrap();
        ChannelKey::new(&ctx, ChannelName::new("room").unwrap())
    }

    fn member(user: &'static str, since_ms: u64) -> Member {
        Member { user: Some(ByteString::from_static(user)), since_ms }
    }

    fn told(queue: &mut Subscription) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(Update::Message(message)) = queue.try_recv() {
            told.push(format!("{} {}", message.message_type(), message.data().as_str()));
        }
        told
    }

    #[test]
    fn watchers_are_told_of_others_until_they_stop() {
        let (channel, mut presence) = (channel(), Presence::default());
        let (sender, mut queue) = subscription(1 << 20, || ());
        let [a, b] = ["a", "b"].map(ByteString::from_static);
        presence.join(&channel, &a, member("anna", 1_000));
        presence.watch(&channel, &a, sender);
        presence.join(&channel, &b, member("bert", 2_000));
        presence.join(&channel, &b, member("bert", 2_000));
        presence.leave(&channel, &b);
        presence.leave(&channel, &b);
        assert_eq!(
            told(&mut queue),
            [
                r#"presence.join {"connectionId":"b","userId":"bert","since":"1970-01-01T00:00:02.000Z","userConnections":1}"#,
                r#"presence.leave {"connectionId":"b","userId":"bert","since":"1970-01-01T00:00:02.000Z","userConnections":0}"#,
            ]
        );
        presence.unwatch(&channel, &a);
        presence.join(&channel, &b, member("bert", 3_000));
        assert!(told(&mut queue).is_empty());
    }

    #[test]
    fn a_roster_counts_users_and_connections() {
        let (channel, mut presence) = (channel(), Presence::default());
        for (connection, since_ms) in [("a", 5), ("b", 3), ("c", 9)] {
            let connection = ByteString::from_static(connection);
            presence.join(&channel, &connection, member("anna", since_ms));
        }
        let nobody = Member { user: None, since_ms: 1 };
        presence.join(&channel, &ByteString::from_static("d"), nobody);
        let roster = presence.roster(&channel);
        assert_eq!((roster.connections, roster.anonymous), (4, 1));
        assert_eq!(roster.users["anna"], Present { connections: 3, since_ms: 3 });
        for connection in ["a", "b", "c", "d"] {
            presence.leave(&channel, &ByteString::from_static(connection));
        }
        assert_eq!(presence.roster(&channel), Roster::default());
        assert!(presence.channels.is_empty());
    }
}
