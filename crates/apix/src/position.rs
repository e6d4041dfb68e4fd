//! Where in a stream: ids, epochs and positions.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::name::StreamName;

/// The id of an event: `MS-SEQ`, or `MS-SEQ@I` on partition I of a partitioned stream.
///
/// Within a stream or partition ids grow in the order of appending. `ms` is the broker's clock in
/// Unix milliseconds when the event was appended, or the last id's if that clock stepped back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Unix time in milliseconds.
    pub ms: u64,
    /// Counts within the millisecond, from 0.
    pub seq: u64,
    /// The partition, on a partitioned stream.
    pub partition: Option<u16>,
}

impl MessageId {
    /// Below every id.
    pub const MIN: Self = Self::new(0, 0);
    /// Above every id.
    pub const MAX: Self = Self::new(u64::MAX, u64::MAX);

    /// An id of a stream without partitions.
    pub const fn new(ms: u64, seq: u64) -> Self {
        Self { ms, seq, partition: None }
    }

    /// The smallest id after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { seq, ..self },
            None => Self { ms: self.ms.saturating_add(1), seq: 0, ..self },
        }
    }

    /// The largest id before this one; [`MIN`](Self::MIN) stays.
    #[must_use]
    pub const fn previous(self) -> Self {
        match (self.ms, self.seq) {
            (0, 0) => self,
            (ms, 0) => Self { ms: ms - 1, seq: u64::MAX, ..self },
            (_, seq) => Self { seq: seq - 1, ..self },
        }
    }

    /// The id that follows `last` when the clock reads `now_ms`: always greater than `last`.
    #[must_use]
    pub const fn following(last: Self, now_ms: u64) -> Self {
        if now_ms > last.ms { Self { ms: now_ms, seq: 0, ..last } } else { last.next() }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)?;
        match self.partition {
            Some(partition) => write!(f, "@{partition}"),
            None => Ok(()),
        }
    }
}

impl FromStr for MessageId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "{text:?} is not a message id; ids look like 1764000000000-0, or \
                 1764000000000-0@3 on a partition"
            ))
        };
        let digits = |part: &str| -> Option<u64> {
            // `parse` would take a sign, and "01" is not what an id prints as.
            let plain = part.bytes().all(|b| b.is_ascii_digit())
                && (part.len() == 1 || !part.starts_with('0'));
            if plain { part.parse().ok() } else { None }
        };
        let (id, partition) = match text.split_once('@') {
            None => (text, None),
            Some((id, part)) => {
                let part = digits(part).and_then(|part| u16::try_from(part).ok());
                (id, Some(part.ok_or_else(wrong)?))
            }
        };
        let (ms, seq) = id.split_once('-').ok_or_else(wrong)?;
        Ok(Self {
            ms: digits(ms).ok_or_else(wrong)?,
            seq: digits(seq).ok_or_else(wrong)?,
            partition,
        })
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One life of a stream. A stream that was deleted and made again, or whose broker lost its data,
/// has another epoch, so that a position from before is not taken for one of now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(ByteString);

impl Epoch {
    /// A new epoch: 16 random hex digits.
    pub fn random() -> Result<Self> {
        let bits = getrandom::u64().map_err(|fault| {
            Error::unavailable("no randomness to be had").with_source(fault.to_string())
        })?;
        Ok(Self(format!("{bits:016x}").into()))
    }

    /// An epoch as it was stored or sent: 1 to 64 characters of `A-Z a-z 0-9 -`.
    pub fn new(text: impl Into<ByteString>) -> Result<Self> {
        let text = text.into();
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if text.is_empty() || text.len() > 64 || !plain {
            return Err(Error::invalid("an epoch is 1 to 64 characters of A-Z a-z 0-9 -"));
        }
        Ok(Self(text))
    }

    /// The epoch as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(text.as_ref()).map_err(serde::de::Error::custom)
    }
}

/// The last event that a subscriber saw of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The last id seen; [`MessageId::MIN`] for none yet.
    pub id: MessageId,
    /// The epoch of the stream then; without it a deletion and re-creation is found by the id
    /// alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// How far a subscriber of a channel has seen, per stream that feeds it.
pub type ChannelPosition = BTreeMap<StreamName, Position>;

/// What a returning subscriber gives: POSITION of the live protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// The last id seen, where one stream feeds the channel.
    Id(MessageId),
    /// A position per stream, as a subscription tells it. A stream that is not named fed the
    /// channel later: all of its events on the channel are new.
    Streams(ChannelPosition),
}

impl<'de> Deserialize<'de> for Since {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Id(MessageId),
            Streams(ChannelPosition),
        }
        Form::deserialize(deserializer)
            .map(|form| match form {
                Form::Id(id) => Self::Id(id),
                Form::Streams(streams) => Self::Streams(streams),
            })
            .map_err(|_| {
                serde::de::Error::custom(
                    "a position is a message id such as \"1764000000000-0\", or \
                     {\"STREAM\":{\"id\":\"1764000000000-0\",\"epoch\":\"…\"}}",
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_print_and_parse(ms: u64, seq: u64, partition: Option<u16>) {
            let id = MessageId { ms, seq, partition };
            prop_assert_eq!(id.to_string().parse::<MessageId>().unwrap(), id);
        }

        #[test]
        fn the_next_id_is_greater_whatever_the_clock_says(ms in 0..u64::MAX, seq: u64, now: u64) {
            let last = MessageId::new(ms, seq);
            prop_assert!(MessageId::following(last, now) > last);
            prop_assert_eq!(last.next().previous(), last);
        }
    }

    #[test]
    fn forged_ids_are_refused() {
        for text in
            ["", "1", "1-", "-1", "+1-0", "1-0@", "1-0@70000", "01-0", "1-0 ", "a-b", "1-0@1@2"]
        {
            assert!(text.parse::<MessageId>().is_err(), "{text:?}");
        }
    }
}
