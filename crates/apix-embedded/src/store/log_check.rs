//! Whether the log was damaged where it was flushed.
//!
//! SQLite reads its log up to the first frame that does not fit and takes what follows for a write
//! that a power cut interrupted. After a power cut that is right; after damage to the medium it
//! would silently cut off what was answered. So each index row says up to which position events
//! were flushed when it was written: a row that says more than was read back proves damage.
//!
//! The whole file is searched, whatever its header and its frames say: those may be what is damaged.
//! What is left of an earlier round of the log was written back before this one began, so it says
//! nothing that is not there.

use std::io::ErrorKind::NotFound;
use std::path::Path;

use super::flush_mark::FlushMarks;

/// The highest position up to which the log says that events were flushed; 0 if it says nothing.
pub(super) fn claimed(log: &Path, marks: &FlushMarks) -> std::io::Result<u64> {
    let log = match std::fs::read(log) {
        Ok(log) => log,
        Err(fault) if fault.kind() == NotFound => return Ok(0),
        Err(fault) => return Err(fault),
    };
    Ok(marks.highest_in(&log).unwrap_or(0))
}
