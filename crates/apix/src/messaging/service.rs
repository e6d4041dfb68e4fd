//! The service itself: a broker and the limits.

use std::sync::Arc;

use crate::broker::Broker;
use crate::event::Limits;

/// All operations on streams, channels and both together, for any tenant, over one broker.
/// Clones share the broker.
#[derive(Clone, Debug)]
pub struct TenantMessagingService {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) limits: Arc<Limits>,
}

impl TenantMessagingService {
    /// The service over `broker`, with the default limits.
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self::with_limits(broker, Limits::default())
    }

    /// The service over `broker` with other limits.
    pub fn with_limits(broker: Arc<dyn Broker>, limits: Limits) -> Self {
        Self { broker, limits: Arc::new(limits) }
    }

    /// The broker underneath.
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.broker
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
