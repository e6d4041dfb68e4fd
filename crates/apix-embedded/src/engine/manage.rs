//! Settings, seeking and deleting.

use apix::{
    Error, GroupKey, GroupSettings, MessageId, RangeQuery, Result, SeekTo, StreamKey,
    StreamSettings,
};

use super::state::Engine;
use super::turn::Turn;
use crate::store::Change;

impl Engine {
    /// Sets where a group reads next.
    pub(crate) fn seek_group(&mut self, turn: &mut Turn, key: &GroupKey, to: SeekTo) -> Result<()> {
        let stream = self.stream(&key.stream)?;
        let cursor = match to {
            SeekTo::Start => stream
                .slot(0)
                .map_or(stream.last_id.unwrap_or(MessageId::MIN), |first| first.id().previous()),
            SeekTo::End => stream.last_id.unwrap_or(MessageId::MIN),
            SeekTo::Id(id) => id.previous(),
            SeekTo::Time(at) => RangeQuery::first_id_at(at).previous(),
        };
        let no = self.ensure_group(turn, key)?;
        let Some(group) = self.groups.get_mut(&no) else { return Ok(()) };
        for (id, held) in group.seek(cursor) {
            if held.copy.is_some() {
                turn.batch.changes.push(Change::DropCopy { group: no, id });
            }
        }
        self.trim.mark(group.stream);
        turn.batch.flush = true;
        turn.touched.push(no);
        Ok(())
    }

    /// Replaces a group's settings.
    pub(crate) fn configure_group(
        &mut self,
        turn: &mut Turn,
        key: &GroupKey,
        settings: GroupSettings,
    ) -> Result<()> {
        let no = self.ensure_group(turn, key)?;
        if let Some(group) = self.groups.get_mut(&no) {
            group.set_settings(settings, turn.now);
        }
        self.write_group_row(turn, no);
        turn.touched.push(no);
        Ok(())
    }

    /// Removes a group.
    pub(crate) fn delete_group(&mut self, turn: &mut Turn, key: &GroupKey) -> Result<()> {
        let no = self.group_no(key)?;
        if let Some(stream) = self.stream_no(&key.stream) {
            self.trim.mark(stream);
        }
        self.remove_group(turn, no);
        Ok(())
    }

    /// Replaces a stream's settings.
    pub(crate) fn configure_stream(
        &mut self,
        turn: &mut Turn,
        key: &StreamKey,
        settings: StreamSettings,
    ) -> Result<()> {
        let no = self.ensure_stream(turn, key)?;
        if let Some(stream) = self.streams.get_mut(&no) {
            stream.settings = settings;
            turn.released_keys.extend(stream.forget_keys(turn.now.unix_ms));
        }
        self.write_stream(turn, no);
        self.trim.mark(no);
        turn.batch.flush = true;
        Ok(())
    }

    /// Removes a stream. Its events go from the store little by little.
    pub(crate) fn delete_stream(&mut self, turn: &mut Turn, key: &StreamKey) -> Result<()> {
        let gone = || Error::not_found(format!("there is no stream '{}'", key.stream()));
        let no = self.stream_no(key).ok_or_else(gone)?;
        let groups: Vec<_> =
            self.streams.get(&no).into_iter().flat_map(|s| s.groups.values().copied()).collect();
        for group in groups {
            self.remove_group(turn, group);
        }
        let stream = self.streams.remove(&no).ok_or_else(gone)?;
        if let Some(names) = self.names.get_mut(key.tenant()) {
            names.remove(key.stream());
            if names.is_empty() {
                self.names.remove(key.tenant());
            }
        }
        self.clear_tips(turn, key.tenant(), key.stream());
        if self.is_stored() {
            self.purge.extend(stream.positions());
            turn.released_keys.extend(stream.keys.rows());
        }
        turn.batch.changes.push(Change::DropStream(no));
        turn.batch.flush = true;
        Ok(())
    }
}
