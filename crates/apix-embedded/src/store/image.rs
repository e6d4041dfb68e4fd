//! What is read when the folder is opened.

use apix::MessageId;
use bytes::Bytes;
use rusqlite::{Connection, Row};

use super::fault::StoreFault;
use super::{Store, schema};

type Result<T> = std::result::Result<T, StoreFault>;

/// A stream or group as its row has it: number, owner, name, blob.
#[derive(Debug)]
pub(crate) struct NamedRow<O> {
    pub(crate) no: u64,
    pub(crate) owner: O,
    pub(crate) name: String,
    pub(crate) data: Bytes,
}

/// A feed as its row has it.
#[derive(Debug)]
pub(crate) struct FeedRow {
    pub(crate) no: u64,
    pub(crate) tenant: String,
    pub(crate) channel: String,
    pub(crate) stream: String,
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn blob(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    row.get::<_, Vec<u8>>(column).map(Bytes::from)
}

fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<MessageId> {
    Ok(MessageId::new(number(row, column)?, number(row, column + 1)?))
}

fn each(
    connection: &Connection,
    sql: &str,
    mut take: impl FnMut(&Row<'_>) -> Result<()>,
) -> Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}

impl Store {
    /// The next number that a stream, group or feed gets.
    pub(crate) fn next_no(&self) -> Result<u64> {
        let next = schema::get_meta(self.connection(), "next_no")?;
        next.map(i64::cast_unsigned)
            .ok_or_else(|| super::damaged(format_args!("apix.db: table meta, next_no")).into())
    }

    /// The highest position that is taken.
    pub(crate) fn last_pos(&self) -> Result<Option<u64>> {
        let sql = "SELECT max(pos) FROM entry";
        let last: Option<i64> = self.connection().query_row(sql, [], |row| row.get(0))?;
        Ok(last.map(i64::cast_unsigned))
    }

    /// Every stream.
    pub(crate) fn streams(&self) -> Result<Vec<NamedRow<String>>> {
        let mut streams = Vec::new();
        each(self.connection(), "SELECT no, tenant, name, data FROM stream", |row| {
            let (no, owner) = (number(row, 0)?, row.get(1)?);
            streams.push(NamedRow { no, owner, name: row.get(2)?, data: blob(row, 3)? });
            Ok(())
        })?;
        Ok(streams)
    }

    /// Every group; the owner is its stream.
    pub(crate) fn groups(&self) -> Result<Vec<NamedRow<u64>>> {
        let mut groups = Vec::new();
        each(self.connection(), "SELECT no, stream, name, settings FROM consumer_group", |row| {
            let (no, owner) = (number(row, 0)?, number(row, 1)?);
            groups.push(NamedRow { no, owner, name: row.get(2)?, data: blob(row, 3)? });
            Ok(())
        })?;
        Ok(groups)
    }

    /// The index row of every commit, in order.
    pub(crate) fn each_index(&self, mut take: impl FnMut(u64, Bytes) -> Result<()>) -> Result<()> {
        let sql = "SELECT first_pos, data FROM commit_index ORDER BY first_pos";
        each(self.connection(), sql, |row| take(number(row, 0)?, blob(row, 1)?))
    }

    /// Every row of idempotency keys, in order.
    pub(crate) fn each_keys(&self, mut take: impl FnMut(u64, Bytes) -> Result<()>) -> Result<()> {
        let sql = "SELECT row, data FROM idempotency ORDER BY row";
        each(self.connection(), sql, |row| take(number(row, 0)?, blob(row, 1)?))
    }

    /// Every snapshot of a group: group, the last row of changes that it contains, blob.
    pub(crate) fn each_snapshot(
        &self,
        mut take: impl FnMut(u64, u64, Bytes) -> Result<()>,
    ) -> Result<()> {
        let sql = "SELECT grp, upto, data FROM group_snapshot";
        each(self.connection(), sql, |row| take(number(row, 0)?, number(row, 1)?, blob(row, 2)?))
    }

    /// Every row of changes of groups, in order: row, group, blob.
    pub(crate) fn each_change(
        &self,
        mut take: impl FnMut(u64, u64, Bytes) -> Result<()>,
    ) -> Result<()> {
        let sql = "SELECT row, grp, data FROM group_change ORDER BY row";
        each(self.connection(), sql, |row| take(number(row, 0)?, number(row, 1)?, blob(row, 2)?))
    }

    /// The ids of all dead letters.
    pub(crate) fn each_dead(&self, mut take: impl FnMut(u64, MessageId)) -> Result<()> {
        each(self.connection(), "SELECT grp, ms, seq FROM dead_letter", |row| {
            take(number(row, 0)?, id(row, 1)?);
            Ok(())
        })
    }

    /// Every feed.
    pub(crate) fn feeds(&self) -> Result<Vec<FeedRow>> {
        let mut feeds = Vec::new();
        each(self.connection(), "SELECT no, tenant, channel, stream FROM feed", |row| {
            let (no, tenant) = (number(row, 0)?, row.get(1)?);
            feeds.push(FeedRow { no, tenant, channel: row.get(2)?, stream: row.get(3)? });
            Ok(())
        })?;
        Ok(feeds)
    }

    /// The last event of every feed, as far as it was written.
    pub(crate) fn each_tip(&self, mut take: impl FnMut(u64, MessageId)) -> Result<()> {
        each(self.connection(), "SELECT feed, ms, seq FROM feed_tip", |row| {
            take(number(row, 0)?, id(row, 1)?);
            Ok(())
        })
    }
}
