//! Groups: settings, seeking, deletion, statistics.

use std::sync::Arc;

use bytestring::ByteString;

use apix::{
    ConsumerStats, Epoch, GroupKey, GroupSettings, GroupStats, MessageId, RangeQuery, Result,
    SeekTo, StreamKey, StreamSettings, StreamStats,
};

use crate::error::{malformed, wrong_setting};
use crate::local::{LocalGroup, LocalStream};
use crate::reader::no_such_group;
use crate::resp::Reply;
use crate::shared::{Shared, group_settings};
use crate::streams::{last_id, no_such_stream};
use crate::wire::{Arguments, Pipeline, id_text};

impl Shared {
    pub(crate) async fn seek_group(&self, group: &GroupKey, to: SeekTo) -> Result<()> {
        let local = self.local_group(group);
        let after = match to {
            SeekTo::Start => id_text(MessageId::MIN),
            SeekTo::End => "$".to_owned(),
            SeekTo::Id(id) => id_text(id.previous()),
            SeekTo::Time(at) => id_text(RangeQuery::first_id_at(at).previous()),
        };
        let arguments = Self::group_arguments(&local, "").and(after);
        let done = self.group_script(&self.scripts.seek, &local, &arguments).await?.reply()?;
        if done == Reply::Int(1) { Ok(()) } else { Err(no_such_stream(&group.stream)) }
    }

    pub(crate) async fn configure_group(
        &self,
        group: &GroupKey,
        settings: &GroupSettings,
    ) -> Result<()> {
        settings.check()?;
        let local = self.local_group(group);
        let stream = self.locals.stream(&group.stream);
        self.list_stream(&stream).await?;
        let text = serde_json::to_string(settings)
            .map_err(|fault| wrong_setting("the settings cannot be stored").with_source(fault))?;
        let arguments = Self::group_arguments(&local, Epoch::random()?.as_str()).and(text);
        self.group_script(&self.scripts.configure_group, &local, &arguments).await?.ok()?;
        self.ensured(&stream, false).await;
        local.remember_settings(&Arc::new(settings.clone()));
        // What waits should see that the group is no longer paused, or has more room.
        local.hear_due(std::time::Duration::ZERO);
        Ok(())
    }

    pub(crate) async fn delete_group(&self, group: &GroupKey) -> Result<()> {
        let local = self.local_group(group);
        let arguments = Self::group_arguments(&local, "");
        let done =
            self.group_script(&self.scripts.delete_group, &local, &arguments).await?.reply()?;
        self.locals.stream(&group.stream).forget_group(&group.group);
        local.forget_settings();
        if done == Reply::Int(1) { Ok(()) } else { Err(no_such_group(&local)) }
    }

    pub(crate) async fn group_stats(&self, group: &GroupKey) -> Result<GroupStats> {
        let local = self.local_group(group);
        let arguments = Self::group_arguments(&local, "");
        let stats =
            self.group_script(&self.scripts.group_stats, &local, &arguments).await?.reply()?;
        read_group_stats(&local, &stats)?.ok_or_else(|| no_such_group(&local))
    }

    pub(crate) async fn stream_stats(&self, stream: &StreamKey) -> Result<StreamStats> {
        let local = self.locals.stream(stream);
        let key = &*local.keys.stream;
        let mut pipeline = Pipeline::of(&["XINFO", "STREAM", key]);
        pipeline.push(&["XINFO", "GROUPS", key]);
        let stored = ["epoch", "settings", "trimmedTo", "hardDropped"];
        pipeline.push(&[&["HMGET", local.keys.state()], &stored[..]].concat());
        pipeline.push(&["SMEMBERS", local.keys.groups()]);
        let replies = self.link(key).call(pipeline).await?;
        let [info, groups, state, registered] = &replies[..] else {
            return Err(malformed("four replies"));
        };
        if info.error().is_some_and(|text| text.starts_with(b"ERR no such key")) {
            return Err(no_such_stream(stream));
        }
        let info = info.reply()?;
        let state = state.reply()?;
        let [epoch, settings, trimmed_to, hard_dropped] = state.array() else {
            return Err(malformed("four fields"));
        };
        let arguments = Arguments::with_keys(&local.keys.all()).and("");
        let bytes = self.scripts.stored_bytes.reply(self.link(key), &arguments).await?;
        let names = group_names(&groups.reply()?, &registered.reply()?);
        Ok(StreamStats {
            stream: stream.stream().clone(),
            epoch: self.epoch(&local, epoch).await?,
            length: info.field("length").and_then(Reply::count).unwrap_or_default(),
            bytes: bytes.count().unwrap_or_default(),
            first_id: info
                .field("first-entry")
                .and_then(|entry| entry.array().first())
                .and_then(Reply::id),
            last_id: last_id(&info),
            trimmed_to: trimmed_to.id(),
            hard_limit_dropped: hard_dropped.count().unwrap_or_default(),
            settings: stream_settings(settings.utf8())?,
            groups: self.stats_of_groups(stream, names).await?,
        })
    }

    async fn stats_of_groups(
        &self,
        stream: &StreamKey,
        names: Vec<String>,
    ) -> Result<Vec<GroupStats>> {
        let locals: Vec<Arc<LocalGroup>> = names
            .into_iter()
            // A group of another service whose name APIX would refuse cannot be spoken of.
            .filter_map(|name| apix::GroupName::new(name).ok())
            .map(|name| self.local_group(&GroupKey::new(stream.clone(), name)))
            .collect();
        let mut stats = Vec::with_capacity(locals.len());
        for local in locals {
            let arguments = Self::group_arguments(&local, "");
            let script = &self.scripts.group_stats;
            let reply = self.group_script(script, &local, &arguments).await?.reply()?;
            stats.extend(read_group_stats(&local, &reply)?);
        }
        Ok(stats)
    }

    /// The epoch; a stream of another service is given one.
    async fn epoch(&self, local: &LocalStream, stored: &Reply) -> Result<Epoch> {
        if let Some(epoch) = stored.utf8() {
            return Epoch::new(epoch.to_owned());
        }
        self.list_stream(local).await?;
        let arguments = Arguments::with_keys(&local.keys.all()).and(Epoch::random()?.as_str());
        let link = self.link(&local.keys.stream);
        self.scripts.make_stream.run(link, &arguments).await?.ok()?;
        self.ensured(local, false).await;
        let stored = link.command(&["HGET", local.keys.state(), "epoch"]).await?.reply()?;
        Epoch::new(stored.utf8().unwrap_or_default().to_owned())
    }
}

/// Groups that are there, and groups that were lost and come back when they are read.
fn group_names(present: &Reply, registered: &Reply) -> Vec<String> {
    let present = present.array().iter().filter_map(|row| row.field("name")?.utf8());
    let registered = registered.array().iter().filter_map(Reply::utf8);
    let mut names: Vec<String> = present.chain(registered).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

fn stream_settings(stored: Option<&str>) -> Result<StreamSettings> {
    stored.map_or(Ok(StreamSettings::default()), apix::json::read_stored)
}

fn read_group_stats(local: &LocalGroup, stats: &Reply) -> Result<Option<GroupStats>> {
    if *stats == Reply::Nil {
        return Ok(None);
    }
    let [delivered, lag, pending, parked, dead, oldest, now, lost, idle, settings, consumers] =
        stats.array()
    else {
        return Err(malformed("statistics of a group"));
    };
    let oldest = oldest.id();
    let now = now.count().unwrap_or_default();
    Ok(Some(GroupStats {
        group: local.name.clone(),
        settings: group_settings(settings.utf8().unwrap_or_default())?,
        last_delivered_id: delivered.id().unwrap_or(MessageId::MIN),
        lag: lag.count(),
        pending: pending.count().unwrap_or_default(),
        parked: parked.count().unwrap_or_default(),
        dead_letters: dead.count().unwrap_or_default(),
        oldest_unacknowledged_id: oldest,
        oldest_unacknowledged_ms: oldest.map(|oldest| now.saturating_sub(oldest.ms)),
        lost: lost.count().unwrap_or_default(),
        idle_ms: idle.count(),
        consumers: consumers.array().iter().filter_map(consumer_stats).collect(),
    }))
}

fn consumer_stats(row: &Reply) -> Option<ConsumerStats> {
    let [name, pending, idle] = row.array() else { return None };
    let name = name.text()?.clone();
    let consumer = ByteString::try_from(name.clone())
        .unwrap_or_else(|_| String::from_utf8_lossy(&name).into_owned().into());
    Some(ConsumerStats { consumer, pending: pending.count()?, idle_ms: idle.count()? })
}
