//! Who is calling: the tenant, perhaps a user, and what the credential allows.

use std::sync::Arc;

use bytestring::ByteString;

use crate::error::{Error, ErrorKind, Result};
use crate::name::{ChannelName, MAX_USER_ID_BYTES, TenantId, user_in_name};

/// The caller of every operation. Only authentication makes one, or [`TenantContext::trusted`] in
/// a program that embeds the library.
#[derive(Clone, Debug)]
pub struct TenantContext {
    organization_id: TenantId,
    user_id: Option<ByteString>,
    permissions: Arc<Permissions>,
}

impl TenantContext {
    /// Every right of one tenant, for a program that embeds the library and has decided itself
    /// whom it speaks for. Ids that begin with `_` are refused: they are APIX's own.
    pub fn trusted(organization_id: impl Into<ByteString>) -> Result<Self> {
        let permissions = Permissions::parse(["admin"])?;
        Self::authenticated(TenantId::new(organization_id)?, None, Arc::new(permissions))
    }

    /// What a checked credential says. To be called where credentials are checked and nowhere
    /// else; `user_id` is free text of at most 256 bytes.
    pub fn authenticated(
        organization_id: TenantId,
        user_id: Option<ByteString>,
        permissions: Arc<Permissions>,
    ) -> Result<Self> {
        if organization_id.is_reserved() {
            return Err(Error::new(
                ErrorKind::ReservedName,
                "tenant ids that begin with '_' are reserved; choose another id",
            ));
        }
        if let Some(user) = &user_id {
            check_user_id(user)?;
        }
        Ok(Self { organization_id, user_id, permissions })
    }

    /// The tenant.
    pub fn organization_id(&self) -> &TenantId {
        &self.organization_id
    }

    /// The user, where the credential names one.
    pub fn user_id(&self) -> Option<&ByteString> {
        self.user_id.as_ref()
    }

    /// What the credential allows.
    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// [`ErrorKind::PermissionDenied`], naming the permission that is missing, unless `action` on
    /// `name` is allowed.
    pub fn require(&self, action: Action, name: &str) -> Result<()> {
        if self.permissions.allows(action, name, self.user_id.as_deref()) {
            return Ok(());
        }
        let missing = if action.takes_pattern() {
            format!("{}:{name}", action.as_str())
        } else {
            action.as_str().to_owned()
        };
        Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("the credential lacks the permission '{missing}'"),
        ))
    }
}

/// Refuses a user id of more than 256 bytes, or an empty one.
pub(crate) fn check_user_id(user: &str) -> Result<()> {
    if user.is_empty() || user.len() > MAX_USER_ID_BYTES {
        return Err(Error::invalid(format!(
            "the userId is {} bytes long; it must be 1 to {MAX_USER_ID_BYTES} bytes",
            user.len()
        )));
    }
    Ok(())
}

/// What a permission allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read, replay and settle events of a stream, and see its statistics.
    StreamsRead,
    /// Add events to a stream, and publish hybrid events through it.
    StreamsWrite,
    /// Settings, seek, dead letters and deletion of groups and streams.
    GroupsManage,
    /// Receive a channel's messages.
    ChannelsSubscribe,
    /// Publish to a channel.
    ChannelsPublish,
    /// See who is on a channel.
    PresenceRead,
    /// List and end connections.
    ConnectionsManage,
    /// Webhook endpoints and deliveries.
    WebhooksManage,
    /// The audit trail.
    AuditRead,
    /// Name the tenant of each call (service credentials).
    TenantsActAs,
    /// Everything of this tenant.
    Admin,
}

impl Action {
    const ALL: [Self; 11] = [
        Self::StreamsRead,
        Self::StreamsWrite,
        Self::GroupsManage,
        Self::ChannelsSubscribe,
        Self::ChannelsPublish,
        Self::PresenceRead,
        Self::ConnectionsManage,
        Self::WebhooksManage,
        Self::AuditRead,
        Self::TenantsActAs,
        Self::Admin,
    ];

    /// The word in a permission, before its pattern.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StreamsRead => "streams:read",
            Self::StreamsWrite => "streams:write",
            Self::GroupsManage => "groups:manage",
            Self::ChannelsSubscribe => "channels:subscribe",
            Self::ChannelsPublish => "channels:publish",
            Self::PresenceRead => "presence:read",
            Self::ConnectionsManage => "connections:manage",
            Self::WebhooksManage => "webhooks:manage",
            Self::AuditRead => "audit:read",
            Self::TenantsActAs => "tenants:act-as",
            Self::Admin => "admin",
        }
    }

    /// Whether the permission names what it is for.
    pub const fn takes_pattern(self) -> bool {
        match self {
            Self::StreamsRead
            | Self::StreamsWrite
            | Self::GroupsManage
            | Self::ChannelsSubscribe
            | Self::ChannelsPublish
            | Self::PresenceRead
            | Self::TenantsActAs => true,
            Self::ConnectionsManage | Self::WebhooksManage | Self::AuditRead | Self::Admin => false,
        }
    }
}

/// A set of permissions such as `streams:read:orders*` or `admin`.
///
/// `*` in a pattern matches any run of characters, and `{userId}` the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    granted: Vec<(Action, String)>,
}

impl Permissions {
    /// Parses permissions; one that is not known is an error, so that a typing error in a
    /// configuration is found when it is read.
    pub fn parse<I>(permissions: I) -> Result<Self>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let granted =
            permissions.into_iter().map(|text| parse(text.as_ref())).collect::<Result<_>>()?;
        Ok(Self { granted })
    }

    /// As [`parse`](Self::parse), leaving out what is not known: a token may carry the
    /// permissions of other services too.
    pub fn parse_known<I>(permissions: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let granted =
            permissions.into_iter().filter_map(|text| parse(text.as_ref()).ok()).collect();
        Self { granted }
    }

    /// Whether `action` on `name` is allowed to `user`. `admin` allows everything of the tenant,
    /// which does not include naming another one.
    pub fn allows(&self, action: Action, name: &str, user: Option<&str>) -> bool {
        self.granted.iter().any(|(granted, pattern)| {
            if *granted == Action::Admin {
                return action != Action::TenantsActAs;
            }
            // Who is connected is told to those alone who were granted just that.
            if action == Action::ChannelsSubscribe && name == ChannelName::CONNECTION_STATUS {
                return *granted == action && pattern == name;
            }
            *granted == action && (!action.takes_pattern() || pattern_matches(pattern, name, user))
        })
    }

    /// Whether any permission of this kind is there, whatever its pattern.
    pub fn has(&self, action: Action) -> bool {
        self.granted.iter().any(|(granted, _)| *granted == action)
    }

    /// The permissions as text, as they were parsed.
    pub fn to_strings(&self) -> Vec<String> {
        let text = |(action, pattern): &(Action, String)| {
            if action.takes_pattern() {
                format!("{}:{pattern}", action.as_str())
            } else {
                action.as_str().to_owned()
            }
        };
        self.granted.iter().map(text).collect()
    }
}

fn parse(text: &str) -> Result<(Action, String)> {
    for action in Action::ALL {
        let Some(rest) = text.strip_prefix(action.as_str()) else { continue };
        match rest.strip_prefix(':') {
            Some(pattern) if action.takes_pattern() && !pattern.is_empty() => {
                return Ok((action, pattern.to_owned()));
            }
            None if !action.takes_pattern() && rest.is_empty() => {
                return Ok((action, String::new()));
            }
            _ => {}
        }
    }
    let known: Vec<String> = Action::ALL
        .iter()
        .map(|action| {
            format!("{}{}", action.as_str(), if action.takes_pattern() { ":PATTERN" } else { "" })
        })
        .collect();
    Err(Error::invalid(format!(
        "the permission {text:?} is not known; there are: {}",
        known.join(", ")
    )))
}

fn pattern_matches(pattern: &str, name: &str, user: Option<&str>) -> bool {
    if !pattern.contains("{userId}") {
        return wildcard(pattern.as_bytes(), name.as_bytes());
    }
    match user {
        Some(user) => {
            let pattern = pattern.replace("{userId}", &user_in_name(user));
            wildcard(pattern.as_bytes(), name.as_bytes())
        }
        None => false,
    }
}

/// Linear apart from the last star: on a mismatch only that one takes a character more.
fn wildcard(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, n));
            p += 1;
        } else if pattern.get(p) == name.get(n) {
            p += 1;
            n += 1;
        } else if let Some((star, from)) = retry {
            p = star;
            n = from + 1;
            retry = Some((star, n));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(permission: &str, action: Action, name: &str, user: Option<&str>) -> bool {
        Permissions::parse([permission]).unwrap().allows(action, name, user)
    }

    #[test]
    fn patterns() {
        let read = |pattern: &str, name: &str| {
            allows(&format!("streams:read:{pattern}"), Action::StreamsRead, name, None)
        };
        assert!(read("*", "orders"));
        assert!(read("orders", "orders"));
        assert!(!read("orders", "orders2"));
        assert!(read("ord*", "orders") && !read("ord*", "o"));
        assert!(read("*:1", "room:1") && !read("*:1", "room:12"));
        assert!(read("a*b*c", "aXbXbc") && !read("a*b*c", "acb"));
    }

    #[test]
    fn the_user_in_a_pattern_is_the_caller() {
        let permission = "channels:subscribe:user:{userId}";
        let may = |user, name| allows(permission, Action::ChannelsSubscribe, name, user);
        assert!(may(Some("anna"), "user:anna"));
        assert!(!may(Some("anna"), "user:bob"));
        assert!(!may(None, "user:anna"));
        assert!(may(Some("*"), "user:_2a") && !may(Some("*"), "user:bob"));
    }

    #[test]
    fn connections_are_shown_to_those_who_were_granted_just_that() {
        let sees =
            |permission| allows(permission, Action::ChannelsSubscribe, "connection-status", None);
        assert!(sees("channels:subscribe:connection-status") && sees("admin"));
        assert!(!sees("channels:subscribe:*") && !sees("channels:subscribe:connection-*"));
    }

    #[test]
    fn one_kind_does_not_grant_another() {
        assert!(!allows("streams:read:*", Action::StreamsWrite, "a", None));
        assert!(allows("admin", Action::StreamsWrite, "a", None));
        assert!(!allows("admin", Action::TenantsActAs, "other", None));
        for wrong in ["", "stream:read:*", "streams:read", "streams:read:", "admin:all"] {
            assert!(Permissions::parse([wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn reserved_tenants_have_no_context() {
        let refused = TenantContext::trusted("_directory").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ReservedName);
    }
}
