//! The writer's connection: commits, flushes, and what is read when the folder is opened.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apix::{Durability, Error, ErrorKind, MessageId};
use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::batch::Batch;
use super::change_rows::write_change;
use super::fault::{StoreFault, damaged};
use super::flush_mark::{FlushMarks, MARK_BYTES};
use super::{log_check, schema};
use crate::codec::rows::{decode_index, encode_index, encode_keys};
use crate::group::GroupNo;

type Result<T> = std::result::Result<T, StoreFault>;

/// The name of the data file within its folder.
pub(crate) const DATA_FILE: &str = "apix.db";

/// What of the options concerns the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreOptions {
    pub(crate) durability: Durability,
    /// The log is written back into the data file when about so much of it was used.
    pub(crate) log_bytes: usize,
}

/// The writer's connection.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
    log: PathBuf,
    marks: FlushMarks,
    /// Whether a commit that asks for it is flushed at once.
    flush_at_once: bool,
    flushing: bool,
    /// About how many bytes of the log were written since the last checkpoint.
    log_bytes: usize,
    most_log_bytes: usize,
    /// The position after the last event that is known to be flushed.
    flushed_pos: u64,
}

/// SQLite has signed numbers only; positions and ids keep their bits.
pub(super) fn signed(number: u64) -> i64 {
    number.cast_signed()
}

impl Store {
    /// Opens or makes the data file in `folder`. What the log holds is written back and flushed, so
    /// that nothing rests on a flush of an earlier process, which may have failed; with
    /// `must_flush` a full disk is no excuse.
    pub(crate) fn open(folder: &Path, options: StoreOptions, must_flush: bool) -> Result<Self> {
        let path = folder.join(DATA_FILE);
        let log = folder.join(format!("{DATA_FILE}-wal"));
        let marks = FlushMarks::open(folder).map_err(flush_failed)?;
        let claimed = log_check::claimed(&log, &marks).map_err(flush_failed)?;
        let mut connection = Connection::open(&path)?;
        // A damaged log is left as it is; an orderly end empties it by itself.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        // In KiB. Twice a commit, so that none spills; the pages of the system serve the rest.
        connection.pragma_update(None, "cache_size", -8_000)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        schema::prepare(&mut connection)?;
        let mut store = Self {
            connection,
            log,
            marks,
            flush_at_once: options.durability == Durability::Disk,
            flushing: true,
            log_bytes: 0,
            most_log_bytes: options.log_bytes,
            flushed_pos: 0,
        };
        let reached = store.reached()?;
        if claimed > reached {
            let fault = format!(
                "apix.db-wal is damaged: events up to position {claimed} were flushed, and it reads \
                 back up to {reached}; restore the folder from a backup"
            );
            return Err(Error::new(ErrorKind::Corrupt, fault).into());
        }
        match store.rewrite() {
            Ok(()) => store.flushed_pos = reached,
            Err(fault) if must_flush || fault.error.kind() != ErrorKind::StorageFull => {
                return Err(fault);
            }
            Err(_) => {}
        }
        // The file itself is on disk only when its name is.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(flush_failed)?;
        Ok(store)
    }

    /// Writes all of the log back into the data file, flushes that, and empties the log.
    fn rewrite(&mut self) -> Result<()> {
        let busy: i64 =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            let error = Error::unavailable("the storage is being read; try again");
            return Err(StoreFault { error, flush_lost: true });
        }
        self.log_bytes = 0;
        Ok(())
    }

    /// The position after the last one that was ever taken.
    pub(crate) fn reached(&self) -> Result<u64> {
        let noted = schema::get_meta(&self.connection, "next_pos")?.map_or(1, i64::cast_unsigned);
        let sql = "SELECT first_pos, data FROM commit_index ORDER BY first_pos DESC LIMIT 1";
        let last = self.connection.query_row(sql, [], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, Vec<u8>>(1)?))
        });
        let Some((first_pos, row)) = last.optional()? else { return Ok(noted) };
        let damage = || damaged(format_args!("apix.db: table commit_index, first_pos {first_pos}"));
        let events = decode_index(row.into()).ok_or_else(damage)?;
        Ok(noted.max(first_pos + events.len() as u64))
    }

    /// Writes one commit: all of it or nothing.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Result<()> {
        let flush = batch.flush && self.flush_at_once;
        if flush != self.flushing {
            let level = if flush { "FULL" } else { "NORMAL" };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.flushing = flush;
        }
        let transaction = self.connection.transaction()?;
        let mut bytes = write_events(&transaction, batch, &self.marks.make(self.flushed_pos))?;
        for change in &batch.changes {
            bytes += write_change(&transaction, change)?;
        }
        transaction.commit()?;
        if flush {
            self.flushed_pos = batch.first_pos + batch.entries.len() as u64;
        }
        // Whole pages are logged: a few beside those that the blobs fill.
        self.log_bytes += bytes + bytes / 8 + 4 * 4_096;
        if self.log_bytes < self.most_log_bytes {
            return Ok(());
        }
        match self.checkpoint() {
            // What was committed is safe in the log, which is written back when there is room.
            Err(fault) if fault.error.kind() == ErrorKind::StorageFull => {
                tracing::warn!(error = ?fault.error, "the log cannot be written back yet");
                self.log_bytes = self.most_log_bytes / 2;
                Ok(())
            }
            done => done,
        }
    }

    /// Writes the log back as far as readers allow. SQLite would do it by itself, but then a failed
    /// flush within it would be told to nobody.
    fn checkpoint(&mut self) -> Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        self.log_bytes = 0;
        Ok(())
    }

    /// Flushes what was committed without a flush.
    pub(crate) fn flush(&mut self) -> Result<()> {
        File::open(&self.log).and_then(|log| log.sync_data()).map_err(flush_failed)
    }

    /// Ends in a state that opens at once: an empty log.
    pub(crate) fn close(mut self) -> Result<()> {
        self.rewrite()
    }

    /// The record of the event at `pos`.
    pub(crate) fn entry(&self, pos: u64) -> Result<Option<Bytes>> {
        let sql = "SELECT data FROM entry WHERE pos = ?1";
        Ok(one_blob(&mut self.connection.prepare_cached(sql)?, [signed(pos)])?)
    }

    /// An event that is kept beside its stream.
    pub(crate) fn copy(&self, group: GroupNo, id: MessageId) -> Result<Option<Bytes>> {
        let sql = "SELECT data FROM group_copy WHERE grp = ?1 AND ms = ?2 AND seq = ?3";
        let key = [signed(group), signed(id.ms), signed(id.seq)];
        Ok(one_blob(&mut self.connection.prepare_cached(sql)?, key)?)
    }

    /// A dead letter.
    pub(crate) fn dead(&self, group: GroupNo, id: MessageId) -> Result<Option<Bytes>> {
        let sql = "SELECT data FROM dead_letter WHERE grp = ?1 AND ms = ?2 AND seq = ?3";
        let key = [signed(group), signed(id.ms), signed(id.seq)];
        Ok(one_blob(&mut self.connection.prepare_cached(sql)?, key)?)
    }

    /// The connection, for what is read when the folder is opened.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

fn flush_failed(fault: std::io::Error) -> StoreFault {
    let error = Error::unavailable("the storage could not be flushed").with_source(fault);
    StoreFault { error, flush_lost: true }
}

pub(super) fn one_blob(
    statement: &mut CachedStatement<'_>,
    key: impl rusqlite::Params,
) -> rusqlite::Result<Option<Bytes>> {
    statement
        .query_row(key, |row| row.get::<_, Vec<u8>>(0))
        .optional()
        .map(|row| row.map(Bytes::from))
}

/// Writes events, their index and their keys. Returns how many bytes.
fn write_events(
    connection: &Connection,
    batch: &Batch,
    mark: &[u8; MARK_BYTES],
) -> rusqlite::Result<usize> {
    let mut bytes = 0;
    if !batch.entries.is_empty() {
        let mut insert = connection
            .prepare_cached("INSERT INTO entry (pos, stream, data) VALUES (?1, ?2, ?3)")?;
        let positions = batch.first_pos..;
        for (pos, (entry, index)) in positions.zip(batch.entries.iter().zip(&batch.index)) {
            insert.execute(params![signed(pos), signed(index.stream), &entry[..]])?;
            bytes += entry.len() + 12;
        }
        let row = encode_index(mark, &batch.index);
        bytes += row.len();
        connection
            .prepare_cached("INSERT INTO commit_index (first_pos, data) VALUES (?1, ?2)")?
            .execute(params![signed(batch.first_pos), row])?;
    }
    if !batch.keys.is_empty() {
        let row = encode_keys(&batch.keys);
        bytes += row.len();
        connection
            .prepare_cached("INSERT INTO idempotency (row, data) VALUES (?1, ?2)")?
            .execute(params![signed(batch.keys_row), row])?;
    }
    Ok(bytes)
}
