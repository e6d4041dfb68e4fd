//! What a failure of SQLite means to callers.

use apix::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// A failure of the store, and whether what was flushed may not be on disk.
#[derive(Debug)]
pub(crate) struct StoreFault {
    pub(crate) error: Error,
    /// A flush failed: the operating system may have dropped what it was to write, and a later
    /// flush that succeeds says nothing of it.
    pub(crate) flush_lost: bool,
}

/// SQLITE_IOERR_SHMSIZE: the shared index beside the log cannot grow.
const SHARED_INDEX_FULL: i32 = 4874;

impl From<rusqlite::Error> for StoreFault {
    fn from(fault: rusqlite::Error) -> Self {
        let (code, extended) = match &fault {
            rusqlite::Error::SqliteFailure(failure, _) => (failure.code, failure.extended_code),
            _ => (ErrorCode::Unknown, 0),
        };
        let (kind, message) = match code {
            ErrorCode::DiskFull => (ErrorKind::StorageFull, "the disk is full; nothing was stored"),
            ErrorCode::SystemIoFailure if extended == SHARED_INDEX_FULL => {
                (ErrorKind::StorageFull, "the disk is full; nothing was stored")
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => (
                ErrorKind::Corrupt,
                "the data file apix.db does not read back as it was written; restore it from a \
                 backup",
            ),
            _ => (
                ErrorKind::Unavailable,
                "the storage failed; whether the call took effect is unknown",
            ),
        };
        let flush_lost = kind != ErrorKind::StorageFull;
        Self { error: Error::new(kind, message).with_source(fault), flush_lost }
    }
}

impl From<Error> for StoreFault {
    fn from(error: Error) -> Self {
        Self { error, flush_lost: false }
    }
}

/// A blob that is not what was written, with its place.
pub(crate) fn damaged(place: std::fmt::Arguments<'_>) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("{place} does not read back as it was written; restore the folder from a backup"),
    )
}
