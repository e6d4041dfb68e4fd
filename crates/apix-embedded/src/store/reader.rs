//! Connections that only read: what is no longer in memory is fetched here, beside the writer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use apix::{Error, MessageId, Result};
use bytes::Bytes;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::fault::StoreFault;
use super::writer::{DATA_FILE, one_blob, signed};
use crate::group::GroupNo;

/// The most connections, and so the most threads that read at once.
const MAX_READERS: usize = 4;

/// What is to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The event at a position.
    Entry(u64),
    /// An event kept beside its stream.
    Copy(GroupNo, MessageId),
    /// A dead letter.
    Dead(GroupNo, MessageId),
}

/// A few read connections, made when they are needed.
#[derive(Debug)]
pub(crate) struct ReadPool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl ReadPool {
    pub(crate) fn new(folder: &Path) -> Arc<Self> {
        Arc::new(Self {
            path: folder.join(DATA_FILE),
            idle: Mutex::default(),
            permits: Semaphore::new(MAX_READERS),
        })
    }

    /// Fetches all that is wanted, in order; `None` for what is not there.
    pub(crate) async fn fetch(self: &Arc<Self>, wanted: Vec<Wanted>) -> Result<Vec<Option<Bytes>>> {
        let closed = || Error::unavailable("the broker is closed");
        let _permit = self.permits.acquire().await.map_err(|_| closed())?;
        let pool = Arc::clone(self);
        let read = move || -> std::result::Result<_, StoreFault> {
            let idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => open(&pool.path)?,
            };
            let found = fetch(&connection, &wanted)?;
            pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Ok(found)
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(found) => found.map_err(|fault| fault.error),
            Err(_) => Err(closed()),
        }
    }

    /// Closes the connections; whoever reads afterwards is refused.
    pub(crate) fn close(&self) {
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // In KiB, for each of them: the branches of the tables. The leaves are mostly read once.
    connection.pragma_update(None, "cache_size", -1_000)?;
    Ok(connection)
}

fn fetch(
    connection: &Connection,
    wanted: &[Wanted],
) -> std::result::Result<Vec<Option<Bytes>>, StoreFault> {
    // One transaction: one view of the file, and one pair of locks.
    connection.execute_batch("BEGIN")?;
    let found = wanted
        .chunk_by(
            |a, b| matches!((a, b), (Wanted::Entry(a), Wanted::Entry(b)) if a.abs_diff(*b) <= 8),
        )
        .try_fold(Vec::with_capacity(wanted.len()), |mut found, chunk| {
            fetch_near(connection, chunk, &mut found).map(|()| found)
        });
    connection.execute_batch("COMMIT")?;
    Ok(found?)
}

/// Fetches what lies close together in one pass.
fn fetch_near(
    connection: &Connection,
    wanted: &[Wanted],
    found: &mut Vec<Option<Bytes>>,
) -> rusqlite::Result<()> {
    // In the order of ids they ascend, or descend; what is due again comes in any order.
    let mut ascending: Vec<u64> = wanted.iter().filter_map(|one| position(*one)).collect();
    ascending.sort_unstable();
    let (first, last) = match ascending[..] {
        [first, .., last] => (first, last),
        _ => {
            for one in wanted {
                found.push(fetch_one(connection, *one)?);
            }
            return Ok(());
        }
    };
    let mut rows = Vec::with_capacity(wanted.len());
    let mut scan = connection
        .prepare_cached("SELECT pos, data FROM entry WHERE pos BETWEEN ?1 AND ?2 ORDER BY pos")?;
    let mut cursor = scan.query([signed(first), signed(last)])?;
    while let Some(row) = cursor.next()? {
        let pos = row.get::<_, i64>(0)?.cast_unsigned();
        if ascending.binary_search(&pos).is_ok() {
            rows.push((pos, Bytes::from(row.get::<_, Vec<u8>>(1)?)));
        }
    }
    for pos in wanted.iter().filter_map(|one| position(*one)) {
        let row = rows.binary_search_by_key(&pos, |row| row.0).ok();
        found.push(row.map(|row| rows[row].1.clone()));
    }
    Ok(())
}

fn position(wanted: Wanted) -> Option<u64> {
    match wanted {
        Wanted::Entry(pos) => Some(pos),
        Wanted::Copy(..) | Wanted::Dead(..) => None,
    }
}

fn fetch_one(connection: &Connection, wanted: Wanted) -> rusqlite::Result<Option<Bytes>> {
    let by_id = |table: &str, group: GroupNo, id: MessageId| {
        let sql = format!("SELECT data FROM {table} WHERE grp = ?1 AND ms = ?2 AND seq = ?3");
        let key = [signed(group), signed(id.ms), signed(id.seq)];
        one_blob(&mut connection.prepare_cached(&sql)?, key)
    };
    match wanted {
        Wanted::Entry(pos) => {
            let sql = "SELECT data FROM entry WHERE pos = ?1";
            one_blob(&mut connection.prepare_cached(sql)?, [signed(pos)])
        }
        Wanted::Copy(group, id) => by_id("group_copy", group, id),
        Wanted::Dead(group, id) => by_id("dead_letter", group, id),
    }
}
