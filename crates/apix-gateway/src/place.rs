//! A channel as a live client names it: of its own tenant, unless it says otherwise.

use apix::json::ObjectWriter;
use apix::{ChannelName, TenantId};

use crate::error::ApiError;

/// A channel, and its tenant where that is not the connection's own: a service credential
/// follows channels of many tenants over one connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) channel: ChannelName,
    pub(crate) tenant: Option<TenantId>,
}

impl Place {
    /// A channel of the connection's own tenant.
    pub(crate) fn own(channel: ChannelName) -> Self {
        Self { channel, tenant: None }
    }

    /// The channel that a client names, on a connection of the tenant `own`.
    pub(crate) fn named(
        channel: &str,
        organization_id: Option<&str>,
        own: &TenantId,
    ) -> Result<Self, ApiError> {
        let channel = ChannelName::new(channel)?;
        let tenant = organization_id.map(TenantId::new).transpose()?;
        Ok(Self { channel, tenant: tenant.filter(|tenant| tenant != own) })
    }

    /// Adds `channel`, and `organizationId` where it is not the connection's own.
    pub(crate) fn write(&self, object: &mut ObjectWriter<'_>) {
        object.text("channel", self.channel.as_str());
        object.optional_text("organizationId", self.tenant.as_ref().map(TenantId::as_str));
    }
}
