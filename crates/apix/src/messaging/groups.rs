//! Groups, dead letters and streams: looking after them.

use super::requests::MAX_PAGE;
use super::scope::{managed_group, managed_stream, readable_group, readable_stream};
use super::service::TenantMessagingService;
use crate::dead_letter::{DeadLetter, DeadLetterChoice};
use crate::error::{Error, Result};
use crate::group::{GroupSettings, GroupStats, SeekTo};
use crate::name::{GroupName, StreamName};
use crate::position::MessageId;
use crate::retention::StreamSettings;
use crate::stream::StreamStats;
use crate::tenant::{Action, TenantContext};

impl TenantMessagingService {
    /// Sets where a group reads next. What it had pending or parked is let go. Needs
    /// `groups:manage` on the stream.
    pub async fn seek_group(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        to: SeekTo,
    ) -> Result<()> {
        self.broker.seek_group(&managed_group(ctx, stream, group)?, to).await
    }

    /// Replaces a group's settings; makes it where there is none. Needs `groups:manage` on the
    /// stream.
    pub async fn configure_group(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        settings: GroupSettings,
    ) -> Result<()> {
        let group = managed_group(ctx, stream, group)?;
        settings.check()?;
        self.broker.configure_group(&group, settings).await
    }

    /// Removes a group with all that it holds. Needs `groups:manage` on the stream.
    pub async fn delete_group(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
    ) -> Result<()> {
        self.broker.delete_group(&managed_group(ctx, stream, group)?).await
    }

    /// Settings and statistics of a group. Needs `streams:read`.
    pub async fn group_stats(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
    ) -> Result<GroupStats> {
        self.broker.group_stats(&readable_group(ctx, stream, group)?).await
    }

    /// A page of a group's dead letters, those after `after`. Needs `streams:read`.
    pub async fn dead_letters(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let group = readable_group(ctx, stream, group)?;
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Error::invalid(format!("limit must be from 1 to {MAX_PAGE}")));
        }
        self.broker.dead_letters(&group, after, limit).await
    }

    /// Hands dead letters to their group again. Needs `groups:manage` on the stream.
    pub async fn retry_dead_letters(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        which: &DeadLetterChoice,
    ) -> Result<u64> {
        self.broker.retry_dead_letters(&managed_group(ctx, stream, group)?, which).await
    }

    /// Drops dead letters. Needs `groups:manage` on the stream.
    pub async fn discard_dead_letters(
        &self,
        ctx: &TenantContext,
        stream: &str,
        group: GroupName,
        which: &DeadLetterChoice,
    ) -> Result<u64> {
        self.broker.discard_dead_letters(&managed_group(ctx, stream, group)?, which).await
    }

    /// Replaces a stream's settings; makes it where there is none. Needs `groups:manage`.
    pub async fn configure_stream(
        &self,
        ctx: &TenantContext,
        stream: &str,
        settings: StreamSettings,
    ) -> Result<()> {
        let stream = managed_stream(ctx, stream)?;
        settings.check()?;
        self.broker.configure_stream(&stream, settings).await
    }

    /// Removes a stream with everything that belongs to it. Needs `groups:manage`.
    pub async fn delete_stream(&self, ctx: &TenantContext, stream: &str) -> Result<()> {
        self.broker.delete_stream(&managed_stream(ctx, stream)?).await
    }

    /// The tenant's streams that the caller may read.
    pub async fn list_streams(&self, ctx: &TenantContext) -> Result<Vec<StreamName>> {
        let mut streams = self.broker.list_streams(ctx.organization_id()).await?;
        streams.retain(|stream| ctx.require(Action::StreamsRead, stream.as_str()).is_ok());
        Ok(streams)
    }

    /// Statistics and settings of a stream with its groups. Needs `streams:read`.
    pub async fn stream_stats(&self, ctx: &TenantContext, stream: &str) -> Result<StreamStats> {
        self.broker.stream_stats(&readable_stream(ctx, stream)?).await
    }
}
