//! The service: every operation on behalf of a tenant.
//!
//! Each call takes the [`TenantContext`](crate::TenantContext) first. It checks names, permissions
//! and sizes (`scope.rs`), and then asks the [`Broker`](crate::Broker) for one whole operation.

mod channels;
mod events;
mod groups;
mod requests;
mod scope;
mod service;

pub use requests::{
    DEFAULT_BATCH_SIZE, DEFAULT_HYBRID_CHANNEL, DEFAULT_HYBRID_STREAM, HybridOptions,
    HybridReceipt, MAX_PAGE, MAX_READ_EVENTS, MAX_READ_WAIT, ReadRequest,
};
pub use scope::{MAX_RETRY_AFTER, lease_lost};
pub use service::TenantMessagingService;
