//! What a call may touch, and what it may ask for: names, permissions and sizes, checked before the
//! broker is asked.

use std::time::Duration;

use super::requests::MAX_PAGE;
use crate::error::{Error, ErrorKind, Result};
use crate::group::{MAX_LEASE_MS, Settlement};
use crate::name::{ChannelKey, ChannelName, GroupKey, GroupName, StreamKey, StreamName};
use crate::position::MessageId;
use crate::tenant::{Action, TenantContext};

/// The error of a delivery that its holder no longer has.
pub fn lease_lost(id: MessageId) -> Error {
    Error::new(
        ErrorKind::LeaseLost,
        format!(
            "{id} is not held by this consumer with this delivery count: it was settled, or its \
             lease ended and it went to another"
        ),
    )
}

pub(super) fn no_answer() -> Error {
    Error::new(ErrorKind::Internal, "the broker gave fewer answers than it was asked for")
}

fn stream_with(ctx: &TenantContext, stream: &str, action: Action) -> Result<StreamKey> {
    let stream = StreamName::new(stream)?;
    ctx.require(action, stream.as_str())?;
    Ok(StreamKey::new(ctx, stream))
}

pub(super) fn readable_stream(ctx: &TenantContext, stream: &str) -> Result<StreamKey> {
    stream_with(ctx, stream, Action::StreamsRead)
}

pub(super) fn writable_stream(ctx: &TenantContext, stream: &str) -> Result<StreamKey> {
    unreserved(stream_with(ctx, stream, Action::StreamsWrite)?)
}

pub(super) fn managed_stream(ctx: &TenantContext, stream: &str) -> Result<StreamKey> {
    unreserved(stream_with(ctx, stream, Action::GroupsManage)?)
}

/// A stream that APIX alone writes is neither written, nor set up, nor deleted by anybody else.
fn unreserved(stream: StreamKey) -> Result<StreamKey> {
    if stream.stream().is_reserved() {
        return Err(reserved("stream", stream.stream().as_str()));
    }
    Ok(stream)
}

pub(super) fn readable_group(
    ctx: &TenantContext,
    stream: &str,
    group: GroupName,
) -> Result<GroupKey> {
    Ok(GroupKey::new(readable_stream(ctx, stream)?, group))
}

pub(super) fn managed_group(
    ctx: &TenantContext,
    stream: &str,
    group: GroupName,
) -> Result<GroupKey> {
    Ok(GroupKey::new(stream_with(ctx, stream, Action::GroupsManage)?, group))
}

pub(super) fn publishable_channel(ctx: &TenantContext, channel: &str) -> Result<ChannelKey> {
    let channel = ChannelName::new(channel)?;
    ctx.require(Action::ChannelsPublish, channel.as_str())?;
    if channel.is_reserved() {
        return Err(reserved("channel", channel.as_str()));
    }
    Ok(ChannelKey::new(ctx, channel))
}

fn reserved(what: &str, name: &str) -> Error {
    Error::new(
        ErrorKind::ReservedName,
        format!("the {what} {name:?} is written by APIX only; choose another name"),
    )
}

pub(super) fn check_count(what: &str, count: usize) -> Result<()> {
    if count > MAX_PAGE {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the call has {count} {what}; the limit is {MAX_PAGE}"),
        ));
    }
    Ok(())
}

/// The longest that a retry may be put off: 30 days.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(30 * 24 * 3_600);

pub(super) fn check_settlement(settlement: &Settlement) -> Result<()> {
    match settlement {
        Settlement::Retry { after: Some(after), .. } if *after > MAX_RETRY_AFTER => {
            Err(Error::invalid(format!("a retry is due within {} ms", MAX_RETRY_AFTER.as_millis())))
        }
        Settlement::Extend { lease }
            if lease.is_zero() || lease.as_millis() > u128::from(MAX_LEASE_MS) =>
        {
            Err(Error::invalid(format!("leaseMs must be from 1 to {}", MAX_LEASE_MS)))
        }
        _ => Ok(()),
    }
}
