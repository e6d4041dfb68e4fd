//! Whether the log was damaged where it was flushed.
//!
//! SQLite reads its log up to the first frame that does not fit and takes what follows for a write
//! that a power cut interrupted. After a power cut that is right; after damage to the medium it
//! would silently cut off what was answered. So each index row says up to which position events
//! were flushed when it was written: a row that says more than was read back proves damage.

use std::io::ErrorKind::NotFound;
use std::path::Path;

use super::flush_mark::FlushMarks;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;

/// The highest position up to which the log says that events were flushed; 0 if it says nothing.
pub(super) fn claimed(log: &Path, marks: &FlushMarks) -> std::io::Result<u64> {
    let log = match std::fs::read(log) {
        Ok(log) => log,
        Err(fault) if fault.kind() == NotFound => return Ok(0),
        Err(fault) => return Err(fault),
    };
    Ok(claimed_in(&log, marks).unwrap_or(0))
}

fn claimed_in(log: &[u8], marks: &FlushMarks) -> Option<u64> {
    let header = log.get(..HEADER_BYTES)?;
    let page_bytes = u32::from_be_bytes(header[8..12].try_into().ok()?);
    // Frames of an earlier round of the same file have other salts.
    let salts = &header[16..24];
    let frames = log[HEADER_BYTES..].chunks_exact(FRAME_HEADER_BYTES + page_bytes as usize);
    let pages =
        frames.filter(|frame| &frame[8..16] == salts).map(|frame| &frame[FRAME_HEADER_BYTES..]);
    pages.filter_map(|page| marks.highest_in(page)).max()
}
