//! The rows that a commit writes or removes beside its events: one statement a kind of change.

use apix::MessageId;
use rusqlite::{Connection, ToSql, params};

use super::batch::Change;
use super::schema;
use super::writer::signed;

type Result<T> = rusqlite::Result<T>;

/// About what a small row costs in the log.
const SMALL_ROW_BYTES: usize = 64;
/// About what a removed event costs: neighbours mostly lie on one page.
const REMOVED_EVENT_BYTES: usize = 512;

/// Writes one change. Returns about how many bytes.
pub(super) fn write_change(connection: &Connection, change: &Change) -> Result<usize> {
    match change {
        Change::NextNo(no) => schema::put_meta(connection, "next_no", signed(*no))?,
        Change::NextPos(pos) => schema::put_meta(connection, "next_pos", signed(*pos))?,
        Change::DropEntries(positions) => return drop_entries(connection, positions),
        Change::DropIndex(row) => drop_row(connection, "commit_index WHERE first_pos = ?1", *row)?,
        Change::DropKeys(row) => drop_row(connection, "idempotency WHERE row = ?1", *row)?,
        Change::PutStream { .. } | Change::DropStream(_) => return stream(connection, change),
        Change::PutFeed { .. } | Change::PutTip { .. } | Change::DropFeed(_) => {
            feed(connection, change)?;
        }
        _ => return group(connection, change),
    }
    Ok(SMALL_ROW_BYTES)
}

fn run(connection: &Connection, sql: &str, params: &[&dyn ToSql]) -> Result<()> {
    connection.prepare_cached(sql)?.execute(params).map(drop)
}

fn drop_row(connection: &Connection, what: &str, row: u64) -> Result<()> {
    run(connection, &format!("DELETE FROM {what}"), params![signed(row)])
}

fn stream(connection: &Connection, change: &Change) -> Result<usize> {
    match change {
        Change::PutStream { no, tenant, name, data } => {
            let sql =
                "INSERT OR REPLACE INTO stream (no, tenant, name, data) VALUES (?1, ?2, ?3, ?4)";
            run(connection, sql, params![signed(*no), tenant, name, data])?;
            Ok(data.len() + SMALL_ROW_BYTES)
        }
        Change::DropStream(no) => {
            drop_row(connection, "stream WHERE no = ?1", *no).map(|()| SMALL_ROW_BYTES)
        }
        _ => Ok(0),
    }
}

fn feed(connection: &Connection, change: &Change) -> Result<()> {
    match change {
        Change::PutFeed { no, tenant, channel, stream } => {
            let sql = "INSERT INTO feed (no, tenant, channel, stream) VALUES (?1, ?2, ?3, ?4)";
            run(connection, sql, params![signed(*no), tenant, channel, stream])
        }
        Change::PutTip { feed, id: Some(id) } => {
            let sql = "INSERT OR REPLACE INTO feed_tip (feed, ms, seq) VALUES (?1, ?2, ?3)";
            run(connection, sql, params![signed(*feed), signed(id.ms), signed(id.seq)])
        }
        Change::PutTip { feed, id: None } => {
            drop_row(connection, "feed_tip WHERE feed = ?1", *feed)
        }
        Change::DropFeed(no) => {
            drop_row(connection, "feed WHERE no = ?1", *no)?;
            drop_row(connection, "feed_tip WHERE feed = ?1", *no)
        }
        _ => Ok(()),
    }
}

fn group(connection: &Connection, change: &Change) -> Result<usize> {
    match change {
        Change::PutGroup { no, stream, name, settings } => {
            let sql = "INSERT OR REPLACE INTO consumer_group (no, stream, name, settings) \
                       VALUES (?1, ?2, ?3, ?4)";
            run(connection, sql, params![signed(*no), signed(*stream), name, settings])?;
            Ok(settings.len() + SMALL_ROW_BYTES)
        }
        Change::DropGroup { no, rows } => {
            drop_row(connection, "consumer_group WHERE no = ?1", *no)?;
            for table in ["group_snapshot", "group_copy", "dead_letter"] {
                drop_row(connection, &format!("{table} WHERE grp = ?1"), *no)?;
            }
            drop_deltas(connection, rows)
        }
        Change::PutDelta { row, group, data } => {
            let sql = "INSERT INTO group_change (row, grp, data) VALUES (?1, ?2, ?3)";
            run(connection, sql, params![signed(*row), signed(*group), data])?;
            Ok(data.len() + SMALL_ROW_BYTES)
        }
        Change::PutSnapshot { group, upto, data, rows } => {
            let sql = "INSERT OR REPLACE INTO group_snapshot (grp, upto, data) VALUES (?1, ?2, ?3)";
            run(connection, sql, params![signed(*group), signed(*upto), data])?;
            drop_deltas(connection, rows).map(|bytes| bytes + data.len())
        }
        Change::DropDeltas(rows) => drop_deltas(connection, rows),
        Change::PutCopy { group, id, data } => {
            put_event(connection, "group_copy", *group, *id, data)
        }
        Change::PutDead { group, id, data } => {
            put_event(connection, "dead_letter", *group, *id, data)
        }
        Change::DropCopy { group, id } => drop_event(connection, "group_copy", *group, *id),
        Change::DropDead { group, id } => drop_event(connection, "dead_letter", *group, *id),
        _ => Ok(0),
    }
}

fn put_event(
    connection: &Connection,
    table: &str,
    group: u64,
    id: MessageId,
    data: &[u8],
) -> Result<usize> {
    let sql =
        format!("INSERT OR REPLACE INTO {table} (grp, ms, seq, data) VALUES (?1, ?2, ?3, ?4)");
    run(connection, &sql, params![signed(group), signed(id.ms), signed(id.seq), data])?;
    Ok(data.len() + SMALL_ROW_BYTES)
}

fn drop_event(connection: &Connection, table: &str, group: u64, id: MessageId) -> Result<usize> {
    let sql = format!("DELETE FROM {table} WHERE grp = ?1 AND ms = ?2 AND seq = ?3");
    run(connection, &sql, params![signed(group), signed(id.ms), signed(id.seq)])?;
    Ok(SMALL_ROW_BYTES)
}

fn drop_deltas(connection: &Connection, rows: &[u64]) -> Result<usize> {
    let sql = "DELETE FROM group_change WHERE row BETWEEN ?1 AND ?2";
    let mut delete = connection.prepare_cached(sql)?;
    for run in rows.chunk_by(|a, b| a + 1 == *b) {
        delete.execute([signed(run[0]), signed(run[run.len() - 1])])?;
    }
    Ok(SMALL_ROW_BYTES * (1 + rows.len()))
}

/// Removes events, each run of positions without a gap by one statement.
fn drop_entries(connection: &Connection, positions: &[u64]) -> Result<usize> {
    let mut delete = connection.prepare_cached("DELETE FROM entry WHERE pos BETWEEN ?1 AND ?2")?;
    for run in positions.chunk_by(|a, b| a + 1 == *b) {
        delete.execute([signed(run[0]), signed(run[run.len() - 1])])?;
    }
    Ok(positions.len() * REMOVED_EVENT_BYTES)
}
