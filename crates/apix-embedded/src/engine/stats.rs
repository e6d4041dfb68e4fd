//! What can be seen of streams and groups.

use apix::{
    ConsumerStats, GroupKey, GroupStats, MessageId, Result, StreamKey, StreamName, StreamStats,
    TenantId,
};

use super::state::Engine;
use crate::clock::Now;
use crate::group::GroupState;
use crate::stream_state::StreamState;

impl Engine {
    /// The tenant's streams.
    pub(crate) fn list_streams(&self, tenant: &TenantId) -> Vec<StreamName> {
        self.names.get(tenant).map_or_else(Vec::new, |names| names.keys().cloned().collect())
    }

    /// What can be seen of a stream.
    pub(crate) fn stream_stats(&self, key: &StreamKey, now: Now) -> Result<StreamStats> {
        let stream = self.stream(key)?;
        let groups = stream.groups.values().filter_map(|no| self.groups.get(no));
        Ok(StreamStats {
            stream: stream.name.clone(),
            epoch: stream.epoch.clone(),
            length: stream.len() as u64,
            bytes: stream.bytes,
            first_id: stream.slot(0).map(|slot| slot.id()),
            last_id: stream.last_id,
            trimmed_to: stream.trimmed_to,
            hard_limit_dropped: stream.hard_dropped,
            settings: stream.settings.clone(),
            groups: groups.map(|group| stats_of(stream, group, now)).collect(),
        })
    }

    /// What can be seen of a group.
    pub(crate) fn group_stats(&self, key: &GroupKey, now: Now) -> Result<GroupStats> {
        let no = self.group_no(key)?;
        let stream = self.stream(&key.stream)?;
        let gone = || apix::Error::not_found("the group is gone");
        self.groups.get(&no).map(|group| stats_of(stream, group, now)).ok_or_else(gone)
    }
}

fn stats_of(stream: &StreamState, group: &GroupState, now: Now) -> GroupStats {
    let unread = stream.first_after(group.cursor);
    // A retried dead letter above the cursor is held already.
    let held_unread = if unread < stream.len() { group.held_after(group.cursor) } else { 0 };
    let first_unread = stream.slot(unread).map(|slot| slot.id());
    let oldest: Option<MessageId> = [group.oldest_held(), first_unread].into_iter().flatten().min();
    let mut consumers: Vec<_> = group
        .consumers()
        .map(|(name, known)| ConsumerStats {
            consumer: name.as_text().clone(),
            pending: known.pending,
            idle_ms: now.elapsed_ms.saturating_sub(known.seen),
        })
        .collect();
    consumers.sort_unstable_by(|a, b| a.consumer.cmp(&b.consumer));
    GroupStats {
        group: group.name.clone(),
        settings: group.settings.clone(),
        last_delivered_id: group.cursor,
        lag: Some((stream.len() - unread).saturating_sub(held_unread) as u64),
        pending: group.pending(),
        parked: group.parked(),
        dead_letters: group.dead.len() as u64,
        oldest_unacknowledged_id: oldest,
        oldest_unacknowledged_ms: oldest.map(|id| now.unix_ms.saturating_sub(id.ms)),
        lost: group.lost,
        idle_ms: Some(now.elapsed_ms.saturating_sub(group.active)),
        consumers,
    }
}
