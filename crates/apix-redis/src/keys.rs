//! Every key and channel in Redis. No other file formats one.
//!
//! | what | key |
//! | --- | --- |
//! | a stream | `tenant:ORG:stream:NAME` |
//! | a channel | `tenant:ORG:channel:NAME` |
//! | what belongs to a stream | `{tenant:ORG:stream:NAME}:…`, in the stream's own cluster slot |
//! | streams of a tenant | `tenant:ORG:streams`, a set |
//! | streams that feed a channel | `{tenant:ORG:channel:NAME}:feeds`, a set |
//! | doorbell of a stream | the channel `tenant:ORG:bell:NAME` |
//! | a process's own probe | the channel `apix:probe:RANDOM` |
//! | the format of all this | `{apix}:format` |
//!
//! Names have no braces, and tenants, groups and consumers no colon, so that no key can be forged
//! from them. The suffixes of a stream:
//!
//! | suffix | type | holds |
//! | --- | --- | --- |
//! | `state` | hash | `epoch`, `settings`, `keyAge`, `maxKeys`, `trimmedTo`, `hardDropped`, `trimmedAt` |
//! | `groups` | set | groups that APIX has used |
//! | `channels` | set | channels that hybrid events were shown on |
//! | `idem`, `idemlog` | hash, list | idempotency key to id and digest; keys by age |
//! | `at:CHANNEL` | string | last hybrid event on that channel |
//! | `group:G` | hash | `settings`, `floor`, `marks`, `lost`, `sweptAt`, `remade`, … of group G |
//! | `due:G` | zset | parked events by due time; events handed out from a copy by the end of their lease |
//! | `side:G`, `sideix:G` | hash, zset | copies of events that the group has apart from the stream, and their order |
//! | `out:G` | hash | who holds which of those now |
//! | `attempts:G` | hash | what failed so far, per event |
//! | `held:G` | zset | leases that were extended beyond the group's |
//! | `dead:G`, `deadix:G` | hash, zset | dead letters, and their order |

use std::fmt::Write;

use apix::{ChannelKey, ChannelName, GroupName, StreamKey, StreamName, TenantId};

/// The key whose value is the version of the data's form.
pub(crate) const FORMAT: &str = "{apix}:format";

/// The streams of a tenant.
pub(crate) fn streams(tenant: &TenantId) -> String {
    format!("tenant:{tenant}:streams")
}

/// A stream itself.
pub(crate) fn stream(stream: &StreamKey) -> String {
    stream.to_string()
}

/// A stream of a tenant.
pub(crate) fn stream_of(tenant: &TenantId, stream: &StreamName) -> String {
    format!("tenant:{tenant}:stream:{stream}")
}

/// A channel itself.
pub(crate) fn channel(channel: &ChannelKey) -> String {
    channel.to_string()
}

/// The streams that feed a channel.
pub(crate) fn feeds(channel: &ChannelKey) -> String {
    format!("{{{channel}}}:feeds")
}

/// Where it is told that an event of the stream becomes due.
pub(crate) fn bell(stream: &StreamKey) -> String {
    format!("tenant:{}:bell:{}", stream.tenant(), stream.stream())
}

/// A process's own channel, on which it hears itself.
pub(crate) fn probe(random: u64) -> String {
    format!("apix:probe:{random:016x}")
}

/// The keys of one stream that do not depend on a group.
#[derive(Debug)]
pub(crate) struct StreamKeys {
    pub(crate) stream: String,
    pub(crate) tenant_streams: String,
    pub(crate) bell: String,
    prefix: String,
    /// `state`, `groups`, `channels`, `idem`, `idemlog`.
    own: [String; 5],
}

impl StreamKeys {
    pub(crate) fn new(key: &StreamKey) -> Self {
        let stream = stream(key);
        let prefix = format!("{{{stream}}}:");
        let own = ["state", "groups", "channels", "idem", "idemlog"]
            .map(|suffix| format!("{prefix}{suffix}"));
        Self { stream, tenant_streams: streams(key.tenant()), bell: bell(key), prefix, own }
    }

    /// Metadata of the stream.
    pub(crate) fn state(&self) -> &str {
        &self.own[0]
    }

    /// The groups that APIX has used.
    pub(crate) fn groups(&self) -> &str {
        &self.own[1]
    }

    /// The last hybrid event on a channel.
    pub(crate) fn at(&self, channel: &ChannelName) -> String {
        format!("{}at:{channel}", self.prefix)
    }

    /// What scripts on a stream take: the stream and all of its own.
    pub(crate) fn all(&self) -> [&str; 6] {
        let [state, groups, channels, idem, idemlog] = &self.own;
        [&self.stream, state, groups, channels, idem, idemlog]
    }
}

/// The keys of one group.
#[derive(Debug)]
pub(crate) struct GroupKeys {
    keys: [String; 15],
}

/// What each group has a key for, in the order that the scripts take them in.
const OF_GROUP: [&str; 9] =
    ["group", "due", "side", "sideix", "out", "attempts", "held", "dead", "deadix"];

impl GroupKeys {
    pub(crate) fn new(stream: &StreamKeys, group: &GroupName) -> Self {
        let own = stream.all().map(str::to_owned);
        let of_group = OF_GROUP.map(|kind| {
            let mut key = stream.prefix.clone();
            // Writing into a String cannot fail.
            let _ = write!(key, "{kind}:{group}");
            key
        });
        let mut all = own.into_iter().chain(of_group);
        Self { keys: std::array::from_fn(|_| all.next().unwrap_or_default()) }
    }

    /// What scripts on a group take: the keys of its stream, then its own.
    pub(crate) fn all(&self) -> &[String] {
        &self.keys
    }

    /// The stream.
    pub(crate) fn stream(&self) -> &str {
        &self.keys[0]
    }

    /// Settings, floor and counters.
    pub(crate) fn group(&self) -> &str {
        &self.keys[6]
    }

    /// Due times.
    pub(crate) fn due(&self) -> &str {
        &self.keys[7]
    }

    /// Failed attempts.
    pub(crate) fn attempts(&self) -> &str {
        &self.keys[11]
    }
}

#[cfg(test)]
mod tests {
    use apix::TenantContext;

    use super::*;

    #[test]
    fn the_keys_of_a_group_lie_in_the_slot_of_its_stream() {
        let ctx = TenantContext::trusted("acme").unwrap();
        let stream = StreamKey::new(&ctx, StreamName::new("a:b").unwrap());
        let keys = GroupKeys::new(&StreamKeys::new(&stream), &GroupName::default());
        assert_eq!(keys.stream(), "tenant:acme:stream:a:b");
        assert_eq!(keys.group(), "{tenant:acme:stream:a:b}:group:processors");
        assert_eq!(keys.due(), "{tenant:acme:stream:a:b}:due:processors");
        assert_eq!(keys.attempts(), "{tenant:acme:stream:a:b}:attempts:processors");
        assert_eq!(keys.all().len(), 15);
        assert!(keys.all()[1..].iter().all(|key| key.starts_with("{tenant:acme:stream:a:b}:")));
    }
}
