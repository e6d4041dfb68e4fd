//! Validated names, and the keys made of them.
//!
//! Tenant ids, group and consumer names are 1 to 128 characters of `A-Z a-z 0-9 . _ -`; stream
//! and channel names may have `:` too. Nothing else gets through, so that no key of a broker can
//! be forged from a name. A [`StreamKey`] or [`ChannelKey`] always carries its tenant: there is
//! no constructor without one.

use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;

use crate::error::{Error, ErrorKind, Result};
use crate::tenant::TenantContext;

/// The longest name, in characters (all of them ASCII, so in bytes too).
pub const MAX_NAME_LENGTH: usize = 128;

fn check(what: &str, name: &str, colon: bool) -> Result<()> {
    let allowed = if colon { "A-Z a-z 0-9 . _ - :" } else { "A-Z a-z 0-9 . _ -" };
    let fault = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_NAME_LENGTH {
        format!("is {} bytes long", name.len())
    } else {
        let wrong = name.chars().find(|&c| {
            !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') || (colon && c == ':'))
        });
        match wrong {
            None => return Ok(()),
            Some(c) => format!("contains {c:?}"),
        }
    };
    Err(Error::new(
        ErrorKind::InvalidName,
        format!("the {what} {fault}; it must be 1 to {MAX_NAME_LENGTH} characters of {allowed}"),
    ))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, colon: $colon:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(ByteString);

        impl $type {
            /// Checks the name; [`ErrorKind::InvalidName`] says what is wrong with it.
            pub fn new(name: impl Into<ByteString>) -> Result<Self> {
                let name = name.into();
                check($what, &name, $colon)?;
                Ok(Self(name))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name as shared text.
            pub fn as_text(&self) -> &ByteString {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::new(name.as_ref()).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// The id of a tenant: `organizationId` on the wire.
    TenantId, "tenant id", colon: false
);
name!(
    /// The name of a stream within its tenant.
    StreamName, "stream name", colon: true
);
name!(
    /// The name of a channel within its tenant.
    ChannelName, "channel name", colon: true
);
name!(
    /// The name of a consumer group of a stream.
    GroupName, "group name", colon: false
);
name!(
    /// The name of one consumer in a group.
    ConsumerName, "consumer name", colon: false
);

impl TenantId {
    /// Ids that begin with `_` are APIX's own: no credential may name one.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('_')
    }
}

impl StreamName {
    /// Streams that APIX alone writes to.
    pub fn is_reserved(&self) -> bool {
        matches!(self.as_str(), "audit" | "connections")
    }
}

impl ChannelName {
    /// The channel that tells of a tenant's connections.
    pub const CONNECTION_STATUS: &'static str = "connection-status";

    /// The channel that APIX alone publishes to.
    pub fn is_reserved(&self) -> bool {
        self.as_str() == Self::CONNECTION_STATUS
    }
}

impl GroupName {
    /// The group of calls that name none.
    pub const DEFAULT: &'static str = "processors";
}

impl Default for GroupName {
    fn default() -> Self {
        Self(ByteString::from_static(Self::DEFAULT))
    }
}

/// A stream of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    tenant: TenantId,
    stream: StreamName,
}

impl StreamKey {
    /// The stream `stream` of the caller's tenant.
    pub fn new(ctx: &TenantContext, stream: StreamName) -> Self {
        Self { tenant: ctx.organization_id().clone(), stream }
    }

    /// Internal to APIX: a stream of the tenant `_apix`, which no credential can name. Its
    /// processes keep there what they share.
    pub fn internal(stream: StreamName) -> Self {
        Self { tenant: TenantId(ByteString::from_static("_apix")), stream }
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The name within the tenant.
    pub fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// Another stream of the same tenant.
    #[must_use]
    pub fn sibling(&self, stream: StreamName) -> Self {
        Self { tenant: self.tenant.clone(), stream }
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenant:{}:stream:{}", self.tenant, self.stream)
    }
}

/// A channel of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelKey {
    tenant: TenantId,
    channel: ChannelName,
}

impl ChannelKey {
    /// The channel `channel` of the caller's tenant.
    pub fn new(ctx: &TenantContext, channel: ChannelName) -> Self {
        Self { tenant: ctx.organization_id().clone(), channel }
    }

    /// Internal to APIX: a channel of the tenant `_apix`, which no credential can name. Its
    /// processes speak to each other there.
    pub fn internal(channel: ChannelName) -> Self {
        Self { tenant: TenantId(ByteString::from_static("_apix")), channel }
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The name within the tenant.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// A stream of the same tenant: one that feeds this channel.
    pub fn stream(&self, stream: StreamName) -> StreamKey {
        StreamKey { tenant: self.tenant.clone(), stream }
    }
}

impl fmt::Display for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenant:{}:channel:{}", self.tenant, self.channel)
    }
}

/// A consumer group of a stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// The stream that the group reads.
    pub stream: StreamKey,
    /// The group's name.
    pub group: GroupName,
}

impl GroupKey {
    /// The group `group` of `stream`.
    pub fn new(stream: StreamKey, group: GroupName) -> Self {
        Self { stream, group }
    }
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} group {}", self.stream, self.group)
    }
}

/// The longest user id, in bytes.
pub const MAX_USER_ID_BYTES: usize = 256;

/// A user id as it stands in a name: bytes outside `A-Z a-z 0-9 . -` become `_` and two hex digits.
///
/// ```
/// assert_eq!(apix::user_in_name("anna@example.com"), "anna_40example.com");
/// ```
pub fn user_in_name(user_id: &str) -> String {
    let mut name = String::with_capacity(user_id.len());
    for byte in user_id.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-') {
            name.push(char::from(byte));
        } else {
            name.push('_');
            for digit in [byte >> 4, byte & 15] {
                name.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forged_names_are_refused() {
        let long = "x".repeat(129);
        for name in ["", "*", "{x}", "a@b", "a/b", "a\nb", " a", "ü", "a:b", &long] {
            for refused in [
                TenantId::new(name).map(drop),
                GroupName::new(name).map(drop),
                ConsumerName::new(name).map(drop),
            ] {
                assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidName, "{name:?}");
            }
            assert_eq!(StreamName::new(name).is_ok(), name == "a:b", "{name:?}");
            assert_eq!(ChannelName::new(name).is_ok(), name == "a:b", "{name:?}");
        }
        assert!(TenantId::new("x".repeat(128)).is_ok());
    }

    proptest! {
        #[test]
        fn a_name_is_exactly_the_allowed_characters(name in ".{0,140}") {
            let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            let fits = (1..=128).contains(&name.len());
            prop_assert_eq!(TenantId::new(name.as_str()).is_ok(), fits && name.chars().all(plain));
            let with_colon = fits && name.chars().all(|c| plain(c) || c == ':');
            prop_assert_eq!(StreamName::new(name.as_str()).is_ok(), with_colon);
        }

        #[test]
        fn users_keep_apart_in_names(a in ".{0,40}", b in ".{0,40}") {
            prop_assert_eq!(user_in_name(&a) == user_in_name(&b), a == b);
        }
    }
}
