//! Tables, and the format number of the folder.

use apix::{Error, ErrorKind};
use rusqlite::{Connection, OptionalExtension};

use super::fault::StoreFault;

/// The format of the data folder. A newer one is refused.
pub(crate) const FORMAT: i64 = 1;

const TABLES: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE entry (pos INTEGER PRIMARY KEY, stream INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE TABLE commit_index (first_pos INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE idempotency (row INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE stream (
        no INTEGER PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL);
    CREATE TABLE consumer_group (
        no INTEGER PRIMARY KEY, stream INTEGER NOT NULL, name TEXT NOT NULL,
        settings BLOB NOT NULL);
    CREATE TABLE group_snapshot (
        grp INTEGER PRIMARY KEY, upto INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE TABLE group_change (row INTEGER PRIMARY KEY, grp INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE TABLE group_copy (
        grp INTEGER NOT NULL, ms INTEGER NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (grp, ms, seq)) WITHOUT ROWID;
    CREATE TABLE dead_letter (
        grp INTEGER NOT NULL, ms INTEGER NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (grp, ms, seq)) WITHOUT ROWID;
    CREATE TABLE feed (
        no INTEGER PRIMARY KEY, tenant TEXT NOT NULL, channel TEXT NOT NULL,
        stream TEXT NOT NULL);
    CREATE TABLE feed_tip (feed INTEGER PRIMARY KEY, ms INTEGER NOT NULL, seq INTEGER NOT NULL);
";

/// Makes the tables of a new folder, or checks the format of one that exists.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), StoreFault> {
    let exists: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'meta')",
        [],
        |row| row.get(0),
    )?;
    if !exists {
        let transaction = connection.transaction()?;
        transaction.execute_batch(TABLES)?;
        put_meta(&transaction, "format", FORMAT)?;
        put_meta(&transaction, "next_no", 1)?;
        transaction.commit()?;
        return Ok(());
    }
    match get_meta(connection, "format")? {
        Some(FORMAT) => Ok(()),
        Some(newer) if newer > FORMAT => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the data folder has format {newer}, and this version of APIX reads up to format \
                 {FORMAT}; use the version that wrote it, or a newer one"
            ),
        )
        .into()),
        other => Err(super::damaged(format_args!("apix.db: table meta, format {other:?}")).into()),
    }
}

pub(super) fn get_meta(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection
        .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
        .optional()
}

pub(super) fn put_meta(connection: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
        .execute((name, value))
        .map(drop)
}
